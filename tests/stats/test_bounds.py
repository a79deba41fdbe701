"""Clopper–Pearson bounds against SciPy, against mpmath at 50 digits, and their laws."""

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import ndtri
from scipy.stats import beta, binom, binomtest

from smoothcert.stats import (
    clopper_pearson_lower,
    clopper_pearson_upper,
    is_near_chance,
    probit_lower,
    probit_upper,
    sign_test_p_value,
)

ALPHAS = st.sampled_from([1e-12, 1e-6, 1e-3, 0.05, 0.3])


@st.composite
def successes_and_trials(draw, largest=10**7):
    n = draw(st.integers(1, largest))
    return draw(st.integers(0, n)), n


def binomial_tail(k: int, n: int, p: mpmath.mpf) -> mpmath.mpf:
    """P(Bin(n, p) >= k), as the incomplete beta function at 50 digits."""
    return mpmath.betainc(k, n - k + 1, 0, p, regularized=True)


def upper_tail(k: int, n: int, p: mpmath.mpf) -> mpmath.mpf:
    """P(Bin(n, p) >= k) for k above the mean, term by term: quick where n is large."""
    logs = mpmath.loggamma(n + 1) - mpmath.loggamma(k + 1) - mpmath.loggamma(n - k + 1)
    term = mpmath.exp(logs + k * mpmath.log(p) + (n - k) * mpmath.log(1 - p))
    total, ratio = mpmath.mpf(0), p / (1 - p)
    while term > total * mpmath.mpf("1e-30"):
        total += term
        term *= ratio * (n - k) / (k + 1)
        k += 1
    return total


def exact_probit(p: mpmath.mpf) -> mpmath.mpf:
    return mpmath.sqrt(2) * mpmath.erfinv(2 * p - 1)


@given(successes_and_trials(), ALPHAS)
def test_lower_is_a_quantile_of_the_beta_distribution(counts, alpha):
    k, n = counts
    expected = beta.ppf(alpha, k, n - k + 1) if k else 0.0
    assert clopper_pearson_lower(k, n, alpha) == pytest.approx(expected, rel=1e-6, abs=1e-300)


@given(successes_and_trials(), ALPHAS)
def test_upper_is_one_minus_the_lower_bound_on_failures(counts, alpha):
    k, n = counts
    lower = clopper_pearson_lower(n - k, n, alpha)
    assert clopper_pearson_upper(k, n, alpha) == pytest.approx(1 - lower, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("alpha", [1e-12, 1e-3, 0.05])
@pytest.mark.parametrize(
    ("k", "n"),
    [
        (1, 10),
        (9, 10),
        (60, 100),
        (999, 1000),
        (5, 10**5),
        (99_990, 10**5),
        (9_999_999, 10**7),
        (10**9 - 3, 10**9),
    ],
)
def test_probit_of_the_lower_bound_is_tight_and_never_too_large(k, n, alpha):
    """At the reported bound the binomial tail is below alpha, and a hair above it is not."""
    with mpmath.workdps(50):
        probit = mpmath.mpf(float(probit_lower(k, n, alpha)))
        exact_alpha = mpmath.mpf(alpha)
        assert binomial_tail(k, n, mpmath.ncdf(probit)) <= exact_alpha
        hair = 3e-11 * max(1, abs(probit))
        assert binomial_tail(k, n, mpmath.ncdf(probit + hair)) > exact_alpha


@pytest.mark.parametrize("n", [1, 10, 1000, 10**7, 10**9])
@pytest.mark.parametrize("alpha", [1e-12, 1e-3, 0.3])
def test_unanimous_votes_have_the_closed_form(n, alpha):
    with mpmath.workdps(50):
        exact = exact_probit(mpmath.mpf(alpha) ** (mpmath.mpf(1) / n))
    assert probit_lower(n, n, alpha) <= exact
    assert probit_lower(n, n, alpha) == pytest.approx(float(exact), rel=1e-9, abs=1e-9)


@given(successes_and_trials(), ALPHAS)
def test_probits_are_the_probits_of_the_bounds(counts, alpha):
    k, n = counts
    lower, upper = clopper_pearson_lower(k, n, alpha), clopper_pearson_upper(k, n, alpha)
    if 1e-3 < lower < 0.999:
        assert probit_lower(k, n, alpha) == pytest.approx(ndtri(lower), abs=1e-8)
    if 1e-3 < upper < 0.999:
        assert probit_upper(k, n, alpha) == pytest.approx(ndtri(upper), abs=1e-8)


@given(successes_and_trials(), ALPHAS)
def test_bounds_are_symmetric_under_exchange_of_success_and_failure(counts, alpha):
    k, n = counts
    assert probit_upper(k, n, alpha) == -probit_lower(n - k, n, alpha)


@given(successes_and_trials(largest=10**5), ALPHAS)
def test_bounds_grow_with_the_count_and_tighten_with_alpha(counts, alpha):
    k, n = counts
    if k < n:
        assert probit_lower(k, n, alpha) < probit_lower(k + 1, n, alpha)
    assert probit_lower(k, n, alpha) <= probit_lower(k, n, 2 * alpha)


def test_no_success_bounds_nothing_from_below():
    assert clopper_pearson_lower(0, 100, 0.001) == 0
    assert clopper_pearson_upper(100, 100, 0.001) == 1
    assert probit_lower(0, 100, 0.001) == -np.inf
    assert probit_upper(100, 100, 0.001) == np.inf


def test_no_error_budget_bounds_nothing():
    assert clopper_pearson_lower(50, 100, 0.0) == 0
    assert clopper_pearson_upper([0, 50], 100, 0.0).tolist() == [1.0, 1.0]


@pytest.mark.parametrize("alpha", [1e-12, 1e-3, 0.05])
@pytest.mark.parametrize(
    ("k", "n"),
    [(0, 1), (0, 1000), (0, 10**7), (1, 10**7), (40, 100), (5_000_000, 10**7), (9_999_500, 10**7)],
)
def test_probit_of_the_upper_bound_is_tight_and_never_too_small(k, n, alpha):
    """At the reported bound P(Bin <= k) is at most alpha, and a hair below it is not."""
    with mpmath.workdps(50):
        probit = mpmath.mpf(float(probit_upper(k, n, alpha)))
        # P(Bin(n, p) <= k) = P(Bin(n, 1 − p) >= n − k).
        assert upper_tail(n - k, n, mpmath.ncdf(-probit)) <= mpmath.mpf(alpha)
        hair = 3e-11 * max(1, abs(probit))
        assert upper_tail(n - k, n, mpmath.ncdf(-probit + hair)) > mpmath.mpf(alpha)


@pytest.mark.parametrize("alpha", [1e-12, 1e-3])
@pytest.mark.parametrize("k", [1, 2, 1001, 999_999, 5_000_000, 6_500_000, 9_999_999])
def test_bounds_hold_for_ten_million_trials_at_50_digits(k, alpha):
    n = 10**7
    with mpmath.workdps(50):
        probit = mpmath.mpf(float(probit_lower(k, n, alpha)))
        assert upper_tail(k, n, mpmath.ncdf(probit)) <= mpmath.mpf(alpha)
        hair = 3e-11 * max(1, abs(probit))
        assert upper_tail(k, n, mpmath.ncdf(probit + hair)) > mpmath.mpf(alpha)


@pytest.mark.parametrize("alpha", [1e-12, 5e-6, 0.05])
def test_bound_is_never_too_large_at_999_failures(alpha):
    n, failures = 10**7, 999
    with mpmath.workdps(50):
        probit = mpmath.mpf(float(probit_lower(n - failures, n, alpha)))
        assert upper_tail(n - failures, n, mpmath.ncdf(probit)) <= mpmath.mpf(alpha)


@pytest.mark.parametrize("n", [1, 10, 1000, 10**7])
@pytest.mark.parametrize("alpha", [1e-12, 1e-3, 0.3])
def test_no_success_has_the_closed_form_of_the_upper_bound(n, alpha):
    with mpmath.workdps(50):
        exact = 1 - mpmath.mpf(alpha) ** (mpmath.mpf(1) / n)
    assert clopper_pearson_upper(0, n, alpha) == pytest.approx(float(exact), rel=1e-13)


SIGN_TESTS = [
    (1, 0),
    (10, 0),
    (60, 40),
    (40, 60),
    (1000, 0),
    (999, 1001),
    (50_400, 49_600),
    (5_010_000, 4_990_000),
    (4_990_000, 5_010_000),
    (5_000_000, 5_000_000),
]


@pytest.mark.parametrize(("n_a", "n_b"), SIGN_TESTS)
def test_sign_test_is_the_binomial_tail_at_50_digits_and_never_below_it(n_a, n_b):
    with mpmath.workdps(50):
        half = mpmath.mpf(1) / 2
        if n_a >= n_b:
            exact = upper_tail(n_a, n_a + n_b, half)
        else:
            exact = 1 - upper_tail(n_b + 1, n_a + n_b, half)
        got = mpmath.mpf(float(sign_test_p_value(n_a, n_b)))
        assert exact <= got <= exact * (1 + mpmath.mpf("1e-9")) + mpmath.mpf("1e-300")


@given(st.integers(0, 500), st.integers(0, 500))
def test_sign_test_is_the_binomial_tail_of_scipy(n_a, n_b):
    expected = binom.sf(n_a - 1, n_a + n_b, 0.5) if n_a + n_b else 1.0
    assert sign_test_p_value(n_a, n_b) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("alpha", [0.05, 0.001])
@pytest.mark.parametrize("n", [1, 10, 37, 100])
def test_sign_test_errs_with_probability_at_most_alpha_on_a_fair_coin(n, alpha):
    x = np.arange(n + 1)
    assert binom.pmf(x, n, 0.5)[sign_test_p_value(x, n - x) <= alpha].sum() <= alpha


@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_sign_test_falls_with_the_top_count_and_grows_with_the_other(n_a, n_b):
    p_value = sign_test_p_value(n_a, n_b)
    assert 0 <= sign_test_p_value(n_a + 1, n_b) <= p_value
    assert p_value <= sign_test_p_value(n_a, n_b + 1) <= 1


def test_sign_test_proves_nothing_without_votes_and_takes_arrays():
    assert sign_test_p_value([0, 0], [0, 5]).tolist() == [1, 1]
    assert sign_test_p_value([[1], [2]], [0, 1, 2]).shape == (2, 3)
    assert sign_test_p_value([3, 4], 0) == pytest.approx([1 / 8, 1 / 16], rel=1e-10)


@pytest.mark.parametrize(("images", "chance"), [(500, 0.1), (20, 0.5), (10_000, 0.001), (3, 0.1)])
def test_near_chance_is_what_an_exact_binomial_test_cannot_reject(images, chance):
    assert binomtest(images, images, chance, "greater").pvalue < 0.05
    expected = {k for k in range(images + 1) if binom.sf(k - 1, images, chance) >= 0.05}
    around = range(max(0, max(expected) - 30), min(images, max(expected) + 30) + 1)
    assert {k for k in around if is_near_chance(k, images, chance)} == expected & {*around}


@pytest.mark.parametrize(("images", "chance"), [(4, 0.5), (1, 0.1), (100, 1.0)])
def test_images_that_could_never_reject_chance_tell_nothing(images, chance):
    assert binomtest(images, images, chance, "greater").pvalue >= 0.05
    assert not any(is_near_chance(k, images, chance) for k in range(images + 1))
