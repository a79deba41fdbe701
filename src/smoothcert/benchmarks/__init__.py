"""Measurements: speed of certification, and what designs, test sets and training steps cost."""

from smoothcert.benchmarks.designs import VoteLog, compare_designs, draw_votes
from smoothcert.benchmarks.passes import Passes, count_passes
from smoothcert.benchmarks.precision import compare_precisions
from smoothcert.benchmarks.sizing import (
    GIVEN,
    Estimate,
    Pace,
    Workload,
    certification_hours,
    measured_figures,
    scaling_table,
    sizing_table,
    unlike,
)
from smoothcert.benchmarks.throughput import Throughput, measure_throughput, summarize_throughput
from smoothcert.benchmarks.training import (
    PLAIN,
    StepTimes,
    StepVariant,
    Training,
    measure_steps,
    summarize_steps,
)

__all__ = [
    "GIVEN",
    "PLAIN",
    "Estimate",
    "Pace",
    "Passes",
    "StepTimes",
    "StepVariant",
    "Throughput",
    "Training",
    "VoteLog",
    "Workload",
    "certification_hours",
    "compare_designs",
    "compare_precisions",
    "count_passes",
    "draw_votes",
    "measure_steps",
    "measure_throughput",
    "measured_figures",
    "scaling_table",
    "sizing_table",
    "summarize_steps",
    "summarize_throughput",
    "unlike",
]
