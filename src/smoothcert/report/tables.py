"""What a person reads in the terminal at the end of a run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


def print_summary(summary: Mapping[str, Any], folder: Path, console: Console | None = None) -> None:
    """Print the certified accuracies of a run, its ACR, and where its files are.

    Args:
        summary: the contents of `summary.json`.
        folder: the run folder.
        console: where to print; the terminal unless given.
    """
    console = console or Console()
    console.print(_accuracies(summary))
    console.print(
        f"  certified          {summary['images']} {summary['split']} images at n0 = "
        f"{summary['n0']:,}, n = {summary['n']:,}, α = {summary['alpha']:g}",
        highlight=False,
    )
    bounds = summary["bounds"]
    acr = "   ".join(f"{name} {figures['acr']:.4f}" for name, figures in bounds.items())
    least = "  (at least: images end at their radius on the grid)"
    console.print(
        f"  ACR                {acr}{least if summary.get('radius_is_lower_bound') else ''}",
        highlight=False,
    )
    console.print(f"  clean (smoothed)   {summary['clean_smoothed_accuracy']:.1%}", highlight=False)
    console.print(f"  abstained          {summary['abstention_rate']:.1%}", highlight=False)
    console.print(f"  samples            {_samples(summary)}", highlight=False)
    if summary.get("target") == "label":
        console.print("  target             the label itself: certified accuracy, no prediction")
    console.print(f"  files              {folder}", highlight=False, markup=False, soft_wrap=True)


def _samples(summary: Mapping[str, Any]) -> str:
    mean = f"{summary['mean_samples_per_image']:,.0f} an image"
    rate = summary.get("samples_per_second")
    precision = summary.get("precision", "float32")
    return f"{mean}, {rate:,.0f} a second in {precision}" if rate else mean


def _accuracies(summary: Mapping[str, Any]) -> Table:
    bounds = summary["bounds"]
    table = Table(
        title=f"{summary['objective']} + {summary['attack']} on {summary['data']}, "
        f"σ = {summary['sigma']:g}",
        title_style="bold",
        min_width=60,
    )
    table.add_column("ℓ2 radius", justify="right")
    for number, name in enumerate(bounds):
        table.add_column(name if number == 0 else f"{name}, same votes", justify="right")
    for radius in summary["certified_accuracy"]:
        shares = [f"{bounds[name]['certified_accuracy'][radius]:.1%}" for name in bounds]
        table.add_row(radius, *shares)
    return table
