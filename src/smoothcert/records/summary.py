"""The figures of one run: what its `summary.json` says of its certificates."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from smoothcert.errors import RecordsError
from smoothcert.records.rows import CertificateRow
from smoothcert.stats import (
    abstention_rate,
    average_certified_radius,
    certified_accuracy,
    certified_radius,
)

COMPARABLE = ("TightCertifier", "PrecisionCertifier")
"""Certifiers whose number of samples does not depend on the votes that are bounded."""
GRID_CERTIFIERS = ("SequentialCertifier", "AnytimeCertifier")
"""Certifiers that end an image once its place on a grid of radii is known."""


@dataclass(frozen=True)
class Reading:
    """Radii of a list of certificates under one bound.

    Attributes:
        name: the bound.
        radius: certified radii in pixel units, shape (N,).
        correct: whether right and not abstained, bool, shape (N,).
    """

    name: str
    radius: np.ndarray
    correct: np.ndarray

    def accuracy(self, radii: Sequence[float] | np.ndarray) -> list[float]:
        """Return certified accuracy at each radius."""
        return certified_accuracy(self.radius, self.correct, radii).tolist()

    @property
    def acr(self) -> float:
        """Average certified radius."""
        return average_certified_radius(self.radius, self.correct)


def readings(rows: Sequence[CertificateRow], settings: Mapping[str, Any]) -> list[Reading]:
    """Return the rows as they were certified, and the same votes under Cohen's bound.

    Args:
        rows: at least one certificate.
        settings: what lies beside their file; names the certifier, sigma and alpha.
    """
    certified = Reading(
        certifier_name(settings),
        np.array([row.radius for row in rows]),
        np.array([bool(row.correct) for row in rows]),
    )
    # Where the votes decided how many there are, a bound for a fixed number does not hold.
    if settings["certifier"] not in COMPARABLE:
        return [certified]
    alpha = settings.get("alpha_for_votes", settings["alpha"])
    return [certified, read_as("cohen", rows, settings["sigma"], alpha)]


def read_as(bound: str, rows: Sequence[CertificateRow], sigma: float, alpha: float) -> Reading:
    """Compute the radii that a bound gives on the votes of existing certificates.

    A row that abstained does not record which class was tested; it stays an abstention.

    Args:
        bound: one of `smoothcert.stats.certified_radius`.
        rows: at least one certificate.
        sigma: standard deviation of the noise that they were certified at.
        alpha: failure probability of one image's certificate.

    Raises:
        RecordsError: if there is no row.

    Example:
        >>> row = CertificateRow(7, 3, 3, 0.4217, 1, 0.5, 0.94, 0.04, 9500, 300, 10_000, "fixed")
        >>> read_as("cohen", [row], sigma=0.25, alpha=0.001).radius.round(4)
        array([0.3949])
    """
    if not rows:
        raise RecordsError("Expected at least one certificate, got none")
    n_a, n_b, n = (
        np.array([getattr(row, name) for row in rows]) for name in ("n_a", "n_b", "n_samples")
    )
    answered = np.array([row.predict >= 0 for row in rows])
    radius = np.zeros(len(rows))
    counts = n_a[answered], n_b[answered], n[answered]
    radius[answered] = certified_radius(*counts, sigma, alpha, bound)
    correct = np.array([bool(row.correct) for row in rows]) & (radius > 0)
    return Reading(bound, radius, correct)


def certifier_name(settings: Mapping[str, Any]) -> str:
    """Return how a certifier is called in tables: `cohen`, `tight` or another class's name.

    The paper's own split of alpha has no proof, and says so wherever its figures stand.
    """
    name = str(settings["certifier"]).removesuffix("Certifier").lower()
    return f"{name} (unproven split)" if settings.get("alpha_split") == "paper" else name


def summarize(
    rows: Sequence[CertificateRow], settings: Mapping[str, Any], radii: Sequence[float]
) -> dict[str, Any]:
    """Return the certification part of `summary.json`.

    Args:
        rows: at least one certificate.
        settings: what lies beside their file.
        radii: radii of the certified accuracies.

    Returns:
        Plain values by name. `abstention_rate` leaves out images that were given up because their
        class is wrong; `mean_samples_per_image` counts selection samples too.
        `clean_smoothed_accuracy` is the share of images that the smoothed classifier gets right
        without abstaining; `stops` counts why images ended; `radius_is_lower_bound` says that
        more samples would have proved larger radii, ACR among them; `bounds` holds ACR and
        certified accuracies of the same votes under each bound.
    """
    certified, *others = readings(rows, settings)
    return {
        "certifier": certified.name,
        "certifier_settings": dict(settings),
        "sigma": settings["sigma"],
        "alpha": settings["alpha"],
        "n0": settings["n0"],
        "n": settings["n"],
        "seed": settings["seed"],
        "split": settings["split"],
        "images": len(rows),
        "precision": settings.get("precision", "float32"),
        "noise": settings.get("noise", "gaussian"),
        "acr": certified.acr,
        "certified_accuracy": _by_radius(certified, radii),
        "clean_smoothed_accuracy": certified.accuracy([0.0])[0],
        "abstention_rate": _abstention_rate(rows),
        "stops": dict(Counter(row.stop for row in rows)),
        "target": settings.get("target", "selection"),
        "radius_is_lower_bound": settings["certifier"] in GRID_CERTIFIERS,
        "mean_samples_per_image": float(np.mean([row.n_samples for row in rows]))
        + (settings["n0"] if settings.get("target", "selection") == "selection" else 0),
        "seconds_certifying": round(sum(row.time for row in rows), 3),
        "bounds": {
            reading.name: {"acr": reading.acr, "certified_accuracy": _by_radius(reading, radii)}
            for reading in (certified, *others)
        },
    }


def _abstention_rate(rows: Sequence[CertificateRow]) -> float:
    """Return the share of abstentions among the images that were not given up as wrong."""
    tested = [row.predict for row in rows if row.stop != "wrong"]
    return abstention_rate(tested) if tested else 0.0


def _by_radius(reading: Reading, radii: Sequence[float]) -> dict[str, float]:
    shares = reading.accuracy(radii)
    return {f"{r:g}": share for r, share in zip(radii, shares, strict=True)}
