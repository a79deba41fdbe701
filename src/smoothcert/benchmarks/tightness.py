"""How much of the radius each bound gives away, and how often it errs, on known probabilities."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln as log_gamma
from scipy.special import ndtri, xlogy

from smoothcert.stats import joint_lower_bound, probability_bounds

BOUNDS = ("cohen", "rectangle", "joint")
CLASSES: dict[str, tuple[float, ...]] = {
    ".6 .2 .2": (0.6, 0.2, 0.2),
    ".5 .4 .1": (0.5, 0.4, 0.1),
    ".7 .3 0": (0.7, 0.3, 0.0),
    ".9 .05 .05": (0.9, 0.05, 0.05),
    ".98 .01 .01": (0.98, 0.01, 0.01),
    ".45 .05 .1×5": (0.45, 0.05, 0.1, 0.1, 0.1, 0.1, 0.1),
    ".999 .001 0": (0.999, 0.001, 0.0),
    ".35 .33 .32": (0.35, 0.33, 0.32),
}
"""Class probabilities of the table, the selected class first."""


def tightness_table(
    sizes: Sequence[int] = (1000, 10_000, 100_000),
    alpha: float = 0.001,
    draws: int = 300,
    seed: int = 0,
) -> list[dict[str, object]]:
    """Measure (R − E L) / (z_alpha · sd of the plug-in radius) of each bound L; 1 is efficient.

    The expectation is over simulated votes, with the plug-in radius's own linear error, whose
    mean is 0, as a control variate.

    Args:
        sizes: numbers of votes.
        alpha: level of the bounds.
        draws: simulated images for each entry.
        seed: seed of the votes.

    Returns:
        One entry for each list of class probabilities, number of votes and bound: its slack and
        the standard error of that.

    Example:
        >>> [entry] = [
        ...     each for each in tightness_table([1000], draws=20) if each["classes"] == ".7 .3 0"
        ...     and each["bound"] == "cohen"
        ... ]
        >>> 0.9 < entry["slack"] < 1.1
        True
    """
    source = np.random.default_rng(seed)
    table = []
    for name, probabilities in CLASSES.items():
        p = np.array(probabilities)
        for n in sizes:
            votes = source.multinomial(n, p, size=draws)
            for bound in BOUNDS:
                slack, error = _slack(bound, votes, p, n, alpha)
                table.append(
                    {"classes": name, "n": n, "bound": bound, "slack": slack, "error": error}
                )
    return table


def coverage_table(
    n: int = 60, alphas: Sequence[float] = (0.05, 0.001), steps: int = 12
) -> list[dict[str, object]]:
    """Compute each bound's error divided by alpha, by exact sums over all votes of n samples.

    Over a grid of class probabilities with one and with two tied runners-up, on and off the
    boundary R = 0.

    Args:
        n: number of votes.
        alphas: levels.
        steps: probabilities of the selected class, and of the runner-up, that are tried.

    Returns:
        One entry for each bound and alpha: the largest error divided by alpha, and where.

    Example:
        >>> all(entry["error_over_alpha"] <= 1 for entry in coverage_table(12, [0.05], steps=4))
        True
    """
    x, y = (each.ravel() for each in np.meshgrid(np.arange(n + 1), np.arange(n + 1)))
    inside = x + y <= n
    x, y = x[inside], y[inside]
    largest = np.maximum(y, n - x - y)
    cases = _cases(steps)
    table = []
    for alpha in alphas:
        for bound in BOUNDS:
            values = _bound(bound, x, largest, n, alpha)
            error, at = max((_error(values, x, y, n, case), case) for case in cases)
            table.append(
                {
                    "bound": bound,
                    "alpha": alpha,
                    "n": n,
                    "error_over_alpha": error / alpha,
                    "at": [float(p) for p in at],
                }
            )
    return table


def _cases(steps: int) -> list[tuple[float, float, float]]:
    cases = []
    for a in np.linspace(0.02, 0.995, 2 * steps):
        for share in np.linspace(0.02, 1, steps):
            b = min(a, 1 - a) * share
            cases.append((a, b, max(1 - a - b, 0.0)))
        # Two tied runners-up, and one that has all the rest.
        cases += [(a, (1 - a) / 2, (1 - a) / 2), (a, 1 - a, 0.0)]
    # The rest is one class too: it must not be the more probable one.
    return [(a, max(b, c), min(b, c)) for a, b, c in cases]


def _error(
    bound: NDArray[np.float64],
    x: NDArray[np.int64],
    y: NDArray[np.int64],
    n: int,
    p: tuple[float, float, float],
) -> float:
    a, b, c = p
    log_mass = (
        log_gamma(n + 1)
        - log_gamma(x + 1)
        - log_gamma(y + 1)
        - log_gamma(n - x - y + 1)
        + xlogy(x, a)
        + xlogy(y, b)
        + xlogy(n - x - y, c)
    )
    radius = (ndtri(a) - ndtri(b)) / 2
    false = bound > radius
    return float(np.exp(log_mass[false]).sum())


def _bound(
    bound: str, x: NDArray[np.int64], m: NDArray[np.int64], n: int, alpha: float
) -> NDArray[np.float64]:
    if bound == "joint":
        pairs, place = np.unique(np.stack([x, m]), axis=1, return_inverse=True)
        usable = pairs.sum(0) <= n
        values = np.full(pairs.shape[1], -np.inf)
        values[usable] = joint_lower_bound(pairs[0, usable], pairs[1, usable], n, alpha)
        return values[place.ravel()]
    bounds = probability_bounds(x, m, n, alpha, bound)
    return (bounds.probit_a - bounds.probit_b) / 2


def _slack(
    bound: str, votes: NDArray[np.int64], p: NDArray[np.float64], n: int, alpha: float
) -> tuple[float, float]:
    a, b = p[0], p[1:].max()
    slope_a, slope_b = (1 / _density(q) for q in (a, b))
    radius = (ndtri(a) - ndtri(b)) / 2
    # Tied runners-up share the part of p_B.
    tied = votes[:, 1:][:, p[1:] == b].mean(1)
    linear = ((votes[:, 0] / n - a) * slope_a - (tied / n - b) * slope_b) / 2
    variance = (
        a * (1 - a) * slope_a**2 + b * (1 - b) * slope_b**2 + 2 * a * b * slope_a * slope_b
    ) / (4 * n)
    scale = -ndtri(alpha) * np.sqrt(variance)
    values = _bound(bound, votes[:, 0], votes[:, 1:].max(1), n, alpha)
    slack = (radius - values + linear) / scale
    return float(slack.mean()), float(slack.std(ddof=1) / np.sqrt(len(slack)))


def _density(p: float) -> float:
    return float(np.exp(-(ndtri(p) ** 2) / 2) / np.sqrt(2 * np.pi))
