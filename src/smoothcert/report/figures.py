"""Figures of one run and of compared runs, drawn without matplotlib's global state."""

import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from smoothcert.records import CertificateRow
from smoothcert.records.summary import Reading, readings
from smoothcert.report.grouping import Group, Section, upper_envelope
from smoothcert.report.log_paths import TRAINED
from smoothcert.report.methods import method_colour
from smoothcert.stats import clopper_pearson_lower, clopper_pearson_upper

INCHES = (4.2, 3.0)
"""A figure of this size fits one column of a paper without scaling."""
LABELS = {
    "tight": "T-CERTIFY",
    "tight (unproven split)": "T-CERTIFY, unproven split",
    "cohen": "Cohen et al. (2019)",
    "sequential": "sequential, radii at least",
    "anytime": "anytime, radii at least",
}
AT_LEAST = ("sequential", "anytime")
"""Certifiers whose radii and ACR would be larger with more samples."""
# Dashes and gaps in line widths, all different, so that methods differ in grey prints.
DASHES = (
    *((), (5, 1.5), (1.2, 1.2), (6, 1.5, 1.2, 1.5), (10, 2.5), (1.2, 3)),
    *((2.5, 2.5), (6, 1.5, 1.2, 1.5, 1.2, 1.5), (8, 1.5, 2.5, 1.5), (3, 1.2, 1.2, 1.2)),
)
# Colours of Okabe and Ito for colour-blind users; dashes for grey prints.
PAIR: tuple[dict[str, Any], ...] = (
    {"color": "#0072B2", "linestyle": "-"},
    {"color": "#D55E00", "linestyle": "--"},
)
"""Styles of two curves of one run."""
GREY = "#777777"
BOUND_DASHES = ("-", "--")
FEW = 4
"""Most methods with bands and curves of single σ; more would hide each other."""
BINS, BINS_OF_MANY = 25, 12
NAME_LENGTH, LINE_LENGTH, COLUMN_LENGTH = 34, 84, 30
"""Characters of a method's name, of a title's line, and of a legend's column."""
POINTS = 7
RADIUS = r"$\ell_2$ radius $r$ (pixel values in [0, 1])"
METADATA: dict[str, dict[str, Any]] = {
    "png": {"Software": None},
    "pdf": {"Creator": None, "Producer": None, "CreationDate": None},
}
"""Without time and version of matplotlib, so that equal figures are equal files."""


@dataclass(frozen=True)
class Steps:
    """A falling step curve.

    Attributes:
        edges: radii at which it may fall, increasing from 0, shape (K + 1,).
        heights: height from `edges[k]` (excluded) to `edges[k + 1]` (included), shape (K,). The
            first step is from 0 to 0, with the height at 0.
    """

    edges: np.ndarray
    heights: np.ndarray


def plot_certified_accuracy(
    rows: Sequence[CertificateRow], settings: Mapping[str, Any], path: Path
) -> None:
    """Draw the exact certified accuracy of certificates against the radius.

    The band is the 95 % confidence interval over images (Clopper–Pearson, pointwise). If the rows
    were certified with another bound, the curve of Cohen's bound on the same votes is added.

    Args:
        rows: at least one certificate.
        settings: the settings next to their file.
        path: the PNG to write.
    """
    both = readings(rows, settings)
    limit = _limit(both, settings["sigma"])
    curves = [_highest([[reading]], limit) for reading in both]
    figure = Figure(figsize=INCHES, layout="constrained")
    axes = figure.add_subplot()
    for curve, reading, style in zip(curves, both, PAIR, strict=False):
        relation = "ACR ≥" if reading.name in AT_LEAST else "ACR"
        label = f"{plain(LABELS.get(reading.name, reading.name))}, {relation} {reading.acr:.3f}"
        _draw(axes, curve, label=label, **style)
    _fill(axes, curves[0], len(rows), PAIR[0]["color"], label="95 % interval over images")
    # 1.02, so that a curve at 100 % shows its full line width.
    axes.set(xlabel=RADIUS, ylabel="certified accuracy", xlim=(0, limit), ylim=(0, 1.02))
    data = f"{settings['data']}, " if "data" in settings else ""
    title = plain(f"{data}{len(rows):,} {settings['split']} images") + (
        f"\n$\\sigma$ = {settings['sigma']:g}, "
        f"$n$ = {settings['n']:,}, $\\alpha$ = {settings['alpha']:g}"
    )
    _save(figure, axes, title, path)


def plot_losses(
    curves: Mapping[str, Sequence[Sequence[float]]], path: Path, method: str, window: int = 10
) -> None:
    """Draw training losses by step, one colour per variant and one line per seed.

    Args:
        curves: losses of each step, by variant and seed.
        path: the PNG to write.
        method: name of the training method.
        window: steps over which a line is averaged.
    """
    figure = Figure(figsize=INCHES, layout="constrained")
    axes = figure.add_subplot()
    window = min(window, *(len(losses) for runs in curves.values() for losses in runs))
    kernel = np.full(window, 1 / window)
    for (variant, runs), style in zip(curves.items(), PAIR, strict=False):
        for number, losses in enumerate(runs):
            smooth = np.convolve(losses, kernel, mode="valid")
            label = variant if number == 0 else None
            axes.plot(np.arange(len(smooth)) + window, smooth, linewidth=1, label=label, **style)
    axes.set(xlabel="step", ylabel=f"training loss, mean of {window} steps")
    _save(figure, axes, f"{method}, {len(next(iter(curves.values())))} seeds", path)


def _save(figure: Figure, axes: Axes, title: str, path: Path) -> None:
    axes.set_title(title, fontsize=8)
    axes.grid(alpha=0.3, linewidth=0.5)
    axes.legend(fontsize=8, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=300)


def plain(text: str) -> str:
    """Return a text that matplotlib does not parse as a formula or omit from a legend.

    Args:
        text: any text.

    Example:
        >>> plain("_cifar10")
        'cifar10'
    """
    return text.replace("$", r"\$").removeprefix("_")


def draw_figures(section: Section, folder: Path) -> list[Path]:
    """Draw the figures of a section, each as PNG and as PDF, one column of a paper wide.

    `certified_accuracy` and `radii` are always drawn; `bounds` if votes are evaluated under two
    bounds, and `samples` if images took different numbers of samples.

    Args:
        section: runs that can be compared.
        folder: where the files are written; it is created if it does not exist.

    Returns:
        The files; they are byte-identical when drawn again.
    """
    drawn = {
        "certified_accuracy": accuracy_figure(section),
        "bounds": bounds_figure(section),
        "radii": radii_figure(section),
        "samples": samples_figure(section),
    }
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, figure in drawn.items():
        for kind, metadata in METADATA.items() if figure else ():
            paths.append(folder / f"{name}.{kind}")
            figure.savefig(paths[-1], dpi=300, metadata=metadata)
    return paths


def accuracy_figure(section: Section) -> Figure:
    """Draw certified accuracy against the radius: each method's upper envelope over σ.

    Curves are exact; thin curves are of a single σ. The band is the pointwise 95 % interval
    (Clopper–Pearson) over images, for these networks only and the best σ at each radius. It does
    not concern other trainings.

    Args:
        section: runs that can be compared.
    """
    styles, few = _styles(section), len(section.methods) <= FEW
    several = any(len(groups) > 1 for groups in section.methods.values())
    thin = [_line("at a single σ", color=GREY, linewidth=0.5)] if several and few else []
    shade = [Patch(color=GREY, alpha=0.3, linewidth=0, label="95 % interval over images")]
    handles = [*_lines(section), *thin, *(shade if few else [])]
    figure, [axes] = _figure(section, 1, handles)
    limit = _limit([run.certified for run in section.runs])
    for number, (method, groups) in enumerate(section.methods.items()):
        curve = envelope(groups, limit)
        if few:
            _backdrop(axes, groups, curve, styles[method]["color"])
        # The first methods of the legend are drawn on top.
        _draw(axes, curve, **styles[method], zorder=4 - number / len(section.methods))
    axes.set(xlim=(0, limit), ylim=(0, 1.02))
    panels = _by_sigma(section.groups)
    title = f"upper envelope{_sigmas(panels, 'over')}" if len(panels) > 1 else _sigma(*panels)
    _finish([axes], [title], RADIUS, "certified accuracy")
    return figure


def _backdrop(axes: Axes, groups: Sequence[Group], curve: Steps, colour: str) -> None:
    """Draw the band of an envelope and, if there are several, the curves of single σ."""
    for group in groups if len(groups) > 1 else ():
        single = envelope([group], curve.edges[-1])
        _draw(axes, single, color=colour, linewidth=0.5, alpha=0.6)
    _fill(axes, curve, len(groups[0].runs[0].rows), colour)


def _fill(axes: Axes, curve: Steps, images: int, colour: str, **style: Any) -> None:
    low, high = band(curve, images)
    # Certified accuracy falls directly after each image's radius.
    area = {"step": "pre", "alpha": 0.13, "linewidth": 0, **style}
    axes.fill_between(curve.edges[1:], low, high, color=colour, **area)


def envelope(groups: Sequence[Group], limit: float) -> Steps:
    """Return the largest certified accuracy over σ at each radius, of means over trainings.

    Args:
        groups: trainings of one method, by σ.
        limit: the radius at which the curve ends.
    """
    return _highest([[run.certified for run in group.runs] for group in groups], limit)


def _highest(groups: Sequence[Sequence[Reading]], limit: float) -> Steps:
    radii, shares = upper_envelope(groups, [limit])
    return Steps(np.concatenate([[0.0], radii]), shares)


def band(curve: Steps, images: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the ends of the 95 % interval over images (Clopper–Pearson) at each step.

    Args:
        curve: shares of images; a mean over trainings is rounded to a number of images.
        images: number of images.
    """
    right = np.round(curve.heights * images)
    return clopper_pearson_lower(right, images, 0.025), clopper_pearson_upper(right, images, 0.025)


def bounds_figure(section: Section) -> Figure | None:
    """Draw certified accuracy by σ, as certified and under Cohen's bound on the same votes.

    Args:
        section: runs that can be compared.

    Returns:
        None if no method's votes are evaluated under two bounds.
    """
    groups = [group for group in section.groups if len(group.bounds) > 1]
    if not groups:
        return None
    styles = {name: {**style, "linestyle": "-"} for name, style in _styles(section).items()}
    lines = [
        _line(LABELS.get(bound, bound), color=GREY, linestyle=dash)
        for bound, dash in zip(groups[0].bounds, BOUND_DASHES, strict=False)
    ]
    panels, drawn = _by_sigma(groups), dict.fromkeys((group.method for group in groups), "")
    figure, every = _figure(section, len(panels), [*_lines(section, drawn, styles), *lines])
    for axes, same in zip(every, panels.values(), strict=True):
        limit = _limit([each for group in same for run in group.runs for each in run.bounds])
        for group in same:
            for bound, dash in zip(group.bounds, BOUND_DASHES, strict=False):
                style = {**styles[group.method], "linestyle": dash, "linewidth": 0.9}
                _draw(axes, _highest([group.readings(bound)], limit), **style)
        axes.set(xlim=(0, limit), ylim=(0, 1.02))
    _finish(every, [*map(_sigma, panels)], RADIUS, "certified accuracy")
    return figure


def radii_figure(section: Section) -> Figure:
    """Draw histograms of certified radii by σ; the legend has the share of images that count 0.

    All methods of a panel have the same bins.

    Args:
        section: runs that can be compared.
    """
    panels, styles = _by_sigma(section.groups), _styles(section)
    bins = BINS if len(styles) <= FEW else BINS_OF_MANY
    zeros = _by_method(section.groups, lambda group: float(np.mean(_radii(group) <= 0)))
    title = "images that count 0 (wrong or abstained)" + _sigmas(panels)
    figure, every = _figure(section, len(panels), _lines(section, zeros), title)
    for axes, groups in zip(every, panels.values(), strict=True):
        limit = _limit([run.certified for group in groups for run in group.runs])
        edges = np.linspace(0, limit, bins + 1)
        for group in groups:
            axes.stairs(histogram(group, edges), edges, **{**styles[group.method], "linewidth": 1})
        axes.set(xlim=(0, limit))
    every[0].set_ylim(bottom=0)
    _finish(every, [*map(_sigma, panels)], RADIUS, "share of images")
    return figure


def histogram(group: Group, edges: np.ndarray) -> np.ndarray:
    """Return the share of images with a certified radius in each bin: a mean over trainings.

    Args:
        group: trainings of one method.
        edges: ends of the bins, shape (K + 1,). Images that count 0 are in no bin.
    """
    radii = _radii(group)
    return np.histogram(radii[radii > 0], edges)[0] / len(radii)


def samples_figure(section: Section) -> Figure | None:
    """Draw the cumulative distribution of the estimation samples per image, by σ.

    A curve begins at the share of images without samples. Published logs record no samples.

    Args:
        section: runs that can be compared.

    Returns:
        None if all images took the same number.
    """
    groups = [group for group in section.groups if len(_samples(group))]
    taken = np.concatenate([[], *map(_samples, groups)])
    if len(np.unique(taken)) < 2:
        return None
    panels, styles = _by_sigma(groups), _styles(section)
    zeros = _by_method(groups, lambda group: float(np.mean(_samples(group) == 0)))
    title = "images given up without a sample" + _sigmas(panels)
    figure, every = _figure(section, len(panels), _lines(section, zeros), title)
    limits = taken[taken > 0].min() / 1.5, taken.max() * 1.5
    for axes, same in zip(every, panels.values(), strict=True):
        for group in same:
            counts, shares = cumulative(group)
            edges = [limits[0], *counts, limits[1]]
            axes.stairs(shares, edges, baseline=None, **styles[group.method])
        axes.set(xscale="log", xlim=limits, ylim=(0, 1.02))
    _finish(
        every,
        [*map(_sigma, panels)],
        "estimation samples spent on an image, at most",
        "share of images",
    )
    return figure


def cumulative(group: Group) -> tuple[np.ndarray, np.ndarray]:
    """Return the cumulative distribution of the estimation samples that images took.

    Args:
        group: trainings of one method.

    Returns:
        The numbers that occur, increasing and without 0, shape (K,). The share of images that took
        fewer than the first number, then at most each number, shape (K + 1,).
    """
    taken = np.sort(_samples(group))
    counts = np.unique(taken[taken > 0])
    return counts, np.searchsorted(taken, [0, *counts], side="right") / len(taken)


def _samples(group: Group) -> np.ndarray:
    runs = [run for run in group.runs if not run.is_foreign]
    return np.array([row.n_samples for run in runs for row in run.rows])


def _radii(group: Group) -> np.ndarray:
    return np.concatenate([run.radii_that_count for run in group.runs])


def _by_sigma(groups: Sequence[Group]) -> dict[float | None, list[Group]]:
    sigmas = dict.fromkeys(group.sigma for group in groups)
    order = sorted(sigmas, key=lambda sigma: (sigma is None, sigma or 0.0))
    return {sigma: [group for group in groups if group.sigma == sigma] for sigma in order}


def _by_method(groups: Sequence[Group], share: Callable[[Group], float]) -> dict[str, str]:
    """Return the text of each method's shares by σ, for a legend."""
    panels = _by_sigma(groups).values()
    texts: dict[str, str] = {}
    for method in dict.fromkeys(group.method for group in groups):
        own = [next((g for g in panel if g.method == method), None) for panel in panels]
        shares = ["–" if group is None else f"{100 * share(group):.1f}" for group in own]
        texts[method] = f": {', '.join(shares)} %"
    return texts


def _sigma(sigma: float | None) -> str:
    return "σ not recorded" if sigma is None else f"σ = {sigma:g}"


def _sigmas(panels: Mapping[float | None, Any], word: str = "at") -> str:
    sigmas = ["not recorded" if sigma is None else f"{sigma:g}" for sigma in panels]
    return f" {word} σ = {', '.join(sigmas)}" if len(panels) > 1 else ""


def _limit(every: Sequence[Reading], without: float = 1.0) -> float:
    """Return the end of the axis of radii: beyond every image's radius, or a default."""
    largest = max(float(each.radius[each.correct].max(initial=0.0)) for each in every)
    return largest * 1.05 or without


def _styles(section: Section) -> dict[str, dict[str, Any]]:
    """Return the same colour and dashes for a method in every figure."""
    styles: dict[str, dict[str, Any]] = {}
    for number, method in enumerate(section.methods):
        colour = method_colour(method).light
        # Methods of the same colour get different dashes, while there are any left.
        used = [style["linestyle"] for style in styles.values() if style["color"] == colour]
        turned = [DASHES[(number + turn) % len(DASHES)] for turn in range(len(DASHES))]
        lines = [(0, dashes) if dashes else "-" for dashes in turned]
        line = next((line for line in lines if line not in used), lines[0])
        styles[method] = {"color": colour, "linestyle": line, "linewidth": 1.2}
    return styles


def _lines(
    section: Section,
    shares: Mapping[str, str] | None = None,
    styles: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[Line2D]:
    """Return a legend's lines, for all methods or for the methods with a text of `shares`."""
    names, styles = _names(list(section.methods)), styles or _styles(section)
    shares = dict.fromkeys(names, "") if shares is None else shares
    labels = {name: names[name] + shares[name] for name in names if name in shares}
    return [_line(label, **styles[name]) for name, label in labels.items()]


def _names(methods: Sequence[str]) -> dict[str, str]:
    """Return short names: the middle is left out, since the ends distinguish settings."""
    short = {}
    for name in methods:
        # The two different σ of a log's training and certification are not shortened.
        path, trained, sigmas = name.partition(TRAINED)
        short[name] = _shortened(path) + trained + sigmas
    if len(set(short.values())) < len(short):
        # The names differ only in the part that is left out.
        short = {name: textwrap.fill(name, LINE_LENGTH - 20) for name in methods}
    return short


def _shortened(name: str) -> str:
    head, tail = NAME_LENGTH - NAME_LENGTH // 3 - 1, NAME_LENGTH // 3
    return f"{name[:head]}…{name[-tail:]}" if len(name) > NAME_LENGTH else name


def _line(label: str, **style: Any) -> Line2D:
    return Line2D([], [], label=plain(label), **style)


def _draw(axes: Axes, curve: Steps, **style: Any) -> None:
    axes.stairs(curve.heights, curve.edges, baseline=None, **style)


def _figure(
    section: Section, panels: int, handles: Sequence[Artist], legend_title: str | None = None
) -> tuple[Figure, list[Axes]]:
    """Return a figure and its panels, with a title above and a legend below them."""
    many = len(section.methods) > FEW
    rows = panels if many else math.ceil(panels / 3)
    labels = [str(handle.get_label()) for handle in handles]
    columns = 2 if max(map(len, labels)) <= COLUMN_LENGTH else 1
    lines = math.ceil(sum(1 + label.count("\n") for label in labels) / columns)
    # The size of the panels does not depend on the legend.
    height = (INCHES[1] - 0.7 if panels == 1 else 1.6 * rows) + 0.15 * (lines + 5)
    figure = Figure(figsize=(INCHES[0], height), layout="constrained")
    figure.suptitle(plain(textwrap.fill(section.title, LINE_LENGTH)), fontsize=POINTS)
    style = {"fontsize": POINTS, "title_fontsize": POINTS, "handlelength": 3.5, "frameon": False}
    place = "outside lower center"
    figure.legend(handles=handles, title=legend_title, loc=place, ncols=columns, **style)
    # Axis labels of the figure itself would overlap the legend.
    inside = figure.add_subfigure(figure.add_gridspec()[0])
    every = inside.subplots(rows, math.ceil(panels / rows), sharey=True, squeeze=False)
    for spare in every.flat[panels:]:
        spare.remove()
    return figure, list(every.flat[:panels])


def _finish(axes: Sequence[Axes], titles: Sequence[str], x: str, y: str) -> None:
    """Set the titles of panels and the labels of their axes."""
    for panel, title in zip(axes, titles, strict=True):
        panel.set_title(title, fontsize=POINTS)
        panel.grid(alpha=0.3, linewidth=0.5)
        panel.spines[["top", "right"]].set_visible(False)
        panel.tick_params(labelsize=POINTS)
    if len(axes) == 1:
        axes[0].set_xlabel(x, fontsize=POINTS + 1)
        axes[0].set_ylabel(y, fontsize=POINTS + 1)
    else:
        axes[0].figure.supxlabel(x, fontsize=POINTS + 1)
        axes[0].figure.supylabel(y, fontsize=POINTS + 1)
