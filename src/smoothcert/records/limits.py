"""Which rows are possible under the settings of a certification and for its images."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from smoothcert.records.rows import CertificateRow

SET_BEFOREHAND = ("fixed", "exhausted")
"""Ends of sampling at exactly n samples."""
OF_GRID = ("certified", "futile", "exhausted", "wrong")
STOPS_OF = {
    "CohenCertifier": ("fixed", "wrong"),
    "TightCertifier": ("fixed", "wrong"),
    "PrecisionCertifier": ("planned", "wrong"),
    "SequentialCertifier": OF_GRID,
    "AnytimeCertifier": OF_GRID,
}
"""Why sampling ends, by certifier. Rows of any other certifier have no limits."""
BY_LAST_VOTES = {
    "CohenCertifier": ("fixed",),
    "TightCertifier": ("fixed",),
    "PrecisionCertifier": ("planned",),
    "SequentialCertifier": ("certified",),
}
"""Ends at which the row's own votes prove the radius, not the votes of an earlier look."""
QUARTER = 0.25
STEP = 1e-6
"""The last digit of a radius or a probability in a file: the largest rounding error."""


@dataclass(frozen=True)
class Limits:
    """What the settings of a certification allow in its rows.

    For every certifier, a radius R is at most σ·Φ⁻¹(alpha^(1/n)): if the class had only the
    probability Φ(R/σ), all n votes would be for it with probability at most alpha.

    If alpha < ¼, a radius that the row's own votes prove is at most
    σ/2·(Φ⁻¹(n_a/n) - Φ⁻¹(n_b/n)). Assume that this were the true radius R, with class
    probabilities equal to these shares. Then votes as good as the row's would have probability at
    least ¼: each of the two counts is on a given side of its mean with probability at least ½, as
    the median of a binomial count is its mean, and both events are positively dependent, as
    counts of a multinomial are negatively associated.

    Attributes:
        sigma: standard deviation of the noise, in pixel units.
        alpha: failure probability of a certificate, less the error of discrete noise.
        n: the largest number of estimation samples.
        stops: why sampling may end.
        by_bounds: whether the radius follows from the two bounds in the row.
        by_votes: ends at which the votes of the row prove its radius.
    """

    sigma: float
    alpha: float
    n: int
    stops: tuple[str, ...]
    by_bounds: bool
    by_votes: tuple[str, ...] = ()

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Limits | None:
        """Return the limits of settings; None if the settings are incomplete."""
        certifier: Any = settings.get("certifier")
        sigma: Any = settings.get("sigma")
        n: Any = settings.get("n")
        alpha: Any = settings.get("alpha_for_votes", settings.get("alpha"))
        known = isinstance(certifier, str) and certifier in STOPS_OF
        if not known or not (_is_positive(sigma) and _is_positive(alpha) and _is_positive(n)):
            return None
        by_bounds = certifier == "CohenCertifier" or settings.get("bound") == "rectangle"
        by_bounds = by_bounds and STOPS_OF[certifier] != OF_GRID
        by_votes = BY_LAST_VOTES.get(certifier, ()) if alpha < QUARTER else ()
        return cls(sigma, alpha, n, STOPS_OF[certifier], by_bounds, by_votes)

    def largest_radius(self, n: int) -> float:
        """Return the largest radius that n samples allow.

        Example:
            >>> limits = Limits(0.25, 0.001, 100_000, ("fixed",), by_bounds=False)
            >>> round(limits.largest_radius(100_000), 3)
            0.953
        """
        miss = -math.expm1(math.log(self.alpha) / n)
        return max(0.0, -self.sigma * _probit(miss))

    def check(self, row: CertificateRow) -> None:
        """Refuse a row that the settings do not allow.

        Raises:
            ValueError: with what was expected.
        """
        if row.stop not in self.stops:
            raise ValueError(f"expected stop one of {', '.join(self.stops)}")
        if row.stop == "wrong":
            return
        if row.n_samples > self.n or (row.stop in SET_BEFOREHAND and row.n_samples != self.n):
            raise ValueError(f"expected n_samples {self.n}, or fewer where sampling may end early")
        largest = self.largest_radius(row.n_samples)
        if row.radius > largest + STEP:
            raise ValueError(
                f"expected a radius of at most {largest:.6f}, which {row.n_samples} samples allow "
                f"at alpha={self.alpha:g} and sigma={self.sigma:g}"
            )
        if row.stop in self.by_votes and row.radius > (shares := self._radius_of_shares(row)):
            raise ValueError(
                f"expected a radius of at most {shares:.6f}, the radius of shares {row.n_a} and "
                f"{row.n_b} of {row.n_samples}"
            )
        self._check_bounds(row)

    def _radius_of_shares(self, row: CertificateRow) -> float:
        share_a, share_b = row.n_a / row.n_samples, row.n_b / row.n_samples
        if share_b <= 0 < share_a:
            return math.inf
        return max(0.0, self.sigma / 2 * (_probit(share_a) - _probit(share_b))) + STEP

    def _check_bounds(self, row: CertificateRow) -> None:
        a, b = row.p_a_lower, row.p_b_upper
        if a + b > 1 + 2 * STEP:
            raise ValueError("expected p_a_lower + p_b_upper at most 1")
        # The median of a binomial count is its mean: a bound at a level of at most ½ is beyond it.
        share_a, share_b = row.n_a / row.n_samples, row.n_b / row.n_samples
        if self.alpha <= 0.5 and (a > share_a + STEP or b < min(share_b, 1 - a) - 2 * STEP):
            raise ValueError(
                "expected p_a_lower at most n_a / n_samples, p_b_upper at least n_b / n_samples"
            )
        if not self.by_bounds:
            return
        low = self.sigma / 2 * (_probit(a) - _probit(b)) - 2 * STEP
        high = self.sigma / 2 * (_probit(a + STEP) - _probit(b - STEP)) + 2 * STEP
        if not low <= row.radius or (row.radius > max(high, 0)):
            raise ValueError("expected the radius of p_a_lower and p_b_upper")


@dataclass(frozen=True)
class Images:
    """The images of a certification.

    Attributes:
        labels: the true class of each image, by its index in the data set.
        num_classes: number of classes.
    """

    labels: Mapping[int, int]
    num_classes: int

    def check(self, row: CertificateRow) -> None:
        """Refuse a row of another image, or of a class that does not exist.

        Raises:
            ValueError: with what was expected.
        """
        if row.idx not in self.labels:
            raise ValueError("expected an image of this certification")
        if row.label != self.labels[row.idx]:
            raise ValueError(f"expected label {self.labels[row.idx]}, as in the data set")
        if row.predict >= self.num_classes:
            raise ValueError(f"expected predict below {self.num_classes}, the number of classes")


def _is_positive(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and 0 < value < math.inf


def _probit(p: float) -> float:
    if p <= 0:
        return -math.inf
    return NormalDist().inv_cdf(p) if p < 1 else math.inf
