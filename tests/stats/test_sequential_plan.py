"""Sequential sampling: exact error by dynamic programming over every outcome, and laws."""

from functools import lru_cache
from math import fsum

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.signal import convolve2d
from scipy.special import gammaln, ndtr, ndtri, xlogy
from scipy.stats import binom, norm

from smoothcert.errors import InvalidArgumentError
from smoothcert.stats import (
    LookPlan,
    SequentialTest,
    futile,
    look_plan,
    planned_size,
    probability_bounds,
    signed_root,
)

ALPHAS = st.sampled_from([1e-12, 1e-3, 0.05, 0.5])
BOUNDS = ["joint", "rectangle", "cohen"]


# The plan.


@given(st.integers(1, 10**7), ALPHAS)
def test_looks_increase_and_end_at_the_most_samples(n, alpha):
    plan = look_plan(n, alpha)
    assert plan.n == plan.sizes[-1] == n
    assert np.all(np.diff(plan.sizes) > 0)
    assert plan.sizes[0] >= min(33, n)
    assert len(plan.sizes) == len(plan.levels) <= 49


@given(st.integers(1, 10**7), ALPHAS)
def test_levels_add_up_to_alpha_and_grow(n, alpha):
    levels = look_plan(n, alpha).levels
    assert fsum(levels) == pytest.approx(alpha, rel=1e-14)
    assert min(levels) > 0
    assert np.all(np.diff(levels[:-1]) > 0)
    assert levels[-1] == pytest.approx(0.7 * alpha if len(levels) > 1 else alpha)


@pytest.mark.parametrize("alpha", [0.001, 0.05, 1 / 3, 1e-12])
def test_levels_never_add_up_to_more_than_alpha_in_exact_sums(alpha):
    sizes = [1, 5, 33, 34, 40, 60, 100, 1000, 5000, 10_000, 12_345, 100_000, 10**6]
    for n in sizes:
        assert fsum([*look_plan(n, alpha).levels, -alpha]) <= 0


@pytest.mark.parametrize("n", [1, 2, 16, 32, 33])
def test_few_samples_are_looked_at_once_with_all_of_alpha(n):
    assert look_plan(n, 0.01) == LookPlan((n,), (0.01,))


def test_the_default_plan_has_the_looks_of_the_theory():
    """The 45 values >= 33 of 49 on a geometric grid from 16 to 100,000."""
    grid = np.geomspace(16, 100_000, 49).round().astype(int)
    plan = look_plan(100_000, 0.001)
    assert plan.sizes == tuple(grid[grid >= 33].tolist())
    assert len(plan.sizes) == 45
    early = np.array(plan.levels[:-1])
    assert early / np.sqrt(plan.sizes[:-1]) == pytest.approx(early[0] / np.sqrt(plan.sizes[0]))


@pytest.mark.parametrize(
    ("arguments", "name"), [((0, 0.1), "n"), ((100, 0.0), "alpha"), ((100, 1.0), "alpha")]
)
def test_plans_without_samples_or_error_are_refused(arguments, name):
    with pytest.raises(InvalidArgumentError, match=f"`{name}`"):
        look_plan(*arguments)


# The signed root.


def brute_force_root(n_a: int, n_b: int, n: int, t: float) -> float:
    counts = np.array([n_a, n_b, n - n_a - n_b])

    def loss(log_s: float) -> float:
        """Minus the log-likelihood at s = -exp(log_s), on the boundary of R/σ <= t."""
        s = -np.exp(log_s)
        # 1 − Φ(t + s) − Φ(s − t) as an integral over (t + s, t − s): no digits cancel.
        upper, lower = norm.logsf(t + s), norm.logsf(t - s)
        none = upper + np.log1p(-np.exp(lower - upper))
        logs = np.array([norm.logcdf(t + s), norm.logcdf(s - t), none])
        return -float(np.sum(counts[counts > 0] * logs[counts > 0]))

    grid = np.linspace(-16, 2.5, 150)
    best = np.argmin([loss(v) for v in grid])
    around = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
    found = minimize_scalar(loss, bounds=around, method="bounded", options={"xatol": 1e-10})
    ratio = 2 * (found.fun + np.sum(xlogy(counts, counts / n)))
    sign = 1 if (norm.ppf(n_a / n) - norm.ppf(n_b / n)) / 2 > t else -1
    return sign * np.sqrt(max(ratio, 0))


@pytest.mark.parametrize("t", [0.0, 0.1, 0.5, 1.0, 2.0, 3.5])
@pytest.mark.parametrize(
    ("n_a", "n_b", "n"),
    [
        (60, 20, 100),
        (10, 80, 100),
        (700, 300, 1000),
        (9500, 300, 10_000),
        (99_900, 100, 100_000),
        (400, 0, 1000),
        (1000, 0, 1000),
        (5, 3, 1000),
    ],
)
def test_signed_root_is_that_of_the_largest_likelihood(n_a, n_b, n, t):
    got = float(signed_root(n_a, n_b, n, t))
    assert got == pytest.approx(brute_force_root(n_a, n_b, n, t), rel=1e-5, abs=1e-2)


def test_signed_root_is_standard_normal_where_the_hypothesis_holds():
    """Over every outcome of 400 votes on the boundary of R/σ = .3, up to terms of order 1/√n."""
    n, t, s = 400, 0.3, -0.5
    a, b = ndtr(t + s), ndtr(s - t)
    mean = square = above = 0.0
    for x in range(int(n * a) - 50, int(n * a) + 51):
        spread = int(n * b)
        for y in range(spread - 45, spread + 46):
            weight = binom.pmf(x, n, a) * binom.pmf(y, n - x, b / (1 - a))
            if weight < 1e-6:
                continue
            root = float(signed_root(x, y, n, t))
            mean, square = mean + weight * root, square + weight * root**2
            above += weight * (root > 1.6449)
    assert mean == pytest.approx(0, abs=0.05)
    assert square == pytest.approx(1, abs=0.03)
    assert above == pytest.approx(0.05, abs=0.01)


@given(st.integers(1, 10**5), st.data())
def test_signed_root_falls_with_the_radius_and_vanishes_at_the_estimate(n, data):
    n_a = data.draw(st.integers(1, n))
    n_b = data.draw(st.integers(0, n - n_a))
    roots = signed_root(n_a, n_b, n, np.linspace(0, 3, 13))
    assert np.all(np.diff(roots) <= 1e-3)
    if 0 < n_b < n_a < n:
        estimate = (ndtri(n_a / n) - ndtri(n_b / n)) / 2
        assert signed_root(n_a, n_b, n, estimate) == pytest.approx(0, abs=1e-2)


# The error.

GRID = (0.0, 0.25, 0.5, 1.0)
ALPHA = 0.05
PLANS = {
    "short": LookPlan((6, 12, 20, 30), tuple(ALPHA * np.array([0.1, 0.15, 0.15, 0.6]))),
    "even": LookPlan((8, 16, 24, 32), (ALPHA / 4,) * 4),
    "last": LookPlan((16, 28), (0.3 * ALPHA, 0.7 * ALPHA)),
}


@lru_cache(maxsize=32)
def decisions(plan: LookPlan, bound: str, look: int) -> tuple[np.ndarray, np.ndarray]:
    """For each (n_A, largest other count): radii rejected by a look, and the look's bound."""
    test, n = SequentialTest(plan, GRID, bound), plan.sizes[look]
    rejects = np.zeros((n + 1, n + 1, len(GRID)), dtype=bool)
    bound_of_look = np.full((n + 1, n + 1), -np.inf)
    for x in range(n + 1):
        # Every vote is for some class.
        for m in range(x == 0, n + 1 - x):
            for place in range(len(GRID)):
                rejects[x, m, place] = (
                    test.certified(look, x, m, reached=place, wanted=place + 1) > place
                )
            bound_of_look[x, m] = test.lower_bound(look, x, m)
    return rejects, bound_of_look


def increments(size: int, a: float, b: float) -> np.ndarray:
    """Probabilities of the votes (i, j) for A and B among so many new ones."""
    i, j = np.meshgrid(np.arange(size + 1), np.arange(size + 1), indexing="ij")
    rest = np.maximum(size - i - j, 0)
    logs = gammaln(size + 1) - gammaln(i + 1) - gammaln(j + 1) - gammaln(rest + 1)
    logs += xlogy(i, a) + xlogy(j, b) + xlogy(rest, max(0.0, 1 - a - b))
    return np.where(i + j <= size, np.exp(logs), 0.0)


def error(plan: LookPlan, bound: str, a: float, b: float, t: float, third: bool) -> float:
    """Probability that after any look a radius above t is certified, t the true one.

    State: the votes of A and of B, and how many radii are certified. The third class has the rest
    of the votes; without it they are spread so that none exceeds B's. The look's own
    bound is read after every look, which is more than any rule for stopping does.
    """
    right = int(np.sum(np.array(GRID) < t - 1e-12))
    state = [np.ones((1, 1))] + [np.zeros((1, 1)) for _ in range(right)]
    wrong, before = 0.0, 0
    for look, n in enumerate(plan.sizes):
        step = increments(n - before, a, b)
        state = [convolve2d(mass, step) for mass in state]
        before = n
        rejects, bound_of_look = decisions(plan, bound, look)
        x, y = np.meshgrid(np.arange(n + 1), np.arange(n + 1), indexing="ij")
        m = np.maximum(y, n - x - y) if third else y
        m = np.where(x + y <= n, m, 0)
        for reached in range(right):
            moved = np.where(rejects[x, m, reached], state[reached], 0.0)
            state[reached] = state[reached] - moved
            state[reached + 1] = state[reached + 1] + moved
        false_claim = rejects[x, m, right] if right < len(GRID) else np.zeros(x.shape, dtype=bool)
        wrong += state[right][false_claim].sum()
        state[right] = np.where(false_claim, 0.0, state[right])
        for reached in range(1, right + 1):
            too_large = bound_of_look[x, m] > t
            wrong += state[reached][too_large].sum()
            state[reached] = np.where(too_large, 0.0, state[reached])
    total = wrong + sum(mass.sum() for mass in state)
    assert total == pytest.approx(1, abs=1e-9)
    return wrong


NUISANCES = [0.0, -0.05, -0.3, -1.0, -1.8]


@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize("name", ["short", pytest.param("even", marks=pytest.mark.slow), "last"])
def test_no_radius_above_the_true_one_is_ever_certified_but_for_alpha(name, bound):
    """True radii on the grid, R = 0 included, and between; two classes alone, three, many."""
    errors = []
    for t in (0.0, 0.25, 0.5, 0.7, 1.0):
        for s in NUISANCES:
            a, b = float(ndtr(t + s)), float(ndtr(s - t))
            errors.append(error(PLANS[name], bound, a, b, t, third=False))
            if 1 - a - b <= b:
                errors.append(error(PLANS[name], bound, a, b, t, third=True))
    assert max(errors) <= ALPHA
    # A test that never claims anything would pass as well.
    assert max(errors) > 0.15 * ALPHA


@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize("a", [0.1, 0.3, 1 / 3])
def test_wrong_class_certifies_nothing_but_for_alpha(bound, a):
    """A is not the most probable class, or ties with two others: any certificate is an error."""
    assert error(PLANS["short"], bound, a, (1 - a) / 2, 0.0, third=True) <= ALPHA


@pytest.mark.parametrize("bound", BOUNDS)
def test_nothing_is_certified_before_the_radius_0(bound):
    """The class must be the top one before any radius is: the first test is of t = 0."""
    plan = PLANS["short"]
    test = SequentialTest(plan, GRID, bound)
    for look, n in enumerate(plan.sizes):
        rejects = decisions(plan, bound, look)[0]
        for x in range(n + 1):
            for m in range(x == 0, n + 1 - x):
                certified = test.certified(look, x, m, reached=0)
                expected = int(np.argmin([*rejects[x, m], False]))
                assert certified == expected


def test_radius_0_is_certified_by_the_sign_test():
    plan = PLANS["last"]
    test = SequentialTest(plan, GRID)
    for look, n in enumerate(plan.sizes):
        for x in range(n + 1):
            for m in range(n + 1 - x):
                exact = binom.sf(x - 1, x + m, 0.5)
                if abs(exact - plan.levels[look]) > 1e-9:
                    rejected = test.certified(look, x, m, reached=0, wanted=1) == 1
                    assert rejected == (exact <= plan.levels[look])


PLAN = look_plan(100_000, 0.001)


@st.composite
def looks(draw):
    """A look of the plan, votes that may be seen there, radii that are reached and wanted."""
    look = draw(st.integers(0, len(PLAN.sizes) - 1))
    n = PLAN.sizes[look]
    n_a = draw(st.integers(0, n))
    n_b = draw(st.integers(int(n_a == 0), n - n_a))
    wanted = draw(st.integers(1, len(GRID)))
    return look, n_a, n_b, draw(st.integers(0, wanted)), wanted


@settings(max_examples=60)
@given(looks())
def test_certified_stays_between_what_was_reached_and_what_is_wanted(drawn):
    look, n_a, n_b, reached, wanted = drawn
    test = SequentialTest(PLAN, GRID)
    certified = test.certified(look, n_a, n_b, reached, wanted)
    assert reached <= certified <= wanted
    # One wanted more never takes anything away.
    assert test.certified(look, n_a, n_b, reached) >= certified


@pytest.mark.parametrize("bound", BOUNDS)
def test_strong_votes_certify_the_whole_grid(bound):
    plan = look_plan(10_000, 0.001)
    test = SequentialTest(plan, GRID, bound)
    last = len(plan.sizes) - 1
    assert test.certified(last, 9990, 10, reached=0) == len(GRID)
    assert test.lower_bound(last, 9990, 10) > GRID[-1]


# Giving up.


@settings(max_examples=80)
@given(looks())
def test_giving_up_never_certifies(drawn):
    """What is pursued is at least what is certified and at most what was pursued before."""
    look, n_a, n_b, reached, wanted = drawn
    pursued = SequentialTest(PLAN, GRID).pursued(look, n_a, n_b, reached, wanted)
    assert reached <= pursued <= wanted
    if pursued < wanted:
        assert futile(n_a, n_b, PLAN.sizes[look], PLAN, GRID[pursued])


@settings(max_examples=80)
@given(st.integers(0, 44), st.data())
def test_what_is_futile_stays_so_for_larger_radii(look, data):
    plan = look_plan(100_000, 0.001)
    n = plan.sizes[look]
    n_a = data.draw(st.integers(1, n))
    n_b = data.draw(st.integers(0, n - n_a))
    given_up = futile(n_a, n_b, n, plan, np.linspace(0, 3, 25))
    assert np.all(np.diff(given_up.astype(int)) >= 0)


def test_giving_up_follows_the_formula_of_the_theory():
    plan = look_plan(100_000, 0.001)
    for n, n_a, n_b in [(1000, 600, 300), (10_000, 5200, 4700), (50_000, 40_000, 5000)]:
        share = n / 100_000
        for t in np.linspace(0, 1.5, 16):
            hope = norm.isf(0.2 * share**0.6) * np.sqrt(1 - share)
            needed = norm.isf(0.7 * 0.001) * np.sqrt(share)
            root = brute_force_root(n_a, n_b, n, t)
            assert abs(root + hope - needed) > 0.02
            expected = root + hope < needed
            assert futile(n_a, n_b, n, plan, t) == expected


def test_giving_up_costs_little_power_and_never_adds_error():
    """Every outcome of a short plan: a run that gives up certifies no more than one that goes on,
    and rarely less."""
    plan, (a, b) = PLANS["short"], (0.75, 0.1)
    count, test = len(GRID), SequentialTest(plan, GRID)
    results = []
    for gives_up in (False, True):
        state = {(0, count): np.ones((1, 1))}
        before, done = 0, np.zeros(count + 1)
        for look, n in enumerate(plan.sizes):
            step = increments(n - before, a, b)
            before = n
            rejects, _ = decisions(plan, "joint", look)
            after: dict[tuple[int, int], np.ndarray] = {}
            for (reached, wanted), mass in state.items():
                mass = convolve2d(mass, step)
                for x, y in np.argwhere(mass > 0):
                    now = reached
                    while now < wanted and rejects[x, y, now]:
                        now += 1
                    goal = wanted
                    if gives_up and now < wanted:
                        # Every vote is for some class.
                        other = int(max(y, x == 0))
                        goal = min(wanted, test.pursued(look, int(x), other, now, count))
                    if now == goal or n == plan.n:
                        done[now] += mass[x, y]
                    else:
                        after.setdefault((now, goal), np.zeros((n + 1, n + 1)))[x, y] += mass[x, y]
            state = after
        results.append(np.cumsum(done[::-1])[::-1])
    going_on, giving_up = results
    assert going_on[0] == pytest.approx(1) == giving_up[0]
    assert np.all(giving_up <= going_on + 1e-12)
    assert np.all(giving_up >= going_on - 0.03)
    assert going_on[2] > 0.1


# Choosing the number of samples.


@settings(max_examples=60)
@given(st.integers(1, 10**5), st.sampled_from([0.01, 0.05, 0.1, 0.5]), st.data())
def test_planned_size_promises_the_radius_of_all_samples_within_the_tolerance(n, tolerance, data):
    a = data.draw(st.integers(0, 1000))
    b = data.draw(st.integers(0, 1000 - a))
    size = planned_size(a, b, 1000, n, 0.001, tolerance)
    assert 1 <= size <= n

    def promised(size: int) -> float:
        votes = [np.floor((k + 0.5) / 1001 * size) for k in (a, b)]
        votes[1] = min(votes[1], size - votes[0])
        return float(probability_bounds(*votes, size, 0.001).radius(1.0))

    if promised(n) > 0:
        assert promised(size) >= (1 - tolerance) * promised(n)
        assert planned_size(a, b, 1000, n, 0.001, min(0.9, 2 * tolerance)) <= size
    else:
        assert size == n


# Arguments.


@pytest.mark.parametrize(
    ("grid", "bound", "message"),
    [
        ((), "joint", "increase from 0"),
        ((0.1, 0.5), "joint", "increase from 0"),
        ((0.0, 0.5, 0.5), "joint", "increase from 0"),
        ((0.0, 0.5, 0.2), "joint", "increase from 0"),
        ((0.0, 0.5), "paper", "'paper'"),
    ],
)
def test_grids_and_bounds_that_make_no_sense_are_refused(grid, bound, message):
    with pytest.raises(InvalidArgumentError, match=message):
        SequentialTest(look_plan(100, 0.001), grid, bound)
