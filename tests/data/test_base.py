"""What every data module promises, on a module with ten images."""

import re
from types import SimpleNamespace

import pytest
import torch

from smoothcert.data import CIFAR10DataModule, ImageFolderDataModule
from smoothcert.data.augmentation import CropAndFlip
from smoothcert.data.base import SPLITS, ImageDataModule
from smoothcert.data.datasets import InMemoryImages
from smoothcert.errors import DataError, InvalidArgumentError


class TenImages(ImageDataModule):
    def __init__(self, batch_size=3, val_fraction=0.5, sizes=(6, 3, 1)):
        super().__init__(batch_size, val_fraction, seed=0, split_seed=0, num_workers=0)
        self.sizes, self.loads = sizes, 0

    class_names = ("cat", "dog")

    def load(self, split):
        self.loads += 1
        pixels = torch.rand(10, 1, 4, 4, generator=torch.Generator().manual_seed(0))
        everything = InMemoryImages(pixels, torch.arange(10) % 2)
        parts = torch.split(torch.arange(10), [*self.sizes, 10 - sum(self.sizes)])[:3]
        augmentations = [CropAndFlip(2), None, None]
        return {
            split: everything.subset(part, augmentation)
            for split, part, augmentation in zip(SPLITS, parts, augmentations, strict=True)
        }


@pytest.mark.parametrize("fraction", [-0.1, 0.0, 1.0, 1.5, float("nan")])
def test_a_validation_share_outside_0_to_1_is_an_error(fraction):
    with pytest.raises(InvalidArgumentError, match=rf"`val_fraction` in \(0, 1\), got {fraction}"):
        TenImages(val_fraction=fraction)


@pytest.mark.parametrize("batch_size", [0, -1, 2.5])
def test_a_batch_size_that_is_no_count_is_an_error(batch_size):
    with pytest.raises(InvalidArgumentError, match=f"`batch_size` .* got {batch_size}"):
        TenImages(batch_size=batch_size)


def test_an_unknown_split_is_an_error_that_lists_the_known_ones():
    with pytest.raises(InvalidArgumentError, match="train, val, test, got 'dev'"):
        TenImages().images("dev")


@pytest.mark.parametrize(
    ("sizes", "named"), [((0, 3, 1), "train"), ((6, 0, 1), "val"), ((6, 0, 0), "val, test")]
)
def test_splits_without_images_are_named(sizes, named):
    with pytest.raises(DataError, match=f"none are left for {named}$"):
        TenImages(sizes=sizes).setup()


def test_images_are_loaded_once():
    module = TenImages()
    module.setup("fit")
    module.setup("test")
    module.train_dataloader()
    assert module.loads == 1


@pytest.mark.parametrize(
    ("stage", "expected"),
    [("fit", ["train", "val"]), ("validate", ["val"]), ("test", ["test"]), (None, SPLITS)],
)
def test_each_stage_loads_the_splits_that_it_needs(stage, expected):
    class OneByOne(TenImages):
        def load(self, split):
            asked.append(split)
            return {split: super().load(split)[split]}

    asked = []
    OneByOne().setup(stage)
    assert asked == list(expected)


def test_evaluation_batches_come_in_order_and_unchanged():
    module = TenImages(batch_size=2)
    images, labels, indices = map(torch.cat, zip(*module.val_dataloader(), strict=True))
    assert indices.tolist() == [6, 7, 8]
    assert labels.tolist() == [0, 1, 0]
    assert torch.equal(images, module.images("val").images)


def test_training_batches_are_full_and_single_examples_unaugmented():
    module = TenImages(batch_size=4)
    (batch,) = module.train_dataloader()
    assert len(set(batch.indices.tolist())) == 4
    train = module.images("train")
    assert torch.equal(torch.stack([train.example(i)[0] for i in range(6)]), train.images)


def test_overfitting_repeats_the_same_batches():
    module = TenImages(batch_size=4)
    module.trainer = SimpleNamespace(overfit_batches=1)
    loader = module.train_dataloader()
    assert [batch.indices.tolist() for batch in loader] == [[0, 1, 2, 3], [4, 5]]
    assert all(torch.equal(a.images, b.images) for a, b in zip(loader, loader, strict=True))


def test_classes_are_known_without_reading_an_image(tmp_path):
    for name in ("train/dog", "train/cat", "test/cat", "test/dog"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "damaged.png").write_bytes(b"no image")
    for data in (CIFAR10DataModule(tmp_path), ImageFolderDataModule(tmp_path, 32)):
        assert (data.class_names, data.num_classes) == (["cat", "dog"], 2)
    torchvisions = CIFAR10DataModule(tmp_path, download=True)
    assert torchvisions.class_names[::9] == ["airplane", "truck"]


def test_missing_folders_are_named_where_classes_are_looked_for(tmp_path):
    for data in (CIFAR10DataModule(tmp_path), ImageFolderDataModule(tmp_path, 32)):
        with pytest.raises(DataError, match=re.escape(str(tmp_path))):
            data.class_names  # noqa: B018
