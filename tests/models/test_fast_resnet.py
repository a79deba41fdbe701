"""The fast network: counted by hand, rebuilt from torch's own functions, at every usual size."""

import pytest
import torch
from hydra.utils import instantiate
from torch import nn
from torch.nn import functional

from smoothcert.errors import InvalidArgumentError
from smoothcert.models import FastResNet, fast_resnet
from tests.helpers.networks import images
from tests.helpers.support import composed

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)


def parameters_by_hand(classes, channels, width, blocks):
    """16 weights an input and output of the first convolution; two 3×3 a block; projections."""
    total = 16 * channels * width + 2 * width
    for incoming, outgoing in ((width, width), (width, 2 * width), (2 * width, 4 * width)):
        convolutions = 9 * incoming * outgoing + (2 * blocks - 1) * 9 * outgoing**2
        norms = 2 * blocks * 2 * outgoing
        projection = 0 if incoming == outgoing else incoming * outgoing + 2 * outgoing
        total += convolutions + norms + projection
    return total + (4 * width + 1) * classes


@pytest.mark.parametrize(
    ("classes", "channels", "width", "blocks"),
    [(10, 3, 64, 1), (10, 1, 64, 2), (7, 3, 8, 3), (2, 4, 1, 1)],
)
def test_parameters_are_as_many_as_counted_by_hand(classes, channels, width, blocks):
    with torch.device("meta"):
        network = FastResNet(classes, channels, width, blocks)
    counted = sum(parameter.numel() for parameter in network.parameters())
    assert counted == parameters_by_hand(classes, channels, width, blocks)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(8, 8), (9, 13), (28, 28), (32, 32), (64, 48), (64, 64)])
def test_images_of_usual_sizes_become_one_logit_a_class(size, channels):
    network = fast_resnet(7, (channels, *size), [0.5] * channels, [0.2] * channels, width=4)
    logits = network(images(3, channels, *size))
    assert logits.shape == (3, 7)
    assert logits.isfinite().all()


@pytest.mark.parametrize("blocks", [0, -1, 1.5])
def test_a_network_without_blocks_is_an_error(blocks):
    with pytest.raises(InvalidArgumentError, match=f"`blocks` .*got {blocks}"):
        FastResNet(10, blocks=blocks)


def test_the_first_layer_and_the_later_stages_halve_the_image():
    network, shapes = FastResNet(10, width=4, blocks=2), {}
    for name, part in network.named_children():
        part.register_forward_hook(
            lambda part, taken, out, name=name: shapes.update({name: tuple(out.shape[1:])})
        )
    network(images(2, 3, 32, 32))
    assert {name: shapes[name] for name in ("conv1", "layer1", "layer2", "layer3", "fc")} == {
        "conv1": (4, 16, 16),
        "layer1": (4, 16, 16),
        "layer2": (8, 8, 8),
        "layer3": (16, 4, 4),
        "fc": (10,),
    }


@pytest.mark.parametrize("blocks", [1, 3])
def test_stages_have_the_requested_blocks_and_channels(blocks):
    network = FastResNet(10, width=6, blocks=blocks)
    for number, stage in enumerate((network.layer1, network.layer2, network.layer3)):
        assert len(stage) == blocks
        assert {block.conv2.out_channels for block in stage} == {6 * 2**number}


def test_the_network_is_a_convolution_three_stages_the_mean_and_a_linear_layer():
    network, pixels = FastResNet(5, width=4).eval(), images(2, 3, 16, 16)
    out = functional.conv2d(pixels, network.conv1.weight, stride=2, padding=1)
    out = functional.relu(network.bn1(out))
    for stage in (network.layer1, network.layer2, network.layer3):
        out = stage(out)
    pooled = functional.adaptive_avg_pool2d(out, 1).flatten(1)
    expected = functional.linear(pooled, network.fc.weight, network.fc.bias)
    assert torch.allclose(network(pixels), expected, atol=1e-6)


def test_the_images_are_left_as_they_were_and_get_their_gradient():
    network = fast_resnet(5, (3, 16, 16), MEAN, STD, width=4)
    pixels = images(2, 3, 16, 16).requires_grad_()
    before = pixels.detach().clone()
    network(pixels).square().sum().backward()
    assert torch.equal(pixels, before)
    assert pixels.grad.abs().sum() > 0
    assert all(parameter.grad is not None for parameter in network.parameters())


@pytest.mark.parametrize("training", [True, False])
def test_the_gradient_is_the_one_of_differences(training):
    """In-place activations would corrupt it silently if a layer kept what they overwrite."""
    torch.manual_seed(0)
    network = FastResNet(3, in_channels=1, width=2).double().train(training)
    pixels = images(3, 1, 8, 8).double().requires_grad_()
    assert torch.autograd.gradcheck(network, (pixels,), eps=1e-7, atol=1e-4, fast_mode=True)


def test_the_published_names_stand_behind_the_normalisation():
    network = fast_resnet(10, (3, 32, 32), MEAN, STD, width=4, blocks=2)
    names = list(network.state_dict())
    assert names[0] == "1.conv1.weight"
    assert names[-1] == "1.fc.bias"
    assert {"1.bn1.running_var", "1.layer1.1.conv2.weight", "1.layer3.0.bn2.bias"} <= set(names)
    assert {"1.layer2.0.downsample.0.weight", "1.layer3.0.downsample.1.bias"} <= set(names)
    parts = [name for name, _ in network[1].named_children()]
    assert parts == ["conv1", "bn1", "layer1", "layer2", "layer3", "fc"]


def test_pixels_are_normalised_before_the_network():
    network = fast_resnet(10, (3, 32, 32), MEAN, STD, width=4).eval()
    pixels = images(2, 3, 32, 32)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    assert torch.allclose(network(pixels), network[1]((pixels - mean) / std), atol=1e-6)


def test_the_memory_format_changes_logits_by_rounding_alone():
    network, pixels = FastResNet(5, width=4).eval(), images(2, 3, 16, 16)
    expected = network(pixels)
    other = network.to(memory_format=torch.channels_last)
    logits = other(pixels.contiguous(memory_format=torch.channels_last))
    assert torch.allclose(logits, expected, atol=1e-5)


def test_the_option_of_the_configuration_is_this_network(tmp_path):
    with composed(tmp_path, ["model=fast_resnet", "model.width=8", "model.blocks=2"]) as cfg:
        config = {name: cfg.model[name] for name in ("_target_", "width", "blocks")}
    facts = {"num_classes": 4, "input_shape": (1, 8, 8), "mean": [0.5], "std": [0.2]}
    network = instantiate(config, **facts)
    assert isinstance(network[1], FastResNet)
    assert isinstance(network[1].conv1, nn.Conv2d)
    assert (network[1].conv1.out_channels, len(network[1].layer1)) == (8, 2)
