"""Measurements: throughput of certification, hours of test sets, passes of training steps."""

from smoothcert.benchmarks.passes import Passes, count_passes
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

__all__ = [
    "GIVEN",
    "Estimate",
    "Pace",
    "Passes",
    "Throughput",
    "Workload",
    "certification_hours",
    "count_passes",
    "measure_throughput",
    "measured_figures",
    "scaling_table",
    "sizing_table",
    "summarize_throughput",
    "unlike",
]
