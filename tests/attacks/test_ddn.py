"""DDN against its steps written out in float64, and against flips known in closed form."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.special import expit

from smoothcert.attacks import DDN
from smoothcert.errors import InvalidArgumentError
from smoothcert.noise import generator
from smoothcert.types import NoisyBatch
from tests.helpers.linear_network import LinearNetwork, exact, gradient, random_case, smoothed


def reference(network, batch, epsilon, steps, gamma, first):
    """Return the images at every step, shape (T, B, d), and the result, image by image."""
    weight, bias, images, labels, noise = exact(network, batch)
    paths, results = [], []
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        moved, radius, path, flips = image, min(first, epsilon), [], []
        for step in range(steps):
            path.append(moved)
            is_flipped = smoothed(weight, bias, moved, noise[:, i]).mean(0).argmax() != label
            if is_flipped:
                flips.append(moved)
            radius = min(radius * (1 - gamma if is_flipped else 1 + gamma), epsilon)
            rate = 0.01 + (1 - 0.01) * (1 + math.cos(math.pi * step / steps)) / 2
            slope = gradient(weight, bias, moved, label, noise[:, i])
            move = moved + rate * slope / np.linalg.norm(slope) - image
            moved = np.clip(image + radius * move / np.linalg.norm(move), 0, 1)
        paths.append(path)
        results.append(min(flips, key=lambda x: np.linalg.norm(x - image)) if flips else moved)
    return np.stack(paths, 1), np.stack(results)


@given(
    seed=st.integers(0, 2**31),
    epsilon=st.sampled_from([0.1, 0.5, 2.0]),
    steps=st.sampled_from([1, 2, 10]),
    gamma=st.sampled_from([0.05, 0.5]),
    first=st.sampled_from([None, 0.3, 5.0]),
)
@settings(max_examples=80)
def test_every_step_is_ronys_with_the_radius_capped(seed, epsilon, steps, gamma, first):
    network, batch = random_case(seed)
    attack = DDN(epsilon, steps, gamma, initial_radius=first)
    moved = attack(network, batch, generator("cpu", 2)).images
    path, result = reference(network, batch, epsilon, steps, gamma, first or epsilon)
    assert np.stack(network.visited(batch)) == pytest.approx(path, abs=1e-4)
    assert moved.flatten(1).numpy() == pytest.approx(result, abs=1e-4)


def two_classes(seed, size=6):
    """Two linear classes, gray images of class 0 that the smoothed classifier gets right."""
    network, batch = random_case(seed, size, classes=2, scale=2.0, shape=(1, 6, 6))
    source = generator("cpu", seed, 1)
    images = 0.45 + 0.1 * torch.rand(batch.images.shape, generator=source)
    with torch.no_grad():
        difference = network.weight[0] - network.weight[1]
        noisy = (images + batch.noise).flatten(2) @ difference
        network.bias.copy_(torch.stack([1 - noisy.min(), torch.tensor(0.0)]))
    return network, NoisyBatch(images, torch.zeros_like(batch.labels), batch.noise, batch.sigma)


def smallest_flips(network, batch):
    """Solve mean_j sigmoid(a_j − t‖w₀ − w₁‖) = ½: no move flips that is shorter than t."""
    weight, bias, images, _, noise = exact(network, batch)
    difference = weight[0] - weight[1]
    margins = (images + noise) @ difference + bias[0] - bias[1]
    slope = np.linalg.norm(difference)
    return [
        brentq(lambda t, a=a: expit(a - t * slope).mean() - 0.5, 0, a.max() / slope + 1)
        for a in margins.T
    ]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("gamma", "tolerance"), [(0.05, 0.05), (0.01, 0.01)])
def test_many_steps_approach_the_smallest_flipping_move_from_above(seed, gamma, tolerance):
    network, batch = two_classes(seed)
    moved = DDN(2.0, steps=400, gamma=gamma)(network, batch, generator("cpu", 2)).images
    distance = (moved - batch.images).flatten(1).norm(dim=1).numpy()
    smallest = np.array(smallest_flips(network, batch))
    assert (smallest > 0.1).all()
    assert (distance >= smallest - 1e-4).all()
    assert (distance <= smallest * (1 + tolerance)).all()


@given(st.integers(0, 2**31))
@settings(max_examples=40)
def test_of_all_images_visited_the_nearest_flipped_one_is_returned(seed):
    network, batch = random_case(seed, size=8)
    moved = DDN(1.0, gamma=0.3)(network, batch, generator("cpu", 2)).images.flatten(1)
    visited = torch.stack(network.visited(batch))
    answers = torch.stack(network.logits).unflatten(1, (4, 8)).softmax(-1).mean(1).argmax(-1)
    distance = (visited - batch.images.flatten(1)).norm(dim=2)
    distance[answers == batch.labels] = torch.inf
    smallest, at = distance.min(0)
    flipped = smallest.isfinite()
    assert flipped.any()
    expected = visited[at, torch.arange(8)]
    assert torch.allclose(moved[flipped], expected[flipped], atol=1e-6)


def test_an_image_that_is_wrong_at_the_start_stays_exactly_as_it_is():
    network, batch = two_classes(0)
    wrong = NoisyBatch(batch.images, torch.ones_like(batch.labels), batch.noise, batch.sigma)
    moved = DDN(1.0)(network, wrong, generator("cpu", 2)).images
    assert torch.equal(moved, wrong.images)


def radii(network, batch, **settings):
    """Return how far from the originals the classifier was asked, by step, and the result."""
    moved = DDN(**settings)(network, batch, generator("cpu", 2)).images.flatten(1)
    path = torch.stack([*network.visited(batch), moved])
    return (path - batch.images.flatten(1)).norm(dim=2)


def test_radii_grow_up_to_epsilon_while_nothing_flips_and_the_last_image_is_kept():
    network, batch = two_classes(0)
    smallest = min(smallest_flips(network, batch))
    epsilon = 0.9 * smallest
    distance = radii(network, batch, epsilon=epsilon, gamma=0.2, initial_radius=epsilon / 3)
    grown = torch.tensor([epsilon / 3 * 1.2**step for step in range(1, 11)])
    assert distance[0] == pytest.approx(torch.zeros(6), abs=1e-5)
    assert distance[1:] == pytest.approx(grown.clamp(max=epsilon)[:, None].expand(-1, 6), abs=1e-5)
    assert distance[-1] == pytest.approx(torch.full((6,), epsilon), abs=1e-5)


def test_radii_shrink_while_everything_is_flipped():
    network, batch = two_classes(0)
    wrong = NoisyBatch(batch.images, torch.ones_like(batch.labels), batch.noise, batch.sigma)
    with torch.no_grad():
        network.bias[0] += 50.0
    distance = radii(network, wrong, epsilon=0.3, gamma=0.2)
    shrunk = torch.tensor([0.3 * 0.8**step for step in range(1, 10)])
    assert distance[1:-1] == pytest.approx(shrunk[:, None].expand(-1, 6), abs=1e-5)


@pytest.mark.parametrize("label", [0, 1])
def test_flips_are_judged_by_the_mean_softmax_and_not_by_a_vote(label):
    """Two draws of three lean to class 1, the third is sure of class 0, and so is their mean."""
    network = LinearNetwork([[0.0, 0.0], [10.0, 10.0]], [0.0, -10.0])
    noise = torch.tensor([0.005, 0.005, -0.5]).view(3, 1, 1, 1, 1).expand(3, 1, 1, 1, 2)
    images = torch.full((1, 1, 1, 2), 0.5)
    batch = NoisyBatch(images, torch.tensor([label]), noise, 0.25)
    moved = DDN(0.01)(network, batch, generator("cpu", 2)).images
    assert torch.equal(moved, images) == (label == 1)


@pytest.mark.parametrize("gamma", [0.0, 1.0, -0.1, torch.nan])
def test_a_gamma_out_of_range_is_refused(gamma):
    with pytest.raises(InvalidArgumentError, match="Expected `gamma`"):
        DDN(1.0, gamma=gamma)


@pytest.mark.parametrize("radius", [0.0, -1.0, torch.inf])
def test_an_initial_radius_out_of_range_is_refused(radius):
    with pytest.raises(InvalidArgumentError, match="Expected `initial_radius`"):
        DDN(1.0, initial_radius=radius)
