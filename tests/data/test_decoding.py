"""Decoding against the pixels that were written, files that are no images, and the cache."""

import os
import re

import numpy as np
import pytest
import torch
from PIL import Image

from smoothcert.data import decoding
from smoothcert.data.decoding import decode, decode_all
from smoothcert.errors import DataError


@pytest.fixture
def paths(write_image, tmp_path):
    return [write_image(tmp_path / f"{number}.png", (5, 7)) for number in range(9)]


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "a" / "cache"


def forbid(*_):
    raise AssertionError("decoded again")


def overwrite(path, write_image):
    """Give a file other pixels and, as any later write does, a later time."""
    later = path.stat().st_mtime_ns + 1
    write_image(path, (5, 7))
    os.utime(path, ns=(later, later))


def noise(*shape, levels=256):
    return np.random.default_rng(0).integers(0, levels, shape, dtype=np.uint8)


def gradients(height, width):
    """A smooth picture, which JPEG keeps almost as it is."""
    rows, columns = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    return np.stack([255 * rows, 255 * columns, 255 - 128 * rows], axis=2).astype(np.uint8)


def assert_pixels(path, expected):
    """Compare a file with uint8 pixels of shape (H, W, 3)."""
    found = decode(path)
    assert found.dtype == torch.uint8
    assert torch.equal(found, torch.from_numpy(expected).permute(2, 0, 1))


@pytest.mark.parametrize(("name", "options"), [("a.png", {}), ("a.webp", {"lossless": True})])
def test_lossless_files_keep_every_pixel(name, options, tmp_path):
    pixels = noise(9, 14, 3)
    Image.fromarray(pixels).save(tmp_path / name, **options)
    assert_pixels(tmp_path / name, pixels)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_grey_is_repeated_and_transparency_dropped(channels, tmp_path):
    pixels = noise(9, 14, channels)
    mode = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[channels]
    Image.frombytes(mode, (14, 9), pixels.tobytes()).save(tmp_path / "a.png")
    expected = pixels[:, :, :3] if channels > 2 else pixels[:, :, :1].repeat(3, 2)
    assert_pixels(tmp_path / "a.png", expected)


@pytest.mark.parametrize("name", ["a.png", "a.gif"])
@pytest.mark.parametrize("transparency", [None, 3, bytes(range(256))], ids=["none", "one", "all"])
def test_palettes_are_looked_up(name, transparency, tmp_path):
    palette, places = noise(256, 3), noise(9, 14)
    image = Image.frombytes("P", (14, 9), places.tobytes())
    image.putpalette(palette.flatten().tolist())
    image.save(tmp_path / name, transparency=transparency)
    assert_pixels(tmp_path / name, palette[places])


def test_a_bit_is_black_or_white(tmp_path):
    bits = noise(9, 16, levels=2)
    Image.frombytes("1", (16, 9), np.packbits(bits, axis=1).tobytes()).save(tmp_path / "a.png")
    assert_pixels(tmp_path / "a.png", (255 * bits)[:, :, None].repeat(3, 2))


def test_an_animation_is_its_first_picture(tmp_path):
    pictures = [Image.new("RGB", (4, 5), colour) for colour in ("red", "lime", "blue")]
    pictures[0].save(tmp_path / "a.gif", save_all=True, append_images=pictures[1:])
    assert_pixels(tmp_path / "a.gif", np.full((5, 4, 3), [255, 0, 0], np.uint8))


@pytest.mark.parametrize("mode", ["RGB", "CMYK"])
def test_jpeg_keeps_a_smooth_picture_up_to_a_few_levels(mode, tmp_path):
    pixels = gradients(33, 50)
    Image.fromarray(pixels).convert(mode).save(tmp_path / "a.jpg", quality=95)
    found = decode(tmp_path / "a.jpg").permute(1, 2, 0).numpy()
    assert found.shape == (33, 50, 3)
    assert np.abs(found.astype(int) - pixels).max() <= 6


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.gif", "a.webp"])
def test_a_truncated_file_is_named(name, write_image, tmp_path):
    path = write_image(tmp_path / name, (64, 64))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match=re.escape(str(path))):
        decode(path)


@pytest.mark.parametrize(
    "content", [b"", b"no image at all", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"]
)
def test_a_file_that_is_no_image_is_named(content, tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(DataError, match=re.escape(str(path))):
        decode(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=re.escape(str(tmp_path / "none.png"))):
        decode(tmp_path / "none.png")


def test_many_images_keep_the_order_of_their_files(paths, pillow_pixels):
    images = decode_all(paths[::-1], None)
    assert images.dtype == torch.uint8
    assert torch.equal(images, torch.stack([pillow_pixels(path) for path in paths[::-1]]))


def test_images_are_resized_before_they_are_compared(paths, write_image, tmp_path):
    odd = write_image(tmp_path / "odd.png", (8, 8))
    images = decode_all([*paths, odd], None, lambda image: image[:, :4, :6])
    assert torch.equal(images[-1], decode(odd)[:, :4, :6])


def test_a_corrupt_file_among_many_is_named(paths):
    paths[4].write_bytes(b"no image")
    with pytest.raises(DataError, match=re.escape(str(paths[4]))):
        decode_all(paths, None)


def test_images_of_two_sizes_are_an_error_that_names_both(paths, write_image, tmp_path):
    odd = write_image(tmp_path / "odd.png", (7, 5))
    with pytest.raises(DataError, match=re.escape(str(odd))) as caught:
        decode_all([*paths, odd], None)
    assert all(part in str(caught.value) for part in ("(3, 5, 7)", "(3, 7, 5)", str(paths[0])))


def test_the_cache_spares_the_second_decoding(paths, cache, monkeypatch):
    first = decode_all(paths, cache)
    monkeypatch.setattr(decoding, "decode", forbid)
    assert torch.equal(decode_all(paths, cache), first)


def test_without_a_cache_nothing_is_written(paths, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    decode_all(paths, None)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_changed_file_is_decoded_again(paths, cache, write_image, pillow_pixels):
    stale = decode_all(paths, cache)
    overwrite(paths[3], write_image)
    fresh = decode_all(paths, cache)
    assert torch.equal(fresh[3], pillow_pixels(paths[3]))
    assert not torch.equal(fresh, stale)


@pytest.mark.parametrize("selection", [slice(None, None, -1), slice(1, None), slice(0, 1)])
def test_other_files_or_another_order_are_not_read_from_the_cache(
    selection, paths, cache, pillow_pixels
):
    decode_all(paths, cache)
    expected = torch.stack([pillow_pixels(path) for path in paths[selection]])
    assert torch.equal(decode_all(paths[selection], cache), expected)


def test_a_cache_that_cannot_be_written_is_no_error(paths, pillow_pixels, tmp_path):
    (tmp_path / "file").touch()
    images = decode_all(paths, tmp_path / "file" / "cache")
    assert torch.equal(images[8], pillow_pixels(paths[8]))


def test_a_failed_decoding_leaves_no_cache(paths, cache):
    paths[4].write_bytes(b"no image")
    with pytest.raises(DataError):
        decode_all(paths, cache)
    assert not cache.exists() or not list(cache.iterdir())


def test_splits_of_equal_names_sizes_and_times_do_not_share_a_cache(tmp_path):
    source = np.random.default_rng(0)
    for split in ("train", "test"):
        (tmp_path / split / "cat").mkdir(parents=True)
        path = tmp_path / split / "cat" / "0.png"
        Image.fromarray(source.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)
        os.utime(path, (0, 0))
    paths = [tmp_path / split / "cat" / "0.png" for split in ("train", "test")]
    train, test = (decode_all([path], tmp_path / "cache") for path in paths)
    assert not torch.equal(train, test)
    assert torch.equal(decode_all([paths[1]], tmp_path / "cache"), test)


def test_a_damaged_cache_is_decoded_again(tmp_path):
    path = tmp_path / "0.png"
    Image.new("RGB", (8, 8), "red").save(path)
    whole = decode_all([path], tmp_path / "cache")
    [stored] = (tmp_path / "cache").iterdir()
    stored.write_bytes(stored.read_bytes()[:150])
    assert torch.equal(decode_all([path], tmp_path / "cache"), whole)


def test_sixteen_bits_are_refused_and_not_clipped(tmp_path):
    Image.fromarray(np.full((4, 4), 40_000, dtype=np.uint16)).save(tmp_path / "0.png")
    with pytest.raises(DataError, match=r"0\.png has I.* more than 8 bits"):
        decode(tmp_path / "0.png")
