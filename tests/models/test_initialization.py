"""Initial weights against the deviation that He et al. (2015) derive."""

import math

import pytest
import torch
from torch import nn

from smoothcert.models.initialization import initialize_convolution


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
