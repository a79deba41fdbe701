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


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("channels", [1, 2, 3, 5])
@pytest.mark.parametrize("padding", [0, 2])
def test_images_come_back_channels_last_in_memory(channels, dtype, padding):
    images = (torch.rand(6, channels, 5, 7, generator=generator(1)) * 255).to(dtype)
    outputs = CropAndFlip(padding)(images, generator())
    assert outputs.shape == images.shape
    assert outputs.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_bytes_and_floats_of_any_depth_are_moved_as_by_hand(channels, dtype):
    images = (torch.rand(12, channels, 5, 7, generator=generator(1)) * 255).to(dtype)
    candidate_numbers(images, CropAndFlip(2)(images, generator()), 2, True)


def test_the_order_of_the_pixels_in_memory_changes_no_image():
    images = torch.rand(9, 3, 8, 8, generator=generator(1))
    other = images.contiguous(memory_format=torch.channels_last)
    assert torch.equal(*(CropAndFlip(2)(each, generator(4)) for each in (images, other)))


def test_a_seed_moves_images_as_it_always_did():
    """Shifts of rows, shifts of columns, then mirrors, from one generator: seeds of old runs."""
    images, source = torch.rand(20, 2, 6, 6, generator=generator(1)), generator(7)
    shifts = torch.randint(5, (2, 20), generator=source)
    mirrored = torch.rand(20, generator=source) < 0.5
    outputs = CropAndFlip(2)(images, generator(7))
    for number, (image, output) in enumerate(zip(images.numpy(), outputs.numpy(), strict=True)):
        crops = crops_by_hand(image, 2, flip=False)
        crop = crops[5 * int(shifts[0, number]) + int(shifts[1, number])]
        assert np.array_equal(output, crop[:, :, ::-1] if mirrored[number] else crop)
