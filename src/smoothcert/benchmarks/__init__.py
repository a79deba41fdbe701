"""Measurements: speed and tightness of certification, what its designs and training steps cost."""

from smoothcert.benchmarks.designs import VoteLog, compare_designs, draw_votes
from smoothcert.benchmarks.passes import Passes, count_passes
from smoothcert.benchmarks.precision import compare_precisions
from smoothcert.benchmarks.throughput import Throughput, measure_throughput, summarize_throughput
from smoothcert.benchmarks.tightness import coverage_table, tightness_table
from smoothcert.benchmarks.training import (
    PLAIN,
    Form,
    StepTimes,
    Training,
    measure_steps,
    summarize_steps,
)

__all__ = [
    "PLAIN",
    "Form",
    "Passes",
    "StepTimes",
    "Throughput",
    "Training",
    "VoteLog",
    "compare_designs",
    "compare_precisions",
    "count_passes",
    "coverage_table",
    "draw_votes",
    "measure_steps",
    "measure_throughput",
    "summarize_steps",
    "summarize_throughput",
    "tightness_table",
]
