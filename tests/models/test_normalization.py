"""Input normalisation against its formula and against torchvision."""

import math

import pytest
import torch
from torch import nn
from torchvision.transforms.v2.functional import normalize

from smoothcert.errors import InvalidArgumentError, MismatchError
from smoothcert.models import Folding, Normalize, normalized, with_normalization

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)


def images(channels=3):
    return torch.rand(4, channels, 5, 6, generator=torch.Generator().manual_seed(0))


def test_each_channel_loses_its_mean_and_is_divided_by_its_deviation():
    pixels = images().double()
    found = Normalize(MEAN, STD).double()(pixels)
    for channel, (mean, std) in enumerate(zip(MEAN, STD, strict=True)):
        expected = (pixels[:, channel] - mean) / std
        assert torch.allclose(found[:, channel], expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_result_is_torchvisions(channels):
    mean, std = MEAN[:channels], STD[:channels]
    expected = normalize(images(channels), list(mean), list(std))
    assert torch.allclose(Normalize(mean, std)(images(channels)), expected, rtol=0, atol=1e-6)


def test_it_has_no_state():
    assert not Normalize(MEAN, STD).state_dict()
    assert not list(Normalize(MEAN, STD).parameters())


def test_it_follows_the_module_to_another_dtype():
    assert Normalize(MEAN, STD).double()(images().double()).dtype == torch.float64


def test_constants_of_two_lengths_are_an_error_that_names_both():
    with pytest.raises(MismatchError, match=r"\(0.1, 0.2\) and \(0.3,\)"):
        Normalize((0.1, 0.2), (0.3,))


@pytest.mark.parametrize(("constants", "channels"), [(3, 1), (1, 3), (2, 3), (3, 4)])
@pytest.mark.parametrize("batched", [True, False])
def test_another_number_of_channels_is_refused_and_never_broadcast(constants, channels, batched):
    layer = Normalize([0.5] * constants, [0.2] * constants)
    pixels = torch.zeros(4, channels, 5, 6)
    with pytest.raises(
        MismatchError, match=rf"^Expected images of {constants} channels.*{channels}, 5, 6\)$"
    ):
        layer(pixels if batched else pixels[0])


@pytest.mark.parametrize("std", [[0.0], [-0.1], [math.nan], [math.inf], [0.2, math.nan], []])
def test_a_deviation_that_is_not_positive_and_finite_is_refused(std):
    with pytest.raises(InvalidArgumentError, match="`std` > 0 and finite in every"):
        Normalize([0.5] * len(std), std)


@pytest.mark.parametrize("mean", [math.nan, -math.inf])
def test_a_mean_that_is_not_finite_is_refused(mean):
    with pytest.raises(InvalidArgumentError, match="`mean` finite in every"):
        Normalize([0.5, mean], [0.2, 0.2])


def test_batchnorm_behind_it_is_still_folded_and_channels_are_still_counted():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten())
    model = normalized(network, MEAN, STD).eval()
    folding = Folding(model)
    assert len(folding.parts) == 1
    assert torch.allclose(folding.refreshed()(images()), model(images()), atol=1e-5)
    with pytest.raises(MismatchError, match="Expected images of 3 channels"):
        folding.refreshed()(images(1))


def test_normalisation_comes_first_and_keeps_the_networks_names_behind_1():
    network = normalized(nn.Sequential(nn.Flatten(), nn.Linear(90, 2)), MEAN, STD)
    assert isinstance(network[0], Normalize)
    assert list(network.state_dict()) == ["1.1.weight", "1.1.bias"]
    assert torch.equal(network(images()), network[1](network[0](images())))


KINDS = {
    "standard": lambda pixels: (pixels - as_image(MEAN)) / as_image(STD),
    "center": lambda pixels: pixels - as_image(MEAN),
    "none": lambda pixels: pixels,
    "imagenet": lambda pixels: (
        (pixels - as_image((0.485, 0.456, 0.406))) / as_image((0.229, 0.224, 0.225))
    ),
}


def as_image(values):
    return torch.tensor(values).view(3, 1, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_shows_the_network_what_its_formula_says(kind):
    seen = with_normalization(normalized(nn.Identity(), MEAN, STD), kind)(images())
    assert torch.equal(seen, KINDS[kind](images()))


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_changes_neither_the_network_nor_its_names(kind):
    model = normalized(nn.Linear(6, 2), MEAN, STD)
    changed = with_normalization(model, kind)
    assert changed[1] is model[1]
    assert list(changed.state_dict()) == ["1.weight", "1.bias"]


def test_the_model_that_is_given_another_kind_keeps_its_own():
    model = normalized(nn.Identity(), MEAN, STD)
    with_normalization(model, "none")
    assert torch.equal(model(images()), KINDS["standard"](images()))


def test_an_unknown_kind_is_refused_with_those_that_exist():
    with pytest.raises(
        InvalidArgumentError, match="one of standard, center, none, imagenet, got 'centre'"
    ):
        with_normalization(normalized(nn.Identity(), MEAN, STD), "centre")


def test_imagenets_normalisation_is_for_three_channels():
    with pytest.raises(MismatchError, match="takes 3 channels, and the data has 1"):
        with_normalization(normalized(nn.Identity(), [0.5], [0.5]), "imagenet")


@pytest.mark.parametrize("model", [nn.Sequential(nn.Flatten()), nn.Linear(2, 2)])
def test_a_model_that_does_not_normalise_first_has_no_other_kind(model):
    with pytest.raises(MismatchError, match=f"{type(model).__name__} does not begin with one"):
        with_normalization(model, "none")
