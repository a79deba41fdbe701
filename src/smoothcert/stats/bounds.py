"""Exact confidence bounds on a binomial proportion, and their probits, without cancellation."""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betainc, betaincc, betainccinv, betaincinv, betaln, ndtri, xlog1py, xlogy

FloatArray = NDArray[np.float64]

NEWTON_STEPS = 3
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
    inside = _inverse(betaincinv, betainc, np.maximum(k, 1), n - k + 1, alpha)
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
    inside = _inverse(betainccinv, betaincc, k + 1, np.maximum(n - k, 1), alpha)
    with np.errstate(divide="ignore"):
        none = -np.expm1(np.log(alpha) / n)
    return np.where(k == n, 1.0, np.where(k == 0, none, inside))


def is_near_chance(right: int, images: int, chance: float, alpha: float = 0.05) -> bool:
    """Return whether an accuracy is statistically no better than guessing.

    Args:
        right: number of right answers, 0 <= right <= images.
        images: number of images, >= 1.
        chance: accuracy of guessing, in (0, 1].
        alpha: level of the one-sided test that the accuracy is above chance, in (0, 1).

    Returns:
        Whether chance is not below the lower confidence bound on the accuracy, and the accuracy
        is nearer to chance than to 1: with few images a high accuracy is no sign of guessing.
        False if even a perfect accuracy would not be above chance, since the images are too few.

    Example:
        >>> is_near_chance(61, 500, chance=0.1), is_near_chance(70, 500, chance=0.1)
        (True, False)
        >>> is_near_chance(4, 5, chance=0.4)
        False
        >>> is_near_chance(0, 1, chance=0.1), is_near_chance(0, 1, chance=0.01)
        (False, True)
    """
    found, best = clopper_pearson_lower([right, images], images, alpha)
    return bool(found <= chance < best) and right / images < (1 + chance) / 2


def probit_lower(successes: ArrayLike, trials: ArrayLike, alpha: ArrayLike) -> FloatArray:
    """Probit of the lower confidence bound, accurate in both tails and never too large.

    Above one half it is computed as minus the probit of the upper bound on the failures: one
    minus a proportion near 1 would lose all digits.

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
    k, n, alpha = np.broadcast_arrays(successes, trials, alpha)
    failures, many = np.ones(k.shape), np.asarray(2 * k >= n)
    failures[many] = clopper_pearson_upper(n[many] - k[many], n[many], alpha[many])
    probit, low = np.asarray(-ndtri(failures)), np.asarray(failures > 0.5)
    probit[low] = ndtri(clopper_pearson_lower(k[low], n[low], alpha[low]))
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


def sign_test_p_value(n_a: ArrayLike, n_b: ArrayLike) -> FloatArray:
    """P-value of "some other class is at least as probable as the selected one".

    The exact one-sided sign test, P(Bin(n_A + n_B, ½) >= n_A): given their sum, the counts of two
    classes are binomial. It grows with n_B, so it holds for the largest other count too.

    Args:
        n_a: votes for the selected class, any shape.
        n_b: the largest count of any other class; broadcast.

    Returns:
        The p-value, float64, broadcast shape; 1 at n_a = 0.

    Example:
        >>> sign_test_p_value([10, 60], [0, 40]).round(4)
        array([0.001 , 0.0284])
    """
    n_a, n_b = np.broadcast_arrays(n_a, n_b)
    inside = betainc(np.maximum(n_a, 1), n_b + 1.0, 0.5) * (1 + SLACK)
    return np.where(n_a == 0, 1.0, np.minimum(inside, 1.0))


def _inverse(
    inverse: Callable[..., FloatArray],
    function: Callable[..., FloatArray],
    a: FloatArray,
    b: FloatArray,
    level: FloatArray,
) -> FloatArray:
    """Return the p at which an incomplete beta function reaches a level.

    SciPy's inverse loses digits where a parameter is exactly 1000 (its tail is off by up to .3 %
    at 10⁷ trials); the function itself does not, so Newton steps restore them.
    """
    p = np.asarray(inverse(a, b, level), dtype=float)
    value = function(a, b, p)
    off = np.asarray((np.abs(value - level) > 1e-12 * level) & (p > 0) & (p < 1))
    if off.any():
        sign = -1 if function is betaincc else 1
        a, b, level, root = a[off], b[off], level[off], p[off]
        for _ in range(NEWTON_STEPS):
            density = np.exp(xlogy(a - 1, root) + xlog1py(b - 1, -root) - betaln(a, b))
            root = root - sign * (function(a, b, root) - level) / density
        p[off] = root
    return p
