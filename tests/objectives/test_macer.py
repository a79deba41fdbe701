"""MACER against its formula in float64, and its margin against mpmath."""

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax, logsumexp, ndtri, ndtri_exp

from smoothcert.errors import InvalidArgumentError
from smoothcert.objectives import MACER, soft_margin
from tests.helpers.references import (
    LABELS,
    assert_is_formula_of_logits,
    loss_of,
    random_logits,
    softmax,
)


def quantile(p):
    """Φ⁻¹, continued to first order into the complex plane: its derivative is 1 / φ(Φ⁻¹(p))."""
    x = ndtri(p.real)
    return x + 1j * p.imag * np.sqrt(2 * np.pi) * np.exp(x**2 / 2)


def reference(logits, labels, weight, beta, gamma, sigma):
    """−log F̂_y + λ (σ/2) max(γ − ξ, 0) of the images that are predicted right."""
    smoothed, soft = softmax(logits).mean(0), softmax(beta * logits).mean(0)
    total = 0
    for image, label in enumerate(labels):
        total = total - np.log(smoothed[image, label])
        order = np.argsort(-soft[image].real)
        margin = quantile(soft[image, order[0]]) - quantile(soft[image, order[1]])
        if order[0] == label and abs(margin.real) <= gamma:
            total = total + weight * sigma / 2 * (gamma - margin)
    return total / len(labels)


@settings(max_examples=25)
@given(
    st.integers(0, 2**31),
    st.floats(0, 20),
    st.sampled_from([1.0, 4.0]),
    st.sampled_from([0.5, 1.5, 8.0]),
    st.floats(0.1, 2),
)
def test_loss_and_gradient_are_the_papers_formula(seed, weight, beta, gamma, sigma):
    def formula(logits, labels):
        return reference(logits, labels, weight, beta, gamma, sigma)

    objective = MACER(weight, beta, gamma, noise_draws=3)
    logits = random_logits(seed, scale=0.7, draws=3)
    # Two images are given margins of their own, so that the hinge is met on both sides.
    logits[:, 0, 0] += 0.8
    logits[:, 1, 2] += 0.4
    assert_is_formula_of_logits(objective, logits, formula, sigma)


def term_and_gradient(logits, **settings):
    """The second term of one image of class 0, alone, and its gradient in the logits."""
    logits = logits.double().requires_grad_()
    label = torch.tensor([0])
    loss, plain = (loss_of(MACER(w, **settings), logits, label) for w in (1.0, 0.0))
    (gradient,) = torch.autograd.grad(loss.value - plain.value, logits)
    return (loss.value - plain.value).item(), gradient


@pytest.mark.parametrize(("gap", "zero"), [(0.05, False), (0.2, False), (0.3, True), (600, True)])
def test_the_term_and_its_gradient_are_zero_from_gamma_on(gap, zero):
    """With β = 16 and γ = 4 the hinge ends where 16 · gap = log(Φ(2) / Φ(−2)), at 0.234."""
    logits = torch.tensor([[[gap, 0.0]]]).repeat(2, 1, 1)
    value, gradient = term_and_gradient(logits, gamma=4.0)
    assert (value == 0) == zero
    assert (gradient == 0).all() == zero


def test_an_image_of_which_the_soft_prediction_is_wrong_gets_no_term():
    """Its mean softmax is right, but that of β times the logits is not."""
    logits = torch.tensor([[[3.0, 0.0, 0.0]], [[0.0, 0.4, 0.0]], [[0.0, 0.4, 0.0]]])
    assert logits.softmax(-1).mean(0).argmax() == 0
    assert (16 * logits).softmax(-1).mean(0).argmax() == 1
    value, gradient = term_and_gradient(logits, beta=16.0)
    assert value == 0
    assert (gradient == 0).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@given(seed=st.integers(0, 2**31), scale=st.floats(0.01, 100))
def test_margins_are_exact_at_any_confidence(dtype, seed, scale):
    """Against SciPy's Φ⁻¹ of a logarithm, which knows no p₁ that rounds to 1."""
    logits = random_logits(seed, scale, draws=3).to(dtype)
    logs = logsumexp(log_softmax(logits.double().numpy(), -1), 0) - np.log(3)
    order = np.sort(logs, -1)
    expected = -ndtri_exp(logsumexp(order[:, :-1], -1)) - ndtri_exp(order[:, -2])
    margin, classes = soft_margin(logits, beta=1.0)
    tolerance = 1e-9 if dtype == torch.float64 else 2e-5
    assert margin.dtype == torch.float64
    assert margin.numpy() == pytest.approx(expected, rel=tolerance, abs=tolerance)
    assert logs[np.arange(4), classes] == pytest.approx(order[:, -1], abs=1e-5)


@pytest.mark.parametrize("gap", [0.1, 5.0, 40.0, 200.0, 650.0])
def test_margins_agree_with_mpmath_where_p1_rounds_to_1(gap):
    """Of a sure draw and of one that is half as sure."""
    logits = torch.tensor([[[gap, 0.0, -1.0]], [[gap / 2, 0.0, -1.0]]], dtype=torch.float64)
    with mpmath.workdps(400):
        rows = [[mpmath.exp(mpmath.mpf(z)) for z in draw[0].tolist()] for draw in logits]
        p1, p2, p3 = (sum(r[c] / sum(r) for r in rows) / 2 for c in range(3))
        top = mpmath.sqrt(2) * mpmath.erfinv(1 - 2 * (p2 + p3))
        expected = top + mpmath.sqrt(2) * mpmath.erfinv(1 - 2 * p2)
    assert soft_margin(logits, beta=1.0)[0].item() == pytest.approx(float(expected), rel=1e-10)
    assert 0 < p1 < 1


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [10.0, 1e2, 1e3, 1e4])
def test_margins_and_their_gradients_are_finite_at_any_confidence(dtype, size):
    logits = torch.zeros(2, 3, 4, dtype=dtype)
    logits[:, 0, 1] = size
    logits[0, 1, 1], logits[1, 1, 2] = size, size
    logits.requires_grad_()
    margin, _ = soft_margin(logits, beta=16.0)
    margin.sum().backward()
    assert margin.isfinite().all()
    assert margin[0] > 20
    assert margin[1:].numpy(force=True) == pytest.approx(np.zeros(2), abs=1e-6)
    assert logits.grad.isfinite().all()


def test_the_report_tells_how_many_images_are_inside_the_hinge():
    logits = torch.zeros(2, 4, 5)
    logits[:, 0, 0] = 0.1
    logits[:, 1, 2] = 10.0
    logits[:, 2, 1] = 0.1
    logits[:, 3, 1] = 0.2
    assert loss_of(MACER(), logits, LABELS).report["inside_hinge"].item() == 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weight": -0.1}, "Expected `weight` >= 0"),
        ({"beta": 0.0}, "Expected `beta` > 0"),
        ({"gamma": -1.0}, "Expected `gamma` > 0"),
        ({"noise_draws": 0}, "Expected `noise_draws`"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(InvalidArgumentError, match=message):
        MACER(**arguments)
