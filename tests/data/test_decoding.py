"""Decoding against the pixels that were written, files that are no images, and the cache."""

import itertools
import json
import os
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import ImageFolder
from torchvision.datasets.folder import IMG_EXTENSIONS

from smoothcert.data import decoding
from smoothcert.data.class_folders import read_class_folders
from smoothcert.data.decoding import (
    decode,
    decode_all,
    find_unreadable,
    require_corrupt,
    warn_of_unreadable,
)
from smoothcert.errors import DataError, InvalidArgumentError, SmoothCertWarning


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


def refused(path):
    """Whether `decode` refuses a file."""
    try:
        decode(path)
    except DataError:
        return True
    return False


def noise(*shape, levels=256):
    return np.random.default_rng(0).integers(0, levels, shape, dtype=np.uint8)


def gradients(height, width):
    """A smooth picture, which JPEG keeps almost as it is."""
    rows, columns = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    return np.stack([255 * rows, 255 * columns, 255 - 128 * rows], axis=2).astype(np.uint8)


@pytest.mark.parametrize("kind", ["FIFO", "folder"])
def test_what_is_no_file_is_named_and_not_waited_for(kind, paths, tmp_path):
    path = tmp_path / "x.png"
    if kind == "FIFO":
        os.mkfifo(path)
    else:
        path.mkdir()
    with pytest.raises(DataError, match=f"{path} is not a readable image: .*regular file"):
        decode(path)
    with pytest.raises(DataError, match=f"{path} is not a readable image"):
        decode_all([*paths, path], None)
    assert list(decode_all([*paths, path], None, corrupt="skip").unreadable) == [path]
    assert list(find_unreadable([*paths, path], None)) == [path]


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


def test_all_that_torchvision_reads_is_read_in_its_order_and_pixel_by_pixel(tmp_path, write_image):
    """torchvision's ImageFolder lists the same files, with the same labels and pixels."""
    modes = {
        ("L", "RGB", "1", "RGBA"): (".bmp", ".png", ".tif", ".tiff", ".webp", ".ppm"),
        ("L", "RGB", "CMYK"): (".jpg", ".jpeg", ".tif"),
        ("P", "LA"): (".png", ".tiff"),
        ("L", "1"): (".pgm",),
        ("YCbCr",): (".tif",),
    }
    for number, (each, suffixes) in enumerate(modes.items()):
        for mode, suffix in itertools.product(each, suffixes):
            name = f"{mode}{suffix.upper() if mode == 'L' else suffix}"
            write_image(tmp_path / str(number) / "inner" / name, (9, 14), mode)
    theirs = ImageFolder(tmp_path)
    ours = read_class_folders(tmp_path)
    assert {Path(path).suffix.lower() for path, _ in theirs.samples} == set(IMG_EXTENSIONS)
    labels = ours.labels.tolist()
    assert list(zip(map(str, ours.paths), labels, strict=True)) == theirs.samples
    assert ours.class_names == theirs.classes
    for path, (image, _) in zip(ours.paths, theirs, strict=True):
        assert_pixels(path, np.array(image))


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.gif", "a.webp", "a.bmp", "a.tif", "a.ppm"])
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
    images = decode_all(paths[::-1], None).images
    assert images.dtype == torch.uint8
    assert torch.equal(images, torch.stack([pillow_pixels(path) for path in paths[::-1]]))


def test_images_are_resized_before_they_are_compared(paths, write_image, tmp_path):
    odd = write_image(tmp_path / "odd.png", (8, 8))
    images = decode_all([*paths, odd], None, lambda image: image[:, :4, :6]).images
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
    first = decode_all(paths, cache).images
    monkeypatch.setattr(decoding, "decode", forbid)
    assert torch.equal(decode_all(paths, cache).images, first)


def test_without_a_cache_nothing_is_written(paths, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    decode_all(paths, None)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_changed_file_is_decoded_again(paths, cache, write_image, pillow_pixels):
    stale = decode_all(paths, cache).images
    overwrite(paths[3], write_image)
    fresh = decode_all(paths, cache).images
    assert torch.equal(fresh[3], pillow_pixels(paths[3]))
    assert not torch.equal(fresh, stale)


@pytest.mark.parametrize("selection", [slice(None, None, -1), slice(1, None), slice(0, 1)])
def test_other_files_or_another_order_are_not_read_from_the_cache(
    selection, paths, cache, pillow_pixels
):
    decode_all(paths, cache)
    expected = torch.stack([pillow_pixels(path) for path in paths[selection]])
    assert torch.equal(decode_all(paths[selection], cache).images, expected)


def test_a_cache_that_cannot_be_written_is_no_error(paths, pillow_pixels, tmp_path):
    (tmp_path / "file").touch()
    images = decode_all(paths, tmp_path / "file" / "cache").images
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
    train, test = (decode_all([path], tmp_path / "cache").images for path in paths)
    assert not torch.equal(train, test)
    assert torch.equal(decode_all([paths[1]], tmp_path / "cache").images, test)


def test_a_damaged_cache_is_decoded_again(tmp_path):
    path = tmp_path / "0.png"
    Image.new("RGB", (8, 8), "red").save(path)
    whole = decode_all([path], tmp_path / "cache").images
    [stored] = (tmp_path / "cache").iterdir()
    stored.write_bytes(stored.read_bytes()[:150])
    assert torch.equal(decode_all([path], tmp_path / "cache").images, whole)


def test_sixteen_bits_are_refused_and_not_clipped(tmp_path):
    Image.fromarray(np.full((4, 4), 40_000, dtype=np.uint16)).save(tmp_path / "0.png")
    Image.fromarray(np.full((4, 4), 0.5, dtype=np.float32)).save(tmp_path / "1.tif")
    with pytest.raises(DataError, match=r"1\.tif has F.* more than 8 bits"):
        decode(tmp_path / "1.tif")
    with pytest.raises(DataError, match=r"0\.png has I.* more than 8 bits"):
        decode(tmp_path / "0.png")


def test_an_unreadable_file_says_what_can_be_done(tmp_path):
    (tmp_path / "0.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"0\.png is not .* Fix it, or .* data\.corrupt=skip"):
        decode(tmp_path / "0.png")


@pytest.mark.parametrize("corrupt", ["drop", None, True])
def test_other_answers_to_corrupt_files_are_refused(corrupt):
    expected = rf"Expected `corrupt` one of error, skip, got {corrupt!r}"
    with pytest.raises(InvalidArgumentError, match=expected):
        require_corrupt(corrupt)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.jpg", {}),
        ("a.jpg", {"progressive": True}),
        ("a.jpg", {"restart_marker_rows": 1}),
        ("a.png", {}),
        ("a.gif", {}),
        ("a.webp", {}),
    ],
    ids=["jpeg", "progressive jpeg", "jpeg with restarts", "png", "gif", "webp"],
)
def test_files_cut_off_anywhere_are_found_as_decoding_finds_them(
    name, options, write_image, tmp_path
):
    """The check reads a JPEG at an eighth of its size; that must not pass a shorter one."""
    whole = write_image(tmp_path / "whole" / name, (70, 90), **options)
    content = whole.read_bytes()
    paths = [whole]
    for length in [*range(0, len(content), len(content) // 60), len(content) - 3]:
        paths.append(tmp_path / f"{length}_{name}")
        paths[-1].write_bytes(content[:length])
    found = find_unreadable(paths, None)
    assert list(found) == [path for path in paths if refused(path)]
    assert whole not in found
    assert len(found) >= 60


def test_unreadable_files_are_found_in_order_with_their_reasons(paths, write_corrupt, tmp_path):
    corrupt = write_corrupt(tmp_path)
    mixed = sorted([*paths, *corrupt])
    found = find_unreadable(mixed, None)
    assert list(found) == sorted(corrupt)
    assert all(str(path) in reason for path, reason in found.items())
    assert "truncated" in found[tmp_path / "half.jpg"]


def test_what_decoding_refuses_for_its_depth_is_found_too(tmp_path):
    Image.fromarray(np.full((4, 4), 40_000, dtype=np.uint16)).save(tmp_path / "0.png")
    assert "more than 8 bits" in find_unreadable([tmp_path / "0.png"], None)[tmp_path / "0.png"]


@pytest.mark.parametrize("damaged", [True, False])
def test_the_second_check_reads_no_image(damaged, paths, cache, monkeypatch):
    if damaged:
        paths[4].write_bytes(b"no image")
    first = find_unreadable(paths, cache)
    monkeypatch.setattr(decoding.Image, "open", forbid)
    assert find_unreadable(paths, cache) == first
    assert list(first) == ([paths[4]] if damaged else [])


def test_the_answer_can_be_read(paths, cache):
    paths[4].write_bytes(b"no image")
    reason = find_unreadable(paths, cache)[paths[4]]
    [note] = cache.iterdir()
    assert json.loads(note.read_text()) == [{"place": 4, "file": str(paths[4]), "reason": reason}]


def test_a_file_that_was_mended_or_damaged_since_is_noticed(paths, cache, write_image):
    paths[4].write_bytes(b"no image")
    assert list(find_unreadable(paths, cache)) == [paths[4]]
    overwrite(paths[4], write_image)
    assert find_unreadable(paths, cache) == {}
    paths[7].write_bytes(b"no image")
    assert list(find_unreadable(paths, cache)) == [paths[7]]


def test_a_file_that_changes_during_the_check_is_checked_again(paths, cache, monkeypatch):
    open_image = Image.open

    def damage_then_open(path):
        image = open_image(path)
        image.load()
        paths[4].write_bytes(b"no image")
        return image

    monkeypatch.setattr(decoding.Image, "open", damage_then_open)
    find_unreadable(paths[4:5], cache)
    monkeypatch.setattr(decoding.Image, "open", open_image)
    assert list(find_unreadable(paths[4:5], cache)) == [paths[4]]


def test_other_files_have_an_answer_of_their_own(paths, cache):
    paths[4].write_bytes(b"no image")
    find_unreadable(paths, cache)
    assert list(find_unreadable(paths[::-1], cache)) == [paths[4]]
    assert find_unreadable(paths[:4], cache) == {}


@pytest.mark.parametrize("content", ["", "[", '[{"place": 99, "reason": ""}]', "[4]"])
def test_a_damaged_answer_is_found_again(content, paths, cache):
    paths[4].write_bytes(b"no image")
    first = find_unreadable(paths, cache)
    [note] = cache.iterdir()
    note.write_text(content)
    assert find_unreadable(paths, cache) == first


def test_what_the_system_refuses_is_not_remembered(paths, cache):
    """A link to nowhere, or a disk that is away, may be there again next time."""
    (paths[4].parent / "link.png").symlink_to(paths[4].parent / "away.png")
    linked = [*paths, paths[4].parent / "link.png"]
    assert list(find_unreadable(linked, cache)) == linked[-1:]
    assert not cache.exists()
    paths[4].rename(paths[4].parent / "away.png")
    assert list(find_unreadable(linked, cache)) == [paths[4]]


def test_an_answer_that_cannot_be_kept_is_no_error(paths, tmp_path):
    (tmp_path / "file").touch()
    paths[4].write_bytes(b"no image")
    assert list(find_unreadable(paths, tmp_path / "file" / "cache")) == [paths[4]]


@pytest.mark.parametrize("damaged", [{0}, {4}, {8}, {0, 1, 7}, set()], ids=str)
@pytest.mark.parametrize("times", [1, 2])
def test_skipping_leaves_out_exactly_the_unreadable(damaged, times, paths, cache, pillow_pixels):
    good = [path for number, path in enumerate(paths) if number not in damaged]
    expected = torch.stack([pillow_pixels(path) for path in good])
    for number in damaged:
        paths[number].write_bytes(b"no image")
    for _ in range(times):
        images, unreadable = decode_all(paths, cache, corrupt="skip")
        assert torch.equal(images, expected)
        assert list(unreadable) == [paths[number] for number in sorted(damaged)]


def test_skipping_reads_no_image_the_second_time(paths, cache, monkeypatch):
    paths[4].write_bytes(b"no image")
    first = decode_all(paths, cache, corrupt="skip")
    monkeypatch.setattr(decoding.Image, "open", forbid)
    second = decode_all(paths, cache, corrupt="skip")
    assert torch.equal(first.images, second.images)
    assert first.unreadable == second.unreadable


def test_a_skipped_image_that_is_requested_is_an_error(paths, cache):
    paths[4].write_bytes(b"no image")
    decode_all(paths, cache, corrupt="skip")
    with pytest.raises(DataError, match=re.escape(str(paths[4]))):
        decode_all(paths, cache)


def test_skipping_does_not_excuse_another_size(paths, write_image, tmp_path):
    odd = write_image(tmp_path / "odd.png", (7, 5))
    with pytest.raises(DataError, match=re.escape(str(odd))):
        decode_all([*paths, odd], None, corrupt="skip")


@pytest.mark.parametrize("times", [1, 2])
def test_where_all_are_unreadable_nothing_is_left(times, paths, cache):
    for path in paths:
        path.write_bytes(b"no image")
    for _ in range(times):
        images, unreadable = decode_all(paths, cache, corrupt="skip")
        assert len(images) == 0
        assert list(unreadable) == paths


@pytest.mark.parametrize(
    ("count", "names"),
    [(1, "0.png"), (3, "0.png, 1.png, 2.png"), (5, "0.png, 1.png, 2.png and 2 more")],
)
def test_one_warning_counts_all_and_names_the_first(count, names, tmp_path):
    unreadable = {tmp_path / f"{number}.png": "" for number in range(count)}
    with pytest.warns(SmoothCertWarning) as caught:
        warn_of_unreadable(unreadable, 60)
    [warning] = caught
    message = str(warning.message).replace(f"{tmp_path}/", "")
    assert message.startswith(f"Left out {count} of 60 images")
    assert message.endswith(f": {names}")


def test_nothing_left_out_is_nothing_to_warn_of():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_unreadable({}, 60)
