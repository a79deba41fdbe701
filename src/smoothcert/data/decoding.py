"""Decode image files, find those that cannot be decoded, and cache both results."""

import hashlib
import json
import logging
import os
import warnings
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from joblib import cpu_count
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from smoothcert.errors import DataError, InvalidArgumentError, SmoothCertWarning
from smoothcert.records import require_regular, write_atomically

logger = logging.getLogger(__name__)

CORRUPT = ("error", "skip")
"""What to do about an image that cannot be decoded."""
NAMED = 3
"""Number of files that a warning names."""
BLOCK = 64
"""Files per task of a thread: for a million files, one task each would fill the memory."""


class Decoded(NamedTuple):
    """Result of decoding image files.

    Attributes:
        images: pixels of the readable files, in order, uint8, shape (N, 3, H, W).
        unreadable: the other files, and the reason for each.
    """

    images: Tensor
    unreadable: dict[Path, str]


def require_corrupt(corrupt: str) -> None:
    """Raise unless `corrupt` is one of `CORRUPT`.

    Args:
        corrupt: error or skip.

    Raises:
        InvalidArgumentError: if it is something else.

    Example:
        >>> require_corrupt("skip")
    """
    if corrupt not in CORRUPT:
        raise InvalidArgumentError(
            f"Expected `corrupt` one of {', '.join(CORRUPT)}, got {corrupt!r}"
        )


def decode(path: Path) -> Tensor:
    """Decode an image file.

    Args:
        path: an image of at most 8 bits per channel, in a format that Pillow reads; of several
            frames the first is used. Colours are converted as torchvision's loader does.

    Returns:
        uint8 RGB, shape (3, H, W).

    Raises:
        DataError: if the file cannot be read or is not an image; the message names it.
    """
    try:
        return _decode(path)
    except DataError as error:
        raise DataError(
            f"{error}. Fix it, or leave such files out with data.corrupt=skip"
        ) from error


def decode_all(
    paths: Sequence[Path],
    cache: Path | None,
    resize: Callable[[Tensor], Tensor] | None = None,
    corrupt: str = "error",
) -> Decoded:
    """Decode many images to one size.

    Args:
        paths: the image files, at least one.
        cache: a folder for decoded pixels, which later calls read, or None. A folder that cannot
            be written to is not an error: the next call decodes the images again. Not together
            with `resize`.
        resize: maps each decoded image to the common size; None: they already have it.
        corrupt: `skip` leaves out files that cannot be decoded; `error` raises at the first.

    Raises:
        DataError: if a file is not an image, unless such files are left out, or if an image
            differs in size from the first.
    """
    cached = _Cache(paths, cache)
    unreadable = {} if corrupt == "error" else cached.unreadable() or {}
    images = cached.images(unreadable)
    if images is None:
        images, errors = _decode_in_threads(paths, resize or (lambda image: image), corrupt)
        unreadable = _reasons(errors)
        if errors:
            cached.keep_unreadable(errors)
        cached.keep_images(images, unreadable)
    return Decoded(images, unreadable)


def is_cached(paths: Sequence[Path], cache: Path | None, corrupt: str) -> bool:
    """Return whether `decode_all` would read these images from its cache.

    Args:
        paths: the image files.
        cache: the folder for decoded pixels, or None.
        corrupt: as for `decode_all`.
    """
    cached = _Cache(paths, cache)
    return cached.has_images({} if corrupt == "error" else cached.unreadable() or {})


def is_checked(paths: Sequence[Path], cache: Path) -> bool:
    """Return whether `find_unreadable` would read its result from its cache.

    Args:
        paths: the image files.
        cache: the folder for the result.
    """
    return _Cache(paths, cache).unreadable() is not None


def find_unreadable(paths: Sequence[Path], cache: Path | None) -> dict[Path, str]:
    """Find the image files that cannot be decoded, with a progress bar: all of them are read.

    Args:
        paths: the image files.
        cache: a folder for the result, which later calls with the same, unchanged files read, or
            None. A folder that cannot be written to is not an error.

    Returns:
        The files that `decode` refuses, in order, and the reason for each.
    """
    cached = _Cache(paths, cache)
    known = cached.unreadable()
    if known is None:
        errors = _check_in_threads(paths)
        cached.keep_unreadable(errors)
        known = _reasons(errors)
    return known


def warn_of_unreadable(unreadable: Mapping[Path, str], total: int) -> None:
    """Warn of images that are left out, once for all of them.

    Args:
        unreadable: the files, and the reason for each.
        total: number of images, these included.
    """
    if not unreadable:
        return
    more = len(unreadable) - NAMED
    warnings.warn(
        f"Left out {len(unreadable)} of {total} images that cannot be read (data.corrupt=skip): "
        f"{', '.join(map(str, islice(unreadable, NAMED)))}{f' and {more} more' * (more > 0)}",
        SmoothCertWarning,
        stacklevel=2,
    )


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Open an image file; errors inside the context become a `DataError` that names it."""
    try:
        require_regular(path)
        with Image.open(path) as file:
            if file.mode.startswith(("I", "F")):
                raise DataError(
                    f"{path} has {file.mode} pixels of more than 8 bits, which would be clipped: "
                    "it needs 8 bits per channel"
                )
            yield file
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} is not a readable image: {error}") from error


def _decode(path: Path) -> Tensor:
    with _opened(path) as file:
        # Pillow converts a palette with transparency to RGB only via RGBA.
        image = file.convert("RGBA") if "transparency" in file.info else file
        pixels = np.array(image.convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def _check(path: Path) -> None:
    """Read a file to its end; a JPEG at an eighth of its size, in a fraction of the time."""
    with _opened(path) as file:
        file.draft(None, (1, 1))
        file.load()


def _decode_in_threads(
    paths: Sequence[Path], resize: Callable[[Tensor], Tensor], corrupt: str
) -> tuple[Tensor, dict[Path, DataError]]:
    if not paths:
        raise DataError("Too few images to divide: none are left for one of the splits")
    errors: dict[Path, DataError] = {}

    def attempt(path: Path) -> Tensor | None:
        try:
            return resize((decode if corrupt == "error" else _decode)(path))
        except DataError as error:
            if corrupt == "error":
                raise
            errors[path] = error
            return None

    images = _collect(paths, attempt)
    if errors:
        kept = [place for place, path in enumerate(paths) if path not in errors]
        images = images[kept]
    # Threads finish in any order.
    return images, {path: errors[path] for path in paths if path in errors}


def _collect(paths: Sequence[Path], attempt: Callable[[Path], Tensor | None]) -> Tensor:
    """Decode files into one tensor; the rows of unreadable files are undefined."""
    shown = ((path, image) for path in paths if (image := attempt(path)) is not None)
    first, example = next(shown, (None, torch.empty(3, 0, 0)))
    images = torch.empty((len(paths), *example.shape), dtype=torch.uint8)

    def place(position: int) -> None:
        image = attempt(paths[position])
        if image is not None and image.shape != example.shape:
            raise DataError(
                f"Expected images of one size, {tuple(example.shape)} as in {first}, "
                f"got {tuple(image.shape)} in {paths[position]}"
            )
        if image is not None:
            images[position] = image

    with _threads() as pool, _progress_bar("decode", len(paths)) as bar:
        for _ in pool.map(place, range(len(paths))):
            bar.update()
    return images


def _check_in_threads(paths: Sequence[Path]) -> dict[Path, DataError]:
    blocks = [paths[start : start + BLOCK] for start in range(0, len(paths), BLOCK)]
    errors = {}
    with _threads() as pool, _progress_bar("check", len(paths)) as bar:
        for block, found in zip(blocks, pool.map(_errors_in, blocks), strict=True):
            errors |= found
            bar.update(len(block))
    return errors


def _errors_in(paths: Sequence[Path]) -> dict[Path, DataError]:
    errors = {}
    for path in paths:
        try:
            _check(path)
        except DataError as error:
            errors[path] = error
    return errors


def _threads() -> ThreadPoolExecutor:
    # Some threads wait for the disk while others decode.
    return ThreadPoolExecutor(cpu_count() + 4)


def _progress_bar(what: str, total: int) -> tqdm:
    return tqdm(desc=what, total=total, unit="image")


def _reasons(errors: Mapping[Path, DataError]) -> dict[Path, str]:
    return {path: str(error) for path, error in errors.items()}


class _Cache:
    """Results for files that have not changed since; without a folder nothing is cached.

    Args:
        paths: the files.
        folder: created when a result is cached.
    """

    def __init__(self, paths: Sequence[Path], folder: Path | None) -> None:
        self._paths = paths
        self._folder = folder
        # Taken before reading: a file that changes meanwhile must not match its old pixels.
        self._marks = {} if folder is None else {path: _mark(path) for path in paths}

    def unreadable(self) -> dict[Path, str] | None:
        """Return the unreadable files and the reason for each; None: not cached."""
        note = self._file((), "unreadable.json")
        if note is None or not note.is_file():
            return None
        try:
            found = json.loads(note.read_text(encoding="utf-8"))
            return {self._paths[each["place"]]: each["reason"] for each in found}
        except (OSError, ValueError, LookupError, TypeError) as error:
            logger.warning("Checking again, the cache %s is damaged: %s", note, error)
            return None

    def keep_unreadable(self, errors: Mapping[Path, DataError]) -> None:
        """Cache the unreadable files."""
        note = self._file((), "unreadable.json")
        # Errors of the system, such as permissions or a missing disk, may be temporary.
        if note is None or any(getattr(e.__cause__, "errno", None) for e in errors.values()):
            return
        found = [
            {"place": place, "file": str(path), "reason": str(errors[path])}
            for place, path in enumerate(self._paths)
            if path in errors
        ]
        try:
            note.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(note, json.dumps(found, indent=1))
        except OSError as error:
            logger.info("Images are checked again next time, %s cannot be written: %s", note, error)

    def has_images(self, without: Container[Path]) -> bool:
        """Return whether the pixels of all files but `without` are cached."""
        stored = self._file(without, "npy")
        return stored is not None and stored.is_file()

    def images(self, without: Container[Path]) -> Tensor | None:
        """Return the pixels of all files but `without`; None: not cached."""
        stored = self._file(without, "npy")
        if stored is None or not stored.is_file():
            return None
        try:
            return torch.from_numpy(np.load(stored))
        except (OSError, EOFError, ValueError) as error:
            logger.warning("Decoding again, the cache %s is damaged: %s", stored, error)
            return None

    def keep_images(self, images: Tensor, without: Container[Path]) -> None:
        """Cache the pixels of all files but `without`."""
        stored = self._file(without, "npy")
        if stored is None:
            return
        try:
            stored.parent.mkdir(parents=True, exist_ok=True)
            temporary = stored.with_suffix(f".{os.getpid()}.npy")
            np.save(temporary, images.numpy())
            temporary.replace(stored)
        except OSError as error:
            logger.info("Decoded images are not cached, %s cannot be written: %s", stored, error)

    def _file(self, without: Container[Path], kind: str) -> Path | None:
        if self._folder is None:
            return None
        digest = hashlib.sha256()
        for path in self._paths:
            if path not in without:
                digest.update(self._marks[path])
        return self._folder / f"{digest.hexdigest()[:16]}.{kind}"


def _mark(path: Path) -> bytes:
    """Return bytes that change when a file changes."""
    try:
        facts = path.stat()
    except OSError:
        # A broken link.
        return os.fsencode(path.absolute()) + b" missing\n"
    return os.fsencode(path.absolute()) + f" {facts.st_size} {facts.st_mtime_ns}\n".encode()
