"""Batch augmentation against padding, cropping and mirroring each image by hand."""

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from smoothcert.data.augmentation import CropAndFlip


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def crops_by_hand(image, padding, flip):
    """Every image that padding, cropping and mirroring can make of one (C, H, W) image."""
    channels, height, width = image.shape
    padded = np.zeros((channels, height + 2 * padding, width + 2 * padding), image.dtype)
    padded[:, padding : padding + height, padding : padding + width] = image
    places = range(2 * padding + 1)
    crops = [padded[:, y : y + height, x : x + width] for y in places for x in places]
    return crops + [crop[:, :, ::-1] for crop in crops if flip]


def candidate_numbers(images, outputs, padding, flip):
    """Which candidate each output is; fails where it is none or several."""
    numbers = []
    for image, output in zip(images.numpy(), outputs.numpy(), strict=True):
        same = [np.array_equal(output, crop) for crop in crops_by_hand(image, padding, flip)]
        assert sum(same) == 1
        numbers.append(same.index(True))
    return numbers


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("padding", [0, 1, 4])
@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 5, 9)])
def test_every_output_is_one_crop_of_its_own_image(shape, padding, flip):
    images = torch.rand(24, *shape, generator=generator(1))
    outputs = CropAndFlip(padding, flip)(images, generator())
    candidate_numbers(images, outputs, padding, flip)


def test_every_crop_and_its_mirror_image_are_equally_likely():
    images = torch.rand(1, 1, 3, 4, generator=generator(1)).expand(3600, -1, -1, -1)
    outputs = CropAndFlip(padding=1, flip=True)(images, generator())
    counts = np.bincount(candidate_numbers(images, outputs, 1, True), minlength=18)
    assert chisquare(counts).pvalue > 1e-3


def test_without_padding_and_flip_nothing_changes():
    images = torch.rand(5, 3, 8, 8, generator=generator())
    assert torch.equal(CropAndFlip(padding=0, flip=False)(images, generator()), images)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_dtype_and_input_are_kept(dtype):
    images = (torch.rand(5, 3, 8, 8, generator=generator()) * 255).to(dtype)
    before = images.clone()
    assert CropAndFlip(2)(images, generator()).dtype == dtype
    assert torch.equal(images, before)


def test_the_generator_alone_decides():
    images = torch.rand(16, 1, 8, 8, generator=generator())
    augment, state = CropAndFlip(2), torch.get_rng_state()
    first, again, other = (augment(images, generator(seed)) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)
