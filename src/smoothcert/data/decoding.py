"""Image files to pixels, and a cache of what was decoded."""

import hashlib
import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from smoothcert.errors import DataError

logger = logging.getLogger(__name__)


def decode(path: Path) -> Tensor:
    """Decode an image file.

    Args:
        path: a JPEG, PNG, GIF or WebP file.

    Returns:
        uint8 RGB, shape (3, H, W).

    Raises:
        DataError: if the file cannot be read or is no image; the message names it.
    """
    try:
        with Image.open(path) as file:
            # A palette with transparency becomes RGB by way of RGBA only.
            image = file.convert("RGBA") if "transparency" in file.info else file
            if image.mode.startswith("I"):
                raise DataError(
                    f"{path} has {image.mode} pixels of more than 8 bits, which would be clipped. "
                    "Convert it to 8 bits a channel"
                )
            pixels = np.array(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} is not a readable image: {error}") from error
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def decode_all(
    paths: Sequence[Path], cache: Path | None, resize: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """Decode many images to one size.

    Args:
        paths: the image files, at least one.
        cache: a folder for the decoded pixels, which later calls read, or None. One that cannot
            be written to is not an error: the images are then decoded anew next time. Not
            together with `resize`.
        resize: maps each decoded image to the common size; None: they have it already.

    Returns:
        uint8, shape (N, 3, H, W).

    Raises:
        DataError: if a file is no image, or differs in size from the first.
    """
    stored = None if cache is None else cache / f"{_fingerprint(paths)}.npy"
    if stored is not None and stored.is_file():
        try:
            return torch.from_numpy(np.load(stored))
        except ValueError as error:
            logger.warning("Decoding again, the cache %s is damaged: %s", stored, error)
    images = _decode_in_threads(paths, resize or (lambda image: image))
    if stored is not None:
        _store(images, stored)
    return images


def _decode_in_threads(paths: Sequence[Path], resize: Callable[[Tensor], Tensor]) -> Tensor:
    if not paths:
        raise DataError("Too few images to divide: none are left for one of the splits")
    first = resize(decode(paths[0]))
    images = torch.empty((len(paths), *first.shape), dtype=torch.uint8)

    def place(position: int) -> None:
        image = resize(decode(paths[position]))
        if image.shape != first.shape:
            raise DataError(
                f"Expected images of one size, {tuple(first.shape)} as in {paths[0]}, "
                f"got {tuple(image.shape)} in {paths[position]}"
            )
        images[position] = image

    with ThreadPoolExecutor() as pool:
        for _ in tqdm(
            pool.map(place, range(len(paths))), desc="decode", total=len(paths), unit="image"
        ):
            pass
    return images


def _fingerprint(paths: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        facts = path.stat()
        digest.update(f"{path.absolute()} {facts.st_size} {facts.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def _store(images: Tensor, stored: Path) -> None:
    try:
        stored.parent.mkdir(parents=True, exist_ok=True)
        temporary = stored.with_suffix(f".{os.getpid()}.npy")
        np.save(temporary, images.numpy())
        temporary.replace(stored)
    except OSError as error:
        logger.info("Decoded images are not cached, %s cannot be written: %s", stored, error)
