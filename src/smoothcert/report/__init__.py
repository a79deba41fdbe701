"""Tables, figures, pages and terminal output from certificates, without torch."""

from smoothcert.report.figures import plot_certified_accuracy, plot_losses
from smoothcert.report.terminal import print_measurements, print_summary

__all__ = [
    "plot_certified_accuracy",
    "plot_losses",
    "print_measurements",
    "print_summary",
]
