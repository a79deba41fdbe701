"""Transforms of photographs against torchvision and Pillow, and how folders become splits."""

import logging

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional

from smoothcert.data.photographs import (
    DividedFolders,
    evaluation_transform,
    training_transform,
)
from smoothcert.errors import DataError

SPLITS = ("train", "val", "test")


def noise(height, width):
    source = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=source)


def split(root, val_fraction=0.2, test_fraction=0.3, split_seed=0):
    folders = DividedFolders(root, val_fraction, test_fraction, split_seed)
    return zip(*(folders.part(name) for name in SPLITS), strict=True)


@pytest.mark.parametrize("shape", [(300, 400), (400, 300), (224, 224), (100, 60), (256, 700)])
def test_evaluation_is_resize_256_and_centre_crop_224(shape):
    image = noise(*shape)
    resized = functional.center_crop(functional.resize(image, [256], antialias=True), [224, 224])
    assert torch.equal(evaluation_transform(224)(image), functional.to_dtype(resized, scale=True))


@pytest.mark.parametrize("size", [28, 56, 224])
def test_an_image_of_eight_sevenths_of_the_size_is_cropped_only(size):
    side, margin = size * 8 // 7, size // 14
    image = noise(side, side)
    inner = image[:, margin : margin + size, margin : margin + size]
    assert torch.allclose(evaluation_transform(size)(image), inner / 255, rtol=0, atol=1e-7)


@pytest.mark.parametrize("size", [8, 32, 64, 112])
@pytest.mark.parametrize("shape", [(50, 90), (300, 20)])
def test_every_image_comes_out_at_the_size(size, shape):
    assert evaluation_transform(size)(noise(*shape)).shape == (3, size, size)


def test_evaluation_is_pillows_resize_up_to_one_level():
    image = noise(300, 400)
    resized = Image.fromarray(image.permute(1, 2, 0).numpy()).resize((341, 256), Image.BILINEAR)
    expected = np.array(resized)[16:240, 58:282].transpose(2, 0, 1) / 255
    difference = evaluation_transform(224)(image).numpy() - expected
    assert np.abs(difference).max() <= 1.01 / 255


def test_training_gives_floats_in_0_to_1_of_the_size():
    image = training_transform(48)(noise(60, 90))
    assert image.shape == (3, 48, 48)
    assert image.dtype == torch.float32
    assert 0 <= image.min() < image.max() <= 1


def test_training_makes_no_new_colours():
    plain = torch.tensor([10, 100, 200], dtype=torch.uint8)[:, None, None].expand(3, 40, 30)
    expected = functional.to_dtype(plain[:, :16, :16], scale=True)
    assert torch.equal(training_transform(16)(plain), expected)


def test_training_crops_at_random_and_mirrors_half():
    """A ramp that rises to the right falls where it is mirrored; 50 of 100 ± 5 are expected."""
    ramp = torch.arange(64, dtype=torch.uint8).expand(3, 64, 64)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        rows = [training_transform(16)(ramp)[0, 0] for _ in range(100)]
    rising = [bool((row.diff() >= 0).all()) for row in rows]
    falling = [bool((row.diff() <= 0).all()) for row in rows]
    assert 25 <= sum(rising) == 100 - sum(falling) <= 75
    assert len({tuple(row.tolist()) for row in rows}) > 50


def test_one_folder_is_divided_into_disjoint_parts_with_a_warning(tmp_path, write_classes, caplog):
    write_classes(tmp_path, each=10)
    with caplog.at_level(logging.WARNING, "smoothcert"):
        sources, parts = split(tmp_path)
    assert [len(part) for part in parts] == [10, 4, 6]
    assert sorted(torch.cat(parts).tolist()) == list(range(20))
    assert sources[0] == sources[1] == sources[2]
    assert f"{tmp_path} has no test/ or val/" in caplog.text


@pytest.mark.parametrize("name", ["test", "val"])
def test_a_second_folder_is_the_test_set(name, tmp_path, write_classes, caplog):
    write_classes(tmp_path / "train", each=10)
    write_classes(tmp_path / name, each=3)
    sources, parts = split(tmp_path)
    assert sorted(torch.cat(parts[:2]).tolist()) == list(range(20))
    assert len(parts[1]) == 4
    assert parts[2].tolist() == list(range(6))
    assert {path.parents[1].name for path in sources[2].paths} == {name}
    assert not caplog.records


def test_three_folders_are_used_as_they_are(tmp_path, write_classes):
    for folder, each in (("train", 5), ("val", 2), ("test", 3)):
        write_classes(tmp_path / folder, each=each)
    sources, parts = split(tmp_path)
    assert [part.tolist() for part in parts] == [list(range(n)) for n in (10, 4, 6)]
    folders = [source.paths[0].parents[1].name for source in sources]
    assert folders == ["train", "val", "test"]


def test_labels_mean_the_training_classes_everywhere(tmp_path, write_classes):
    write_classes(tmp_path / "train", ("ant", "bee", "cat"), each=2)
    write_classes(tmp_path / "test", ("bee", "cat"), each=1)
    sources, _ = split(tmp_path)
    assert sources[2].class_names == ["ant", "bee", "cat"]
    assert sources[2].labels.tolist() == [1, 2]


def test_a_test_class_without_training_images_is_an_error(tmp_path, write_classes):
    write_classes(tmp_path / "train", ("ant", "bee"), each=2)
    write_classes(tmp_path / "test", ("ant", "cat"), each=1)
    with pytest.raises(DataError, match="training images do not have, for example 'cat'"):
        split(tmp_path)


def test_the_split_seed_chooses_what_is_held_out(tmp_path, write_classes):
    write_classes(tmp_path, each=10)
    first, again, other = (list(split(tmp_path, split_seed=seed))[1] for seed in (0, 0, 1))
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[1], other[1])
