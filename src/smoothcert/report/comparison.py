"""Runs beside each other: one row a method and a bound, means over seeds."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from smoothcert.errors import RecordsError
from smoothcert.records import check_links
from smoothcert.report.grouping import settings_apart
from smoothcert.report.load import OF_THE_RUN, check_values, read_json
from smoothcert.report.markdown import escaped

SAME = ("data", "split", "images", "n0", "n", "alpha", "precision", "certifier", "noise")
"""What runs in one table share, beside the images and the certifier's settings."""
NEEDED = (
    *("name", "sigma", "bounds", "certifier_settings", "model"),
    *("clean_smoothed_accuracy", "training_seed", "epochs", "seconds_training", "training_images"),
    *SAME,
)

FIGURES = (
    *("sigma", "n0", "n", "alpha", "images", "training_images", "seconds_training"),
    "clean_smoothed_accuracy",
)
"""What is a number among them."""
PLAIN = re.compile(r"[\w.,=+/-]+")
"""Names that can stand in a code span as they are."""


@dataclass(frozen=True)
class Group:
    """Runs of one method at one σ that differ by their seeds.

    Attributes:
        name: name of the experiment.
        sigma: standard deviation of the noise, in pixel units.
        summaries: their summaries.
    """

    name: str
    sigma: float
    summaries: Sequence[Mapping[str, Any]]

    @property
    def seeds(self) -> list[int]:
        """Seeds of the trainings, in order."""
        return sorted(summary["training_seed"] for summary in self.summaries)

    def of(self, name: str) -> list[float]:
        """Return one figure of every run."""
        return [summary[name] for summary in self.summaries]

    def acr(self, bound: str) -> list[float]:
        """Return the ACR of every run under a bound."""
        return [summary["bounds"][bound]["acr"] for summary in self.summaries]

    def accuracy(self, bound: str, radius: float) -> list[float]:
        """Return the certified accuracy of every run at a radius; none where one has none."""
        recorded = [s["bounds"][bound]["certified_accuracy"] for s in self.summaries]
        key = f"{radius:g}"
        return [each[key] for each in recorded] if all(key in each for each in recorded) else []


def read_summaries(folders: Iterable[Path]) -> list[dict[str, Any]]:
    """Read the summaries of folders.

    Args:
        folders: run folders, or folders that `python -m src.certify` made.

    Raises:
        RecordsError: if a summary is missing, damaged or lacks a figure.
    """
    summaries = []
    for folder in folders:
        path = folder / "summary.json"
        try:
            check_links(folder, nested=False)
            summary = read_json(path)
        except RecordsError as error:
            raise RecordsError(f"Expected a finished run in {folder}: {error}") from error
        lacking = [name for name in NEEDED if name not in summary]
        if lacking:
            raise RecordsError(
                f"{path} lacks {', '.join(lacking)}; was it made by a newer version?"
            )
        check_values(summary, path, FIGURES)
        _check_bounds(summary["bounds"], path)
        summaries.append({**summary, "folder": str(folder)})
    return summaries


def _check_bounds(bounds: Any, path: Path) -> None:
    entries = list(bounds.values()) if isinstance(bounds, dict) else [bounds]
    for each in entries:
        shares = each.get("certified_accuracy") if isinstance(each, dict) else None
        if not isinstance(shares, dict):
            raise RecordsError(f"{path} is damaged: expected certified accuracies for each bound")
        check_values({**shares, "acr": each.get("acr")}, path, [*shares, "acr"])


def grouped(summaries: Sequence[Mapping[str, Any]]) -> list[Group]:
    """Return the runs by σ and method; methods in the order of their names.

    Args:
        summaries: what `read_summaries` returns.

    Raises:
        RecordsError: if they were certified under different conditions, or two have one seed.
    """
    for name in SAME:
        values = {str(summary[name]) for summary in summaries}
        if len(values) > 1:
            raise RecordsError(
                f"Expected runs that were certified alike, got {name} {', '.join(sorted(values))}"
            )
    bounds = {", ".join(summary["bounds"]) for summary in summaries}
    if len(bounds) > 1:
        raise RecordsError(f"Expected runs with the same bounds, got {' and '.join(bounds)}")
    _check_settings(summaries)
    keys = sorted({(summary["sigma"], summary["name"]) for summary in summaries})
    groups = [
        Group(name, sigma, [s for s in summaries if (s["sigma"], s["name"]) == (sigma, name)])
        for sigma, name in keys
    ]
    for group in groups:
        _check_trainings(group)
        if len(set(group.seeds)) < len(group.seeds):
            raise RecordsError(
                f"Expected one run a seed of {group.name} at sigma={group.sigma}, got seeds "
                f"{', '.join(map(str, group.seeds))} in "
                f"{', '.join(summary['folder'] for summary in group.summaries)}"
            )
    return groups


def _check_settings(summaries: Sequence[Mapping[str, Any]]) -> None:
    """Refuse certifiers with other settings; the grid of radii may follow σ."""
    values: dict[tuple[str, Any], set[str]] = {}
    names = {name for summary in summaries for name in summary["certifier_settings"]}
    for summary in summaries:
        for name in names.difference(OF_THE_RUN):
            key = name, summary["sigma"] if name == "radii" else None
            values.setdefault(key, set()).add(str(summary["certifier_settings"].get(name)))
    for (name, _), found in sorted(values.items(), key=str):
        if len(found) > 1:
            what = "images" if name == "examples" else f"{name} of the certifier"
            raise RecordsError(
                f"Expected runs that were certified alike, got {what} {', '.join(sorted(found))}"
            )


def _check_trainings(group: Group) -> None:
    """Refuse a mean over trainings that differ by more than their seed."""
    apart = settings_apart(group.summaries)
    if apart:
        values = (f"{name} {' and '.join(map(str, each))}" for name, each in apart.items())
        raise RecordsError(
            f"Expected trainings of {group.name} at sigma={group.sigma} that differ by their "
            f"seeds alone, got {', '.join(values)}"
        )


def comparison_markdown(groups: Sequence[Group], radii: Sequence[float], title: str = "") -> str:
    """Return the groups as a Markdown table, with the conditions that they share below it.

    Args:
        groups: at least one.
        radii: radii of the certified accuracies.
        title: what to say of the data first.
    """
    head, *rows = comparison_rows(groups, radii)
    lines = [_line(head), _line(["---"] * len(head))]
    lines += [
        _line([f"`{name}`" if PLAIN.fullmatch(name) else _shown(name), *map(_shown, cells)])
        for name, *cells in rows
    ]
    return "\n".join([*lines, "", conditions(groups, title)]) + "\n"


def comparison_rows(groups: Sequence[Group], radii: Sequence[float]) -> list[list[str]]:
    """Return the cells of the table as plain text, its headings first.

    Args:
        groups: at least one.
        radii: radii of the certified accuracies.
    """
    head = ["experiment", "σ", "seeds", "epochs", "training, minutes", "clean", "bound"]
    head += [*(f"{radius:g}" for radius in radii), "ACR"]
    bounds = groups[0].summaries[0]["bounds"]
    return [head, *(_cells(group, bound, radii) for group in groups for bound in bounds)]


def conditions(groups: Sequence[Group], title: str = "") -> str:
    """Return what the runs of a table share, in a sentence.

    Args:
        groups: at least one.
        title: what to say of the data first.
    """
    every = [summary for group in groups for summary in group.summaries]
    first = every[0]
    models = ", ".join(sorted({str(summary["model"]) for summary in every}))
    parts = [
        title or _shown(first["data"]),
        f"{_shown(models)}, trained on {first['training_images']:,} images",
        f"{first['images']} {_shown(first['split'])} images certified at n0 = {first['n0']:,}, "
        f"n = {first['n']:,}, α = {first['alpha']:g} in {_shown(first['precision'])}"
        + (", both bounds on the same votes" if len(first["bounds"]) > 1 else ""),
        "mean ± standard error over seeds of the training",
    ]
    return "; ".join(parts) + "."


def _cells(group: Group, bound: str, radii: Sequence[float]) -> list[str]:
    return [
        str(group.name),
        f"{group.sigma:g}",
        ", ".join(map(str, group.seeds)),
        str(group.summaries[0]["epochs"]),
        _spread([seconds / 60 for seconds in group.of("seconds_training")], 1),
        _spread([100 * share for share in group.of("clean_smoothed_accuracy")], 1),
        bound,
        *(_spread([100 * s for s in group.accuracy(bound, radius)], 1) for radius in radii),
        _spread(group.acr(bound), 3),
    ]


def _shown(value: Any) -> str:
    """Return a value of a file as Markdown; `_` between letters is no mark there."""
    return re.sub(r"(?<=\w)\\_(?=\w)", "_", escaped(str(value)))


def _spread(values: Sequence[float], digits: int) -> str:
    if not values:
        return "–"
    text = f"{mean(values):.{digits}f}"
    if len(values) < 2:
        return text
    return f"{text} ± {stdev(values) / math.sqrt(len(values)):.{digits}f}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
