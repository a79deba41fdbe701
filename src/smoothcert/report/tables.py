"""What a person reads in the terminal at the end of a run."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

FILE_WIDTH = 120


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
    least = "  (at least)"
    console.print(
        f"  ACR                {acr}{least if summary.get('radius_is_lower_bound') else ''}",
        highlight=False,
    )
    console.print(f"  clean (smoothed)   {summary['clean_smoothed_accuracy']:.1%}", highlight=False)
    wrong = summary.get("stops", {}).get("wrong", 0)
    given_up = f" of those tested; {wrong} were given up as wrong" if wrong else ""
    console.print(
        f"  abstained          {summary['abstention_rate']:.1%}{given_up}", highlight=False
    )
    console.print(f"  samples            {_samples(summary)}", highlight=False)
    if "normalization" in summary:
        console.print(
            f"  normalization      {summary['normalization']}: a wrong one shows in the accuracy "
            "alone"
        )
    left = summary.get("certifier_settings", {}).get("alpha_for_votes")
    if left is not None:
        spent = summary["alpha"] - left
        console.print(f"  noise              discrete: {spent:.1e} of α pays for its own error")
    if summary.get("target") == "label":
        console.print("  target             the label itself: certified accuracy, no prediction")
    console.print(f"  files              {folder}", highlight=False, markup=False, soft_wrap=True)


def _samples(summary: Mapping[str, Any]) -> str:
    mean = f"{summary['mean_samples_per_image']:,.0f} an image"
    rate = summary.get("samples_per_second")
    precision = summary.get("precision", "float32")
    return f"{mean}, {rate:,.0f} a second in {precision}" if rate else mean


def _subject(summary: Mapping[str, Any]) -> str:
    if "ckpt" in summary:
        return f"{summary['model']} of {Path(summary['ckpt']).name}"
    return " + ".join(summary[part] for part in ("objective", "attack") if summary[part] != "none")


def _accuracies(summary: Mapping[str, Any]) -> Table:
    bounds = summary["bounds"]
    table = Table(
        title=f"{_subject(summary)} on {summary['data']}, σ = {summary['sigma']:g}",
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


def print_measurements(
    task: str,
    results: Sequence[Mapping[str, Any]],
    machine: Mapping[str, Any],
    folder: Path,
    console: Console | None = None,
) -> None:
    """Print what `python -m src.benchmark` measured.

    Args:
        task: what was measured.
        results: one entry a row; numbers, texts, or lists and mappings of them.
        machine: where it was measured.
        folder: where `benchmark.json` is.
        console: where to print; the terminal unless given.
    """
    console = console or Console()
    if not console.is_terminal:
        # A file has room for the whole table.
        console.width = max(console.width, FILE_WIDTH)
    table = Table(title=f"{task}, {machine['name']}, {machine['threads']} threads")
    rows = [ROWS.get(task, dict)(entry) for entry in results]
    for name in rows[0]:
        justify = "left" if isinstance(rows[0][name], str) else "right"
        table.add_column(name, justify=justify, overflow="fold")
    for row in rows:
        table.add_row(*(_cell(value) for value in row.values()))
    console.print(table)
    if task in NOTES:
        console.print(NOTES[task], highlight=False)
    console.print(f"  files  {folder}", highlight=False, markup=False, soft_wrap=True)


def _throughput_row(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "": entry["name"],
        "samples/s": median(entry["samples_per_second"]),
        "× samples": _spread(entry["samples_ratio"]),
        "samples/image": entry["samples_per_image"],
        "images/h": median(entry["images_per_hour"]),
        "× images": _spread(entry["images_ratio"]),
        "peak MB": entry["peak_memory_bytes"] / 1e6,
    }


def _designs_row(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "design": entry["design"],
        "mean": entry["samples_mean"],
        "median": entry["samples_median"],
        "95 %": entry["samples_p95"],
        "certified %": " ".join(f"{100 * share:.1f}" for share in entry["certified_accuracy"]),
        "change": " ".join(f"{change:+.1f}" for change in entry["change_in_points"]),
        "ACR": f"{entry['acr']:.4f}",
    }


def _methods_row(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "method": entry["method"],
        "override": entry["override"],
        "extra forward": entry["extra_forward"],
        "extra backward": entry["extra_backward"],
    }


def _train_row(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "method": entry["method"],
        "form": entry["form"],
        "images/s": median(entry["images_per_second"]),
        "× plain": _spread(entry["ratio"]),
        "peak MB": entry["peak_memory_bytes"] / 1e6,
    }


ROWS: Mapping[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "throughput": _throughput_row,
    "designs": _designs_row,
    "methods": _methods_row,
    "train": _train_row,
}


NOTES = {
    "train": "×: ratio to the plain form, median (smallest–largest) over turns; memory beyond what "
    "was in use before the first step.",
    "methods": "Passes of each image in a step at sigma .25, .5 and 1, beyond the one of Gaussian "
    "training.",
    "throughput": "×: ratio to the reference, median (smallest–largest) over repeats; the time "
    "that compiling takes is not part of the rates.",
}


def _spread(ratio: Mapping[str, float]) -> str:
    return f"{ratio['median']:.1f} ({ratio['min']:.1f}–{ratio['max']:.1f})"


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(_cell(each) for each in value)
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
