"""The joint bound: one exact test of the radius in place of two intervals for p_A and p_B.

Everything is in units of t = R/σ. On the boundary of the hypothesis "R/σ <= t" the probabilities
of the selected class and of the runner-up are a = Φ(t + s) and b = Φ(s − t), with a nuisance
s <= 0. The test orders the counts by a statistic T that does not depend on t, confines s to a set
that fails with probability β (Berger and Boos, 1994), and takes the largest tail probability over
it (Buehler, 1957). The bound never grows with the runner-up's count, so it holds for the largest
other count too, without a correction for the number of classes.
"""

from bisect import bisect_left
from collections.abc import Callable
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betainc, gammaln, log_ndtr, ndtr, ndtri, xlogy

from smoothcert.errors import InvalidArgumentError
from smoothcert.stats.bounds import FloatArray, probit_lower, probit_upper

IntArray = NDArray[np.int64]

NUISANCE_SHARE = 0.01
"""Share of alpha that is spent on confining the nuisance."""
CELLS = 96
"""Cells that cover the nuisance's interval; half a cell's width is lost from the bound."""
COARSE_CELLS = 6
"""Cells of a first, coarse search, before the search with all cells."""
NODES_PER_DEVIATION = 30
"""Blocks of n_A per standard deviation; half a block's width is lost from the bound."""
TRIMMED = 1e-6
"""Tail mass that is left out of a sum and added to its result, relative to alpha."""
INFLATION = 1e-6
"""Rounding error of a sum, relative, at most: its exponents are differences of numbers below 2e8
for n up to 10⁷."""
EXACT_BELOW = 1000
"""Runner-up counts below this are summed exactly; above, an inequality costs half a count."""
TIE = 1e-9
"""Statistics this close to the observed one belong to its tail, so that the observed counts always
do."""
CLOSE = 0.003
"""Tolerance of the search for the bound: how far a test may stay below its level, as a probit."""
MOST_SAMPLES = 10**7
"""Largest number of samples for which rounding errors are accounted for."""
CHUNK = 1024


def joint_lower_bound(n_a: ArrayLike, n_b: ArrayLike, n: ArrayLike, alpha: float) -> FloatArray:
    """Lower confidence bound on R/σ by one joint test of both counts.

    The probability that it exceeds the true R/σ is at most alpha, for a class that was chosen
    independently of these counts. It is conservative: trimming, binning and rounding only lower it.

    Args:
        n_a: votes for the selected class among n independent samples; any shape.
        n_b: the **largest** count of any other class; broadcast.
        n: number of samples, up to 10⁷; broadcast.
        alpha: failure probability, in (0, 1).

    Returns:
        The bound in units of σ, negative or -inf where no positive radius is proved; float64,
        broadcast shape. It grows with n_a and falls with n_b up to .003 standard errors, the
        tolerance of its search.

    Example:
        >>> joint_lower_bound([9500, 700], [300, 200], [10_000, 1000], 0.001).round(2)
        array([1.69, 0.55])
    """
    bound = np.vectorize(
        lambda a, b, size: joint_test(size, alpha).lower_bound(a, b), otypes=[float]
    )
    return bound(n_a, n_b, n)


def joint_p_value(
    n_a: ArrayLike, n_b: ArrayLike, n: ArrayLike, t: ArrayLike, alpha: float
) -> FloatArray:
    """P-value of the hypothesis R/σ <= t, to be compared with alpha alone.

    Args:
        n_a: votes for the selected class among n independent samples; any shape.
        n_b: the **largest** count of any other class; broadcast.
        n: number of samples; broadcast.
        t: the radius that is tested, in units of σ; broadcast.
        alpha: level of the test, in (0, 1); the ordering and the nuisance's share depend on it.

    Returns:
        An upper bound on the p-value; P(p-value <= alpha) <= alpha under the hypothesis. It is 1
        for radii above the estimate. float64, broadcast shape.

    Example:
        >>> joint_p_value(9500, 300, 10_000, [1.68, 1.7], 0.001).round(4)
        array([0.0001, 0.0023])
    """
    p_value = np.vectorize(
        lambda a, b, size, radius: joint_test(size, alpha).p_value(a, b, radius), otypes=[float]
    )
    return p_value(n_a, n_b, n, t)


def require_joint_size(n: int) -> None:
    """Raise unless the joint bound supports a number of samples.

    Args:
        n: number of samples.

    Raises:
        InvalidArgumentError: if it is not from 1 to 10⁷.

    Example:
        >>> require_joint_size(100_000)
    """
    if not 1 <= n <= MOST_SAMPLES:
        raise InvalidArgumentError(
            f"Expected `n` from 1 to {MOST_SAMPLES} for the joint bound, got {n}. CohenCertifier "
            "and bound=rectangle take more"
        )


@lru_cache(maxsize=64)
def joint_test(n: int, alpha: float) -> "JointTest":
    """Return the joint test for a number of samples and a level, with its cached tables."""
    return JointTest(n, alpha)


class JointTest:
    """Joint tests of the radius for one number of samples and one level.

    Args:
        n: number of samples, 1 to 10⁷.
        alpha: level of a test, in (0, 1).
        cells: cells that cover the nuisance's interval.

    Raises:
        InvalidArgumentError: if n is out of range.

    Example:
        >>> test = JointTest(10_000, 0.001)
        >>> test.rejects(9500, 300, t=1.68), test.rejects(9500, 300, t=1.72)
        (True, False)
    """

    def __init__(self, n: int, alpha: float, cells: int = CELLS) -> None:
        require_joint_size(n)
        self.n = n
        self.alpha = alpha
        self.cells = cells
        self.beta = NUISANCE_SHARE * alpha
        self.level = (alpha - self.beta) / 2
        """Level of the bounds whose difference is T."""
        self._probits = np.empty(n + 1)
        self._known = np.zeros(n // CHUNK + 1, dtype=bool)

    def lower_bound(self, n_a: int, n_b: int) -> float:
        """Return the largest t found whose hypothesis "R/σ <= t" is rejected; -inf at n_a = 0."""
        if n_a == 0:
            return -np.inf
        tail = Tail(self, n_a, n_b)
        target = ndtri(self.alpha - self.beta)

        def distance(cells: int) -> Callable[[float], float]:
            return lambda t: float(ndtri(tail.largest(t, cells)) - target)

        near = _root(distance(COARSE_CELLS), tail.start, tail.step)
        bound = _root(distance(self.cells), near if np.isfinite(near) else tail.start, tail.step)
        # The half-split rectangle at level alpha − beta never exceeds the exact bound.
        return max(bound, tail.statistic / 2)

    def p_value(self, n_a: int, n_b: int, t: float) -> float:
        """Return an upper bound on the p-value of "R/σ <= t"."""
        if n_a == 0:
            return 1.0
        return min(1.0, self.beta + Tail(self, n_a, n_b).largest(t, self.cells))

    def rejects(self, n_a: int, n_b: int, t: float) -> bool:
        """Return whether "R/σ <= t" is rejected at level alpha; faster than its p-value."""
        if n_a == 0:
            return False
        tail, target = Tail(self, n_a, n_b), self.alpha - self.beta
        if tail.statistic / 2 >= t:
            return True
        # A test that fails at a few points of the nuisance fails on its entire interval.
        return tail.glance(t) <= target and tail.largest(t, self.cells) <= target

    def lower_probits(self, first: int, last: int) -> FloatArray:
        """Return the probits of the lower bounds for `first`, …, `last` successes."""
        for chunk in range(first // CHUNK, last // CHUNK + 1):
            if not self._known[chunk]:
                k = np.arange(chunk * CHUNK, min((chunk + 1) * CHUNK, self.n + 1))
                self._probits[k] = probit_lower(k, self.n, self.level)
                self._known[chunk] = True
        return self._probits[first : last + 1]

    def largest_other(self, probits: FloatArray) -> IntArray:
        """Return the largest n_b whose upper bound's probit is at most the given one; −1: none."""
        first, last = (self._fewest(-probit) for probit in (probits.max(), probits.min()))
        lower = self.lower_probits(first, min(last, self.n))
        return self.n - first - np.searchsorted(lower, -probits)

    def _fewest(self, probit: float) -> int:
        """Return the fewest successes whose lower bound's probit is at least this; n + 1: none."""
        return bisect_left(range(self.n + 1), probit, key=lambda k: self.lower_probits(k, k)[0])

    def statistic(self, n_a: int, n_b: int) -> float:
        """Return T: the lower bound's probit for n_a minus the upper bound's for n_b."""
        others = self.n - n_b
        return float(self.lower_probits(n_a, n_a)[0] + self.lower_probits(others, others)[0])


class Tail:
    """The counts that are at least as extreme as observed ones, and their probabilities.

    Consecutive n_A are taken in blocks: within a block the probability of the runner-up's part is
    that of the block's last n_A, which has the largest, and the binomial probabilities are
    bounded by a tangent of their logarithm, which is concave.

    Args:
        test: number of samples and level.
        n_a: observed votes for the selected class, >= 1.
        n_b: observed largest other count.
    """

    def __init__(self, test: JointTest, n_a: int, n_b: int) -> None:
        self.test = test
        self.statistic = test.statistic(n_a, n_b)
        n = test.n
        self._lowest_a = float(probit_lower(n_a, n, test.beta / 2))
        self._highest_b = float(probit_upper(n_b, n, test.beta / 2))
        margin = (self.statistic - (self._lowest_a - self._highest_b)) / 2
        self.start = self.statistic / 2 + 0.15 * margin
        self.step = 0.02 * margin
        # About the estimate of t: a search for the bound stays below it.
        quantiles = ndtri(test.level), ndtri(test.beta / 2)
        self._highest = self.statistic / 2 + margin * quantiles[0] / (quantiles[1] - quantiles[0])
        self._trimmed = TRIMMED * test.alpha
        deviation = np.sqrt(n_a * (n - n_a) / n)
        self._half = max(0, int(deviation / NODES_PER_DEVIATION - 1) // 2)

    def largest(self, t: float, cells: int) -> float:
        """Return an upper bound on the tail's probability for R/σ <= t, with the nuisance confined.

        Each cell of the nuisance's interval is replaced by its worst corner: the largest a, the
        smallest b.
        """
        low, high = self._interval(t)
        if low > high:
            return 0.0
        width = (high - low) / cells
        s = low + width * (np.arange(cells) + 0.5)
        return float(self.probabilities(t + width / 2 + s, s - t - width / 2).max())

    def glance(self, t: float) -> float:
        """Return the tail's largest probability at a few points of the nuisance's interval."""
        low, high = self._interval(t)
        if low > high:
            return 0.0
        s = low + (high - low) * (np.arange(COARSE_CELLS) + 0.5) / COARSE_CELLS
        return float(self.probabilities(t + s, s - t).max())

    def _interval(self, t: float) -> tuple[float, float]:
        return self._lowest_a - t, min(0.0, self._highest_b + t)

    def probabilities(self, probit_a: NDArray[Any], probit_b: NDArray[Any]) -> FloatArray:
        """Return upper bounds on P(T >= observed) at several (Φ⁻¹(a), Φ⁻¹(b)) with a + b < 1.

        The sum over n_A of Bin(n_A; n, a) · P(Bin(n − n_A, b / (1 − a)) <= y), where y is
        the largest runner-up's count that is as extreme as the observed counts.
        """
        log_a, log_rest = log_ndtr(probit_a), log_ndtr(-probit_a)
        with np.errstate(divide="ignore"):
            log_none = np.log(np.maximum(ndtr(-probit_a) - ndtr(probit_b), 0))
        log_hit, log_miss = log_ndtr(probit_b) - log_rest, np.maximum(log_none, -1e300) - log_rest
        first, last = self._window(ndtr(probit_a), ndtr(-probit_a))
        blocks = self._blocks
        place = first - blocks.first + np.arange(np.max(last - first) + 1)[:, None]
        known = place < len(blocks.center)
        place = np.clip(place, 0, len(blocks.center) - 1)

        x, y, trials = blocks.center[place], blocks.largest[place], blocks.trials[place]
        log_mass = blocks.log_binomial[place] + x * log_a + (self.test.n - x) * log_rest
        if blocks.half:
            slope = blocks.slope[place] + log_a - log_rest
            log_mass += (blocks.half * slope) ** 2 / 2 + np.log(2 * blocks.half + 1)
        hits = y + 1
        divergence = blocks.entropy[place] - hits * log_hit - (trials - hits) * log_miss
        below = hits < trials * np.exp(log_hit)
        smallest = np.log(self._trimmed / len(place))
        kept = known & (y >= 0) & (log_mass - below * np.maximum(divergence, 0) > smallest)
        terms = np.zeros(kept.shape)
        terms[kept] = np.exp(log_mass[kept]) * _binomial_below(
            y[kept],
            trials[kept],
            np.broadcast_to(np.exp(log_miss), kept.shape)[kept],
            np.where(below, -1, 1)[kept] * np.sqrt(2 * np.maximum(divergence[kept], 0)),
        )
        total = terms.sum(0) * (1 + INFLATION) + 3 * self._trimmed
        covered = (first >= blocks.first) & (last < blocks.first + len(blocks.center))
        return np.where(covered, np.minimum(total, 1.0), 1.0)

    def _window(self, a: FloatArray, rest: FloatArray) -> tuple[IntArray, IntArray]:
        """Return the first and last block; n_A is beyond each with the trimmed probability."""
        n, log = self.test.n, -np.log(self._trimmed)
        # Bernstein's inequality.
        reach = log / 3 + np.sqrt(log**2 / 9 + 2 * n * a * rest * log)
        ends = np.clip([np.floor(n * a - reach), np.ceil(n * a + reach)], 0, n).astype(int)
        return tuple(ends // (2 * self._half + 1))

    @cached_property
    def _blocks(self) -> "Blocks":
        """The blocks that any nuisance needs for a t up to `_highest`."""
        t = self._highest + 2 * self.step
        most = min(t, self._highest_b + 2 * t)
        probits = np.array([self._lowest_a, max(most, self._lowest_a)])
        first, last = self._window(ndtr(probits), ndtr(-probits))
        return Blocks.between(self.test, self.statistic, int(first[0]), int(last[1]), self._half)


class Blocks(NamedTuple):
    """Blocks of 2·half + 1 consecutive n_A; block j is centred at (2·half + 1)·j + half.

    Attributes:
        first: number of the first block.
        half: how far a block reaches to either side of its centre.
        center: the centres, shape (J,).
        log_binomial: log of n choose the centre.
        slope: increase of that to the next n_A.
        trials: n minus the block's last n_A.
        largest: largest n_b that is in the tail together with the block's last n_A; −1: none.
        entropy: Σ k log(k / trials) over k = largest + 1 and trials − k.
    """

    first: int
    half: int
    center: FloatArray
    log_binomial: FloatArray
    slope: FloatArray
    trials: FloatArray
    largest: FloatArray
    entropy: FloatArray

    @classmethod
    def between(
        cls, test: JointTest, statistic: float, first: int, last: int, half: int
    ) -> "Blocks":
        """Return the blocks `first`, …, `last`, without a block that reaches beyond n."""
        n, width = test.n, 2 * half + 1
        center = np.arange(first, min(last, (n + 1) // width - 1) + 1) * width + half
        end = center + half
        lower = test.lower_probits(int(end[0]), int(end[-1]))[end - end[0]]
        largest = np.minimum(test.largest_other(lower - statistic + TIE), n - end)
        trials = n - end
        hits = np.minimum(largest + 1, trials)
        return cls(
            first,
            half,
            center.astype(float),
            gammaln(n + 1) - gammaln(center + 1) - gammaln(n - center + 1),
            np.log((n - center) / (center + 1.0)) if half else np.zeros(len(center)),
            trials.astype(float),
            largest.astype(float),
            xlogy(hits, hits / np.maximum(trials, 1))
            + xlogy(trials - hits, (trials - hits) / np.maximum(trials, 1)),
        )


def _binomial_below(
    y: FloatArray, trials: FloatArray, miss: FloatArray, root: FloatArray
) -> FloatArray:
    """Return upper bounds on P(Bin(trials, 1 − miss) <= y).

    Exact for small y; else Φ(root), the signed root of twice the divergence of (y + 1)/trials
    from 1 − miss (Zubkov and Serov, 2013, theorem 1).
    """
    below = np.where(y >= trials, 1.0, ndtr(root))
    small = (y < EXACT_BELOW) & (y < trials)
    below[small] = betainc(trials[small] - y[small], y[small] + 1, miss[small])
    return below


def _root(distance: Callable[[float], float], start: float, step: float) -> float:
    """Return a point just below the root of a growing function, or -inf if none was found.

    Secant steps, and bisection where they leave the bracket; the function is at most 0 and at
    least −CLOSE at the result.
    """
    low, high = -np.inf, np.inf
    point, before = start, None
    for _ in range(40):
        value = distance(point)
        if value <= 0:
            low = point
        else:
            high = point
        if -CLOSE <= value <= 0 or high - low < 1e-4 * step:
            break
        rise = (value - before[1]) / (point - before[0]) if before else np.nan
        before = (point, value)
        if np.isfinite(rise) and rise > 0:
            point = point - (value + CLOSE / 2) / rise
        else:
            point += step if value <= 0 else -step
            step *= 2
        if np.isfinite(high - low) and not low < point < high:
            point = (low + high) / 2
    return low
