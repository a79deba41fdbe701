"""The figures of one run: the part of `summary.json` about its certificates."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

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
"""Certifiers that choose the number of samples without the votes that are bounded."""
GRID_CERTIFIERS = ("SequentialCertifier", "AnytimeCertifier")
"""Certifiers that finish an image once its radius on a grid of radii is known."""


@dataclass(frozen=True)
class Reading:
    """Radii of certificates under one bound.

    Attributes:
        name: the bound.
        radius: certified radii in pixel units, shape (N,).
        correct: whether right and not abstained, bool, shape (N,).
    """

    name: str
    radius: np.ndarray
    correct: np.ndarray

    @classmethod
    def of(cls, name: str, rows: Sequence[CertificateRow]) -> Self:
        """Return the radii of rows as they were certified."""
        correct = np.array([bool(row.correct) for row in rows])
        return cls(name, np.array([row.radius for row in rows]), correct)

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
        settings: the settings next to their file, with certifier, sigma and alpha.
    """
    certified = Reading.of(certifier_name(settings), rows)
    # If the votes decide the number of samples, a bound for a fixed number does not hold.
    if settings["certifier"] not in COMPARABLE:
        return [certified]
    alpha = settings.get("alpha_for_votes", settings["alpha"])
    return [certified, read_as("cohen", rows, settings["sigma"], alpha)]


def read_as(bound: str, rows: Sequence[CertificateRow], sigma: float, alpha: float) -> Reading:
    """Compute the radii that a bound gives on the votes of existing certificates.

    A row with an abstention does not record which class was tested; it stays an abstention.

    Args:
        bound: one of `smoothcert.stats.certified_radius`.
        rows: at least one certificate.
        sigma: standard deviation of the noise of the certification, in pixel units.
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
    """Return the name of a certifier in tables: `cohen`, `tight` or another class's name.

    The paper's own split of alpha has no proof; its name says so wherever its figures appear.
    """
    name = str(settings["certifier"]).removesuffix("Certifier").lower()
    return f"{name} (unproven split)" if settings.get("alpha_split") == "paper" else name


def summarize(
    rows: Sequence[CertificateRow], settings: Mapping[str, Any], radii: Sequence[float]
) -> dict[str, Any]:
    """Return the certification part of `summary.json`.

    Args:
        rows: at least one certificate.
        settings: the settings next to their file.
        radii: radii of the certified accuracies.

    Returns:
        Plain values by name. `abstention_rate` leaves out images that were given up because their
        class is wrong; `mean_samples_per_image` counts selection samples too.
        `clean_smoothed_accuracy` is the share of images that the smoothed classifier classifies
        correctly without abstaining; `stops` counts why sampling ended; `radius_is_lower_bound`
        is true if more samples would prove larger radii and a larger ACR; `bounds` has ACR and
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
        "abstention_rate": tested_abstention_rate(rows),
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


def tested_abstention_rate(rows: Sequence[CertificateRow]) -> float:
    """Return the share of abstentions among the images that were not given up as wrong."""
    tested = [row.predict for row in rows if row.stop != "wrong"]
    return abstention_rate(tested) if tested else 0.0


def _by_radius(reading: Reading, radii: Sequence[float]) -> dict[str, float]:
    shares = reading.accuracy(radii)
    return {f"{r:g}": share for r, share in zip(radii, shares, strict=True)}
