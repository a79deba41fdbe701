"""SmoothMix against its formula in float64."""

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kstest
from torch import nn

from smoothcert.errors import InvalidArgumentError
from smoothcert.noise import generator, noisy_logits
from smoothcert.objectives import Gaussian, SmoothMix, smoothmix
from smoothcert.objectives.smoothmix import FreeAscent, mixed_targets
from tests.helpers.references import (
    arrays,
    assert_is_formula_of_parameters,
    cross_entropies,
    divergence,
    flat_parameters,
    gradient,
    half_right,
    perceptron,
    perceptron_logits,
    small_batch,
    softmax,
)


def ascent(parameters, image, label, noise, steps, size):
    """Steps along the normalised gradient of −log F̂_y, each clamped to [0, 1]."""

    def loss(moved):
        return -np.log(softmax(perceptron_logits(parameters, moved + noise)).mean(0)[label])

    for _ in range(steps):
        slope = gradient(loss, image)
        image = np.clip(image + size * slope / np.linalg.norm(slope), 0, 1)
    return image


@pytest.fixture
def shares(monkeypatch):
    """Where the shares t that an objective draws are noted."""
    noted = []

    def noting(log_probabilities, share):
        noted.append(share)
        return mixed_targets(log_probabilities, share)

    monkeypatch.setattr(smoothmix, "mixed_targets", noting)
    return noted


@pytest.mark.parametrize(("steps", "size"), [(1, 0.3), (4, 0.1), (3, 0.8)])
def test_loss_and_gradient_are_the_papers_formula(steps, size, shares):
    """Gradients flow through F̂ in the targets, and not through the adversarial images."""
    network, batch = perceptron(), small_batch(draws=2)
    images, labels, noise = arrays(batch)
    loss = SmoothMix(5.0, steps, size, 2)(network, batch, generator("cpu", 0))
    share = shares[0].double().numpy()[:, None]
    start = flat_parameters(network)
    parts = zip(images, labels, noise.swapaxes(0, 1), strict=True)
    adversarial = np.stack([ascent(start, *part, steps, size) for part in parts])

    def formula(parameters):
        logits = perceptron_logits(parameters, images + noise)
        smoothed = softmax(logits).mean(0)
        right = smoothed.real.argmax(-1) == labels
        assert 0 < right.mean() < 1
        mixed = (1 - share) * images + share * adversarial
        target = (1 - share) * smoothed + share / 3
        each = divergence(target, softmax(perceptron_logits(parameters, mixed + noise)))
        return cross_entropies(logits, labels).mean() + 5 * (right * each.mean(0)).mean()

    assert_is_formula_of_parameters(loss, network, formula)


def test_shares_are_uniform_up_to_a_half_and_each_images_own(shares):
    count = 2000
    source = generator("cpu", 0)
    images = torch.rand(count, 1, 3, 3, generator=source)
    batch = replace(
        small_batch(draws=2),
        images=images,
        labels=torch.zeros(count, dtype=torch.int64),
        noise=torch.zeros(2, *images.shape),
    )
    SmoothMix(steps=1)(perceptron(), batch, source)
    assert shares[0].shape == (count,)
    assert kstest(shares[0].numpy(), "uniform", (0, 0.5)).pvalue > 0.01


def test_without_weight_it_is_gaussian_training_to_the_last_bit(network, batch):
    networks = [network, deepcopy(network)]
    outcomes = []
    for objective, each in zip((SmoothMix(0.0, noise_draws=4), Gaussian(4)), networks, strict=True):
        torch.manual_seed(0)
        loss = objective(each, batch, generator("cpu", 0))
        loss.value.backward()
        slopes = [parameter.grad for parameter in each.parameters()]
        outcomes.append([loss.value, *slopes, *each.buffers()])
    assert all(map(torch.equal, *outcomes))


def test_images_that_are_predicted_wrongly_get_no_mixup_term(network, batch):
    network.eval()
    batch = half_right(network, batch)
    terms = SmoothMix().mixup(network, batch, noisy_logits(network, batch), generator("cpu", 0))
    assert (terms[:3] > 0).all()
    assert (terms[3:] == 0).all()
    slopes = torch.autograd.grad(terms[3:].sum(), network.parameters())
    assert all((slope == 0).all() for slope in slopes)


@pytest.mark.parametrize("size", [0.1, 2.0, 100.0])
def test_mixed_images_stay_in_the_pixel_range(network, batch, size):
    quiet = replace(batch, noise=torch.zeros_like(batch.noise))
    seen = []
    network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    SmoothMix(step_size=size, noise_draws=4)(network, quiet, generator("cpu", 0))
    moved = seen[-1]
    assert not torch.equal(moved, seen[0])
    assert moved.min() >= 0
    assert moved.max() <= 1


def test_ascent_is_held_by_no_ball():
    """On a linear classifier of two classes T steps of length a lead T · a away, whatever ε is."""
    classifier = nn.Sequential(nn.Flatten(), nn.Linear(400, 2, bias=False))
    with torch.no_grad():
        # Pixels of equal weight: 400 of them leave room for a way of length 8 from grey.
        classifier[1].weight.copy_(torch.tensor([[0.01], [-0.01]]).expand(2, 400))
    images = torch.full((3, 1, 20, 20), 0.5)
    batch = replace(
        small_batch(draws=2),
        images=images,
        labels=torch.tensor([0, 1, 0]),
        noise=torch.zeros(2, *images.shape),
    )
    moved = FreeAscent(4, 2.0).ascend(classifier, batch, 0.5, generator("cpu", 0))
    expected = torch.tensor([-0.4, 0.4, -0.4]).view(3, 1).expand(3, 400)
    assert (moved - 0.5).flatten(1).numpy() == pytest.approx(expected.numpy(), abs=1e-5)


@given(
    st.lists(st.floats(-50, 0), min_size=2, max_size=6),
    st.floats(0, 0.99) | st.sampled_from([0.0, 1e-30]),
)
def test_mixed_targets_are_the_formula_and_sum_to_one(logits, share):
    own = torch.tensor([logits], dtype=torch.float64).log_softmax(-1)
    mixed = mixed_targets(own, torch.tensor([share], dtype=torch.float64)).exp()
    expected = (1 - share) * own.exp() + share / len(logits)
    assert mixed.numpy() == pytest.approx(expected.numpy(), rel=1e-12)
    assert mixed.sum().item() == pytest.approx(1)


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_mixed_targets_have_finite_gradients_where_a_class_is_impossible(share):
    own = torch.tensor([[0.0, -2e4, -1e38]], requires_grad=True)
    mixed = mixed_targets(own, torch.tensor([share]))
    mixed.sum().backward()
    assert mixed.isfinite().all()
    assert own.grad.isfinite().all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weight": -1.0}, "Expected `weight` >= 0"),
        ({"steps": 0}, "Expected `steps` a whole number >= 1"),
        ({"step_size": 0.0}, "Expected `step_size` > 0"),
        ({"noise_draws": 0}, "Expected `noise_draws`"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(InvalidArgumentError, match=message):
        SmoothMix(**arguments)
