"""ResNet-50 is torchvision's, with normalisation in front."""

import pytest
import torch
from torchvision.models import ResNet50_Weights
from torchvision.models import resnet50 as torchvision_resnet50

from smoothcert.errors import MismatchError
from smoothcert.models import resnet50

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def shapes(classes=1000, shape=(3, 224, 224)):
    """A network without memory for its values."""
    with torch.device("meta"):
        return resnet50(classes, shape, MEAN, STD)


def test_parameters_are_as_many_as_torchvision_publishes():
    found = sum(parameter.numel() for parameter in shapes().parameters())
    assert found == ResNet50_Weights.IMAGENET1K_V1.meta["num_params"] == 25_557_032


def test_names_and_shapes_are_torchvisions_behind_1():
    with torch.device("meta"):
        reference = torchvision_resnet50().state_dict()
    found = shapes().state_dict()
    assert {name: value.shape for name, value in found.items()} == {
        f"1.{name}": value.shape for name, value in reference.items()
    }


@pytest.mark.parametrize("classes", [2, 1000])
@pytest.mark.parametrize("side", [64, 224])
def test_images_become_one_logit_a_class(classes, side):
    images = torch.empty(2, 3, side, side, device="meta")
    assert shapes(classes, (3, side, side))(images).shape == (2, classes)


def test_logits_are_torchvisions_of_the_normalised_image():
    network = resnet50(2, (3, 32, 32), MEAN, STD).eval()
    reference = torchvision_resnet50(num_classes=2).eval()
    reference.load_state_dict(network[1].state_dict())
    images = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    with torch.no_grad():
        assert torch.allclose(network(images), reference((images - mean) / std), atol=1e-4)


@pytest.mark.parametrize("channels", [1, 4])
def test_images_without_three_channels_are_an_error_that_names_both_numbers(channels):
    with pytest.raises(MismatchError, match=f"3 channels, and the data has {channels}"):
        resnet50(10, (channels, 224, 224), MEAN, STD)
