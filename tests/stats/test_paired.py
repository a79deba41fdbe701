"""Intervals of paired differences: SciPy, the published formula, and exact coverage."""

import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multinomial, ttest_rel

from smoothcert.errors import InvalidArgumentError
from smoothcert.stats import Difference, difference_of_means, difference_of_shares

LEVELS = st.sampled_from([0.5, 0.9, 0.95, 0.99])
CELLS = st.tuples(*[st.integers(0, 40)] * 4).filter(any)
GAINS = st.lists(
    st.tuples(st.floats(0, 4, width=32), st.floats(0, 4, width=32)), min_size=2, max_size=30
)


def classifiers(both, first_only, second_only, neither):
    """Return which images count for two classifiers, from the four cells of their table."""
    first = [True] * both + [True] * first_only + [False] * (second_only + neither)
    second = [True] * both + [False] * first_only + [True] * second_only + [False] * neither
    return first, second


def agresti_min(both, first_only, second_only, neither, level):
    """Wald's interval of the table after half an image is added to each of its cells."""
    table = np.array([[both, first_only], [second_only, neither]]) + 0.5
    share = table / table.sum()
    gain = share[:, 0].sum() - share[0].sum()
    variance = (share[0, 1] + share[1, 0] - (share[0, 1] - share[1, 0]) ** 2) / table.sum()
    z = NormalDist().inv_cdf(0.5 + level / 2)
    return max(-1.0, gain - z * math.sqrt(variance)), min(1.0, gain + z * math.sqrt(variance))


def ends(difference):
    return difference.lower, difference.upper


def mirrored(difference):
    return pytest.approx((-difference.value, -difference.upper, -difference.lower), abs=1e-12)


def figures(difference):
    return difference.value, difference.lower, difference.upper


@given(CELLS, LEVELS)
@settings(max_examples=60)
def test_the_interval_of_shares_is_walds_after_half_an_image_more_in_each_cell(cells, level):
    gain = difference_of_shares(*classifiers(*cells), level)
    assert gain.value == pytest.approx((cells[2] - cells[1]) / sum(cells))
    assert ends(gain) == pytest.approx(agresti_min(*cells, level), abs=1e-12)


def test_only_images_on_which_the_two_differ_decide_of_many():
    """Ten thousand images, against the plain interval of Wald: McNemar's table."""
    first_only, second_only, images = 60, 110, 10_000
    gain = difference_of_shares(*classifiers(4000, first_only, second_only, 5830))
    moves = np.repeat([1.0, -1.0, 0.0], [second_only, first_only, images - 170])
    reach = 1.959964 * moves.std() / math.sqrt(images)
    assert ends(gain) == pytest.approx((0.005 - reach, 0.005 + reach), abs=2e-5)
    assert gain.is_clear


@pytest.mark.parametrize("images", [30, 60, 100])
def test_the_interval_of_shares_covers_the_truth_in_95_of_100_samples(images):
    """Every outcome of the two cells that differ, weighed by its probability."""
    outcomes = [(g, lost) for g in range(images + 1) for lost in range(images + 1 - g)]
    intervals = np.array(
        [ends(difference_of_shares(*classifiers(0, lo, g, images - g - lo))) for g, lo in outcomes]
    )
    counts = np.array([(g, lost, images - g - lost) for g, lost in outcomes])
    coverages = []
    for gained, lost in [
        (0.02, 0.02), (0.05, 0.02), (0.1, 0.1), (0.15, 0.05), (0.2, 0.1), (0.3, 0.3), (0.4, 0.1),
        (0.5, 0.02), (0.02, 0.5),
    ]:  # fmt: skip
        weights = multinomial(images, [gained, lost, 1 - gained - lost]).pmf(counts)
        truth = gained - lost
        covered = (intervals[:, 0] <= truth) & (truth <= intervals[:, 1])
        assert weights.sum() == pytest.approx(1)
        coverages.append(weights[covered].sum())
    assert min(coverages) >= 0.93
    # An interval that is far too wide covers as well; with many that differ, this one is not.
    assert coverages[5] <= 0.965


@given(CELLS, LEVELS)
@settings(max_examples=40)
def test_swapping_the_classifiers_or_counting_failures_turns_the_sign(cells, level):
    first, second = classifiers(*cells)
    gain = difference_of_shares(first, second, level)
    assert figures(difference_of_shares(second, first, level)) == mirrored(gain)
    assert figures(difference_of_shares(~np.array(first), ~np.array(second), level)) == mirrored(
        gain
    )


@given(CELLS, st.sampled_from([0.9, 0.95, 0.99]))
@settings(max_examples=60)
def test_the_interval_of_shares_holds_the_difference_and_is_never_empty(cells, level):
    gain = difference_of_shares(*classifiers(*cells), level)
    assert -1 <= gain.lower <= gain.value <= gain.upper <= 1
    assert gain.lower < gain.upper


@pytest.mark.parametrize(("both", "neither"), [(500, 0), (0, 500), (200, 300)])
def test_two_classifiers_that_agree_are_not_told_apart(both, neither):
    gain = difference_of_shares(*classifiers(both, 0, 0, neither))
    assert gain.value == 0
    assert gain.lower == pytest.approx(-gain.upper)
    assert gain.upper > 0
    assert not gain.is_clear


@given(CELLS, GAINS)
@settings(max_examples=30)
def test_more_confidence_is_a_wider_interval_around_the_same_difference(cells, pairs):
    one, other = np.array(pairs).T
    for narrow, wide in [
        [difference_of_shares(*classifiers(*cells), level) for level in (0.9, 0.99)],
        [difference_of_means(one, other, level) for level in (0.9, 0.99)],
    ]:
        assert narrow.value == wide.value
        assert wide.lower <= narrow.lower <= narrow.upper <= wide.upper


@given(GAINS.filter(lambda pairs: len({b - a for a, b in pairs}) > 1), LEVELS)
@settings(max_examples=60)
def test_the_interval_of_means_is_scipys(pairs, level):
    first, second = np.array(pairs).T
    expected = ttest_rel(second, first).confidence_interval(level)
    gain = difference_of_means(first, second, level)
    assert gain.value == pytest.approx(np.mean(second) - np.mean(first), abs=1e-9)
    assert ends(gain) == pytest.approx((expected.low, expected.high), rel=1e-9, abs=1e-9)


@given(GAINS, LEVELS)
@settings(max_examples=30)
def test_swapping_the_classifiers_turns_the_sign_of_means(pairs, level):
    first, second = np.array(pairs).T
    gain = difference_of_means(first, second, level)
    assert figures(difference_of_means(second, first, level)) == mirrored(gain)


@given(GAINS, st.randoms(use_true_random=False))
@settings(max_examples=30)
def test_the_order_of_the_images_makes_no_difference_as_long_as_both_share_it(pairs, random):
    moved = random.sample(pairs, len(pairs))
    means, shares = (
        [compute(*np.array(each).T) for each in (pairs, moved)]
        for compute in (difference_of_means, lambda a, b: difference_of_shares(a > 1, b > 1))
    )
    assert figures(means[0]) == pytest.approx(figures(means[1]), abs=1e-9)
    assert shares[0] == shares[1]


def test_pairing_by_image_finds_what_the_spread_of_images_hides():
    radii = np.linspace(0, 3, 50)
    gain = difference_of_means(radii, radii + np.where(np.arange(50) % 2, 0.02, 0.01))
    assert gain.is_clear
    assert gain.value == pytest.approx(0.015)
    assert gain.upper - gain.lower < 0.01
    assert not difference_of_means(radii, radii[::-1] + 0.015).is_clear


def test_images_that_all_gain_the_same_leave_no_doubt():
    assert figures(difference_of_means([0.0, 1.0, 2.0], [0.5, 1.5, 2.5])) == (0.5, 0.5, 0.5)
    assert not difference_of_means([0.25] * 3, [0.25] * 3).is_clear


@pytest.mark.parametrize(
    ("lower", "upper", "clear"),
    [(0.01, 0.3, True), (-0.3, -0.01, True), (-0.1, 0.1, False), (0.0, 0.1, False), (-1, 0, False)],
)
def test_a_difference_is_clear_where_0_lies_outside(lower, upper, clear):
    assert Difference((lower + upper) / 2, lower, upper).is_clear == clear


@pytest.mark.parametrize("compute", [difference_of_shares, difference_of_means])
@pytest.mark.parametrize(
    ("first", "second"),
    [([], []), ([1, 0], [1, 0, 1]), ([[1, 0]], [[1, 0]]), ([1, 0], 1), (1, 0), ([1], [])],
)
def test_images_that_are_not_paired_are_refused(compute, first, second):
    with pytest.raises(InvalidArgumentError, match="Expected one value per image"):
        compute(first, second)


@pytest.mark.parametrize("compute", [difference_of_shares, difference_of_means])
@pytest.mark.parametrize("level", [0, 1, 95, -0.1, math.nan])
def test_a_level_outside_0_and_1_is_refused(compute, level):
    with pytest.raises(InvalidArgumentError, match="level"):
        compute([1, 0, 1], [1, 1, 0], level)


def test_one_image_has_a_share_and_no_spread():
    assert ends(difference_of_shares([False], [True])) == pytest.approx(
        agresti_min(0, 0, 1, 0, 0.95)
    )
    with pytest.raises(InvalidArgumentError, match=r"at least 2 images.*got 1"):
        difference_of_means([0.1], [0.2])
