"""Exact confidence bounds on a binomial proportion, and their probits, without cancellation."""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betainccinv, betaincinv, ndtri

FloatArray = NDArray[np.float64]

SLACK = 1e-11
"""How far a probit is moved to the safe side: far above the error of SciPy's incomplete beta
inverse, far below the sixth decimal that is reported (checked against mpmath in the tests)."""


def clopper_pearson_lower(successes: ArrayLike, trials: ArrayLike, alpha: ArrayLike) -> FloatArray:
    """One-sided lower confidence bound on a proportion (Clopper and Pearson, 1934).

    Args:
        successes: number k of successes, 0 <= k <= n; any shape.
        trials: number n >= 1 of independent trials; broadcast.
        alpha: probability of a bound above the true proportion, in [0, 1); broadcast.

    Returns:
        The proportion p at which P(Bin(n, p) >= k) = alpha; 0 at k = 0. float64, broadcast shape.

    Example:
        >>> float(clopper_pearson_lower(1000, 1000, 0.001).round(5))
        0.99312
    """
    k, n, alpha = np.broadcast_arrays(successes, trials, alpha)
    k, n, alpha = k.astype(float), n.astype(float), alpha.astype(float)
    inside = betaincinv(np.maximum(k, 1), n - k + 1, alpha)
    return np.where(k == 0, 0.0, np.where(k == n, alpha ** (1 / n), inside))


def clopper_pearson_upper(successes: ArrayLike, trials: ArrayLike, alpha: ArrayLike) -> FloatArray:
    """One-sided upper confidence bound on a proportion (Clopper and Pearson, 1934).

    Args:
        successes: number k of successes, 0 <= k <= n; any shape.
        trials: number n >= 1 of independent trials; broadcast.
        alpha: probability of a bound below the true proportion, in [0, 1); broadcast.

    Returns:
        The proportion p at which P(Bin(n, p) <= k) = alpha; 1 at k = n. float64, broadcast shape.

    Example:
        >>> float(clopper_pearson_upper(0, 1000, 0.001).round(5))
        0.00688
    """
    k, n, alpha = np.broadcast_arrays(successes, trials, alpha)
    k, n, alpha = k.astype(float), n.astype(float), alpha.astype(float)
    inside = betainccinv(k + 1, np.maximum(n - k, 1), alpha)
    with np.errstate(divide="ignore"):
        none = -np.expm1(np.log(alpha) / n)
    return np.where(k == n, 1.0, np.where(k == 0, none, inside))


def probit_lower(successes: ArrayLike, trials: ArrayLike, alpha: ArrayLike) -> FloatArray:
    """Probit of the lower confidence bound, accurate in both tails and never too large.

    Above one half it is computed as minus the probit of the upper bound on the failures: one
    minus a proportion near 1 would lose every digit.

    Args:
        successes: number of successes; any shape.
        trials: number of trials; broadcast.
        alpha: error probability in [0, 1); broadcast.

    Returns:
        Φ⁻¹ of `clopper_pearson_lower`, -inf where that is 0. float64, broadcast shape.

    Example:
        >>> float(probit_lower(1000, 1000, 0.001).round(4))
        2.4633
    """
    successes, trials = np.asarray(successes), np.asarray(trials)
    lower = clopper_pearson_lower(successes, trials, alpha)
    failures = clopper_pearson_upper(trials - successes, trials, alpha)
    probit = np.where(lower < 0.5, ndtri(lower), -ndtri(failures))
    return probit - SLACK * np.maximum(1, np.abs(probit))


def probit_upper(successes: ArrayLike, trials: ArrayLike, alpha: ArrayLike) -> FloatArray:
    """Probit of the upper confidence bound, accurate in both tails and never too small.

    Args:
        successes: number of successes; any shape.
        trials: number of trials; broadcast.
        alpha: error probability in [0, 1); broadcast.

    Returns:
        Φ⁻¹ of `clopper_pearson_upper`, inf where that is 1. float64, broadcast shape.

    Example:
        >>> float(probit_upper(0, 1000, 0.001).round(4))
        -2.4633
    """
    return -probit_lower(np.asarray(trials) - np.asarray(successes), trials, alpha)
