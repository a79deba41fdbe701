"""Classifiers whose smoothed accuracy is that of guessing."""

import pytest
import torch
from torch import nn

from smoothcert.certify import SmoothedClassifier
from smoothcert.commands.chance import near_chance
from smoothcert.data.datasets import InMemoryImages
from tests.helpers.runs_by_hand import rows_of

IMAGES = 150
SEED = 3


class Nearest(nn.Module):
    """Tells three grey levels apart, from one pixel: right without noise, lost under much of it."""

    def __init__(self, shift=0):
        super().__init__()
        self.shift = shift
        self.drop = nn.Dropout(0.9)

    def forward(self, images):
        levels = torch.tensor([0.0, 0.5, 1.0]).roll(self.shift)
        return -(self.drop(images[:, 0, 0, 0])[:, None] - levels).abs()


def examples():
    """Return images of three grey levels, by the labels of `rows_of`."""
    labels = torch.arange(IMAGES) % 3
    pixels = (labels * 127.5).to(torch.uint8).reshape(-1, 1, 1, 1).expand(-1, 1, 2, 2)
    return InMemoryImages(pixels.contiguous(), labels, 7 * torch.arange(IMAGES) + 2)


def said(outcomes, network=None, sigma=20.0):
    smoothed = SmoothedClassifier((network or Nearest()).train(), sigma, 3)
    return near_chance(smoothed, examples(), rows_of(outcomes), SEED)


@pytest.mark.parametrize("right", [0, IMAGES // 3, IMAGES // 3 + 5])
def test_one_that_guesses_is_compared_with_its_base_classifier(right):
    outcomes = [0.5] * right + ["abstained"] * (IMAGES - right)
    found = said(outcomes)["near_chance"]
    assert found["chance"] == pytest.approx(1 / 3)
    assert found["base_accuracy"] == 1.0
    assert found["base_accuracy_noisy"] == pytest.approx(1 / 3, abs=0.12)
    assert said(outcomes) == said(outcomes)


def test_the_noise_is_of_the_smoothed_classifiers_sigma():
    found = said(["wrong"] * IMAGES, sigma=0.1)["near_chance"]
    assert found["base_accuracy_noisy"] == pytest.approx(1 - (2 / 3) * 2 * 0.0062, abs=0.03)


def test_classes_in_another_order_show_without_noise():
    assert said(["wrong"] * IMAGES, Nearest(shift=1))["near_chance"]["base_accuracy"] == 0


@pytest.mark.parametrize("right", [IMAGES // 2, IMAGES])
def test_one_that_is_better_than_chance_costs_nothing(right, monkeypatch):
    monkeypatch.setattr(Nearest, "forward", None)
    assert said([0.5] * right + ["wrong"] * (IMAGES - right)) == {}


def test_images_of_one_class_tell_nothing_of_chance():
    rows = [row for row in rows_of(["wrong"] * IMAGES) if row.label == 0]
    assert near_chance(SmoothedClassifier(Nearest(), 0.5, 3), examples(), rows, SEED) == {}
