"""CIFAR ResNets against He et al. (2016), torchvision's blocks and published file names."""

import math

import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional
from torchvision.models.resnet import BasicBlock as TorchvisionBlock
from torchvision.transforms.functional import pil_to_tensor

from smoothcert.errors import InvalidArgumentError
from smoothcert.models import (
    CifarResNet,
    Folding,
    cifar_resnet,
    load_weights,
    with_normalization,
)
from smoothcert.models.resnet_cifar import BasicBlock, initialize_convolution
from tests.helpers.networks import images, parameter_count, randomized
from tests.helpers.support import ROOT

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
# Table 6 there, in millions, for identity shortcuts.
PUBLISHED = {20: 0.27, 32: 0.46, 44: 0.66, 56: 0.85, 110: 1.7}
# Two 1×1 convolutions with BatchNorm take the place of the two padded shortcuts.
PROJECTIONS = 16 * 32 + 2 * 32 + 32 * 64 + 2 * 64


def shapes(*arguments, **options):
    """A network without memory for its values."""
    with torch.device("meta"):
        return CifarResNet(*arguments, **options)


@pytest.mark.parametrize("depth", PUBLISHED)
def test_parameters_are_as_many_as_published(depth):
    millions = (parameter_count(shapes(depth, 10)) - PROJECTIONS) / 1e6
    digits = 1 if depth == 110 else 2
    assert round(millions, digits) == PUBLISHED[depth]


@pytest.mark.parametrize("depth", [8, 20, 56])
def test_depth_counts_the_layers_with_weights_outside_the_shortcuts(depth):
    network = shapes(depth, 10)
    layers = [
        name
        for name, part in network.named_modules()
        if isinstance(part, (nn.Conv2d, nn.Linear)) and "downsample" not in name
    ]
    assert len(layers) == depth


@pytest.mark.parametrize("depth", [2, 7, 9, 11, 18, 28, 111])
def test_a_depth_that_is_not_6k_plus_2_is_an_error(depth):
    with pytest.raises(InvalidArgumentError, match=f"`depth` .*6k .* 2.*got {depth}"):
        CifarResNet(depth, 10)


@pytest.mark.parametrize(
    ("shape", "classes"), [((3, 32, 32), 10), ((1, 8, 8), 4), ((3, 64, 48), 2)]
)
def test_images_become_one_logit_a_class(shape, classes):
    network = cifar_resnet(classes, shape, MEAN[: shape[0]], STD[: shape[0]], depth=8)
    assert network(images(2, *shape)).shape == (2, classes)


def test_the_published_names_stand_behind_the_normalisation():
    names = list(cifar_resnet(10, (3, 32, 32), MEAN, STD, depth=20).state_dict())
    assert names[0] == "1.conv1.weight"
    assert names[-1] == "1.fc.bias"
    assert {"1.bn1.running_var", "1.layer1.2.conv2.weight", "1.layer3.0.bn2.bias"} <= set(names)
    assert "1.layer2.0.downsample.0.weight" in names
    assert "1.layer3.0.downsample.1.running_mean" in names
    assert not any("layer1.0.downsample" in name or name.startswith("0.") for name in names)


@pytest.mark.parametrize(("channels", "stride"), [(4, 1), (8, 2), (8, 1)])
def test_a_block_computes_what_torchvisions_does(channels, stride):
    own = randomized(BasicBlock(4, channels, stride)).eval()
    projection = nn.Sequential(
        nn.Conv2d(4, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
    )
    identity = stride == 1 and channels == 4
    reference = TorchvisionBlock(4, channels, stride, None if identity else projection).eval()
    reference.load_state_dict(own.state_dict())
    pixels = images(2, 4, 8, 8)
    assert own(pixels).shape == (2, channels, 8 // stride, 8 // stride)
    assert torch.allclose(own(pixels), reference(pixels), atol=1e-6)


def test_a_network_is_a_convolution_three_stages_the_mean_and_a_linear_layer():
    network = randomized(CifarResNet(8, 10, width=4)).eval()
    weights, pixels = network.state_dict(), images(2, 3, 16, 16)
    names = [f"bn1.{name}" for name in ("running_mean", "running_var", "weight", "bias")]
    out = functional.conv2d(pixels, weights["conv1.weight"], padding=1)
    out = functional.relu(functional.batch_norm(out, *(weights[name] for name in names)))
    for stage in (network.layer1, network.layer2, network.layer3):
        out = stage(out)
    pooled = functional.adaptive_avg_pool2d(out, 1).flatten(1)
    expected = functional.linear(pooled, weights["fc.weight"], weights["fc.bias"])
    assert torch.allclose(network(pixels), expected, rtol=1e-4, atol=1e-4)


def test_stages_halve_the_image_and_double_the_channels():
    network, out = CifarResNet(14, 10, width=4), torch.zeros(1, 4, 32, 32)
    for stage, shape in (
        (network.layer1, (1, 4, 32, 32)),
        (network.layer2, (1, 8, 16, 16)),
        (network.layer3, (1, 16, 8, 8)),
    ):
        out = stage(out)
        assert out.shape == shape


@pytest.mark.parametrize("width", [4, 16, 32])
def test_width_sets_the_channels_of_every_stage(width):
    network = shapes(8, 10, width=width)
    channels = [part.out_channels for part in network.modules() if hasattr(part, "out_channels")]
    assert sorted(set(channels)) == [width, 2 * width, 4 * width]
    assert network.fc.in_features == 4 * width


def test_pixels_are_normalised_before_the_network():
    network = cifar_resnet(10, (3, 32, 32), MEAN, STD, depth=8, width=4).eval()
    pixels = images(2, 3, 32, 32)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    assert torch.allclose(network(pixels), network[1]((pixels - mean) / std), atol=1e-6)


def test_convolutions_start_with_hes_deviation():
    """Deviation √(2 / (9 · channels out)); 73,728 weights estimate it to 0.3%."""
    weight = CifarResNet(8, 10, width=32).layer3[0].conv1.weight
    assert weight.std().item() == pytest.approx(math.sqrt(2 / (9 * 128)), rel=0.02)
    assert abs(weight.mean().item()) < 0.001


# Shortcuts without parameters.


def option_a(weights, pixels, stages=3):
    """The forward pass of a ResNet with identity shortcuts, by its formulas."""

    def normed(out, name):
        names = ("running_mean", "running_var", "weight", "bias")
        return functional.batch_norm(out, *(weights[f"{name}.{each}"] for each in names))

    out = normed(functional.conv2d(pixels, weights["conv1.weight"], padding=1), "bn1").relu()
    for stage in range(1, stages + 1):
        blocks = {name.split(".")[1] for name in weights if name.startswith(f"layer{stage}.")}
        for block in sorted(blocks, key=int):
            name = f"layer{stage}.{block}"
            stride = 2 if stage > 1 and block == "0" else 1
            inner = functional.conv2d(out, weights[f"{name}.conv1.weight"], None, stride, 1)
            inner = normed(inner, f"{name}.bn1").relu()
            inner = functional.conv2d(inner, weights[f"{name}.conv2.weight"], padding=1)
            shortcut = torch.zeros_like(inner)
            first = (inner.shape[1] - out.shape[1]) // 2
            shortcut[:, first : first + out.shape[1]] = out[:, :, ::stride, ::stride]
            out = (normed(inner, f"{name}.bn2") + shortcut).relu()
    return out.mean((2, 3)) @ weights["fc.weight"].T + weights["fc.bias"]


@pytest.mark.parametrize("side", [16, 15])
def test_a_shortcut_without_parameters_is_every_other_pixel_between_zeros(side):
    network = randomized(CifarResNet(14, 10, width=4, shortcut="A")).eval()
    pixels = images(2, 3, side, side)
    with torch.no_grad():
        assert torch.allclose(network(pixels), option_a(network.state_dict(), pixels), atol=1e-4)


@pytest.mark.parametrize("depth", PUBLISHED)
def test_without_projections_parameters_are_as_many_as_published(depth):
    millions = parameter_count(shapes(depth, 10, shortcut="A")) / 1e6
    assert round(millions, 1 if depth == 110 else 2) == PUBLISHED[depth]


def test_batchnorm_is_folded_with_either_shortcut():
    for shortcut, parts in (("A", 7), ("B", 9)):
        network = randomized(CifarResNet(8, 10, width=4, shortcut=shortcut)).eval()
        folding, pixels = Folding(network), images(2, 3, 16, 16)
        assert len(folding.parts) == parts
        with torch.no_grad():
            folded = folding.refreshed()(pixels)
            assert torch.allclose(folded, network(pixels), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("shortcut", ["C", "a", ""])
def test_another_shortcut_is_refused_with_those_that_exist(shortcut):
    with pytest.raises(InvalidArgumentError, match=f"`shortcut` one of A, B, got '{shortcut}'"):
        CifarResNet(8, 10, shortcut=shortcut)


PUBLISHED_FILE = ROOT / "data" / "weights" / "resnet20-12fca82f.th"
TEST_IMAGES = ROOT / "data" / "cifar10" / "test"


@pytest.mark.skipif(not PUBLISHED_FILE.is_file(), reason="the published file is not here")
def test_the_most_downloaded_weights_of_cifar_10_are_read_as_published():
    network = cifar_resnet(10, (3, 32, 32), MEAN, STD, depth=20, shortcut="A").eval()
    load_weights(network, PUBLISHED_FILE)
    saved = torch.load(PUBLISHED_FILE, "cpu", weights_only=True)["state_dict"]
    weights = {
        name.removeprefix("module.").replace("linear", "fc"): tensor
        for name, tensor in saved.items()
    }
    pixels = images(8, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(network[1](pixels), option_a(weights, pixels), atol=1e-3)


@pytest.mark.skipif(
    not (PUBLISHED_FILE.is_file() and TEST_IMAGES.is_dir()), reason="file or images are not here"
)
def test_the_published_weights_are_as_accurate_as_published_where_the_normalisation_is_right():
    """91.7 % on the original images; about 80 % on a JPEG copy of them."""
    files = [
        file for folder in sorted(TEST_IMAGES.iterdir()) for file in sorted(folder.iterdir())[:20]
    ]
    labels = torch.arange(10).repeat_interleave(20)
    pixels = torch.stack([pil_to_tensor(Image.open(file)) for file in files]) / 255
    accuracy = {}
    for kind in ("imagenet", "none"):
        network = cifar_resnet(10, (3, 32, 32), MEAN, STD, depth=20, shortcut="A").eval()
        load_weights(network, PUBLISHED_FILE)
        with torch.no_grad():
            answers = with_normalization(network, kind)(pixels).argmax(1)
        accuracy[kind] = (answers == labels).float().mean().item()
    assert accuracy["imagenet"] > 0.7
    assert accuracy["none"] < 0.4


@pytest.mark.parametrize(("ins", "outs", "side"), [(32, 128, 3), (128, 32, 3), (256, 256, 1)])
def test_convolutions_have_a_variance_of_2_over_what_each_input_feeds(ins, outs, side):
    """At least 36,864 weights estimate the deviation to 0.4%."""
    layer = nn.Conv2d(ins, outs, side)
    initialize_convolution(layer)
    expected = math.sqrt(2 / (outs * side**2))
    assert layer.weight.std().item() == pytest.approx(expected, rel=0.02)
    assert layer.weight.mean().item() == pytest.approx(0, abs=0.03 * expected)


@pytest.mark.parametrize("part", [nn.Linear(8, 8), nn.BatchNorm2d(8)])
def test_other_parts_are_left_alone(part):
    before = {name: value.clone() for name, value in part.state_dict().items()}
    initialize_convolution(part)
    assert all(torch.equal(before[name], value) for name, value in part.state_dict().items())
