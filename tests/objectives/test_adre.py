"""ADRE against its formula in float64."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from smoothcert.errors import InvalidArgumentError
from smoothcert.objectives import ADRE, Gaussian, adre_regularizer
from tests.helpers.references import (
    LABELS,
    assert_is_formula_of_logits,
    cross_entropies,
    loss_of,
    random_logits,
    softmax,
)


@settings(max_examples=25)
@given(st.integers(0, 2**31), st.floats(0, 2), st.sampled_from([0.1, 1.0, 5.0]))
def test_loss_and_gradient_are_the_papers_formula(seed, weight, scale):
    """mean_i CE(f(x + δ_i), y) + λ max_{c ≠ y} log F̂_c(x)."""

    def formula(logits, labels):
        smoothed = softmax(logits).mean(0)
        images = zip(smoothed, labels, strict=True)
        runners_up = [np.delete(image, label).max() for image, label in images]
        return cross_entropies(logits, labels).mean() + weight * np.log(runners_up).mean()

    assert_is_formula_of_logits(ADRE(weight), random_logits(seed, scale), formula)


@given(st.integers(0, 2**31))
def test_weight_zero_is_gaussian_training(seed):
    logits = random_logits(seed)
    plain = loss_of(Gaussian(8), logits).value
    assert torch.equal(loss_of(ADRE(0.0), logits).value, plain)


def test_one_erring_draw_holds_the_regularizer_at_one_over_m():
    """Eight draws, seven sure of the label and one sure of another: F̂_c = 1/8 for any margin."""
    logits = torch.zeros(8, 1, 5)
    logits[:7, 0, 2] = 1e4
    logits[7, 0, 0] = 1e4
    assert adre_regularizer(logits, torch.tensor([2])).exp() == pytest.approx(1 / 8)


def test_where_no_draw_errs_nothing_limits_the_reward():
    logits = torch.zeros(8, 1, 5)
    logits[..., 2] = 1e4
    assert adre_regularizer(logits, torch.tensor([2])).item() == pytest.approx(-1e4)


def test_below_the_floor_there_is_no_reward():
    logits = torch.zeros(8, 1, 5, requires_grad=True)
    with torch.no_grad():
        logits[:, 0, 2] = 20.0
    value = adre_regularizer(logits, torch.tensor([2]), floor=0.01)
    value.sum().backward()
    assert value.item() == pytest.approx(np.log(0.01))
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_above_the_floor_nothing_changes():
    logits = random_logits(1, scale=0.5)
    free = adre_regularizer(logits, LABELS)
    assert torch.equal(adre_regularizer(logits, LABELS, floor=1e-6), free)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weight": -0.1}, "Expected `weight` >= 0"),
        ({"noise_draws": 0}, "Expected `noise_draws`"),
        ({"floor": 1.0}, "Expected `floor`"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(InvalidArgumentError, match=message):
        ADRE(**arguments)
