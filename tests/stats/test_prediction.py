"""Prediction by bets: exact error over every path of votes, and laws."""

from copy import deepcopy
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smoothcert.errors import InvalidArgumentError
from smoothcert.stats import ModeTest, prediction_sizes
from smoothcert.types import ABSTAIN

# The error.


def every_path(
    classes: int, alpha: float, chunks: list[int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What every sequence of votes leads to; equal situations are merged.

    Returns:
        votes of the whole path, shape (K, classes); which classes were ever the answer, shape
        (K, classes); and in how many ways a path of votes gets there.
    """
    situations = {}

    def add(test: ModeTest, ever: frozenset, ways: int, into: dict) -> None:
        key = (
            tuple(test._seen),
            tuple(test._log_evidence.round(9)),
            tuple(test._highest.round(9)),
            ever,
        )
        before = into.get(key)
        into[key] = (test, ever, ways + (before[2] if before else 0))

    add(ModeTest(classes, alpha), frozenset(), 1, situations)
    for size in chunks:
        after: dict = {}
        for test, ever, ways in situations.values():
            sequences: dict[tuple, int] = {}
            for sequence in product(range(classes), repeat=size):
                votes = tuple(np.bincount(sequence, minlength=classes))
                sequences[votes] = sequences.get(votes, 0) + 1
            for votes, count in sequences.items():
                child = deepcopy(test)
                child.update(np.array(votes))
                answers = ever if child.answer == ABSTAIN else ever | {child.answer}
                add(child, answers, ways * count, after)
        situations = after
    votes = np.array([test._seen for test, _, _ in situations.values()])
    ever = np.array([[c in each for c in range(classes)] for _, each, _ in situations.values()])
    return votes, ever, np.array([ways for _, _, ways in situations.values()], dtype=float)


def check_error(classes: int, alpha: float, chunks: list[int], truths: list[tuple]) -> None:
    """An answer that is no mode at any time is an error; of tied classes each is right."""
    votes, ever, ways = every_path(classes, alpha, chunks)
    worst = 0.0
    for p in map(np.array, truths):
        weight = ways * np.prod(np.power(p, votes), axis=1)
        assert weight.sum() == pytest.approx(1, abs=1e-9)
        wrong = ever[:, p < p.max() - 1e-12].any(axis=1)
        worst = max(worst, weight[wrong].sum())
    # A test that never answers would pass as well.
    assert 0.02 * alpha < worst <= alpha


TWO = [(0.5001, 0.4999), (0.4999, 0.5001), (0.55, 0.45), (0.3, 0.7), (0.5, 0.5), (1.0, 0.0)]
THREE = [
    (0.3334, 0.3333, 0.3333),
    (0.3333, 0.3333, 0.3334),
    (1 / 3, 1 / 3, 1 / 3),
    (0.4, 0.4, 0.2),
    (0.45, 0.45, 0.1),
    (0.2, 0.4, 0.4),
    (0.5, 0.49, 0.01),
    (0.49, 0.5, 0.01),
    (0.4, 0.35, 0.25),
    (0.8, 0.1, 0.1),
    (0.5, 0.5, 0.0),
]


@pytest.mark.parametrize("alpha", [0.1, 0.25])
def test_wrong_answer_between_two_classes_is_at_most_alpha(alpha):
    check_error(2, alpha, [1] * 13, TWO)


def test_wrong_answer_among_three_classes_is_at_most_alpha():
    check_error(3, 0.25, [1] * 8, THREE)


@pytest.mark.parametrize(
    ("classes", "chunks", "truths"), [(2, [1, 1, 2, 2, 3, 4], TWO), (3, [1, 1, 2, 2, 3], THREE)]
)
def test_votes_that_come_together_keep_the_error_below_alpha(classes, chunks, truths):
    check_error(classes, 0.3, chunks, truths)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("classes", "alpha", "chunks", "truths"),
    [(2, 0.05, [1] * 17, TWO), (3, 0.1, [1] * 10, THREE), (3, 0.05, [2, 2, 3, 3, 3], THREE)],
)
def test_wrong_answer_is_at_most_alpha_over_longer_paths(classes, alpha, chunks, truths):
    check_error(classes, alpha, chunks, truths)


@pytest.mark.parametrize("p", [(0.5, 0.5), (1 / 3, 1 / 3, 1 / 3)])
def test_no_tied_class_is_favoured_wrongly(p):
    """In a tie even the evidence against any one of the modes stays a fair game."""
    classes = len(p)
    votes, ever, ways = every_path(classes, 0.25, [1] * (10 if classes == 2 else 7))
    weight = ways * np.prod(np.power(np.array(p), votes), axis=1)
    for c in range(classes):
        others = [k for k in range(classes) if k != c]
        # With c called the truth, any other answer would be wrong.
        assert weight[ever[:, others].any(axis=1)].sum() <= 0.25


def test_evidence_against_a_mode_is_a_fair_game_or_worse():
    """E[evidence] over every path, for each class that is a mode."""
    for p in map(np.array, [(0.5, 0.3, 0.2), (0.4, 0.4, 0.2), (1 / 3, 1 / 3, 1 / 3)]):
        mean, paths = np.zeros(3), [(ModeTest(3, 0.05), 1.0)]
        for size in (1, 1, 1, 2, 1):
            after = []
            for test, weight in paths:
                for sequence in product(range(3), repeat=size):
                    child = deepcopy(test)
                    child.update(np.bincount(sequence, minlength=3))
                    after.append((child, weight * np.prod(p[list(sequence)])))
            paths = after
        for test, weight in paths:
            mean += weight * np.exp(test._log_evidence)
        assert np.all(mean[p == p.max()] <= 1 + 1e-12)
        # The bets do win against a class that is behind.
        assert np.all(mean[p < p.max()] > 1)


# Laws.


@settings(max_examples=50)
@given(st.permutations(range(5)), st.integers(0, 1000))
def test_relabelled_classes_give_the_relabelled_answer(order, seed):
    """But for ties: of classes with equal counts the first leads."""
    rng = np.random.default_rng(seed)
    p = rng.dirichlet([5, 3, 1, 1, 0.5])
    order = np.array(order)
    test, relabelled = ModeTest(5, 0.01), ModeTest(5, 0.01)
    # Distinct counts from the beginning on: none but one class leads.
    first = np.array([6, 4, 3, 2, 1])
    for votes in [first, *(rng.multinomial(3, p) for _ in range(60))]:
        seen = np.sort(test._seen)
        if seen[-1] == seen[-2] and seen[-1] > 0:
            break
        test.update(votes)
        relabelled.update(votes[order])
        expected = test.answer
        got = relabelled.answer
        assert (order[got] if got != ABSTAIN else ABSTAIN) == expected


def votes_until_answered(winner: int, alpha: float) -> int:
    test, needed = ModeTest(10, alpha), 0
    while test.answer == ABSTAIN:
        test.update(np.eye(10, dtype=int)[winner])
        needed += 1
    assert test.answer == winner
    return needed


@pytest.mark.parametrize("winner", [0, 1, 9])
@pytest.mark.parametrize("alpha", [0.05, 0.001, 1e-6])
def test_unanimous_votes_are_soon_answered(winner, alpha):
    """Each vote but the first doubles the evidence at most; ½·log₂(πn) factors of 2 are lost."""
    needed = votes_until_answered(winner, alpha)
    assert np.log2(1 / alpha) + 1 <= needed
    assert needed <= np.log2(1 / alpha) + np.log2(np.pi * needed) / 2 + 1


def test_unanimous_votes_at_one_in_a_thousand_take_no_more_than_the_published_median():
    """The theory's measured median over images, most of which are nearly unanimous, is 13."""
    assert votes_until_answered(3, 0.001) <= 13


def test_unanimous_votes_follow_the_bets_of_the_theory():
    """θ = (n + ½)/(n + 1) after n votes, the first one bets nothing."""
    test, log_evidence = ModeTest(2, 0.001), 0.0
    for seen in range(40):
        assert (test.answer == 0) == (log_evidence >= np.log(1000))
        test.update(np.array([1, 0]))
        log_evidence += np.log(2 * max(0.5, (seen + 0.5) / (seen + 1)))
    assert test.answer == 0


def test_close_classes_leave_the_answer_open():
    test = ModeTest(3, 0.001)
    for _ in range(200):
        test.update(np.array([3, 3, 1]))
    assert test.answer == ABSTAIN


def test_third_class_is_told_from_two_that_are_close():
    """The evidence against each other class must suffice, not only against the last."""
    test = ModeTest(3, 0.001)
    for _ in range(50):
        test.update(np.array([5, 4, 0]))
        if test.answer != ABSTAIN:
            break
        assert test._seen[0] - test._seen[1] < 200
    assert test.answer in (0, ABSTAIN)


@settings(max_examples=30)
@given(st.integers(2, 6), st.integers(0, 10**6))
def test_answer_is_a_class_or_open_and_an_early_one_persists_while_it_leads(classes, seed):
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.ones(classes))
    test = ModeTest(classes, 0.01)
    answered = ABSTAIN
    for _ in range(100):
        test.update(rng.multinomial(4, p))
        assert test.answer == ABSTAIN or 0 <= test.answer < classes
        if answered != ABSTAIN and np.argmax(test._seen) == answered:
            assert test.answer == answered
        answered = test.answer


@pytest.mark.parametrize(
    ("arguments", "name"), [((1, 0.1), "num_classes"), ((3, 0.0), "alpha"), ((3, 1.0), "alpha")]
)
def test_arguments_out_of_range_are_named(arguments, name):
    with pytest.raises(InvalidArgumentError, match=f"`{name}`"):
        ModeTest(*arguments)


# When to look.


@given(st.integers(1, 10**6))
def test_sizes_go_from_1_to_n_each_at_most_an_eighth_above_the_one_before(n):
    sizes = np.array(prediction_sizes(n))
    assert sizes[0] == 1
    assert sizes[-1] == n
    steps = np.diff(sizes)
    assert np.all(steps >= 1)
    assert np.all(steps <= np.maximum(1, sizes[:-1] // 8))
    # No more looks than the growth asks for.
    assert np.all(steps[:-1] == np.maximum(1, sizes[:-2] // 8))


@pytest.mark.parametrize(("n", "sizes"), [(1, [1]), (2, [1, 2]), (17, [*range(1, 17), 17])])
def test_few_samples_are_looked_at_one_by_one(n, sizes):
    assert prediction_sizes(n) == sizes


def test_looks_are_few():
    """Some sixteen single ones, then ln(100,000 / 16) / ln(9/8) = 74, and what rounding adds."""
    assert len(prediction_sizes(100_000)) < 16 + 74 + 12


def test_no_samples_are_refused():
    with pytest.raises(InvalidArgumentError, match="`n`"):
        prediction_sizes(0)
