"""The joint bound: exact coverage, sums against brute force, and laws."""

from functools import lru_cache

import mpmath
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.special import ndtr, ndtri, xlogy
from scipy.stats import beta, binom, norm

from smoothcert.stats import (
    joint_lower_bound,
    joint_p_value,
    joint_test,
    probability_bounds,
    probit_lower,
    probit_upper,
)
from smoothcert.stats.joint import JointTest, Tail, _binomial_below
from tests.helpers.enumeration import multinomial_pmf, outcomes

ALPHAS = st.sampled_from([1e-9, 1e-3, 0.05, 0.2])
ORDERING_SHARE = 0.99 / 2
"""Level of each of the two bounds whose difference orders the counts, relative to alpha."""


@st.composite
def counts(draw, smallest=2, largest=10**5):
    n = draw(st.integers(smallest, largest))
    n_a = draw(st.integers(1, n))
    return n_a, draw(st.integers(0, n - n_a)), n


# What the tests compare with, computed by SciPy alone.


def scipy_probits(k: np.ndarray, n: int, level: float) -> np.ndarray:
    """Φ⁻¹ of the Clopper–Pearson lower bound, from the beta distribution's quantiles."""
    with np.errstate(divide="ignore"):
        quantile = np.where(k == 0, 0.0, beta.ppf(level, np.maximum(k, 1), n - k + 1))
    return norm.ppf(quantile)


def extreme_others(
    n: int, n_a: int, n_b: int, alpha: float, x: np.ndarray, y: np.ndarray
) -> np.ndarray:
    """For each n_A in x the largest n_B in y that is as extreme as the observed counts, or -1."""
    level = ORDERING_SHARE * alpha
    lower = scipy_probits(x, n, level)
    upper = -scipy_probits(n - y, n, level)
    observed = scipy_probits(np.array(n_a), n, level) + scipy_probits(np.array(n - n_b), n, level)
    # Exchanging A's failures with B's votes gives the same statistic: ties are exact.
    allowed = lower - observed + 5e-10
    number = np.searchsorted(upper, allowed, side="right") - 1
    return np.where(number < 0, -1, np.minimum(y[number], n - x))


def plug_in(n_a: float, n_b: float, n: int) -> float:
    return float(norm.ppf(n_a / n) - norm.ppf(n_b / n)) / 2


def standard_error(n_a: float, n_b: float, n: int) -> float:
    """Of the plug-in radius, by the delta method; a vote is added to each count."""
    a, b = (n_a + 1) / (n + 3), (n_b + 1) / (n + 3)
    slope_a, slope_b = 1 / norm.pdf(norm.ppf(a)), 1 / norm.pdf(norm.ppf(b))
    variance = a * (1 - a) * slope_a**2 + b * (1 - b) * slope_b**2 + 2 * a * b * slope_a * slope_b
    return float(np.sqrt(variance / n) / 2)


# Coverage.


@lru_cache(maxsize=16)
def every_bound(n: int, alpha: float) -> np.ndarray:
    """The bound for each (n_A, n_B), -inf where there can be no such counts; computed once."""
    x, m = np.meshgrid(np.arange(n + 1), np.arange(n + 1), indexing="ij")
    possible = x + m <= n
    bounds = np.full(x.shape, -np.inf)
    bounds[possible] = joint_lower_bound(x[possible], m[possible], n, alpha)
    return bounds


RADII = [0.0, 0.02, 0.1, 0.25, 0.5, 0.8, 1.2, 1.8, 2.5]
NUISANCES = [0.0, -0.01, -0.05, -0.15, -0.3, -0.6, -1.0, -1.7]


@pytest.mark.parametrize(("n", "alpha"), [(20, 0.05), (45, 0.05), (60, 0.001)])
def test_error_is_at_most_alpha_and_comes_close_over_every_outcome(n, alpha):
    """Trinomial sums along the boundary of R/σ <= t, two classes alone (s = 0) and a = b included.

    The runner-up's own count is taken: with the rest spread over many classes none exceeds it.
    """
    votes = outcomes(n, 3)
    bound = every_bound(n, alpha)[votes[:, 0], votes[:, 1]]
    errors = []
    for t in RADII:
        for s in NUISANCES:
            a, b = ndtr(t + s), ndtr(s - t)
            probability = multinomial_pmf(votes, np.array([a, b, max(0.0, 1 - a - b)]))
            assert probability.sum() == pytest.approx(1, abs=1e-9)
            errors.append(probability[bound > t].sum())
    assert max(errors) <= alpha
    # An idle bound would pass as well.
    assert max(errors) > 0.5 * alpha


@pytest.mark.parametrize(("n", "alpha"), [(20, 0.05), (45, 0.05), (60, 0.001)])
@pytest.mark.parametrize("a", [0.05, 0.34, 0.4, 0.45, 0.6, 0.8, 0.95, 0.99])
def test_largest_count_of_tied_runners_up_needs_no_correction(a, n, alpha):
    """Three classes with b = c: the largest other count is above the runner-up's half the time."""
    votes = outcomes(n, 3)
    bound = every_bound(n, alpha)[votes[:, 0], votes[:, 1:].max(1)]
    probability = multinomial_pmf(votes, np.array([a, (1 - a) / 2, (1 - a) / 2]))
    true = (ndtri(a) - ndtri((1 - a) / 2)) / 2
    assert probability[bound > true].sum() <= alpha


@pytest.mark.parametrize(
    "p",
    [
        (0.25, 0.25, 0.25, 0.25),
        (0.4, 0.2, 0.2, 0.2),
        (0.4, 0.3, 0.2, 0.1),
        (0.35, 0.33, 0.3, 0.02),
        (0.7, 0.1, 0.1, 0.1),
        (0.9, 0.05, 0.04, 0.01),
        (0.1, 0.3, 0.3, 0.3),
        (0.5, 0.5, 0.0, 0.0),
    ],
)
def test_four_classes_are_covered_by_exact_enumeration(p):
    votes = outcomes(20, 4)
    bound = every_bound(20, 0.05)[votes[:, 0], votes[:, 1:].max(1)]
    true = (ndtri(p[0]) - ndtri(max(p[1:]))) / 2
    assert multinomial_pmf(votes, np.array(p))[bound > true].sum() <= 0.05


@pytest.mark.parametrize("t", [0.25, 0.5, 1.0])
@pytest.mark.parametrize("alpha", [0.05, 0.001])
def test_rejections_and_small_p_values_are_errors_no_more_often_than_alpha(t, alpha):
    n, votes = 30, outcomes(30, 3)
    pairs = np.unique(votes[:, :2], axis=0)
    test = JointTest(n, alpha)
    rejected = np.zeros((n + 1, n + 1), dtype=bool)
    rejected[tuple(pairs.T)] = [test.rejects(int(x), int(y), t) for x, y in pairs]
    small = np.zeros((n + 1, n + 1), dtype=bool)
    small[tuple(pairs.T)] = joint_p_value(pairs[:, 0], pairs[:, 1], n, t, alpha) <= alpha
    for s in NUISANCES:
        a, b = ndtr(t + s), ndtr(s - t)
        probability = multinomial_pmf(votes, np.array([a, b, max(0.0, 1 - a - b)]))
        for table in (rejected, small):
            assert probability[table[votes[:, 0], votes[:, 1]]].sum() <= alpha


# The sums.


@pytest.mark.parametrize("alpha", [1e-12, 0.001, 0.05])
@pytest.mark.parametrize(("n_a", "n_b"), [(105, 30), (145, 5), (75, 70), (150, 0), (20, 17)])
def test_tail_is_the_sum_of_every_term_at_50_digits(n_a, n_b, alpha):
    """For n = 150 no two counts share a block: the sum is exact but for what is trimmed."""
    n = 150
    tail = Tail(JointTest(n, alpha), n_a, n_b)
    x = np.arange(n + 1)
    others = extreme_others(n, n_a, n_b, alpha, x, x)
    # Along the interval of the nuisance, at the radius where the search begins.
    t = tail.start
    low, high = tail._interval(t)
    for s in low + (high - low) * np.array([0.02, 0.5, 0.98]):
        with mpmath.workdps(50):
            a, b = mpmath.ncdf(mpmath.mpf(float(t + s))), mpmath.ncdf(mpmath.mpf(float(s - t)))
            hit = b / (1 - a)
            exact = mpmath.mpf(0)
            for k in range(n + 1):
                if others[k] < 0:
                    continue
                rest = n - k
                term = (1 - hit) ** rest
                below = term
                for j in range(others[k]):
                    term *= mpmath.mpf(rest - j) / (j + 1) * hit / (1 - hit)
                    below += term
                exact += mpmath.binomial(n, k) * a**k * (1 - a) ** rest * below
        got = mpmath.mpf(float(tail.probabilities(np.array([t + s]), np.array([s - t]))[0]))
        assert exact <= got
        assert got <= exact * mpmath.mpf(1 + 1e-5) + 1e-5 * alpha


@pytest.mark.parametrize("alpha", [1e-12, 0.001, 0.05])
@pytest.mark.parametrize(
    ("n_a", "n_b", "n", "loss"),
    [
        # Every count is a block of its own, and the runner-up's few votes are summed exactly.
        (2500, 900, 5000, 1e-7),
        (59_500, 300, 60_000, 1e-7),
        # Half a vote of the runner-up's is lost.
        (2500, 2000, 5000, 0.02),
        # Blocks of 3, 5, 1, 51 and 1 counts: half a block is lost, a 60th of a deviation.
        (40_000, 15_000, 60_000, 1 / 50),
        (60_000, 20_000, 100_000, 1 / 50),
        (95_000, 800, 100_000, 1 / 50),
        (5_000_000, 4_900_000, 10**7, 1 / 50),
        (9_990_000, 9_000, 10**7, 1 / 50),
    ],
)
def test_tail_is_above_and_close_to_the_sum_over_every_count(n_a, n_b, n, loss, alpha):
    """The loss is stated in standard deviations: the difference of the probabilities' probits."""
    tail = Tail(JointTest(n, alpha), n_a, n_b)
    reach = 10 * np.sqrt(n_a * (n - n_a) / n)
    x = np.arange(max(0, int(n_a - 2 * reach)), min(n, int(n_a + reach)) + 1)
    around = 30 * np.sqrt(n_b) + 300
    y = np.arange(max(0, int(n_b - around)), min(n, int(n_b + around)) + 1)
    others = extreme_others(n, n_a, n_b, alpha, x, y)
    inside = others >= 0
    # Along the interval of the nuisance, at the radius where the search begins.
    t = tail.start
    low, high = tail._interval(t)
    for s in low + (high - low) * np.array([0.1, 0.5, 0.99]):
        a, b = ndtr(t + s), ndtr(s - t)
        hit = b / ndtr(-t - s)
        exact = np.sum(binom.pmf(x[inside], n, a) * binom.cdf(others[inside], n - x[inside], hit))
        got = tail.probabilities(np.array([t + s]), np.array([s - t]))[0]
        # SciPy's mass function has lost digits of its own at 10⁷.
        assert got >= exact * (1 - 1e-7)
        assert got <= ndtr(ndtri(exact) + loss) + 1e-5 * alpha


def zubkov_serov_cases(seed: int, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    trials = np.exp(rng.uniform(np.log(2000), np.log(10**7), size)).astype(int)
    # Near the mean, where the bound decides, and far from it.
    hit = np.exp(rng.uniform(np.log(1e-6), 0, size)) * 0.9999
    deviation = np.sqrt(trials * hit * (1 - hit))
    y = trials * hit + rng.normal(size=size) * rng.choice([0.01, 1, 5, 20], size) * deviation
    return trials.astype(float), hit, np.clip(y.round(), 0, trials)


def signed_root_of_divergence(y: np.ndarray, trials: np.ndarray, hit: np.ndarray) -> np.ndarray:
    """Of y + 1 in so many trials, term by term as in the theorem."""
    k = np.minimum(y + 1, trials)
    divergence = xlogy(k, k / (trials * hit)) + xlogy(
        trials - k, (trials - k) / (trials * (1 - hit))
    )
    return np.sign(k - trials * hit) * np.sqrt(2 * np.maximum(divergence, 0))


def test_binomial_inequality_is_an_upper_bound_and_costs_half_a_count():
    trials, hit, y = zubkov_serov_cases(1, 20_000)
    got = _binomial_below(y, trials, 1 - hit, signed_root_of_divergence(y, trials, hit))
    exact = binom.cdf(y, trials, hit)
    # SciPy's own error allows no more digits.
    assert np.all(got >= exact * (1 - 1e-7) - 1e-300)
    assert np.all(got <= binom.cdf(y + 1, trials, hit) * (1 + 1e-7))


def test_binomial_inequality_holds_where_the_next_count_is_the_mean():
    """There the divergence is 0, and its sign means nothing."""
    for trials, hits in [(4000, 2000), (10_000, 2500), (8192, 1024), (10**6, 500_000)]:
        q = hits / trials
        got = _binomial_below(*(np.array([v]) for v in (hits - 1.0, float(trials), 1 - q, 0.0)))
        assert binom.cdf(hits - 1, trials, q) <= got[0] <= binom.cdf(hits, trials, q)


@pytest.mark.parametrize(
    ("y", "trials", "hit"),
    [
        (1500, 4000, 0.4),
        (1000, 2000, 0.5),
        (1200, 10**5, 0.01),
        (3000, 3500, 0.9),
        (1999, 4000, 0.5),
    ],
)
def test_binomial_inequality_is_an_upper_bound_at_50_digits(y, trials, hit):
    values = [np.array([float(v)]) for v in (y, trials, hit)]
    got = _binomial_below(values[0], values[1], 1 - values[2], signed_root_of_divergence(*values))
    with mpmath.workdps(50):
        p = mpmath.mpf(hit)
        exact = sum(
            mpmath.binomial(trials, k) * p**k * (1 - p) ** (trials - k) for k in range(y + 1)
        )
        assert exact <= mpmath.mpf(float(got[0]))


def test_small_counts_are_summed_exactly():
    rng = np.random.default_rng(2)
    trials = rng.integers(1, 10**6, 5000).astype(float)
    y = np.minimum(rng.integers(0, 1000, 5000), trials - 1).astype(float)
    hit = np.clip(y / trials * np.exp(rng.normal(size=5000) * 0.1), 1e-9, 1 - 1e-9)
    got = _binomial_below(y, trials, 1 - hit, np.full(5000, np.nan))
    assert got == pytest.approx(binom.cdf(y, trials, hit), rel=1e-8, abs=1e-300)


def test_all_trials_are_always_below():
    three = np.array([0.0, 3.0, 2000.0])
    assert _binomial_below(three, three, np.array([0.5] * 3), np.zeros(3)).tolist() == [1, 1, 1]


# Dominance.


@settings(max_examples=30)
@given(counts(), ALPHAS)
def test_bound_is_at_least_the_half_split_rectangle_that_leaves_the_nuisance_its_share(
    votes, alpha
):
    n_a, n_b, n = votes
    level = ORDERING_SHARE * alpha
    rectangle = (probit_lower(n_a, n, level) - probit_upper(n_b, n, level)) / 2
    assert joint_lower_bound(n_a, n_b, n, alpha) >= rectangle - 1e-9


TYPICAL = [
    (0.6, 0.2),
    (0.5, 0.4),
    (0.7, 0.3),
    (0.9, 0.05),
    (0.98, 0.01),
    (0.45, 0.1),
    (0.999, 0.001),
    (0.35, 0.33),
]


@pytest.mark.parametrize("alpha", [0.001, 0.05])
@pytest.mark.parametrize("n", [1000, 10_000, 100_000])
@pytest.mark.parametrize(("a", "b"), TYPICAL)
def test_bound_beats_the_rectangle_in_typical_cases(a, b, n, alpha):
    n_a, n_b = round(a * n), round(b * n)
    bounds = probability_bounds(n_a, n_b, n, alpha)
    rectangle = float(bounds.probit_a - bounds.probit_b) / 2
    assert joint_lower_bound(n_a, n_b, n, alpha) > rectangle


@settings(max_examples=30)
@given(counts(), ALPHAS)
def test_bound_is_never_above_the_estimate(votes, alpha):
    n_a, n_b, n = votes
    assert joint_lower_bound(n_a, n_b, n, alpha) < plug_in(n_a, n_b, n)


@pytest.mark.parametrize(
    ("a", "b"), [(0.6, 0.2), (0.5, 0.4), (0.7, 0.3), (0.9, 0.05), (0.98, 0.01)]
)
def test_bound_is_nearly_the_efficient_one_for_many_votes(a, b):
    """No test of a level-alpha family stays closer to the estimate than z standard errors."""
    n, alpha = 10**6, 0.001
    n_a, n_b = round(a * n), round(b * n)
    lost = plug_in(n_a, n_b, n) - float(joint_lower_bound(n_a, n_b, n, alpha))
    efficient = -norm.ppf(alpha) * standard_error(n_a, n_b, n)
    assert 0.99 < lost / efficient < 1.06


# Monotone.

TOLERANCE = 0.006
"""Standard errors; where the search ends, .003 of them are lost at most on either side."""


@settings(max_examples=40)
@given(counts(smallest=3, largest=10**5), ALPHAS)
def test_bound_grows_with_the_top_count_and_falls_with_the_other(votes, alpha):
    n_a, n_b, n = votes
    assume(n_a + n_b < n)
    bound = joint_lower_bound(n_a, n_b, n, alpha)
    tolerance = TOLERANCE * standard_error(n_a, n_b, n)
    assert joint_lower_bound(n_a + 1, n_b, n, alpha) >= bound - tolerance
    assert joint_lower_bound(n_a, n_b + 1, n, alpha) <= bound + tolerance


def test_bound_is_monotone_over_all_counts_of_a_small_sample():
    for n, alpha in [(20, 0.05), (45, 0.05), (60, 0.001)]:
        bounds = every_bound(n, alpha)[1:]
        x, m = np.meshgrid(np.arange(1, n), np.arange(n), indexing="ij")
        inside = (x + m < n).ravel()
        tolerance = TOLERANCE * np.array(
            [standard_error(i, j, n) for i, j in zip(x.ravel(), m.ravel(), strict=True)]
        )
        with np.errstate(invalid="ignore"):
            more_a = (bounds[1:, :-1] - bounds[:-1, :-1]).ravel()
            more_b = (bounds[:-1, 1:] - bounds[:-1, :-1]).ravel()
        assert np.all(more_a[inside] >= -tolerance[inside])
        assert np.all(more_b[inside] <= tolerance[inside])


@settings(max_examples=30)
@given(counts(), st.sampled_from([1e-12, 1e-6, 1e-3, 0.02]), st.sampled_from([1.5, 2, 10]))
def test_bound_grows_with_alpha(votes, alpha, factor):
    n_a, n_b, n = votes
    tolerance = TOLERANCE * standard_error(n_a, n_b, n)
    more = joint_lower_bound(n_a, n_b, n, factor * alpha)
    assert more >= joint_lower_bound(n_a, n_b, n, alpha) - tolerance


# Extremes.


@pytest.mark.parametrize("alpha", [1e-12, 0.001, 0.05])
@pytest.mark.parametrize("n", [1, 2, 30, 1000, 10**5, 10**7])
def test_unanimous_votes_have_the_closed_form(n, alpha):
    """Nothing is as extreme, so the tail's probability is aⁿ."""
    with mpmath.workdps(50):
        p = (mpmath.mpf(99) / 100 * mpmath.mpf(alpha)) ** (mpmath.mpf(1) / n)
        exact = float(mpmath.sqrt(2) * mpmath.erfinv(2 * p - 1))
    got = float(joint_lower_bound(n, 0, n, alpha))
    assert got <= exact
    assert got == pytest.approx(exact, abs=0.01)


@pytest.mark.parametrize("n", [1, 5, 1000, 10**7])
def test_no_vote_for_the_class_proves_nothing(n):
    assert joint_lower_bound(0, 0, n, 0.05) == -np.inf
    assert joint_lower_bound(0, n, n, 0.05) == -np.inf
    assert joint_p_value(0, n, n, 0.5, 0.05) == 1
    assert not joint_test(n, 0.05).rejects(0, n, 0.0)


@pytest.mark.parametrize("alpha", [1e-12, 0.001, 0.05])
@pytest.mark.parametrize("n", [2, 10, 1000, 10**5])
def test_no_other_vote_is_no_obstacle(n, alpha):
    """With n_b = 0 the bound lies between those for one other vote and for all votes."""
    n_a = (n + 1) // 2
    bound = joint_lower_bound(n_a, 0, n, alpha)
    assert np.isfinite(bound)
    assert joint_lower_bound(n_a, 1, n, alpha) < bound < joint_lower_bound(n, 0, n, alpha)


@pytest.mark.parametrize("alpha", [1e-12, 0.001])
@pytest.mark.parametrize(
    ("n_a", "n_b"),
    [
        (6_000_000, 2_000_000),
        (5_000_001, 4_999_999),
        (9_999_000, 1000),
        (9_999_999, 1),
        (9_999_999, 0),
        # Its tables span all counts.
        pytest.param(1, 0, marks=pytest.mark.slow),
        (3_400_000, 3_300_000),
    ],
)
def test_ten_million_votes_give_a_bound_between_the_rectangle_and_the_estimate(n_a, n_b, alpha):
    n = 10**7
    level = ORDERING_SHARE * alpha
    rectangle = (probit_lower(n_a, n, level) - probit_upper(n_b, n, level)) / 2
    got = joint_lower_bound(n_a, n_b, n, alpha)
    assert rectangle - 1e-9 <= got < plug_in(n_a, n_b, n)


def test_arrays_are_broadcast():
    got = joint_lower_bound([[700], [900]], [10, 50, 90], [1000, 1000, 2000], 0.01)
    assert got.shape == (2, 3)
    assert got[1, 2] == joint_lower_bound(900, 90, 2000, 0.01)
    assert joint_p_value(700, [10, 50], 1000, [[0.5], [0.9]], 0.01).shape == (2, 2)


# P-values.


def cell(n_a: int, n_b: int, n: int, t: float, alpha: float) -> float:
    """Width of one of the cells that cover the nuisance's interval."""
    share = 0.01 * alpha / 2
    low = float(probit_lower(n_a, n, share)) - t
    high = min(0.0, float(probit_upper(n_b, n, share)) + t)
    return max(high - low, 0.0) / 64


@settings(max_examples=30)
@given(counts(), ALPHAS)
def test_p_value_passes_alpha_at_the_bound(votes, alpha):
    n_a, n_b, n = votes
    bound = float(joint_lower_bound(n_a, n_b, n, alpha))
    width = cell(n_a, n_b, n, bound, alpha)
    assert joint_p_value(n_a, n_b, n, bound - width, alpha) <= alpha
    assert joint_p_value(n_a, n_b, n, bound + 3 * width, alpha) > alpha


@settings(max_examples=30)
@given(counts(), ALPHAS, st.floats(-4, 4))
def test_rejection_agrees_with_the_p_value(votes, alpha, cells):
    """About the bound, where they could differ; beside it by the rounding of the two alone."""
    n_a, n_b, n = votes
    bound = float(joint_lower_bound(n_a, n_b, n, alpha))
    t = bound + cells * cell(n_a, n_b, n, bound, alpha)
    p_value = float(joint_p_value(n_a, n_b, n, t, alpha))
    assume(abs(p_value - alpha) > 1e-9 * alpha)
    assert joint_test(n, alpha).rejects(n_a, n_b, t) == (p_value <= alpha)


@settings(max_examples=30)
@given(counts(), ALPHAS)
def test_p_value_grows_with_the_radius(votes, alpha):
    n_a, n_b, n = votes
    bound = float(joint_lower_bound(n_a, n_b, n, alpha))
    t = bound + np.linspace(-1, 3, 9) * standard_error(n_a, n_b, n)
    p_values = joint_p_value(n_a, n_b, n, t, alpha)
    # Cells that move with t, and blocks that are cut elsewhere, leave a hair.
    assert np.all(np.diff(p_values) >= -1e-3 * p_values[1:])
    assert np.all((p_values >= 0.01 * alpha) & (p_values <= 1))


def test_p_value_is_a_number_where_the_interval_of_the_nuisance_nearly_vanishes():
    """Two classes alone, t at the bound that confines a: what is left of s is about 1e-16."""
    n, alpha = 60, 0.05
    for n_a in range(30, n + 1):
        edge = float(probit_lower(n_a, n, 0.01 * alpha / 2))
        t = edge + np.arange(-3, 4) * 1.1e-15
        # A nan within becomes a warning, hence an error, or a p-value of nothing but β.
        p_values = joint_p_value(n_a, n - n_a, n, t, alpha)
        assert np.all(p_values >= 0.01 * alpha)
