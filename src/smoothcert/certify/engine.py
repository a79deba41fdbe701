"""Certification of a data set: every chosen image once, whatever interrupts it."""

import hashlib
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from tqdm import tqdm

from smoothcert.certify.certifiers import Certifier
from smoothcert.certify.smoothed import SmoothedClassifier
from smoothcert.errors import require_count
from smoothcert.records import CertificateFile, CertificateRow


class Examples(Protocol):
    """Images that can be asked for one at a time, without augmentation.

    Attributes:
        indices: each image's index in its data set, int64, shape (N,).
        labels: class numbers, int64, shape (N,).
    """

    indices: Tensor
    labels: Tensor

    def __len__(self) -> int:
        """Return the number of images."""
        ...

    def example(self, position: int) -> tuple[Tensor, int, int]:
        """Return an image (C, H, W) in [0, 1], its label and its index in the data set."""
        ...


@dataclass(frozen=True)
class Subset:
    """Which images of a data set are certified.

    Attributes:
        split: name of the split, for the records.
        skip: take every so many-th image.
        max_images: take at most so many of those, evenly spread: files often lie sorted by class,
            and the first ones would all be of one. None: no limit.

    Raises:
        InvalidArgumentError: if a number is below 1.

    Example:
        >>> list(Subset("test", skip=100, max_images=3).positions(5000))
        [0, 1600, 3300]
    """

    split: str
    skip: int = 1
    max_images: int | None = None

    def __post_init__(self) -> None:
        require_count("skip", self.skip)
        if self.max_images is not None:
            require_count("max_images", self.max_images)

    def positions(self, size: int) -> list[int]:
        """Return the places of the chosen images among `size` of them, in order."""
        every = range(0, size, self.skip)
        count = len(every) if self.max_images is None else min(self.max_images, len(every))
        return [every[i * len(every) // count] for i in range(count)]


@dataclass(frozen=True)
class Certified:
    """Certificates of a subset.

    Attributes:
        rows: one for each image, those of an earlier, interrupted call included.
        settings: what they depend on, as it lies beside their file.
        images_per_second: certified in this call, None if none was left to certify.
    """

    rows: list[CertificateRow]
    settings: dict[str, Any]
    images_per_second: float | None


def certify_examples(
    smoothed: SmoothedClassifier,
    certifier: Certifier,
    examples: Examples,
    subset: Subset,
    path: Path,
    seed: int = 0,
    configuration: Mapping[str, Any] | None = None,
) -> Certified:
    """Certify a subset of a data set into a certificate file, with a progress bar.

    Images that have their row already are not certified again.

    Args:
        smoothed: the smoothed classifier.
        certifier: samples and bounds.
        examples: the images.
        subset: which of them.
        path: the certificate file; each row is on the disk before the next image begins.
        seed: seed of the noise, >= 0.
        configuration: what else the certificates depend on (JSON values), for the records.

    Raises:
        NonFiniteError: for pixels outside [0, 1] or non-finite logits; finished rows stay.
        RecordsError: if the file holds certificates of another configuration.
    """
    positions = subset.positions(len(examples))
    settings = {
        **certifier.settings,
        "sigma": smoothed.sigma,
        "seed": seed,
        **asdict(subset),
        "examples": _examples_digest(examples, positions),
        "weights": weights_digest(smoothed.classifier),
        **(configuration or {}),
    }
    with CertificateFile(path, settings) as file:
        finished = file.finished
        left = [p for p in positions if int(examples.indices[p]) not in finished]
        bar = tqdm(
            left,
            desc=f"certify {subset.split}",
            initial=len(positions) - len(left),
            total=len(positions),
            unit="image",
            dynamic_ncols=True,
            # A log file gets a line a minute, a terminal a moving bar.
            mininterval=0.2 if sys.stderr.isatty() else 60,
        )
        start = time.perf_counter()
        for position in bar:
            file.append(_certify_example(smoothed, certifier, examples.example(position), seed))
        seconds = time.perf_counter() - start
        return Certified(file.rows, settings, len(left) / seconds if left else None)


def _examples_digest(examples: Examples, positions: list[int]) -> str:
    facts = torch.stack([examples.indices[positions], examples.labels[positions]]).tolist()
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]


def _certify_example(
    smoothed: SmoothedClassifier, certifier: Certifier, example: tuple[Tensor, int, int], seed: int
) -> CertificateRow:
    image, label, index = example
    start = time.perf_counter()
    [certificate] = smoothed.certify(image[None], certifier, seed, [index])
    seconds = time.perf_counter() - start
    return CertificateRow.from_certificate(certificate, idx=index, label=label, seconds=seconds)


def weights_digest(module: nn.Module) -> str:
    """Return a short digest of a module's parameters and buffers.

    Args:
        module: any module, on any device.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> before = weights_digest(layer)
        >>> _ = layer.weight.data.add_(1)
        >>> weights_digest(layer) == before
        False
    """
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().float().numpy().tobytes())
    return digest.hexdigest()[:16]
