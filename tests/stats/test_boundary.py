"""The projection on the boundary of a hypothesis, against a search by SciPy."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import ndtri_exp
from scipy.stats import norm

from smoothcert.stats.boundary import likeliest_on_boundary

RADII = [0.0, 0.1, 0.5, 1.0, 2.0, 3.0, 4.0]


def log_probabilities(log_s: float, t: float) -> np.ndarray:
    """Of the selected class, the runner-up and the rest, at s = -exp(log_s)."""
    s = -np.exp(log_s)
    upper, lower = norm.logsf(t + s), norm.logsf(t - s)
    with np.errstate(divide="ignore"):
        none = upper + np.log1p(-np.exp(lower - upper))
    return np.array([norm.logcdf(t + s), norm.logcdf(s - t), none])


def likelihood(logs: np.ndarray, frequencies: np.ndarray) -> float:
    used = frequencies > 0
    return float(np.sum(frequencies[used] * logs[used]))


def highest_likelihood(frequencies: np.ndarray, t: float) -> float:
    def loss(log_s: float) -> float:
        return -likelihood(log_probabilities(log_s, t), frequencies)

    grid = np.linspace(-20, 3, 150)
    best = int(np.argmin([loss(v) for v in grid]))
    bounds = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
    return -minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-11}).fun


@pytest.mark.parametrize("t", RADII)
@pytest.mark.parametrize(
    ("a", "b"),
    [
        (1.0, 0.0),
        (0.0, 1.0),
        (0.7, 0.3),
        (0.5, 0.5),
        (1 / 3, 1 / 3),
        (0.9, 0.05),
        (0.2, 0.6),
        (0.999, 1e-6),
        (1 - 1e-6, 1e-6),
        (0.4, 0.0),
        (0.0, 0.4),
        (1e-3, 1e-4),
        (1e-5, 0.9),
        (0.05, 0.9499),
    ],
)
def test_likelihood_is_the_highest_on_the_boundary(a, b, t):
    frequencies = np.array([a, b, max(1 - a - b, 0.0)])
    frequencies[frequencies < 1e-15] = 0
    point = likeliest_on_boundary(a, b, t)
    got = likelihood(np.array(point[:3]), frequencies)
    assert got == pytest.approx(highest_likelihood(frequencies, t), rel=1e-8, abs=1e-8)


@pytest.mark.parametrize("t", RADII)
def test_nothing_is_left_of_the_slope_where_no_class_is_certain_to_be_among_two(t):
    a, b = (grid.ravel() for grid in np.meshgrid([1e-4, 0.01, 0.3, 0.5, 0.9], [1e-5, 0.01, 0.09]))
    point = likeliest_on_boundary(a, b, t)
    assert np.all(np.abs(point.slope) < 1e-9)


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 4))
def test_point_lies_on_the_boundary(a, share, t):
    """Its probabilities sum to 1 and its radius is t."""
    point = likeliest_on_boundary(a, share * (1 - a), t)
    assert np.exp(point[:3]).sum() == pytest.approx(1, abs=1e-9)
    distance = ndtri_exp(point.log_a) - ndtri_exp(point.log_b)
    # Close to Φ(t) ≈ 1 the logarithm itself holds fewer digits.
    assert distance == pytest.approx(2 * t, abs=1e-6)


@given(st.floats(0.01, 0.9), st.floats(0.01, 0.99), st.floats(0, 3), st.floats(-6, 1))
def test_no_other_point_of_the_boundary_is_likelier(a, share, t, log_s):
    b = share * (1 - a)
    frequencies = np.array([a, b, 1 - a - b])
    best = likelihood(np.array(likeliest_on_boundary(a, b, t)[:3]), frequencies)
    assert best >= likelihood(log_probabilities(log_s, t), frequencies) - 1e-12


@given(st.floats(0.01, 0.9), st.floats(0.01, 0.9))
def test_a_point_on_the_boundary_is_its_own_projection(a, share):
    b = share * min(a, 1 - a)
    t = (norm.ppf(a) - norm.ppf(b)) / 2
    point = likeliest_on_boundary(a, b, t)
    assert np.exp([point.log_a, point.log_b]) == pytest.approx([a, b], abs=1e-8)


def test_tied_frequencies_are_shared_at_radius_0():
    """On a = b the likeliest point gives both classes the mean of their frequencies."""
    a, b = np.array([0.7, 0.1, 0.5]), np.array([0.1, 0.3, 0.2])
    point = likeliest_on_boundary(a, b, 0.0)
    assert np.exp(point.log_a) == pytest.approx((a + b) / 2, abs=1e-9)
    assert np.exp(point.log_b) == pytest.approx((a + b) / 2, abs=1e-9)


def test_arrays_give_what_single_numbers_give():
    a, b, t = np.array([0.9, 0.5, 0.01, 0.3]), np.array([0.05, 0.4, 0.2, 0.3]), [[0.0], [1.5]]
    whole = likeliest_on_boundary(a, b, t)
    assert whole.log_a.shape == (2, 4)
    for i, radius in enumerate((0.0, 1.5)):
        for j in range(4):
            single = likeliest_on_boundary(a[j], b[j], radius)
            assert whole.log_a[i, j] == pytest.approx(float(single.log_a), abs=1e-10)
            assert whole.log_b[i, j] == pytest.approx(float(single.log_b), abs=1e-10)


def test_two_classes_are_found_among_rare_ones():
    whole = likeliest_on_boundary([0.7, 1e-12], [0.3, 1e-12], [0.5, 4.0])
    alone = likeliest_on_boundary(0.7, 0.3, 0.5)
    assert whole.log_a[0] == pytest.approx(float(alone.log_a), abs=1e-8)
