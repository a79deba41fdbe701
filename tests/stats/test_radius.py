"""Certified radii: published formulas, exact coverage, and laws."""

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import gammaln
from scipy.stats import beta, norm

from smoothcert.errors import InvalidArgumentError
from smoothcert.stats import (
    certified_radius,
    joint_lower_bound,
    largest_radius,
    probability_bounds,
    split_from_selection,
)

ALPHAS = st.sampled_from([1e-9, 1e-3, 0.05])


@st.composite
def counts(draw, largest=10**5):
    n = draw(st.integers(2, largest))
    n_a = draw(st.integers(0, n))
    return n_a, draw(st.integers(0, n - n_a)), n


def true_radius(p_a: float, p_b: float) -> float:
    return max(0.0, (norm.ppf(p_a) - norm.ppf(p_b)) / 2)


def trinomial(n: int, p_a: float, p_b: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All outcomes (x, y) of n draws over A, B and the rest, with their probabilities."""
    x, y = np.meshgrid(np.arange(n + 1), np.arange(n + 1), indexing="ij")
    keep = x + y <= n
    x, y = x[keep], y[keep]
    rest, p_rest = n - x - y, 1 - p_a - p_b
    with np.errstate(divide="ignore", invalid="ignore"):
        last = np.where(rest > 0, rest * np.log(p_rest) if p_rest > 1e-12 else -np.inf, 0.0)
    logs = gammaln(n + 1) - gammaln(x + 1) - gammaln(y + 1) - gammaln(rest + 1)
    logs += x * np.log(p_a) + y * np.log(p_b) + last
    return x, y, np.exp(logs)


@given(counts(), ALPHAS)
def test_cohen_is_sigma_times_the_probit_of_the_lower_bound(votes, alpha):
    n_a, n_b, n = votes
    lower = beta.ppf(alpha, n_a, n - n_a + 1) if n_a else 0.0
    expected = max(0.0, 0.5 * norm.ppf(lower))
    got = certified_radius(n_a, n_b, n, 0.5, alpha, "cohen")
    assert got == pytest.approx(expected, rel=1e-5, abs=1e-8)
    if np.isfinite(expected) and lower < 0.9999:
        assert got <= expected * (1 + 1e-12)


@given(counts(), ALPHAS, st.floats(0.01, 0.99))
def test_rectangle_is_the_formula_of_the_paper(votes, alpha, split):
    n_a, n_b, n = votes
    p_a = beta.ppf(split * alpha, n_a, n - n_a + 1) if n_a else 0.0
    p_b = beta.isf((1 - split) * alpha, n_b + 1, n - n_b) if n_b < n else 1.0
    p_b = min(p_b, 1 - p_a)
    expected = max(0.0, 0.25 * (norm.ppf(p_a) - norm.ppf(p_b)))
    got = certified_radius(n_a, n_b, n, 0.5, alpha, "rectangle", split)
    assert got == pytest.approx(expected, rel=1e-4, abs=1e-7)


PROBABILITIES = [
    (0.6, 0.2),
    (0.5, 0.4),
    (0.5, 0.5),
    (0.4, 0.4),
    (0.35, 0.33),
    (0.7, 0.3),
    (0.9, 0.1),
    (0.9, 0.05),
    (0.98, 0.01),
    (0.3, 0.25),
    (0.999, 0.001),
]


@pytest.mark.parametrize("alpha", [0.001, 0.05])
@pytest.mark.parametrize("bound", ["cohen", "rectangle"])
@pytest.mark.parametrize(("p_a", "p_b"), PROBABILITIES)
def test_error_is_at_most_alpha_by_exact_enumeration(p_a, p_b, bound, alpha):
    """Over every outcome of 150 draws; B is the true runner-up, other classes share the rest."""
    x, y, probability = trinomial(150, p_a, p_b)
    # The largest other count is B's or more; B's alone is the worst case.
    claimed = certified_radius(x, y, 150, 1.0, alpha, bound)
    # Both a radius too large and a claim where A is not the top class are errors.
    wrong = claimed > true_radius(p_a, p_b)
    assert probability.sum() == pytest.approx(1, abs=1e-9)
    assert probability[wrong].sum() <= alpha


@pytest.mark.parametrize("split", [0.05, 0.3, 0.7, 0.95, 1.0])
@pytest.mark.parametrize(("p_a", "p_b"), PROBABILITIES)
def test_every_fixed_split_has_an_error_of_at_most_alpha(p_a, p_b, split):
    x, y, probability = trinomial(100, p_a, p_b)
    wrong = certified_radius(x, y, 100, 1.0, 0.05, "rectangle", split) > true_radius(p_a, p_b)
    assert probability[wrong].sum() <= 0.05


@cache
def joint_of_40(n_a: int, n_b: int) -> float:
    return float(certified_radius(n_a, n_b, 40, 1.0, 0.05))


@pytest.mark.parametrize(("p_a", "p_b"), [(0.4, 0.35), (0.6, 0.2), (0.8, 0.1), (0.45, 0.45)])
def test_largest_count_of_two_tied_runners_up_needs_no_correction(p_a, p_b):
    """Four classes: A, two tied competitors and the rest, every outcome of 40 draws."""
    n, p = 40, np.array([p_a, (1 - p_a) / 2 if p_a + 2 * p_b > 1 else p_b])
    x, total, outer = trinomial(n, p[0], min(2 * p[1], 1 - p[0]))
    error = 0.0
    for n_a, others, probability in zip(x, total, outer, strict=True):
        first = np.arange(others + 1)
        split = np.exp(
            gammaln(others + 1) - gammaln(first + 1) - gammaln(others - first + 1)
        ) * 0.5 ** float(others)
        largest = np.maximum(first, others - first)
        claimed = np.array([joint_of_40(int(n_a), int(m)) for m in largest])
        error += probability * split[claimed > true_radius(*p)].sum()
    assert error <= 0.05


def test_split_chosen_on_selection_samples_covers_by_exact_enumeration():
    """Over every outcome of 20 selection and 60 estimation draws."""
    p_a, p_b = 0.55, 0.3
    x0, y0, weight = trinomial(20, p_a, p_b)
    x, y, probability = trinomial(60, p_a, p_b)
    error = 0.0
    for split in np.unique(splits := split_from_selection(x0, y0, 20, 60, 0.05)):
        wrong = certified_radius(x, y, 60, 1.0, 0.05, "rectangle", split) > true_radius(p_a, p_b)
        error += weight[splits == split].sum() * probability[wrong].sum()
    assert error <= 0.05


@given(counts(), ALPHAS)
def test_paper_split_is_never_below_the_half_split(votes, alpha):
    n_a, n_b, n = votes
    paper = certified_radius(n_a, n_b, n, 1.0, alpha, "paper")
    assert paper >= certified_radius(n_a, n_b, n, 1.0, alpha, "rectangle", 0.5)


@pytest.mark.parametrize("bound", ["cohen", "rectangle", "paper"])
@given(votes=counts(largest=2000), alpha=ALPHAS)
def test_radius_grows_with_the_top_count_and_falls_with_the_other_and_with_strictness(
    bound, votes, alpha
):
    n_a, n_b, n = votes
    radius = certified_radius(n_a, n_b, n, 1.0, alpha, bound)
    if n_a + n_b < n:
        assert certified_radius(n_a + 1, n_b, n, 1.0, alpha, bound) >= radius
        assert certified_radius(n_a, n_b + 1, n, 1.0, alpha, bound) <= radius
    assert certified_radius(n_a, n_b, n, 1.0, alpha / 10, bound) <= radius


@given(counts(), ALPHAS, st.floats(0.01, 10))
def test_radius_scales_with_sigma(votes, alpha, sigma):
    one, scaled = (certified_radius(*votes, s, alpha) for s in (1.0, sigma))
    assert scaled == pytest.approx(sigma * one, rel=1e-12)


@given(counts(), ALPHAS)
def test_bounds_on_two_classes_never_add_up_to_more_than_one(votes, alpha):
    bounds = probability_bounds(*votes, alpha)
    assert bounds.p_a_lower + bounds.p_b_upper <= 1 + 1e-12


@pytest.mark.parametrize("n", [3, 10, 1000, 100_000])
def test_largest_radius_is_that_of_unanimous_votes(n):
    expected = certified_radius(n, 0, n, 0.25, 0.001, "cohen")
    assert largest_radius(n, 0.25, 0.001) == pytest.approx(expected, abs=1e-9)


@given(counts(), ALPHAS, st.sampled_from(["joint", "rectangle", "cohen"]))
def test_no_radius_exceeds_that_of_unanimous_votes(votes, alpha, bound):
    n_a, n_b, n = votes
    assert certified_radius(n_a, n_b, n, 0.25, alpha, bound) <= largest_radius(n, 0.25, alpha)


@settings(max_examples=50)
@given(counts(), ALPHAS)
def test_joint_is_the_joint_bound_times_sigma_and_never_negative(votes, alpha):
    expected = max(0.0, 0.5 * float(joint_lower_bound(*votes, alpha)))
    assert certified_radius(*votes, 0.5, alpha) == expected
    assert certified_radius(*votes, 0.5, alpha, "joint") == expected


@settings(max_examples=50)
@given(counts(), ALPHAS)
def test_joint_is_never_above_the_radius_of_the_frequencies(votes, alpha):
    n_a, n_b, n = votes
    estimate = max(0.0, (norm.ppf(n_a / n) - norm.ppf(n_b / n)) / 2) if n_a else 0.0
    assert certified_radius(n_a, n_b, n, 1.0, alpha) <= estimate


@pytest.mark.parametrize(("p_a", "p_b"), PROBABILITIES)
def test_joint_error_is_at_most_alpha_by_exact_enumeration(p_a, p_b):
    """As above, over every outcome of 40 draws."""
    x, y, probability = trinomial(40, p_a, p_b)
    claimed = np.array([joint_of_40(int(n_a), int(n_b)) for n_a, n_b in zip(x, y, strict=True)])
    assert probability[claimed > true_radius(p_a, p_b)].sum() <= 0.05


@pytest.mark.parametrize(("n_a", "n_b", "n"), [(0, 0, 1), (1, 0, 1), (0, 1, 1), (5, 5, 10)])
@pytest.mark.parametrize("bound", ["joint", "rectangle", "cohen", "paper"])
def test_few_or_tied_votes_certify_nothing(n_a, n_b, n, bound):
    assert certified_radius(n_a, n_b, n, 0.5, 0.001, bound) == 0


def test_arrays_of_images_give_what_single_images_give():
    n_a, n_b = np.array([900, 500, 10]), np.array([50, 400, 900])
    whole = certified_radius(n_a, n_b, 1000, 0.5, 0.001)
    single = [certified_radius(a, b, 1000, 0.5, 0.001) for a, b in zip(n_a, n_b, strict=True)]
    assert whole.tolist() == [float(radius) for radius in single]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sigma": 0.0}, r"Expected `sigma` > 0 and finite, got 0\.0"),
        ({"alpha": 1.5}, r"Expected `alpha` in \(0, 1\), got 1\.5"),
        ({"alpha": 0.0}, r"Expected `alpha` in \(0, 1\), got 0\.0"),
        ({"n_a": 800, "n_b": 300}, "n_a=800, n_b=300, n=1000"),
        ({"n_b": -1}, "n_b=-1"),
        ({"n": 0}, "Expected `n` >= 1, got 0"),
        ({"bound": "best"}, "Expected `bound` one of joint, cohen, rectangle, paper, got 'best'"),
        ({"split": 0.0}, r"Expected `split` in \(0, 1\], got 0\.0"),
    ],
)
def test_arguments_out_of_range_are_named(arguments, message):
    valid = {"n_a": 900, "n_b": 50, "n": 1000, "sigma": 0.5, "alpha": 0.001}
    with pytest.raises(InvalidArgumentError, match=message):
        certified_radius(**{**valid, **arguments})


def test_counts_of_small_integer_types_do_not_overflow():
    with pytest.raises(InvalidArgumentError, match="n_a=200, n_b=100, n=250"):
        certified_radius(np.uint8([200]), np.uint8([100]), 250, 0.25, 0.001)
    small = certified_radius(np.uint8([200]), np.uint8([40]), np.uint8(250), 0.25, 0.001)
    assert small == certified_radius(200, 40, 250, 0.25, 0.001)


@pytest.mark.parametrize("counts", [(9500.5, 300, 10_000), (float("nan"), 300, 10_000)])
def test_counts_that_are_not_whole_are_refused(counts):
    with pytest.raises(InvalidArgumentError, match="whole numbers of votes"):
        certified_radius(*counts, 0.25, 0.001)


def test_whole_floats_are_counts():
    assert certified_radius(9500.0, 300, 1e4, 0.25, 0.001) == certified_radius(
        9500, 300, 10_000, 0.25, 0.001
    )
