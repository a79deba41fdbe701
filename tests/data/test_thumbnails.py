"""Thumbnails: where each image stands, and what it looks like there."""

import numpy as np
import pytest
import torch
from PIL import Image

from smoothcert.data import write_thumbnails
from smoothcert.data.datasets import InMemoryImages
from smoothcert.data.thumbnails import PIXELS


def tiles_of(path):
    with Image.open(path) as picture:
        pixels, text = np.asarray(picture.convert("RGB")), picture.text
    width, height = map(int, text["tile"].split("x"))
    columns = int(text["columns"])
    places = {}
    for number, index in enumerate(text["indices"].split(",")):
        top, left = number // columns * height, number % columns * width
        places[int(index)] = pixels[top : top + height, left : left + width]
    return places


def held(count, channels, side):
    source = torch.Generator().manual_seed(0)
    shape = (count, channels, side, side)
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=source)
    return InMemoryImages(pixels, torch.zeros(count, dtype=torch.int64), torch.arange(count) * 10)


@pytest.mark.parametrize("channels", [1, 3])
def test_small_images_are_shown_pixel_by_pixel(tmp_path, channels):
    images = held(7, channels, 8)
    write_thumbnails(images, [5, 0, 6], tmp_path / "thumbnails.png")
    tiles = tiles_of(tmp_path / "thumbnails.png")
    assert sorted(tiles) == [0, 50, 60]
    for index, tile in tiles.items():
        expected = images.images[index // 10].expand(3, -1, -1).permute(1, 2, 0)
        assert np.array_equal(tile, expected.numpy())


def test_large_images_keep_their_shape(tmp_path):
    wide = InMemoryImages(torch.full((2, 3, 96, 192), 200, dtype=torch.uint8), torch.zeros(2))
    write_thumbnails(wide, [0, 1], tmp_path / "thumbnails.png")
    for tile in tiles_of(tmp_path / "thumbnails.png").values():
        assert tile.shape == (32, 64, 3)
        assert np.all(tile == 200)


def test_many_images_are_thinned_evenly(tmp_path):
    count = 3 * PIXELS // 64**2
    images = InMemoryImages(torch.zeros(1, 1, 64, 64).expand(count, -1, -1, -1), torch.zeros(count))
    write_thumbnails(images, range(count), tmp_path / "thumbnails.png")
    indices = np.array(sorted(tiles_of(tmp_path / "thumbnails.png")))
    assert len(indices) * 64**2 <= PIXELS
    assert set(np.diff(indices)) <= {3, 4}


def test_the_same_images_give_the_same_bytes(tmp_path):
    for name in ("first.png", "second.png"):
        write_thumbnails(held(7, 3, 8), range(7), tmp_path / name)
    assert (tmp_path / "first.png").read_bytes() == (tmp_path / "second.png").read_bytes()
