"""How much of the radius each bound gives away, on known class probabilities.

    python benchmarks/tightness.py [--alpha 0.001] [--draws 1000] [--seed 0] [--folder <new folder>]

Simulates votes, prints the table of docs/certification.md and writes it to `benchmark.json`.
"""

from argparse import ArgumentParser
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from smoothcert.commands.benchmarking import record
from smoothcert.stats import joint_lower_bound, probability_bounds
from studies import add_folder

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


def lower_bound(
    bound: str, x: NDArray[np.int64], m: NDArray[np.int64], n: int, alpha: float
) -> NDArray[np.float64]:
    """Return lower bounds on R/σ.

    Args:
        bound: one of `BOUNDS`.
        x: votes for the selected class, shape (K,).
        m: the largest other count, shape (K,).
        n: all votes.
        alpha: level of the bounds.

    Returns:
        float64, shape (K,).
    """
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
    values = lower_bound(bound, votes[:, 0], votes[:, 1:].max(1), n, alpha)
    slack = (radius - values + linear) / scale
    return float(slack.mean()), float(slack.std(ddof=1) / np.sqrt(len(slack)))


def _density(p: float) -> float:
    return float(np.exp(-(ndtri(p) ** 2) / 2) / np.sqrt(2 * np.pi))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and write.

    Args:
        arguments: of the command line; None: those of this process.
    """
    parser = ArgumentParser(description="How much of the radius each bound gives away.")
    parser.add_argument("--alpha", type=float, default=0.001, help="level of the bounds")
    parser.add_argument("--draws", type=int, default=1000, help="simulated images for each entry")
    parser.add_argument("--seed", type=int, default=0, help="seed of the votes")
    add_folder(parser)
    given = vars(parser.parse_args(arguments))
    folder = given.pop("folder")
    record("tightness", given, tightness_table(**given), folder, "cpu")


if __name__ == "__main__":
    main()
