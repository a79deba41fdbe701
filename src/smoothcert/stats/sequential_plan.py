"""Sequential sampling: when to look at the votes, what each look may spend, when to give up."""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtri, xlogy

from smoothcert.errors import InvalidArgumentError, require_count, require_probability
from smoothcert.stats.boundary import likeliest_on_boundary
from smoothcert.stats.bounds import FloatArray, sign_test_p_value
from smoothcert.stats.joint import joint_test
from smoothcert.stats.radius import probability_bounds

GRID_START, GRID_SIZE = 16, 49
"""Looks are on a geometric grid from 16 to n; before `FIRST_LOOK` samples none could certify."""
FIRST_LOOK = 33
PLANNED_FROM = 100
"""The smallest number of samples that a plan chooses."""
LAST_SHARE = 0.7
"""Share of alpha for the last look, so that little is lost against a test of fixed size."""
SEQUENTIAL_BOUNDS = ("cohen", "rectangle", "joint")
SCREEN = 0.3
"""A signed root this far below the critical value is not worth an exact test."""


@dataclass(frozen=True)
class LookPlan:
    """When to look at the votes, and the level of each look's tests.

    Attributes:
        sizes: number of samples at each look, increasing.
        levels: level of each look; their sum is at most alpha (a union bound).

    Example:
        >>> plan = look_plan(100_000, alpha=0.001)
        >>> len(plan.sizes), plan.sizes[0], plan.sizes[-1], round(sum(plan.levels), 12)
        (45, 33, 100000, 0.001)
    """

    sizes: tuple[int, ...]
    levels: tuple[float, ...]

    @property
    def n(self) -> int:
        """Largest number of samples per image."""
        return self.sizes[-1]


@lru_cache(maxsize=64)
def look_plan(n: int, alpha: float) -> LookPlan:
    """Return the looks for at most n samples: geometric sizes, most of alpha at the end.

    The levels before the last grow with the square root of the size.

    Args:
        n: largest number of samples per image, >= 1.
        alpha: failure probability of one image's certificate, in (0, 1).

    Raises:
        InvalidArgumentError: if an argument is out of range.

    Example:
        >>> look_plan(60, alpha=0.001).sizes[-5:]
        (54, 55, 57, 58, 60)
    """
    require_count("n", n)
    require_probability("alpha", alpha)
    grid = np.unique(np.geomspace(min(GRID_START, n), n, GRID_SIZE).round().astype(int))
    sizes = grid[(grid >= FIRST_LOOK) | (grid == n)]
    weights = np.sqrt(sizes[:-1])
    levels = (1 - LAST_SHARE) * alpha * weights / max(weights.sum(), 1)
    # A single look gets all of alpha.
    last = alpha - math.fsum(levels)
    while math.fsum([*levels, last, -alpha]) > 0:
        last = math.nextafter(last, 0)
    return LookPlan(tuple(sizes.tolist()), (*levels.tolist(), last))


def signed_root(n_a: int, n_b: int, n: int, t: ArrayLike) -> FloatArray:
    """Signed root of the likelihood ratio of "R/σ = t": about standard normal where that holds.

    Positive where the votes suggest a larger radius. It decides which tests are worth computing
    and is not part of any proof.

    Args:
        n_a: votes for the selected class among n samples.
        n_b: the largest other count.
        n: number of samples.
        t: radii in units of σ, any shape.

    Returns:
        float64, the shape of `t`.

    Example:
        >>> signed_root(9500, 300, 10_000, [1.7, 1.76, 1.8]).round(1)
        array([ 2.9,  0.1, -1.7])
    """
    t = np.asarray(t, dtype=float)
    a, b, rest = n_a / n, n_b / n, (n - n_a - n_b) / n
    null = likeliest_on_boundary(a, b, t)
    at_null = a * null.log_a + b * null.log_b + rest * null.log_none
    best = xlogy(a, a) + xlogy(b, b) + xlogy(rest, rest)
    root = np.sqrt(2 * n * np.maximum(best - at_null, 0))
    return np.where(2 * t < ndtri(a) - ndtri(b), root, -root)


def futile(n_a: int, n_b: int, n: int, plan: LookPlan, t: ArrayLike) -> np.ndarray:
    """Whether radii are too unlikely to be certified by the last look to continue.

    Giving up spends no alpha, since it certifies nothing. The smallest chance that is worth more
    samples is γ = .2 (n/N)^.6: 20 % at the end, less at the beginning.

    Args:
        n_a: votes for the selected class among n samples.
        n_b: the largest other count.
        n: number of samples so far.
        plan: the looks.
        t: radii in units of σ, any shape.

    Returns:
        bool, the shape of `t`.

    Example:
        >>> futile(600, 300, 1000, look_plan(100_000, 0.001), [0.0, 0.4, 1.0])
        array([False, False,  True])
    """
    share, needed = n / plan.n, -ndtri(plan.levels[-1])
    hope = -ndtri(0.2 * share**0.6) * np.sqrt(1 - share)
    unlikely = signed_root(n_a, n_b, n, t) + hope < needed * np.sqrt(share)
    # Even if all samples to come voted for the selected class.
    impossible = signed_root(n_a + plan.n - n, n_b, plan.n, t) < needed - SCREEN
    return unlikely | impossible


def planned_size(
    selection_a: int, selection_b: int, selection_n: int, n: int, alpha: float, tolerance: float
) -> int:
    """Number of samples whose expected radius is within a tolerance of the expectation for n.

    Judged by the selection samples, which are independent of the estimation samples: a
    certificate from these stays valid whatever this returns.

    Args:
        selection_a: votes for the selected class among the selection samples.
        selection_b: largest count of any other class among them.
        selection_n: number of selection samples.
        n: largest number of samples per image.
        alpha: level of the test to come.
        tolerance: share of the radius that may be lost, in (0, 1).

    Returns:
        At most n, on a geometric grid of sizes; n if no positive radius is expected.

    Example:
        >>> planned_size(900, 50, 1000, 100_000, alpha=0.001, tolerance=0.1)
        1540
    """
    sizes = np.unique(np.geomspace(min(PLANNED_FROM, n), n, GRID_SIZE).round())
    # Half a vote is added to each count: a runner-up without votes is still possible.
    a, b = ((votes + 0.5) / (selection_n + 1) for votes in (selection_a, selection_b))
    expected_a = np.floor(a * sizes)
    bounds = probability_bounds(
        expected_a, np.minimum(np.floor(b * sizes), sizes - expected_a), sizes, alpha
    )
    radii = bounds.radius(1.0)
    return int(sizes[np.argmax(radii >= (1 - tolerance) * radii[-1])]) if radii[-1] > 0 else n


@dataclass(frozen=True)
class SequentialTest:
    """Tests of a grid of radii at several looks, each at the level of its look.

    A radius is certified once every smaller one of the grid is, so a false claim needs the
    smallest true hypothesis to be rejected: the grid itself costs no alpha.

    Attributes:
        plan: the looks.
        grid: radii in units of σ, increasing from 0; shape (G,).
        bound: `joint`, `rectangle` or `cohen`.

    Raises:
        InvalidArgumentError: if the grid does not increase from 0, or for another bound.

    Example:
        >>> test = SequentialTest(look_plan(10_000, 0.001), (0.0, 1.0, 2.0))
        >>> test.certified(look=0, n_a=33, n_b=0, reached=0)
        1
        >>> test.certified(look=len(test.plan.sizes) - 1, n_a=9500, n_b=300, reached=1)
        2
    """

    plan: LookPlan
    grid: tuple[float, ...]
    bound: str = "joint"

    def __post_init__(self) -> None:
        if not self.grid or self.grid[0] != 0 or not np.all(np.diff(self.grid) > 0):
            raise InvalidArgumentError(
                f"Expected radii that increase from 0, got {list(self.grid)}"
            )
        if self.bound not in SEQUENTIAL_BOUNDS:
            raise InvalidArgumentError(
                f"Expected `bound` one of {', '.join(SEQUENTIAL_BOUNDS)}, got {self.bound!r}"
            )

    def certified(
        self, look: int, n_a: int, n_b: int, reached: int, wanted: int | None = None
    ) -> int:
        """Return how many radii of the grid are certified after a look.

        Args:
            look: number of the look, 0, 1, …
            n_a: votes for the selected class by then.
            n_b: the largest other count by then.
            reached: how many radii earlier looks have certified.
            wanted: stop after this many radii; None: after the entire grid.
        """
        wanted = len(self.grid) if wanted is None else wanted
        while reached < wanted and self._rejects(look, n_a, n_b, self.grid[reached]):
            reached += 1
        return reached

    def pursued(self, look: int, n_a: int, n_b: int, reached: int, wanted: int) -> int:
        """Return how many radii of the grid are certified or still worth more samples.

        Args:
            look: number of the look.
            n_a: votes for the selected class by then.
            n_b: the largest other count by then.
            reached: how many radii are certified.
            wanted: how many radii were worth samples before.
        """
        n = self.plan.sizes[look]
        # Cohen's bound counts all other votes as the runner-up's.
        other = n - n_a if self.bound == "cohen" else n_b
        given_up = futile(n_a, other, n, self.plan, self.grid[reached:wanted])
        return reached + int(np.argmax(given_up)) if np.any(given_up) else wanted

    def lower_bound(self, look: int, n_a: int, n_b: int) -> float:
        """Return a look's own lower bound on R/σ.

        The bounds of all looks hold jointly at alpha, so the bound of the last look is valid
        together with the certified radii of the grid, once radius 0 is certified.

        Args:
            look: number of the look.
            n_a: votes for the selected class by then.
            n_b: the largest other count by then.
        """
        n, level = self.plan.sizes[look], self.plan.levels[look]
        if self.bound == "joint":
            return joint_test(n, level).lower_bound(n_a, n_b)
        bounds = probability_bounds(n_a, n_b, n, level, self.bound)
        return float(bounds.probit_a - bounds.probit_b) / 2

    def _rejects(self, look: int, n_a: int, n_b: int, t: float) -> bool:
        n, level = self.plan.sizes[look], self.plan.levels[look]
        if self.bound != "joint":
            bound = self.lower_bound(look, n_a, n_b)
            return bound >= t and bound > 0
        if t == 0:
            return bool(sign_test_p_value(n_a, n_b) <= level)
        if signed_root(n_a, n_b, n, t) < -ndtri(level) - SCREEN:
            return False
        return joint_test(n, level).rejects(n_a, n_b, t)
