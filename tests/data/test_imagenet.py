"""ImageNet's layout in small, and forty real photographs where they are."""

import tarfile

import pytest
import torch
from torchvision.models import ResNet50_Weights

from smoothcert.data import ImageNetDataModule
from smoothcert.data.imagenet import CLASSES
from smoothcert.errors import SmoothCertWarning

SPLITS = ("train", "val", "test")


def load(root, **options):
    return ImageNetDataModule(str(root), num_workers=0, **options)


@pytest.fixture
def small(write_classes, tmp_path):
    for split, each in (("train", 50), ("val", 2)):
        write_classes(tmp_path / split, ("n01", "n02"), each, size=(20, 30))
    return tmp_path


@pytest.fixture
def photographs(shared_file, tmp_path):
    with tarfile.open(shared_file("imagenet-sample.tar")) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / "imagenet-sample"


def test_the_official_validation_images_are_the_test_images(small):
    imagenet = load(small, val_fraction=0.05)
    sizes = [len(imagenet.images(split)) for split in SPLITS]
    assert sizes == [95, 5, 4]
    assert {path.parents[1].name for path in imagenet.images("test").paths} == {"val"}


def test_validation_images_are_held_out_of_the_training_images(small):
    imagenet = load(small, val_fraction=0.05)
    train, val = (imagenet.images(split).indices for split in ("train", "val"))
    assert sorted(torch.cat([train, val]).tolist()) == list(range(100))
    assert {path.parents[1].name for path in imagenet.images("val").paths} == {"train"}


def test_training_batches_are_224_pixels_wide(small):
    batch = next(iter(load(small, batch_size=3).train_dataloader()))
    assert batch.images.shape == (3, 3, 224, 224)


def test_normalisation_is_that_of_torchvisions_weights(small):
    published = ResNet50_Weights.IMAGENET1K_V1.transforms()
    assert list(load(small).mean) == published.mean
    assert list(load(small).std) == published.std


def test_real_photographs_are_prepared_as_torchvisions_weights_ask(photographs, pillow_pixels):
    """The published preprocessing, up to the rounding of bytes after the resize."""
    imagenet = load(photographs)
    prepare = ResNet50_Weights.IMAGENET1K_V1.transforms()
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (imagenet.mean, imagenet.std))
    (batch,) = imagenet.test_dataloader()
    assert batch.images.shape == (40, 3, 224, 224)
    for image, path in zip(batch.images, imagenet.images("test").paths, strict=True):
        expected = prepare(pillow_pixels(path)) * std + mean
        assert (image - expected).abs().max() <= 2.01 / 255


def test_test_images_alone_are_numbered_as_the_published_weights_number_them(photographs):
    """The sample's files are named after their classes, in torchvision's words."""
    imagenet = load(photographs)
    assert imagenet.num_classes == 1000
    images = imagenet.images("test")
    words = ResNet50_Weights.IMAGENET1K_V1.meta["categories"]
    for path, label in zip(images.paths, images.labels.tolist(), strict=True):
        assert path.stem.partition("_")[2].replace("_", " ") == words[label]
    assert len(images) == 40


def test_the_published_classes_are_those_of_timm():
    info = pytest.importorskip("timm.data").ImageNetInfo("imagenet-1k")
    assert list(CLASSES) == info.label_names() == sorted(CLASSES)


def test_forty_real_photographs_in_class_folders_alone_are_divided(photographs):
    imagenet = load(photographs / "val", batch_size=8)
    parts = [imagenet.images(split) for split in SPLITS]
    assert imagenet.num_classes == 40
    assert sorted(torch.cat([part.labels for part in parts]).tolist()) == list(range(40))
    for part in parts:
        folders = [path.parent.name for path in part.paths]
        assert [imagenet.class_names[label] for label in part.labels] == folders


def test_real_photographs_make_training_batches(photographs):
    batch = next(iter(load(photographs / "val", batch_size=8).train_dataloader()))
    assert batch.images.shape == (8, 3, 224, 224)
    assert torch.all((batch.images >= 0) & (batch.images <= 1))
    assert batch.images.std() > 0.1


def test_corrupt_photographs_are_left_out_where_asked(small, write_corrupt):
    write_corrupt(small / "train" / "n01")
    imagenet = load(small, val_fraction=0.05, corrupt="skip")
    with pytest.warns(SmoothCertWarning, match="Left out 3 of 98 images"):
        sizes = [len(imagenet.images(split)) for split in SPLITS]
    assert sum(sizes[:2]) == 100
    assert sizes[2] == 4
