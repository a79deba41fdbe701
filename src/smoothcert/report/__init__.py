"""Rows in, artefacts out: figures, tables and summaries, without torch."""

from smoothcert.report.plots import plot_certified_accuracy, plot_losses
from smoothcert.report.summary import Reading, read_as, summarize
from smoothcert.report.tables import print_measurements, print_summary

__all__ = [
    "Reading",
    "plot_certified_accuracy",
    "plot_losses",
    "print_measurements",
    "print_summary",
    "read_as",
    "summarize",
]
