"""ADRE against its formula in float64."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax

from smoothcert.errors import InvalidArgumentError
from smoothcert.noise import generator
from smoothcert.objectives import ADRE, Gaussian, adre_regularizer

LABELS = torch.tensor([0, 2, 4, 1])


def random_logits(seed: int, scale: float = 3.0, draws: int = 8) -> torch.Tensor:
    return scale * torch.randn(draws, 4, 5, dtype=torch.float64, generator=generator("cpu", seed))


def reference(logits: np.ndarray, labels: np.ndarray, weight: float) -> float:
    """mean_i CE(f(x + δ_i), y) + λ max_{c ≠ y} log F̂_c(x), as the paper writes it."""
    probabilities = softmax(logits, axis=-1)
    smoothed = probabilities.mean(0)
    total = 0.0
    for image, label in enumerate(labels):
        cross_entropy = np.mean(-np.log(probabilities[:, image, label]))
        others = np.delete(smoothed[image], label)
        total += cross_entropy + weight * np.log(others.max())
    return total / len(labels)


def reference_gradient(logits: np.ndarray, labels: np.ndarray, weight: float) -> np.ndarray:
    """Derivative of the reference by hand, through the softmax of each draw."""
    draws, images, _ = logits.shape
    probabilities = softmax(logits, axis=-1)
    smoothed = probabilities.mean(0)
    gradient = probabilities.copy()
    for image, label in enumerate(labels):
        gradient[:, image, label] -= 1
        others = smoothed[image].copy()
        others[label] = -1
        runner_up = others.argmax()
        own = probabilities[:, image, runner_up]
        jacobian = -own[:, None] * probabilities[:, image]
        jacobian[:, runner_up] += own
        gradient[:, image] += weight * jacobian / smoothed[image, runner_up]
    return gradient / (draws * images)


@given(st.integers(0, 2**31), st.floats(0, 2), st.sampled_from([0.1, 1.0, 5.0]))
def test_loss_and_gradient_are_the_papers_formula(seed, weight, scale):
    logits = random_logits(seed, scale).float().requires_grad_()
    exact = logits.detach().double().numpy()
    loss = ADRE(weight).of_logits(logits, LABELS)
    loss.value.backward()
    assert loss.value.item() == pytest.approx(
        reference(exact, LABELS.numpy(), weight), rel=1e-5, abs=1e-6
    )
    expected = reference_gradient(exact, LABELS.numpy(), weight)
    assert logits.grad.numpy() == pytest.approx(expected, rel=1e-5, abs=1e-7)


def test_gradients_agree_with_finite_differences():
    logits = random_logits(0).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: ADRE(0.5).of_logits(z, LABELS).value, logits)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_everything_stays_finite_at_logits_of_ten_thousand(dtype):
    logits = torch.full((8, 4, 5), -1e4, dtype=dtype)
    logits[:, torch.arange(4), LABELS] = 1e4
    logits[:, 3] *= -1
    logits.requires_grad_()
    loss = ADRE(0.1).of_logits(logits, LABELS)
    loss.value.backward()
    assert torch.isfinite(loss.value)
    assert torch.isfinite(logits.grad).all()


@given(st.integers(0, 2**31))
def test_weight_zero_is_gaussian_training(seed):
    logits = random_logits(seed)
    plain = Gaussian(8).of_logits(logits, LABELS).value
    assert torch.equal(ADRE(0.0).of_logits(logits, LABELS).value, plain)


@given(st.integers(0, 2**31))
def test_regularizer_does_not_depend_on_the_order_of_classes(seed):
    logits, order = random_logits(seed), torch.tensor([3, 1, 4, 0, 2])
    relabelled = torch.argsort(order)[LABELS]
    expected = adre_regularizer(logits, LABELS)
    assert torch.allclose(adre_regularizer(logits[..., order], relabelled), expected)


def test_one_erring_draw_holds_the_regularizer_at_one_over_m():
    """Eight draws, seven sure of the label and one sure of another: F̂_c = 1/8 for any margin."""
    logits = torch.zeros(8, 1, 5)
    logits[:7, 0, 2] = 1e4
    logits[7, 0, 0] = 1e4
    assert adre_regularizer(logits, torch.tensor([2])).exp() == pytest.approx(1 / 8)


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
