"""The anytime-valid form: supermartingales by exact enumeration, exact error, and laws."""

from copy import deepcopy

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtr, ndtri

from smoothcert.errors import InvalidArgumentError
from smoothcert.stats import AnytimeTest
from smoothcert.stats.anytime import CONVERGED
from smoothcert.stats.boundary import likeliest_on_boundary
from tests.helpers.enumeration import multinomial_pmf, outcomes

NUISANCES = [-1e-4, -0.05, -0.3, -1.0, -1.8]


def null_grid(t: float) -> np.ndarray:
    """Probabilities (a, b, rest) with a <= Φ(2t + Φ⁻¹(b)), a fine grid and its boundary."""
    a, b = (v.ravel() for v in np.meshgrid(np.linspace(0, 1, 101), np.linspace(0, 1, 101)))
    keep = (a + b <= 1 + 1e-12) & (a <= ndtr(2 * t + ndtri(b)))
    s = -np.concatenate([[0], np.geomspace(1e-8, 6, 200)])
    a, b = np.r_[a[keep], ndtr(t + s)], np.r_[b[keep], ndtr(s - t)]
    return np.stack([a, b, np.maximum(1 - a - b, 0)], axis=1)


def top_probabilities(t: float) -> list[np.ndarray]:
    """Points of the boundary of R/σ = t for three classes with b >= c, and with b = c."""
    points = []
    for s in NUISANCES:
        a, b = float(ndtr(t + s)), float(ndtr(s - t))
        if 1 - a - b <= b:
            points.append(np.array([a, b, max(0.0, 1 - a - b)]))
    # Tied runners-up: a + 2b = 1, found on the curve.
    grid = -np.linspace(0, 4, 4001)
    s = grid[np.argmin(np.abs(ndtr(t + grid) + 2 * ndtr(grid - t) - 1))]
    b = (1 - float(ndtr(t + s))) / 2
    return [*points, np.array([1 - 2 * b, b, b])]


# The inequality that everything rests on.


@pytest.mark.parametrize("t", [0.0, 0.1, 0.5, 1.0, 2.0, 3.0])
def test_factor_of_a_projection_has_a_mean_of_at_most_1_under_the_hypothesis(t):
    rng = np.random.default_rng(0)
    p = null_grid(t)
    tried = 0
    for concentration in (0.1, 1.0, 10.0):
        for q in rng.dirichlet([concentration * 2, concentration * 0.3, concentration * 0.2], 40):
            q = np.maximum(q, 1e-9)
            q /= q.sum()
            point = likeliest_on_boundary(q[0], q[1], t)
            # Nothing is bet inside the hypothesis, or where the projection was not found.
            if q[0] <= ndtr(2 * t + ndtri(q[1])) or abs(point.slope) > CONVERGED:
                continue
            tried += 1
            factor = q / np.exp([point.log_a, point.log_b, point.log_none])
            assert np.max(p @ factor) <= 1 + 1e-9
    assert tried > 10


def mean_factor_at_most(seen: list[int]) -> float:
    """The largest mean of one vote's factor over all hypotheses of a grid and their points."""
    grid = [0.0, 0.2, 0.7, 1.5, 4.0]
    factors = []
    for vote in np.eye(3, dtype=int):
        test = AnytimeTest(grid, 0.05, selected=0, selection=np.array(seen))
        test.update(vote)
        factors.append(np.exp(test.log_evidence()))
    # The smallest evidence over B and C is at most B's.
    return max(
        float(np.max(null_grid(t) @ np.array(factors)[:, place])) for place, t in enumerate(grid)
    )


@pytest.mark.parametrize("seen", [[98, 2, 0], [5, 1, 0], [40, 20, 30], [999, 0, 0], [3, 0, 9]])
def test_one_vote_multiplies_the_evidence_by_at_most_1_on_average(seen):
    assert mean_factor_at_most(seen) <= 1 + 1e-9


LATE = [
    [10**6, 0, 0],
    [10**7, 1, 0],
    [99_999, 1, 0],
    [60, 0, 99_940],
    [50_001, 49_999, 0],
    [0, 99_999, 1],
]


@pytest.mark.parametrize("seen", LATE)
def test_late_votes_multiply_the_evidence_by_at_most_1_on_average(seen):
    """Estimates at the edge of what is possible: the rest has a probability of 1e-8."""
    # A projection that overflows is not used; the next test asks that none does.
    with np.errstate(all="ignore"):
        assert mean_factor_at_most(seen) <= 1 + 1e-9


def test_late_votes_overflow_nowhere():
    for seen in LATE:
        with np.errstate(all="raise", under="ignore"):
            AnytimeTest([0.0, 0.5, 1.0], 0.05, 0, np.array(seen)).update(np.array([1, 0, 0]))


# Exact expectations.


def every_path(test: AnytimeTest, chunks: list[int]) -> tuple[np.ndarray, list[AnytimeTest]]:
    """Return all ways that chunks of votes can come out, with the test after each of them.

    Returns:
        the votes by chunk, shape (paths, len(chunks), 3); and the tests.
    """
    nodes = [(test, [])]
    for size in chunks:
        after = []
        for before, path in nodes:
            for vote in outcomes(size, 3):
                child = deepcopy(before)
                child.update(vote)
                after.append((child, [*path, vote]))
        nodes = after
    return np.array([path for _, path in nodes]), [test for test, _ in nodes]


def probabilities(paths: np.ndarray, p: np.ndarray) -> np.ndarray:
    """Return the probability of each path of votes, shape (paths,)."""
    found = np.prod([multinomial_pmf(paths[:, k], p) for k in range(paths.shape[1])], axis=0)
    assert found.sum() == pytest.approx(1, abs=1e-9)
    return found


@pytest.mark.parametrize(
    ("chunks", "selection"),
    [
        ([12], [30, 4, 2]),
        ([12], [3, 2, 2]),
        ([4, 6], [0, 0, 0]),
        ([5, 5], [20, 1, 3]),
        ([1, 1, 3], [2, 0, 0]),
    ],
)
def test_evidence_is_at_most_1_on_average_under_the_hypothesis(chunks, selection):
    """Every outcome of chunks of votes, on the boundary of R/σ <= t and inside."""
    grid = [0.0, 0.4, 1.2]
    test = AnytimeTest(grid, 0.05, selected=0, selection=np.array(selection))
    paths, tests = every_path(test, chunks)
    evidence = np.exp([each.log_evidence() for each in tests])
    for place, t in enumerate(grid):
        points = [*top_probabilities(t), np.array([0.3, 0.3, 0.4]), np.array([0.1, 0.8, 0.1])]
        for p in points:
            assert probabilities(paths, p) @ evidence[:, place] <= 1 + 1e-9


def test_evidence_grows_where_the_hypothesis_is_false():
    """Else the bound above would hold for a test that never bets."""
    test = AnytimeTest([0.0, 0.4], 0.05, selected=0, selection=np.array([30, 4, 2]))
    paths, tests = every_path(test, [12])
    evidence = np.exp([each.log_evidence() for each in tests])
    assert np.all(probabilities(paths, np.array([0.9, 0.06, 0.04])) @ evidence > 2)


def test_evidence_is_the_mean_of_two_estimates_that_are_projected():
    """The formula of the theory for one vote, two classes: pseudo-counts .5 and .05."""
    seen, t = np.array([20, 3]), 0.3
    for vote in (0, 1):
        test = AnytimeTest([t], 0.05, selected=0, selection=seen)
        test.update(np.eye(2, dtype=int)[vote])
        factors = []
        for pseudo in (0.5, 0.05):
            q = (np.array([20, 3, 0]) + pseudo) / (23 + 3 * pseudo)
            s = -np.geomspace(1e-6, 6, 200_001)
            a, b = ndtr(t + s), ndtr(s - t)
            logs = np.log(np.stack([a, b, 1 - a - b]))
            factors.append(q[vote] / np.exp(logs[vote, np.argmax(q @ logs)]))
        assert np.exp(test.log_evidence()[0]) == pytest.approx(np.mean(factors), rel=1e-3)


def test_estimates_see_earlier_votes_only():
    """The first chunk meets an estimate that is none: nothing is bet whatever it holds."""
    test = AnytimeTest([0.0, 0.5], 0.05, selected=0, selection=np.zeros(3, dtype=int))
    test.update(np.array([50, 0, 0]))
    assert test.log_evidence() == pytest.approx(0, abs=1e-12)
    test.update(np.array([50, 0, 0]))
    assert np.all(test.log_evidence() > 1)


# The error.


def check_exact_error(alpha: float, chunks: list[int]) -> None:
    grid = [0.0, 0.3, 0.8]
    paths, tests = every_path(AnytimeTest(grid, alpha, 0, np.zeros(3, dtype=int)), chunks)
    reached = np.array([test.reached for test in tests])
    worst = 0.0
    for place, t in enumerate(grid):
        for p in top_probabilities(t):
            # A radius stays certified, so the end tells whether it ever was.
            worst = max(worst, probabilities(paths, p)[reached > place].sum())
    assert 0.1 * alpha < worst <= alpha


def test_error_at_any_time_is_at_most_alpha_by_exact_enumeration():
    check_exact_error(0.2, [3, 4, 6])


@pytest.mark.slow
@pytest.mark.parametrize("alpha", [0.05, 0.3])
def test_error_is_at_most_alpha_over_every_path_of_four_chunks(alpha):
    check_exact_error(alpha, [3, 4, 4, 5])


def test_error_stays_below_alpha_over_long_runs():
    """A simulation, seeded: 600 runs of 600 votes, R/σ = .4 with tied runners-up, alpha = .1.

    The standard error of a frequency of alpha is .0122; three of them are allowed for.
    """
    alpha, t, runs = 0.1, 0.4, 600
    rng = np.random.default_rng(3)
    p = top_probabilities(t)[-1]
    chunks = [10, 20, 40, 80, 150, 300]
    wrong = 0
    for _ in range(runs):
        test = AnytimeTest([t], alpha, 0, np.zeros(3, dtype=int))
        for size in chunks:
            test.update(rng.multinomial(size, p))
        wrong += test.reached
    assert wrong / runs <= alpha + 3 * np.sqrt(alpha * (1 - alpha) / runs)


# Classes that share their evidence.


def test_classes_without_votes_count_as_if_each_was_treated_alone():
    """The evidence is the smallest over pairs of A and one other class, the rest taken together."""
    rng = np.random.default_rng(4)
    grid, classes, selected = [0.0, 0.3, 1.0], 7, 2
    p = np.array([0.05, 0.0, 0.8, 0.1, 0.0, 0.05, 0.0])
    selection = rng.multinomial(20, p)
    chunks = [rng.multinomial(size, p) for size in (5, 1, 20, 40, 60)]
    # A late vote takes a class out of those that share.
    chunks[3][1] += 1
    test = AnytimeTest(grid, 0.05, selected, selection)
    for votes in chunks:
        test.update(votes)
    evidence = []
    for other in set(range(classes)) - {selected}:

        def three(votes: np.ndarray, other: int = other) -> np.ndarray:
            return np.array(
                [votes[selected], votes[other], votes.sum() - votes[selected] - votes[other]]
            )

        # The pair's own evidence against R_c: C's count is made to look hopeless for the minimum.
        factor = np.zeros((2, len(grid)))
        seen = three(selection).astype(float)
        for votes in chunks:
            new = three(votes)
            for k, pseudo in enumerate((0.5, 0.05)):
                q = (seen + pseudo) / (seen.sum() + 3 * pseudo)
                for g, t in enumerate(grid):
                    if ndtri(q[0]) - ndtri(q[1]) > 2 * t:
                        point = likeliest_on_boundary(q[0], q[1], t)
                        logs = np.array([point.log_a, point.log_b, point.log_none])
                        factor[k, g] += new @ (np.log(q) - logs)
            seen += new
        evidence.append(np.log(np.exp(factor).mean(0)))
    assert test.log_evidence() == pytest.approx(np.min(evidence, axis=0), abs=1e-7)


@settings(max_examples=30)
@given(st.permutations(range(6)), st.integers(0, 1000))
def test_relabelled_classes_give_the_same_evidence(order, seed):
    rng = np.random.default_rng(seed)
    p = rng.dirichlet([4, 0.5, 0.3, 0.1, 0.1, 0.1])
    order = np.array(order)
    selection = rng.multinomial(10, p)
    test = AnytimeTest([0.0, 0.5], 0.05, 0, selection)
    relabelled = AnytimeTest([0.0, 0.5], 0.05, int(np.argmax(order == 0)), selection[order])
    for size in (1, 5, 20, 40):
        votes = rng.multinomial(size, p)
        test.update(votes)
        relabelled.update(votes[order])
    assert relabelled.log_evidence() == pytest.approx(test.log_evidence(), abs=1e-9)
    assert relabelled.reached == test.reached


def test_classes_that_nobody_votes_for_change_nothing():
    few = AnytimeTest([0.0, 0.5], 0.05, 0, np.array([10, 2, 0]))
    many = AnytimeTest([0.0, 0.5], 0.05, 0, np.r_[[10, 2], np.zeros(998, dtype=int)])
    for votes in ([20, 1], [40, 3], [100, 6]):
        few.update(np.array([*votes, 0]))
        many.update(np.r_[votes, np.zeros(998, dtype=int)])
    assert many.log_evidence() == pytest.approx(few.log_evidence(), abs=1e-12)


# Certificates.


def test_what_is_certified_stays_certified():
    test = AnytimeTest([0.0, 0.5, 1.0], 0.05, 0, np.array([9, 1, 0]))
    for _ in range(20):
        test.update(np.array([9, 1, 0]))
    reached = test.reached
    assert reached >= 2
    for _ in range(30):
        test.update(np.array([0, 9, 1]))
    assert test.reached == reached
    assert test.log_evidence()[0] < 0


def test_radii_are_certified_in_order_once_their_evidence_has_reached_1_over_alpha():
    test = AnytimeTest([0.0, 0.4, 0.8, 1.5], 0.01, 0, np.array([9, 1, 0]))
    highest = np.full(4, -np.inf)
    for _ in range(60):
        test.update(np.array([9, 0, 1]))
        highest = np.maximum(highest, test.log_evidence())
        passed = highest >= np.log(100)
        assert test.reached == int(np.argmin([*passed, False]))
    assert 1 <= test.reached < 4


@pytest.mark.parametrize(
    ("grid", "alpha", "message"),
    [
        ([0.5, 0.5], 0.05, "increasing radii"),
        ([-0.1, 0.5], 0.05, "increasing radii"),
        ([[0.0]], 0.05, "increasing radii"),
        ([0.0], 0.0, "alpha"),
        ([0.0], 1.0, "alpha"),
    ],
)
def test_arguments_out_of_range_are_named(grid, alpha, message):
    with pytest.raises(InvalidArgumentError, match=message):
        AnytimeTest(grid, alpha, 0, np.zeros(3))
