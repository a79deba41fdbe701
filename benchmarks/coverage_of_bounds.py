"""How often each bound errs: its error divided by alpha, by exact sums over all votes.

    python benchmarks/coverage_of_bounds.py [--sizes 20 60 150] [--folder <new folder>]

Prints the figures of docs/certification.md and writes them to `benchmark.json`.
"""

from argparse import ArgumentParser
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln as log_gamma
from scipy.special import ndtri, xlogy

from smoothcert.commands.benchmarking import record
from studies import add_folder
from tightness import BOUNDS, lower_bound


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
            values = lower_bound(bound, x, largest, n, alpha)
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


def main(arguments: Sequence[str] | None = None) -> None:
    """Compute, print and write.

    Args:
        arguments: of the command line; None: those of this process.
    """
    parser = ArgumentParser(description="How often each bound errs, divided by alpha.")
    sizes = [20, 60, 150]
    parser.add_argument("--sizes", type=int, nargs="+", default=sizes, help="numbers of votes")
    add_folder(parser)
    given = vars(parser.parse_args(arguments))
    folder = given.pop("folder")
    record(
        "coverage", given, [row for n in given["sizes"] for row in coverage_table(n)], folder, "cpu"
    )


if __name__ == "__main__":
    main()
