"""Small pictures of certified images in one file, for pages that show certificates."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor
from torch.nn.functional import interpolate

from smoothcert.data.datasets import ImageSet

SIDE = 64
"""Largest width and height of a thumbnail."""
PIXELS = 600_000
"""Pixels of all thumbnails together: a page of a megabyte or two."""


def write_thumbnails(images: ImageSet, positions: Sequence[int], path: Path) -> None:
    """Write thumbnails of images, side by side, as one PNG.

    Its text chunks record the position of each image: `indices` (in the order of the tiles, row by
    row), `columns` and `tile` (width and height, `32x32`). If there are too many images, an evenly
    spaced subset is written.

    Args:
        images: the image set.
        positions: positions of the images there.
        path: the PNG to write.
    """
    height, width = _size(images.example(positions[0])[0])
    count = min(len(positions), max(1, PIXELS // (height * width)))
    chosen = [positions[number * len(positions) // count] for number in range(count)]
    columns = math.ceil(math.sqrt(count))
    sheet = Image.new("RGB", (columns * width, math.ceil(count / columns) * height))
    for number, position in enumerate(chosen):
        tile = _tile(images.example(position)[0], height, width)
        sheet.paste(tile, (number % columns * width, number // columns * height))
    text = PngInfo()
    text.add_text("indices", ",".join(str(int(images.indices[place])) for place in chosen))
    text.add_text("columns", str(columns))
    text.add_text("tile", f"{width}x{height}")
    temporary = path.with_name(f".{path.name}")
    sheet.save(temporary, format="PNG", pnginfo=text, optimize=True)
    temporary.replace(path)


def thumbnails_of(images: ImageSet, positions: Sequence[int]) -> dict[int, np.ndarray]:
    """Return thumbnails of images, uint8 (H, W, 3), by their indices in the data set.

    Args:
        images: the image set.
        positions: positions of the images there.
    """
    found = {}
    for position in positions:
        image, _, index = images.example(position)
        found[index] = np.asarray(_tile(image, *_size(image)))
    return found


def _size(image: Tensor) -> tuple[int, int]:
    height, width = image.shape[-2:]
    scale = min(1.0, SIDE / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def _tile(image: Tensor, height: int, width: int) -> Image.Image:
    if image.shape[-2:] != (height, width):
        image = interpolate(image[None], (height, width), mode="bilinear", antialias=True)[0]
    pixels = (image.clamp(0, 1) * 255).round().to(torch.uint8).expand(3, -1, -1)
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().cpu().numpy())
