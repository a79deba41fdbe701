"""Images for the data tests: noise written as files, and the real samples where they are."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from smoothcert.data import decoding


@pytest.fixture
def write_image():
    """Write one noise image; the file's suffix chooses its format."""
    source = np.random.default_rng(0)

    def write(path, size=(32, 32), mode="RGB", **options):
        path.parent.mkdir(parents=True, exist_ok=True)
        channels = 4 if mode in ("RGBA", "LA") else 3
        noise = source.integers(0, 256, (*size, channels), dtype=np.uint8)
        Image.fromarray(noise).convert(mode).save(path, **options)
        return path

    return write


@pytest.fixture
def write_classes(write_image):
    """Write noise images into class folders, under names that start with the folder's."""

    def write(folder, classes=("cat", "dog"), each=3, size=(32, 32)):
        for name in classes:
            for number in range(each):
                write_image(folder / name / f"{folder.name}{number:03d}.png", size)
        return folder

    return write


@pytest.fixture
def write_corrupt(write_image):
    """Write three files that cannot be decoded: half a JPEG, text under a JPEG's name, nothing."""

    def write(folder):
        half = write_image(folder / "half.jpg", (64, 64))
        half.write_bytes(half.read_bytes()[: half.stat().st_size // 2])
        text, nothing = folder / "text.jpg", folder / "nothing.png"
        text.write_text("no image at all")
        nothing.touch()
        return {half, text, nothing}

    return write


@pytest.fixture
def opened(monkeypatch):
    """The image files that have been opened, in order."""
    seen, open_image = [], decoding.Image.open

    def record(path):
        seen.append(path)
        return open_image(path)

    monkeypatch.setattr(decoding.Image, "open", record)
    return seen


@pytest.fixture
def pillow_pixels():
    """Decode an image file with Pillow, to uint8 (3, H, W)."""

    def read(path):
        with Image.open(path) as image:
            return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)

    return read


@pytest.fixture
def shared_file():
    """Return a file of real images that lies beside the repository, or skip."""

    def find(name):
        path = Path(__file__).parents[3] / "shared" / "data" / name
        if not path.is_file():
            pytest.skip(f"needs real images, and there are none at {path}")
        return path

    return find
