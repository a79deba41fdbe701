"""Clopper–Pearson bounds against SciPy, against mpmath at 50 digits, and their laws."""

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import ndtri
from scipy.stats import beta

from smoothcert.stats import (
    clopper_pearson_lower,
    clopper_pearson_upper,
    probit_lower,
    probit_upper,
)

ALPHAS = st.sampled_from([1e-12, 1e-6, 1e-3, 0.05, 0.3])


@st.composite
def successes_and_trials(draw, largest=10**7):
    n = draw(st.integers(1, largest))
    return draw(st.integers(0, n)), n


def binomial_tail(k: int, n: int, p: mpmath.mpf) -> mpmath.mpf:
    """P(Bin(n, p) >= k), as the incomplete beta function at 50 digits."""
    return mpmath.betainc(k, n - k + 1, 0, p, regularized=True)


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
    [(1, 10), (9, 10), (60, 100), (999, 1000), (5, 10**5), (99_990, 10**5), (9_999_999, 10**7)],
)
def test_probit_of_the_lower_bound_is_tight_and_never_too_large(k, n, alpha):
    """At the reported bound the binomial tail is below alpha, and a hair above it is not."""
    with mpmath.workdps(50):
        probit = mpmath.mpf(float(probit_lower(k, n, alpha)))
        exact_alpha = mpmath.mpf(alpha)
        assert binomial_tail(k, n, mpmath.ncdf(probit)) <= exact_alpha
        hair = 3e-11 * max(1, abs(probit))
        assert binomial_tail(k, n, mpmath.ncdf(probit + hair)) > exact_alpha


@pytest.mark.parametrize("n", [1, 10, 1000, 10**7])
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
