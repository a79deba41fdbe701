"""Training images that stay on the device: the same batches, made there from their keys."""

import pickle

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from smoothcert.data.augmentation import CropAndFlip
from smoothcert.data.base import ImageDataModule
from smoothcert.data.datasets import FileImages, InMemoryImages, Keys, to_unit
from smoothcert.data.sampling import BatchKey
from smoothcert.types import ImageBatch
from tests.helpers.training import fit, module, weights

CPU = torch.device("cpu")


def pictures(count=40):
    source = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (count, 1, 8, 8), dtype=torch.uint8, generator=source)
    return InMemoryImages(pixels, torch.arange(count) % 10)


class Pictures(ImageDataModule):
    """Bytes of 8×8 pixels; the training images are cropped and mirrored."""

    input_shape, mean, std = (1, 8, 8), (0.5,), (0.3,)

    def __init__(self, on_device="auto", workers=0, paths=None):
        super().__init__(8, 0.2, seed=3, split_seed=0, num_workers=workers)
        self.on_device, self.paths = on_device, paths

    class_names = tuple("0123456789")

    def load(self, split):
        parts = np.split(np.random.default_rng(0).permutation(40), [28, 36])
        everything = pictures()
        if self.paths:
            everything = FileImages(self.paths, torch.arange(40) % 10, to_unit)
        train = everything.subset(parts[0], None if self.paths else CropAndFlip(2))
        return {
            "train": train,
            "val": everything.subset(parts[1]),
            "test": everything.subset(parts[2]),
        }


class Seen(pl.Callback):
    """Keeps every batch as the training step gets it."""

    def __init__(self):
        self.training, self.validation = [], []

    def on_train_batch_start(self, trainer, module, batch, number):
        self.training.append(ImageBatch(*(each.clone() for each in batch)))

    def on_validation_batch_start(self, trainer, module, batch, number, loader=0):
        self.validation.append(ImageBatch(*(each.clone() for each in batch)))


def trained(folder, **options):
    training, seen, data = module(), Seen(), Pictures(**options)
    fit(training, folder, epochs=2, batches=1.0, callbacks=[seen], data=data)
    return weights(training), seen, data


def same(batches, others):
    assert len(batches) == len(others) > 0
    return all(
        torch.equal(a, b)
        for one, other in zip(batches, others, strict=True)
        for a, b in zip(one, other, strict=True)
    )


def test_a_training_from_the_device_is_bit_for_bit_the_one_from_the_loader(tmp_path):
    (ours, seen, data), (theirs, other, _) = (
        trained(tmp_path / str(on), on_device=on) for on in (True, False)
    )
    assert data._on_device is not None
    assert len(seen.training) == 6
    assert same(seen.training, other.training)
    assert same(seen.validation, other.validation)
    assert torch.equal(ours, theirs)


def test_batches_from_the_device_are_shuffled_and_augmented_anew_in_every_epoch(tmp_path):
    _, seen, _ = trained(tmp_path, on_device=True)
    first, second = (
        torch.cat([batch.indices for batch in seen.training[half]])
        for half in (slice(0, 3), slice(3, 6))
    )
    assert not torch.equal(first, second)
    assert len(set(first.tolist())) == len(first)
    whole = pictures()
    crops = [
        torch.equal(image, whole.example(int(index))[0])
        for batch in seen.training
        for image, index in zip(batch.images, batch.indices, strict=True)
    ]
    assert sum(crops) < len(crops) / 4
    labels = [label for batch in seen.training for label in batch.labels.tolist()]
    assert labels == [index % 10 for batch in seen.training for index in batch.indices.tolist()]


def test_an_automatic_choice_on_a_cpu_is_the_loader(tmp_path):
    _, seen, data = trained(tmp_path / "auto", on_device="auto")
    assert data._on_device is None
    _, other, _ = trained(tmp_path / "off", on_device=False)
    assert same(seen.training, other.training)


@pytest.mark.parametrize("on_device", [True, "auto", False])
def test_images_in_files_always_come_from_the_loader(on_device, write_image, tmp_path):
    paths = [write_image(tmp_path / f"{number}.png", (8, 8)) for number in range(40)]
    data = Pictures(on_device, paths=paths)
    data.setup()
    batch = next(iter(data.train_dataloader()))
    assert isinstance(batch, ImageBatch)
    assert batch.images.shape == (8, 3, 8, 8)


@pytest.mark.parametrize("split", ["val", "test"])
def test_evaluation_batches_always_come_from_the_loader(split):
    batches = []
    for on_device in (True, False):
        data = Pictures(on_device)
        data.setup()
        loader = data.val_dataloader() if split == "val" else data.test_dataloader()
        batches.append(list(loader))
    assert same(*batches)


def test_a_loader_of_keys_is_as_long_as_one_of_batches():
    lengths = []
    for on_device in (True, False):
        data = Pictures(on_device)
        data.setup()
        lengths.append(len(data.train_dataloader()))
    assert lengths == [3, 3]


def test_only_keys_leave_a_loader_of_images_on_the_device():
    data = Pictures(on_device=True)
    data.setup()
    keys = list(data.train_dataloader())
    assert all(isinstance(key, BatchKey) for key in keys)
    assert len({position for key in keys for position in key.positions}) == 24
    assert len({key.seed for key in keys}) == 3


def test_images_are_moved_to_the_device_once():
    data = Pictures(on_device=True)
    data.setup()
    key = BatchKey([1, 0], seed=5)
    batch = data.transfer_batch_to_device(key, CPU, 0)
    held = data._on_device
    again = data.transfer_batch_to_device(key, CPU, 0)
    assert data._on_device is held
    assert same([batch], [again])
    assert same([batch], [data.images("train")[key]])


def test_a_batch_that_is_made_already_is_moved_as_it_is():
    data = Pictures(on_device=True)
    batch = ImageBatch(torch.rand(2, 1, 8, 8), torch.arange(2), torch.arange(2))
    moved = data.transfer_batch_to_device(batch, CPU, 0)
    assert isinstance(moved, ImageBatch)
    assert same([moved], [batch])


def test_overfitting_always_repeats_made_batches(tmp_path):
    data = Pictures(on_device=True)
    data.setup()

    class Trainer:
        overfit_batches = 1

    data.trainer = Trainer()
    assert all(isinstance(batch, ImageBatch) for batch in data.train_dataloader())


def test_moved_images_keep_labels_indices_and_augmentation():
    part = pictures().subset(np.array([7, 2, 30]), CropAndFlip(1))
    moved = part.to(CPU)
    assert len(moved) == 3
    assert moved.indices.tolist() == [7, 2, 30]
    assert moved.labels.tolist() == [7, 2, 0]
    assert same([moved[BatchKey([2, 1], 9)]], [part[BatchKey([2, 1], 9)]])
    assert moved.digest([0, 2]) == part.digest([0, 2])
    assert moved.digest([0, 2]) != part.digest([2, 0])


def test_images_move_to_another_device_with_all_that_belongs_to_them():
    moved = pictures().to(torch.device("meta"))
    assert {each.device.type for each in (moved.images, moved.labels, moved.indices)} == {"meta"}


def test_keys_are_handed_on_and_can_be_sent_to_a_worker():
    key = BatchKey([3, 1], seed=2**63 - 1)
    assert pickle.loads(pickle.dumps(Keys()))[key] is key
