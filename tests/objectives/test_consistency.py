"""Consistency regularization against its formula in float64."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import entropy

from smoothcert.errors import InvalidArgumentError
from smoothcert.objectives import Consistency, Gaussian, consistency_regularizer
from smoothcert.warmup import Deferred
from tests.helpers.references import (
    LABELS,
    assert_is_formula_of_logits,
    cross_entropies,
    divergence,
    loss_of,
    random_logits,
    softmax,
)


@settings(max_examples=25)
@given(
    st.integers(0, 2**31), st.floats(0, 20), st.floats(0, 2), st.integers(2, 4), st.floats(0.1, 5)
)
def test_loss_and_gradient_are_the_papers_formula(seed, weight, entropy_weight, draws, scale):
    """mean_i CE + λ mean_i KL(F̂ ‖ F(x + δ_i)) + η H(F̂)."""

    def formula(logits, labels):
        each = softmax(logits)
        average = each.mean(0)
        uncertainty = -(average * np.log(average)).sum(-1)
        terms = weight * divergence(average, each).mean(0) + entropy_weight * uncertainty
        return cross_entropies(logits, labels).mean() + terms.mean()

    objective = Consistency(weight, entropy_weight, draws)
    assert_is_formula_of_logits(objective, random_logits(seed, scale, draws), formula)


def test_identical_draws_leave_the_entropy_alone():
    logits = random_logits(0, draws=1).repeat(3, 1, 1).requires_grad_()
    consistency, uncertainty = consistency_regularizer(logits)
    (gradient,) = torch.autograd.grad(consistency.sum(), logits)
    assert consistency.detach().numpy() == pytest.approx(np.zeros(4), abs=1e-14)
    assert gradient.numpy() == pytest.approx(np.zeros((3, 4, 5)), abs=1e-14)
    expected = entropy(softmax(logits[0].detach().numpy()), axis=-1)
    assert uncertainty.detach().numpy() == pytest.approx(expected)


@given(st.integers(0, 2**31), st.floats(0, 100))
def test_the_terms_add_up_to_the_mean_cross_entropy(seed, scale):
    logits = random_logits(seed, scale)
    average = logits.softmax(-1).mean(0)
    expected = -(average * logits.log_softmax(-1)).sum(-1).mean(0)
    assert torch.allclose(sum(consistency_regularizer(logits)), expected)


@given(st.integers(0, 2**31), st.floats(0, 1e4))
def test_neither_term_is_negative(seed, scale):
    for term in consistency_regularizer(random_logits(seed, scale)):
        assert (term >= -1e-12).all()


def test_opposite_certain_draws_are_log_2_apart_for_the_entropy_and_far_for_the_divergence():
    """F̂ = ½ ½, so the entropy is log 2 and the divergence ½ · 2e4 − log 2 to either draw."""
    logits = torch.tensor([[[1e4, -1e4]], [[-1e4, 1e4]]])
    consistency, uncertainty = consistency_regularizer(logits)
    assert uncertainty.item() == pytest.approx(np.log(2))
    assert consistency.item() == pytest.approx(1e4 - np.log(2))


def test_a_warm_up_holds_both_weights_back():
    logits = random_logits(0)
    objective = Consistency(10.0, 0.5, 8, Deferred(2))
    plain = loss_of(Gaussian(8), logits).value
    assert torch.equal(loss_of(objective, logits, epoch=1).value, plain)
    later = loss_of(objective, logits, epoch=2)
    assert torch.equal(later.value, loss_of(Consistency(10.0, 0.5, 8), logits).value)


def test_two_equal_weights_are_the_cross_entropy_form():
    logits = random_logits(0)
    average = logits.softmax(-1).mean(0)
    between = -(average * logits.log_softmax(-1)).sum(-1).mean()
    value = loss_of(Consistency(3.0, 3.0, 8), logits, LABELS).value
    assert torch.allclose(value, loss_of(Gaussian(8), logits).value + 3 * between)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weight": -0.1}, "Expected `weight` >= 0"),
        ({"entropy_weight": float("nan")}, "Expected `entropy_weight` >= 0"),
        ({"noise_draws": 1}, "Expected `noise_draws` >= 2"),
        ({"noise_draws": 0}, "Expected `noise_draws` a whole number"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(InvalidArgumentError, match=message):
        Consistency(**arguments)
