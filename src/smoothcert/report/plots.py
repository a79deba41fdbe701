"""Static figures, drawn without any global state of matplotlib."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from smoothcert.records import CertificateRow
from smoothcert.records.summary import Reading, readings
from smoothcert.stats import clopper_pearson_lower, clopper_pearson_upper

# Okabe and Ito's colours are told apart by colour-blind readers, and the dashes in print.
STYLES = ({"color": "#0072B2", "linestyle": "-"}, {"color": "#D55E00", "linestyle": "--"})
LABELS = {
    "tight": "T-CERTIFY",
    "tight (unproven split)": "T-CERTIFY, unproven split",
    "cohen": "Cohen et al. (2019)",
    "sequential": "sequential, radii at least",
    "anytime": "anytime, radii at least",
}
AT_LEAST = ("sequential", "anytime")
"""Certifiers whose radii, and ACR, more samples would have made larger."""
INCHES = (4.2, 3.0)
"""A figure of this size fits one column of a paper without scaling."""


def plot_certified_accuracy(
    rows: Sequence[CertificateRow], settings: Mapping[str, Any], path: Path
) -> None:
    """Draw certified accuracy against the radius, exactly as the certificates give it.

    The band is the 95 % confidence interval over images (Clopper–Pearson, pointwise). Where the
    rows were certified with another bound, Cohen's on the same votes is drawn beside it.

    Args:
        rows: at least one certificate.
        settings: what lies beside their file.
        path: the PNG to write.
    """
    figure = Figure(figsize=INCHES, layout="constrained")
    axes = figure.add_subplot()
    both = readings(rows, settings)
    certified = np.concatenate([reading.radius[reading.correct] for reading in both])
    limit = certified.max(initial=0.0) * 1.05 or settings["sigma"]
    for reading, style in zip(both, STYLES, strict=False):
        _curve(axes, reading, style, limit)
    _band(axes, both[0], limit)
    axes.set(
        xlabel=r"$\ell_2$ radius $r$ (pixel values in [0, 1])",
        ylabel="certified accuracy",
        xlim=(0, limit),
        # A curve at 100 % keeps its whole line.
        ylim=(0, 1.02),
    )
    axes.set_title(_title(rows, settings), fontsize=8)
    axes.grid(alpha=0.3, linewidth=0.5)
    axes.legend(fontsize=8, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=300)


def _curve(axes: Any, reading: Reading, style: Mapping[str, Any], limit: float) -> None:
    ends = np.sort(reading.radius[reading.correct])
    share = (len(ends) - np.arange(len(ends) + 1)) / len(reading.radius)
    relation = "ACR ≥" if reading.name in AT_LEAST else "ACR"
    label = f"{plain(LABELS.get(reading.name, reading.name))}, {relation} {reading.acr:.3f}"
    axes.stairs(share, [0, *ends, max(limit, *ends, 0)], baseline=None, label=label, **style)


def _band(axes: Any, reading: Reading, limit: float) -> None:
    ends = np.append(np.unique([0.0, *reading.radius[reading.correct]]), limit)
    images = len(reading.radius)
    right = np.round(np.array(reading.accuracy(ends.tolist())) * images)
    axes.fill_between(
        ends,
        clopper_pearson_lower(right, images, 0.025),
        clopper_pearson_upper(right, images, 0.025),
        # Certified accuracy falls just after each radius that an image reaches.
        step="pre",
        label="95 % interval over images",
        color=STYLES[0]["color"],
        alpha=0.15,
        linewidth=0,
    )


def plain(text: str) -> str:
    """Return a text that matplotlib neither reads as a formula nor leaves out of a legend.

    Args:
        text: any text.

    Example:
        >>> plain("_cifar10")
        'cifar10'
    """
    return text.replace("$", r"\$").removeprefix("_")


def plot_losses(
    curves: Mapping[str, Sequence[Sequence[float]]], path: Path, method: str, window: int = 10
) -> None:
    """Draw training losses by step, one colour a form and one line a seed.

    Args:
        curves: losses of each step, by form and seed.
        path: the PNG to write.
        method: name of the training method.
        window: steps over which a line is averaged.
    """
    figure = Figure(figsize=INCHES, layout="constrained")
    axes = figure.add_subplot()
    window = min(window, *(len(losses) for runs in curves.values() for losses in runs))
    kernel = np.full(window, 1 / window)
    for (form, runs), style in zip(curves.items(), STYLES, strict=False):
        for number, losses in enumerate(runs):
            smooth = np.convolve(losses, kernel, mode="valid")
            steps = np.arange(len(smooth)) + window
            label = form if number == 0 else None
            axes.plot(
                steps, smooth, style["linestyle"], color=style["color"], linewidth=1, label=label
            )
    axes.set(xlabel="step", ylabel=f"training loss, mean of {window} steps")
    axes.set_title(f"{method}, {len(next(iter(curves.values())))} seeds", fontsize=8)
    axes.grid(alpha=0.3, linewidth=0.5)
    axes.legend(fontsize=8, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=300)


def _title(rows: Sequence[CertificateRow], settings: Mapping[str, Any]) -> str:
    data = f"{settings['data']}, " if "data" in settings else ""
    return plain(f"{data}{len(rows):,} {settings['split']} images") + (
        f"\n$\\sigma$ = {settings['sigma']:g}, "
        f"$n$ = {settings['n']:,}, $\\alpha$ = {settings['alpha']:g}"
    )
