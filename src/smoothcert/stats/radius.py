"""From vote counts to certified l2 radii."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr, ndtri

from smoothcert.errors import InvalidArgumentError, require_positive, require_probability
from smoothcert.stats.bounds import FloatArray, probit_lower, probit_upper
from smoothcert.stats.joint import joint_lower_bound

BOUNDS = ("cohen", "rectangle", "paper")
"""Bounds that consist of a bound on p_A and a bound on p_B."""
RADIUS_BOUNDS = ("joint", *BOUNDS)
SPLITS = np.array([0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99])
"""Candidate shares of alpha for p_A."""
LARGEST_SELECTED_SPLIT = 0.95
"""Few selection samples cannot tell a runner-up of 1 % from none. Leaving p_B almost no alpha costs
3 % of the radius if there are two runners-up; .95 costs .2 % if there is one."""


class ProbabilityBounds(NamedTuple):
    """Confidence bounds that hold together, as probits.

    Attributes:
        probit_a: Φ⁻¹ of the lower bound on p_A, the selected class's probability.
        probit_b: Φ⁻¹ of the upper bound on p_B, the largest other probability.
    """

    probit_a: FloatArray
    probit_b: FloatArray

    @property
    def p_a_lower(self) -> FloatArray:
        """Lower bound on p_A."""
        return ndtr(self.probit_a)

    @property
    def p_b_upper(self) -> FloatArray:
        """Upper bound on p_B."""
        return ndtr(self.probit_b)

    def radius(self, sigma: float) -> FloatArray:
        """Certified radius (σ/2)(Φ⁻¹(p_A) − Φ⁻¹(p_B)), 0 where nothing is certified."""
        return np.maximum(0.0, sigma / 2 * (self.probit_a - self.probit_b))


def probability_bounds(
    n_a: ArrayLike,
    n_b: ArrayLike,
    n: ArrayLike,
    alpha: float,
    bound: str = "rectangle",
    split: ArrayLike = 0.5,
) -> ProbabilityBounds:
    """Bounds on p_A and p_B that hold together with probability at least 1 − alpha.

    The class A must have been chosen independently of these counts.

    Args:
        n_a: votes for A among n independent samples; any shape.
        n_b: the **largest** count of any other class; broadcast. No correction for the number
            of classes is needed: the true runner-up's count is at most `n_b`, and the upper bound
            grows with the count, so it fails no more often than the runner-up's own bound.
        n: number of samples; broadcast.
        alpha: failure probability of one image's certificate, in (0, 1).
        bound: `cohen`: one-sided Clopper–Pearson on p_A, and p_B = 1 − p_A (Cohen et al., 2019,
            section 3.2.2). `rectangle`: T-CERTIFY (Feng et al., 2020) with alpha divided between
            the two bounds by `split`. `paper`: T-CERTIFY with the division that gives the
            largest radius on the very counts it is applied to, as published; **no proof is
            known that its error stays below alpha**, use it for comparison only.
        split: share of alpha spent on p_A, in (0, 1]; a number, or one per image. It must
            not depend on the counts that it is applied to. Used by `rectangle` alone.

    Returns:
        The bounds, float64, broadcast shape; p_B's is never above 1 − p_A's.

    Raises:
        InvalidArgumentError: if alpha, split, the counts or the name of the bound is out of range.

    Example:
        >>> bounds = probability_bounds(9500, 300, 10_000, alpha=0.001)
        >>> float(bounds.p_a_lower.round(4)), float(bounds.p_b_upper.round(4))
        (0.9424, 0.036)
    """
    require_probability("alpha", alpha)
    n_a, n_b, n = _check_counts(n_a, n_b, n)
    if bound == "cohen":
        probit_a = probit_lower(n_a, n, alpha)
        return ProbabilityBounds(probit_a, -probit_a)
    if bound == "rectangle":
        return _rectangle(n_a, n_b, n, alpha, _check_split(split))
    if bound == "paper":
        return _best_split(n_a, n_b, n, alpha)
    raise InvalidArgumentError(f"Expected `bound` one of {', '.join(BOUNDS)}, got {bound!r}")


def certified_radius(
    n_a: ArrayLike,
    n_b: ArrayLike,
    n: ArrayLike,
    sigma: float,
    alpha: float,
    bound: str = "joint",
    split: ArrayLike = 0.5,
) -> FloatArray:
    """Certified l2 radius of the smoothed classifier, from vote counts.

    Args:
        n_a: votes for the selected class among n independent samples; any shape.
        n_b: the largest count of any other class; broadcast.
        n: number of samples; broadcast.
        sigma: standard deviation of the noise, in pixel units, > 0.
        alpha: failure probability of one image's certificate, in (0, 1).
        bound: `joint`: one exact test of both counts, the tightest (see `joint_lower_bound`);
            `cohen`, `rectangle` or `paper`: see `probability_bounds`.
        split: share of alpha spent on p_A by `rectangle`; see `probability_bounds`.

    Returns:
        R = (σ/2)(Φ⁻¹(p_A) − Φ⁻¹(p_B)) in pixel units, 0 where nothing is certified (Feng et al.,
        2020; Cohen et al., 2019, theorem 1). float64, broadcast shape.

    Raises:
        InvalidArgumentError: if an argument is out of range.

    Example:
        >>> certified_radius([9500, 5000], [300, 4000], 10_000, 0.25, 0.001, "cohen").round(4)
        array([0.3949, 0.    ])
        >>> certified_radius([9500, 5000], [300, 4000], 10_000, 0.25, 0.001).round(3)
        array([0.424, 0.022])
    """
    require_positive("sigma", sigma)
    _check_split(split)
    if bound == "joint":
        require_probability("alpha", alpha)
        n_a, n_b, n = _check_counts(n_a, n_b, n)
        # No positive radius is proved where the other class has as many votes.
        t, ahead = np.zeros(n_a.shape), np.asarray(n_a > n_b)
        t[ahead] = joint_lower_bound(n_a[ahead], n_b[ahead], n[ahead], alpha)
        return sigma * np.maximum(0.0, t)
    if bound not in BOUNDS:
        raise InvalidArgumentError(
            f"Expected `bound` one of {', '.join(RADIUS_BOUNDS)}, got {bound!r}"
        )
    return probability_bounds(n_a, n_b, n, alpha, bound, split).radius(sigma)


def split_from_selection(
    selection_a: ArrayLike, selection_b: ArrayLike, selection_n: int, n: int, alpha: float
) -> FloatArray:
    """Share of alpha for p_A that promises the largest radius, judged by the selection samples.

    The selection samples are independent of the estimation samples, so the certificate stays
    valid whatever this returns.

    Args:
        selection_a: votes for the selected class among the selection samples; any shape.
        selection_b: largest count of any other class among them; broadcast.
        selection_n: number of selection samples.
        n: number of estimation samples to come.
        alpha: failure probability of one image's certificate.

    Returns:
        One share in (0, 1) per image, float64, broadcast shape.

    Example:
        >>> split_from_selection([90, 50], [10, 25], selection_n=100, n=10_000, alpha=0.001)
        array([0.95, 0.5 ])
    """
    selection_a, selection_b = np.broadcast_arrays(selection_a, selection_b)
    # Half a vote is added to each count: a runner-up without votes is still possible.
    expected_a = np.floor(n * (selection_a + 0.5) / (selection_n + 1))
    expected_b = np.floor(n * (selection_b + 0.5) / (selection_n + 1))
    splits = SPLITS[SPLITS <= LARGEST_SELECTED_SPLIT]
    bounds = _rectangle(
        expected_a[..., None],
        np.minimum(expected_b, n - expected_a)[..., None],
        np.asarray(n),
        alpha,
        splits,
    )
    return splits[np.argmax(bounds.probit_a - bounds.probit_b, axis=-1)]


def largest_radius(n: int, sigma: float, alpha: float) -> float:
    """The largest possible radius: that of an image on which all n samples agree.

    Args:
        n: number of estimation samples.
        sigma: standard deviation of the noise, in pixel units.
        alpha: failure probability of one image's certificate.

    Returns:
        max(0, σ·Φ⁻¹(alpha^(1/n))), in pixel units.

    Example:
        >>> round(largest_radius(100_000, 0.25, 0.001), 3)
        0.953
    """
    return max(0.0, -sigma * float(ndtri(-np.expm1(np.log(alpha) / n))))


def _rectangle(
    n_a: NDArray, n_b: NDArray, n: NDArray, alpha: float, split: FloatArray
) -> ProbabilityBounds:
    probit_a = probit_lower(n_a, n, split * alpha)
    probit_b = probit_upper(n_b, n, (1 - split) * alpha)
    return ProbabilityBounds(probit_a, np.minimum(probit_b, -probit_a))


def _best_split(n_a: NDArray, n_b: NDArray, n: NDArray, alpha: float) -> ProbabilityBounds:
    each = _rectangle(n_a[..., None], n_b[..., None], n[..., None], alpha, SPLITS)
    best = np.argmax(each.probit_a - each.probit_b, axis=-1)[..., None]
    return ProbabilityBounds(
        np.take_along_axis(each.probit_a, best, -1)[..., 0],
        np.take_along_axis(each.probit_b, best, -1)[..., 0],
    )


def _check_counts(n_a: ArrayLike, n_b: ArrayLike, n: ArrayLike) -> tuple[NDArray, NDArray, NDArray]:
    n_a, n_b, n = np.broadcast_arrays(*(_integers(counts) for counts in (n_a, n_b, n)))
    if np.any(n < 1):
        raise InvalidArgumentError(f"Expected `n` >= 1, got {n.min()}")
    wrong = (n_a < 0) | (n_b < 0) | (n_a + n_b > n)
    if np.any(wrong):
        at = np.argmax(wrong.ravel())
        raise InvalidArgumentError(
            "Expected counts with 0 <= n_a, 0 <= n_b and n_a + n_b <= n, got "
            f"n_a={n_a.ravel()[at]}, n_b={n_b.ravel()[at]}, n={n.ravel()[at]}"
        )
    return n_a, n_b, n


def _integers(counts: ArrayLike) -> NDArray:
    """Return counts as int64: sums of smaller types overflow."""
    given = np.asarray(counts)
    with np.errstate(invalid="ignore"):
        integers = given.astype(np.int64)
    if np.any(integers != given):
        raise InvalidArgumentError(f"Expected whole numbers of votes, got {counts}")
    return integers


def _check_split(split: ArrayLike) -> FloatArray:
    shares = np.asarray(split, dtype=float)
    if not np.all((shares > 0) & (shares <= 1)):
        raise InvalidArgumentError(f"Expected `split` in (0, 1], got {split}")
    return shares
