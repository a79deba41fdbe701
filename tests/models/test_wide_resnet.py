"""Wide residual networks against Zagoruyko and Komodakis (2016): counts and arithmetic."""

import math
from functools import partial

import pytest
import torch
from torch.nn import functional

from smoothcert.errors import InvalidArgumentError
from smoothcert.models import WideResNet, wide_resnet
from tests.helpers.networks import images, parameter_count, randomized

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
# Tables 4 and 5 there, in millions.
PUBLISHED = {
    (40, 1): 0.6, (40, 2): 2.2, (40, 4): 8.9, (40, 8): 35.7, (28, 10): 36.5,
    (28, 12): 52.5, (22, 8): 17.2, (22, 10): 26.8, (16, 8): 11.0, (16, 10): 17.1,
}  # fmt: skip


def shapes(*arguments, **options):
    """A network without memory for its values."""
    with torch.device("meta"):
        return WideResNet(*arguments, **options)


def activated(weights, name, out):
    """BatchNorm at its running statistics, then ReLU."""
    parts = ("running_mean", "running_var", "weight", "bias")
    return functional.relu(functional.batch_norm(out, *(weights[f"{name}.{p}"] for p in parts)))


def block_by_hand(weights, name, out, stride):
    """The authors' functional form: the projection reads the activated input."""
    convolve = partial(functional.conv2d, padding=1)
    first = activated(weights, f"{name}.bn1", out)
    second = convolve(first, weights[f"{name}.conv1.weight"], stride=stride)
    last = convolve(activated(weights, f"{name}.bn2", second), weights[f"{name}.conv2.weight"])
    projection = weights.get(f"{name}.shortcut.weight")
    return last + (
        out if projection is None else functional.conv2d(first, projection, None, stride)
    )


def network_by_hand(weights, pixels, blocks):
    out = functional.conv2d(pixels, weights["conv1.weight"], padding=1)
    for stage in (1, 2, 3):
        for number in range(blocks):
            stride = 2 if stage > 1 and number == 0 else 1
            out = block_by_hand(weights, f"layer{stage}.{number}", out, stride)
    pooled = functional.adaptive_avg_pool2d(activated(weights, "bn", out), 1).flatten(1)
    return functional.linear(pooled, weights["fc.weight"], weights["fc.bias"])


def test_wrn_28_10_has_the_published_36479194_parameters():
    assert parameter_count(shapes(28, 10, 10)) == 36_479_194


@pytest.mark.parametrize(("depth", "factor"), PUBLISHED)
def test_parameters_are_as_many_as_published(depth, factor):
    assert round(parameter_count(shapes(depth, factor, 10)) / 1e6, 1) == PUBLISHED[depth, factor]


@pytest.mark.parametrize(("depth", "factor"), [(10, 1), (16, 2), (10, 3)])
def test_logits_are_those_of_the_authors_functional_form(depth, factor):
    network = randomized(WideResNet(depth, factor, 10)).eval()
    pixels = images(2, 3, 16, 16)
    expected = network_by_hand(network.state_dict(), pixels, (depth - 4) // 6)
    assert torch.allclose(network(pixels), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("depth", [4, 9, 11, 13, 20, 110])
def test_a_depth_that_is_not_6k_plus_4_is_an_error(depth):
    with pytest.raises(InvalidArgumentError, match=f"`depth` .*6k .* 4.*got {depth}"):
        WideResNet(depth, 1, 10)


@pytest.mark.parametrize(
    ("shape", "classes"), [((3, 32, 32), 10), ((1, 8, 8), 4), ((3, 64, 48), 2)]
)
def test_images_become_one_logit_a_class(shape, classes):
    network = wide_resnet(classes, shape, MEAN[: shape[0]], STD[: shape[0]], depth=10, factor=1)
    assert network(images(2, *shape)).shape == (2, classes)


def test_pixels_are_normalised_before_the_network():
    network = wide_resnet(10, (3, 32, 32), MEAN, STD, depth=10, factor=1).eval()
    pixels = images(2, 3, 32, 32)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    assert torch.allclose(network(pixels), network[1]((pixels - mean) / std), atol=1e-6)


def test_dropout_acts_in_training_and_not_in_evaluation():
    network = wide_resnet(10, (3, 8, 8), MEAN, STD, depth=10, factor=1, dropout=0.5)
    pixels = images(2, 3, 8, 8)
    assert not torch.equal(network(pixels), network(pixels))
    network.eval()
    assert torch.equal(network(pixels), network(pixels))


def test_convolutions_start_with_hes_deviation():
    """Deviation √(2 / (9 · channels out)); 73,728 weights estimate it to 0.3%."""
    weight = WideResNet(10, 2, 10).layer3[0].conv1.weight
    assert weight.std().item() == pytest.approx(math.sqrt(2 / (9 * 128)), rel=0.02)
