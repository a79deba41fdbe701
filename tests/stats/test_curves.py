"""Summary figures of certificates against plain counting."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smoothcert.errors import InvalidArgumentError
from smoothcert.stats import (
    abstention_rate,
    average_certified_radius,
    certified_accuracy,
    default_radii,
)

IMAGES = st.lists(st.tuples(st.floats(0, 4), st.booleans()), min_size=1, max_size=30)


@given(IMAGES, st.floats(0, 4))
def test_certified_accuracy_counts_right_images_with_enough_radius(images, r):
    radius, correct = zip(*images, strict=True)
    expected = sum(1 for own, right in images if right and own >= r) / len(images)
    assert certified_accuracy(radius, correct, r) == pytest.approx(expected)


@given(IMAGES)
def test_acr_is_the_area_under_the_curve(images):
    radius, correct = zip(*images, strict=True)
    steps = np.unique([0.0, *radius])
    heights = certified_accuracy(radius, correct, steps[1:])
    area = float(np.sum(np.diff(steps) * heights))
    assert average_certified_radius(radius, correct) == pytest.approx(area, abs=1e-12)


@given(IMAGES)
def test_the_curve_never_rises(images):
    radius, correct = zip(*images, strict=True)
    assert np.all(np.diff(certified_accuracy(radius, correct, np.linspace(0, 4, 50))) <= 0)


def test_abstention_rate_counts_minus_one():
    assert abstention_rate([0, -1, -1, 9]) == 0.5


def test_no_certificates_are_an_error():
    for figure in (abstention_rate, lambda none: average_certified_radius(none, none)):
        with pytest.raises(InvalidArgumentError, match="at least one certificate"):
            figure([])


@pytest.mark.parametrize("sigma", [0.12, 0.25, 0.5, 1.0])
def test_default_radii_start_at_zero_and_end_at_four_sigma(sigma):
    radii = default_radii(sigma)
    assert radii[0] == 0
    assert 3.4 * sigma < radii[-1] <= 4 * sigma
    assert len(radii) >= 5
