"""The small network: shapes, size and what it must do, learn."""

import pytest
import torch
from torch.nn import functional

from smoothcert.models import SmallCNN, small_cnn
from tests.helpers.networks import images


def count(width):
    return sum(p.numel() for p in SmallCNN(10, 1, width).parameters())


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (1, 28, 28), (3, 17, 30)])
def test_images_become_one_logit_a_class(shape):
    network = small_cnn(4, shape, [0.5] * shape[0], [0.2] * shape[0])
    assert network(images(2, *shape)).shape == (2, 4)


@pytest.mark.parametrize("width", [1, 8, 32])
def test_parameters_are_those_of_three_convolutions_and_a_linear_layer(width):
    convolutions = 9 * (1 * width + width * 2 * width + 2 * width * 2 * width)
    batch_norms = 2 * (width + 2 * width + 2 * width)
    linear = (2 * width * 2 * 2) * 10 + 10
    assert count(width) == convolutions + batch_norms + linear


def test_pixels_are_normalised_before_the_network():
    network = small_cnn(4, (1, 8, 8), [0.3], [0.4], width=4).eval()
    pixels = images(2, 1, 8, 8)
    assert torch.allclose(network(pixels), network[1]((pixels - 0.3) / 0.4), atol=1e-6)


def test_logits_are_those_of_three_convolutions_one_halving_and_a_mean():
    network = SmallCNN(4, 1, width=3).eval()
    weights, out = network.state_dict(), 20 * images(2, 1, 8, 8)
    for place, stride in ((0, 1), (3, 2), (6, 1)):
        convolution, norm = (f"features.{place + step}." for step in (0, 1))
        out = functional.conv2d(out, weights[convolution + "weight"], None, stride, padding=1)
        mean, variance = weights[norm + "running_mean"], weights[norm + "running_var"]
        out = functional.relu((out - mean.view(-1, 1, 1)) / (variance + 1e-5).sqrt().view(-1, 1, 1))
    quarters = out.unflatten(3, (2, 2)).unflatten(2, (2, 2)).mean((3, 5)).flatten(1)
    expected = functional.linear(quarters, weights["fc.weight"], weights["fc.bias"])
    assert torch.allclose(network(20 * images(2, 1, 8, 8)), expected, rtol=1e-4, atol=1e-4)


@pytest.fixture
def global_seed():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.mark.usefixtures("global_seed")
def test_a_few_steps_tell_left_from_right():
    """Which half of the image is bright: chance level is a loss of log 2 = 0.693."""
    pixels, labels = images(64, 1, 8, 8), torch.arange(64) % 2
    pixels[labels == 0, :, :, :4] += 0.5
    pixels[labels == 1, :, :, 4:] += 0.5
    network = small_cnn(2, (1, 8, 8), [0.75], [0.4], width=4)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    for _ in range(20):
        optimizer.zero_grad()
        loss = functional.cross_entropy(network(pixels), labels)
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1
