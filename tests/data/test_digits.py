"""The digits against scikit-learn's own arrays, batch by batch through the loader."""

from itertools import chain

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from smoothcert.data import DigitsDataModule

SPLITS = ("train", "val", "test")
PIXELS = load_digits().images.astype(np.float32)[:, None] / 16
LABELS = load_digits().target


def epoch(digits, number=0):
    loader = digits.train_dataloader()
    loader.sampler.set_epoch(number)
    return [torch.cat(parts) for parts in zip(*loader, strict=True)]


def same(batches, others):
    return all(torch.equal(a, b) for a, b in zip(batches, others, strict=True))


def split_indices(**options):
    digits = DigitsDataModule(**options)
    return {split: digits.images(split).indices.tolist() for split in SPLITS}


def shifts(image, padding):
    padded = np.pad(image, ((0, 0), (padding, padding), (padding, padding)))
    places = range(2 * padding + 1)
    return [padded[:, y : y + 8, x : x + 8] for y in places for x in places]


@pytest.mark.parametrize("split_seed", [0, 1])
def test_splits_are_disjoint_and_together_all_1797(split_seed):
    parts = split_indices(split_seed=split_seed)
    assert sorted(chain(*parts.values())) == list(range(1797))


def test_splits_follow_from_the_split_seed_alone():
    assert split_indices(seed=0) == split_indices(seed=1)
    assert split_indices(split_seed=0) != split_indices(split_seed=1)


def test_splits_have_the_requested_shares():
    parts = split_indices(val_fraction=0.2, test_fraction=0.5)
    assert [len(parts[split]) for split in SPLITS] == [1797 - 359 - 898, 359, 898]


@pytest.mark.parametrize("split", ["val", "test"])
def test_evaluation_images_are_scikit_learns(split):
    loader = getattr(DigitsDataModule(), f"{split}_dataloader")()
    images, labels, indices = (torch.cat(parts) for parts in zip(*loader, strict=True))
    assert np.array_equal(images.numpy(), PIXELS[indices])
    assert np.array_equal(labels.numpy(), LABELS[indices])


def test_training_images_without_shifts_are_scikit_learns():
    images, labels, indices = epoch(DigitsDataModule(crop_padding=0))
    assert np.array_equal(images.numpy(), PIXELS[indices])
    assert np.array_equal(labels.numpy(), LABELS[indices])


def test_training_images_are_shifted_and_never_mirrored():
    images, _, indices = epoch(DigitsDataModule(crop_padding=1))
    own = PIXELS[indices]
    assert not np.array_equal(images.numpy(), own)
    for image, original in zip(images.numpy(), own, strict=True):
        assert any(np.array_equal(image, shift) for shift in shifts(original, 1))


def test_an_epoch_holds_each_training_image_at_most_once():
    digits = DigitsDataModule(batch_size=64)
    indices = epoch(digits)[2].tolist()
    assert len(set(indices)) == len(indices) == 1078 // 64 * 64
    assert set(indices) <= set(digits.images("train").indices.tolist())


def test_pixels_are_floats_in_0_to_1_of_the_stated_shape():
    digits = DigitsDataModule()
    images = epoch(digits)[0]
    assert images.dtype == torch.float32
    assert images.shape[1:] == digits.input_shape == (1, 8, 8)
    assert (images.min(), images.max()) == (0, 1)


def test_there_are_ten_classes_named_by_their_digit():
    digits = DigitsDataModule()
    digits.setup()
    assert digits.num_classes == 10
    assert digits.class_names == list("0123456789")


def test_mean_and_deviation_are_those_of_all_images():
    assert DigitsDataModule.mean == pytest.approx([PIXELS.mean()], abs=5e-5)
    assert DigitsDataModule.std == pytest.approx([PIXELS.std()], abs=5e-5)


def test_seed_and_epoch_decide_the_batches():
    digits = DigitsDataModule(seed=3)
    epoch(digits, 0)
    assert same(epoch(digits, 5), epoch(DigitsDataModule(seed=3), 5))


@pytest.mark.parametrize(("seed", "number"), [(3, 6), (4, 5)])
def test_another_seed_or_epoch_gives_another_order(seed, number):
    indices = epoch(DigitsDataModule(seed=3), 5)[2]
    assert not torch.equal(epoch(DigitsDataModule(seed=seed), number)[2], indices)


def test_another_epoch_shifts_the_same_image_otherwise():
    digits = DigitsDataModule(batch_size=1078)
    first, second = (epoch(digits, number) for number in (0, 1))
    by_index = [images[indices.argsort()] for images, _, indices in (first, second)]
    assert not torch.equal(*by_index)
