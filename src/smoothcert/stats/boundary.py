"""The boundary of the hypothesis "R/σ <= t": a = Φ(t + s), b = Φ(s − t), s <= 0."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import log_ndtr, ndtri

from smoothcert.stats.bounds import FloatArray

LARGEST_EXPONENT = 300
STEPS = 25
"""Newton steps; a dozen suffices from all but the most distant starts."""


class BoundaryPoint(NamedTuple):
    """The point of the boundary that is most likely for given class frequencies.

    Attributes:
        log_a: log probability of the selected class.
        log_b: log probability of the runner-up.
        log_none: log probability of all other classes together.
        slope: remaining derivative of the log-likelihood in s, for frequencies that sum to 1;
            far from 0 only where the search did not converge.
    """

    log_a: FloatArray
    log_b: FloatArray
    log_none: FloatArray
    slope: FloatArray


def likeliest_on_boundary(a: ArrayLike, b: ArrayLike, t: ArrayLike) -> BoundaryPoint:
    """Project class frequencies onto the boundary of "R/σ <= t", in Kullback–Leibler divergence.

    The log-likelihood a·log Φ(t+s) + b·log Φ(s−t) + c·log(1 − Φ(t+s) − Φ(s−t)) is concave in s.

    Args:
        a: frequency of the selected class, any shape.
        b: frequency of the runner-up, a + b <= 1; broadcast.
        t: radius in units of σ; broadcast.

    Returns:
        Its maximum over s <= 0, each part float64 of the broadcast shape.

    Example:
        >>> point = likeliest_on_boundary(0.7, 0.1, 0.0)
        >>> np.exp([point.log_a, point.log_b, point.log_none]).round(3)
        array([0.4, 0.4, 0.2])
    """
    a, b, t = np.broadcast_arrays(*(np.asarray(value, dtype=float) for value in (a, b, t)))
    none = np.maximum(1 - a - b, 0)
    tiny = 1e-4
    start = (ndtri(np.clip(a, tiny, 1 - tiny)) + ndtri(np.clip(b, tiny, 1 - tiny))) / 2
    s = np.minimum(start, -1e-3)
    slope = np.zeros(s.shape)
    for _ in range(STEPS):
        u, v = t + s, s - t
        hazard_a, hazard_b = (np.exp(_log_density(each) - log_ndtr(each)) for each in (u, v))
        log_none = _log_none(t, s)
        # Near s = 0 the other classes have probability 0: a large number replaces infinity.
        none_a, none_b = (
            np.exp(np.minimum(_log_density(each) - log_none, LARGEST_EXPONENT)) for each in (u, v)
        )
        slope = a * hazard_a + b * hazard_b - none * (none_a + none_b)
        curvature = (
            a * hazard_a * (u + hazard_a)
            + b * hazard_b * (v + hazard_b)
            + none * ((none_a + none_b) ** 2 - u * none_a - v * none_b)
        )
        if np.all((np.abs(slope) < 1e-11) | (s > -1e-9)):
            break
        # s stays negative: where a + b = 1 the maximum is at 0.
        s = np.clip(s + slope / np.maximum(curvature, 1e-300), 2 * s - 1, s / 8)
    return BoundaryPoint(log_ndtr(t + s), log_ndtr(s - t), _log_none(t, s), slope)


def _log_density(probit: FloatArray) -> FloatArray:
    return -(probit**2) / 2 - np.log(2 * np.pi) / 2


def _log_none(t: FloatArray, s: FloatArray) -> FloatArray:
    """Return log(1 − Φ(t + s) − Φ(s − t)), without cancellation where both are small."""
    rest, b = log_ndtr(-t - s), log_ndtr(s - t)
    return rest + np.log(-np.expm1(np.minimum(b - rest, -1e-300)))
