"""PGD against its steps written out in float64, and its random start."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest
from torch import nn

from smoothcert.attacks import PGD
from smoothcert.noise import draw_noise, generator
from smoothcert.types import NoisyBatch
from tests.helpers.linear_network import LinearNetwork, exact, gradient, random_case, shorten


class Blind(nn.Module):
    """Does not look at its images at all."""

    def forward(self, images):
        return torch.zeros(len(images), 3)


def reference(network, batch, epsilon, steps):
    """Return the images at every step and after the last, shape (T + 1, B, d)."""
    weight, bias, images, labels, noise = exact(network, batch)
    path = [images]
    for _ in range(steps):
        moved = path[-1].copy()
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            slope = gradient(weight, bias, moved[i], label, noise[:, i])
            stepped = moved[i] + 2 * epsilon / steps * slope / np.linalg.norm(slope)
            moved[i] = image + shorten(np.clip(stepped, 0, 1) - image, epsilon)
        path.append(moved)
    return np.stack(path)


@given(st.integers(0, 2**31), st.sampled_from([0.05, 0.5, 2.0]), st.sampled_from([1, 2, 10]))
@settings(max_examples=60)
def test_every_step_is_salmans(seed, epsilon, steps):
    network, batch = random_case(seed)
    moved = PGD(epsilon, steps)(network, batch, generator("cpu", 2)).images
    expected = reference(network, batch, epsilon, steps)
    path = np.stack([*network.visited(batch), moved.flatten(1)])
    assert path == pytest.approx(expected, abs=1e-4)


def test_on_two_linear_classes_it_ends_at_the_ball_along_the_weights():
    """The loss rises along w₁ − w₀ under any noise."""
    network, batch = random_case(0, classes=2)
    middle = NoisyBatch(
        torch.full_like(batch.images, 0.5), torch.zeros_like(batch.labels), batch.noise, 0.25
    )
    moved = PGD(0.1)(network, middle, generator("cpu", 2)).images
    difference = (network.weight[1] - network.weight[0]).detach()
    expected = (0.1 * difference / difference.norm()).expand(4, -1)
    assert (moved - 0.5).flatten(1) == pytest.approx(expected, abs=1e-5)


def starts(shape, epsilon, seed=2):
    """Return where gray images start from, in units of epsilon, shape (B, d)."""
    images = torch.full(shape, 0.5)
    labels = torch.zeros(shape[0], dtype=torch.int64)
    batch = NoisyBatch(images, labels, draw_noise(images, 0.25, 1, generator("cpu", 1)), 0.25)
    state = PGD(epsilon, random_start=True).start(batch, epsilon, generator("cpu", seed))
    return ((state.images - images) / epsilon).flatten(1).double()


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 2), (1, 6, 6), (3, 8, 8)])
def test_a_random_start_is_uniform_in_the_ball(shape):
    """Then (r/ε)^d is uniform on [0, 1], and the direction is a sphere's."""
    moves = starts((4000, *shape), 0.2)
    radius, pixels = moves.norm(dim=1), moves.shape[1]
    assert kstest((radius**pixels).numpy(), "uniform").pvalue > 0.01
    directions = moves / radius[:, None]
    assert directions.mean(0).norm() < 3 / 4000**0.5
    second = directions.T @ directions / 4000
    assert second * pixels == pytest.approx(torch.eye(pixels, dtype=torch.float64), abs=0.12)


def test_a_random_start_of_an_image_does_not_follow_its_neighbours():
    moves = starts((2000, 1, 1, 2), 0.2)
    assert abs(torch.stack([moves[:-1, 0], moves[1:, 0]]).corrcoef()[0, 1]) < 0.08


def test_a_random_start_depends_on_the_generator_alone():
    assert torch.equal(starts((5, 1, 6, 6), 0.2), starts((5, 1, 6, 6), 0.2))
    assert not torch.equal(starts((5, 1, 6, 6), 0.2), starts((5, 1, 6, 6), 0.2, seed=3))


def test_the_first_gradient_is_taken_at_the_random_start():
    network, batch = random_case(0)
    PGD(0.5, steps=1, random_start=True)(network, batch, generator("cpu", 2))
    expected = PGD(0.5, random_start=True).start(batch, 0.5, generator("cpu", 2)).images
    assert torch.allclose(network.visited(batch)[0], expected.flatten(1), atol=1e-6)
    assert not torch.allclose(expected, batch.images, atol=0.01)


@pytest.mark.parametrize("bias", [60.0, 200.0])
def test_the_gradient_survives_a_probability_that_underflows(bias):
    """Where F̂_y is 1e-26 or 0 in float32, a clamped logarithm would have no gradient."""
    network = LinearNetwork([[1.0, 0.0], [0.0, 1.0]], [-bias, 0.0])
    images = torch.full((1, 1, 1, 2), 0.5)
    batch = NoisyBatch(images, torch.tensor([0]), torch.zeros(1, 1, 1, 1, 2), 0.0)
    moved = PGD(0.1)(network, batch, generator("cpu", 2)).images
    expected = torch.tensor([-0.1, 0.1]) / 2**0.5
    assert (moved - images).flatten() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("bias", [12.0, 18.0, 100.0, 1e4])
def test_a_sure_image_still_moves_away_from_its_label(bias):
    network = LinearNetwork([[1.0, 0.0], [0.0, 1.0]], [bias, 0.0])
    images = torch.full((1, 1, 1, 2), 0.5)
    batch = NoisyBatch(images, torch.tensor([0]), torch.zeros(1, 1, 1, 1, 2), 0.0)
    moved = PGD(0.1)(network, batch, generator("cpu", 2)).images
    assert (moved - images).flatten() == pytest.approx(torch.tensor([-0.1, 0.1]) / 2**0.5, abs=1e-5)


def test_a_classifier_that_ignores_its_images_is_attacked_at_random(batch):
    moved = PGD(0.1)(Blind(), batch, generator("cpu", 2)).images
    assert ((moved - batch.images).flatten(1).norm(dim=1) > 0.01).all()
