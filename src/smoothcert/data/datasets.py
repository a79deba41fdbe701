"""Two kinds of image sets: decoded in memory, or files that are decoded on request."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from smoothcert.data.augmentation import BatchAugmentation
from smoothcert.data.decoding import decode
from smoothcert.data.sampling import BatchKey
from smoothcert.errors import InvalidArgumentError
from smoothcert.types import Example, ImageBatch

Transform = Callable[[Tensor], Tensor]


class ImageSet(Protocol):
    """Images as batches and as single examples, with subsets."""

    labels: Tensor
    indices: Tensor

    def __len__(self) -> int: ...

    def __getitem__(self, key: BatchKey) -> ImageBatch: ...

    def example(self, position: int) -> Example:
        """Return an image without augmentation, its label and its index in the data set."""
        ...

    def digest(self, positions: Sequence[int]) -> str:
        """Return a short digest that changes with the chosen images."""
        ...

    def subset(self, positions: np.ndarray) -> ImageSet:
        """Return some of the images, with their indices unchanged."""
        ...


class InMemoryImages(Dataset[ImageBatch]):
    """Decoded images of one size, returned and augmented as batches.

    Args:
        images: uint8 in 0 … 255 or floats in [0, 1], shape (N, C, H, W).
        labels: int64, shape (N,).
        indices: index of each image in its data set; 0, 1, … unless given.
        augmentation: applied to each batch with the batch's own seed; not to examples.

    Example:
        >>> images = torch.zeros(5, 1, 8, 8, dtype=torch.uint8)
        >>> dataset = InMemoryImages(images, torch.arange(5))
        >>> dataset[BatchKey([0, 3], seed=0)].labels
        tensor([0, 3])
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        indices: Tensor | None = None,
        augmentation: BatchAugmentation | None = None,
    ) -> None:
        self.images = images
        self.labels = labels
        self.indices = torch.arange(len(images)) if indices is None else indices
        self.augmentation = augmentation

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: BatchKey) -> ImageBatch:
        positions = torch.tensor(key.positions, device=self.images.device)
        images = self.images[positions]
        if self.augmentation is not None:
            images = self.augmentation(images, torch.Generator().manual_seed(key.seed))
        return ImageBatch(to_unit(images), self.labels[positions], self.indices[positions])

    def example(self, position: int) -> Example:
        """Return an image without augmentation, its label and its index in the data set."""
        image = to_unit(self.images[position])
        return Example(image, int(self.labels[position]), int(self.indices[position]))

    def digest(self, positions: Sequence[int]) -> str:
        """Return a short digest of the chosen images' pixels."""
        pixels = self.images[torch.tensor(list(positions))].contiguous().cpu().numpy()
        return hashlib.sha256(pixels.tobytes()).hexdigest()[:16]

    def to(self, device: torch.device) -> InMemoryImages:
        """Return the same images on a device, where their batches are then made."""
        images, labels, indices = (
            each.to(device) for each in (self.images, self.labels, self.indices)
        )
        return InMemoryImages(images, labels, indices, self.augmentation)

    def subset(
        self, positions: np.ndarray, augmentation: BatchAugmentation | None = None
    ) -> InMemoryImages:
        """Return some of the images, with their indices unchanged."""
        chosen = torch.as_tensor(positions)
        return InMemoryImages(
            self.images[chosen], self.labels[chosen], self.indices[chosen], augmentation
        )


class FileImages(Dataset[ImageBatch]):
    """Image files, decoded in the loader's workers.

    Args:
        paths: one file per image.
        labels: int64, shape (N,).
        transform: maps a decoded uint8 image (3, H, W) to floats in [0, 1], for evaluation.
        indices: index of each image in its data set; 0, 1, … unless given.
        augmentation: replaces `transform` in batches. It may draw from torch's global generator,
            which has the seed of the batch during the call.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        labels: Tensor,
        transform: Transform,
        indices: Tensor | None = None,
        augmentation: Transform | None = None,
    ) -> None:
        self.paths = list(paths)
        self.labels = labels
        self.transform = transform
        self.indices = torch.arange(len(self.paths)) if indices is None else indices
        self.augmentation = augmentation

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, key: BatchKey) -> ImageBatch:
        transform = self.transform if self.augmentation is None else self.augmentation
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(key.seed)
            images = torch.stack([transform(decode(self.paths[i])) for i in key.positions])
        positions = torch.tensor(key.positions)
        batch = ImageBatch(images, self.labels[positions], self.indices[positions])
        if get_worker_info() is None:
            return batch
        # Moved to shared memory here: torch would do so in a thread whose errors are lost, and the
        # main process would wait forever if shared memory is full.
        return ImageBatch(*(each.share_memory_() for each in batch))

    def example(self, position: int) -> Example:
        """Return an image without augmentation, its label and its index in the data set."""
        image = self.transform(decode(self.paths[position]))
        return Example(image, int(self.labels[position]), int(self.indices[position]))

    def digest(self, positions: Sequence[int]) -> str:
        """Return a short digest of the chosen files' names and sizes: reading files takes long."""
        facts = [(self.paths[i].name, self.paths[i].stat().st_size) for i in positions]
        return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]

    def subset(self, positions: np.ndarray, augmentation: Transform | None = None) -> FileImages:
        """Return some of the images, with their indices unchanged."""
        chosen = torch.as_tensor(positions)
        return FileImages(
            [self.paths[i] for i in positions],
            self.labels[chosen],
            self.transform,
            self.indices[chosen],
            augmentation,
        )


class Keys(Dataset[BatchKey]):
    """Returns keys of batches unchanged: the batches are made on the device.

    Example:
        >>> Keys()[BatchKey([3, 1], seed=0)].positions
        [3, 1]
    """

    def __getitem__(self, key: BatchKey) -> BatchKey:
        return key


class FixedBatches(Dataset[ImageBatch]):
    """The batches of an image set, in order and always the same.

    Several processes get disjoint shares that together contain every image exactly once.

    Args:
        images: the image set.
        batch_size: images in a batch; the last one may have fewer.
        share: this process's rank, and the number of processes.

    Raises:
        InvalidArgumentError: if there are fewer images than processes.

    Example:
        >>> dataset = InMemoryImages(torch.zeros(5, 1, 8, 8), torch.arange(5))
        >>> [batch.labels.tolist() for batch in FixedBatches(dataset, 2)]
        [[0, 1], [2, 3], [4]]
        >>> [batch.labels.tolist() for batch in FixedBatches(dataset, 2, share=(1, 2))]
        [[1, 3]]
    """

    def __init__(self, images: ImageSet, batch_size: int, share: tuple[int, int] = (0, 1)) -> None:
        rank, processes = share
        if len(images) < processes:
            raise InvalidArgumentError(
                f"Expected at least one image for each of {processes} processes, got {len(images)}"
            )
        self.images = images
        self.batch_size = batch_size
        self.positions = range(rank, len(images), processes)

    def __len__(self) -> int:
        return -(-len(self.positions) // self.batch_size)

    def __getitem__(self, number: int) -> ImageBatch:
        if number >= len(self):
            raise IndexError(number)
        start = number * self.batch_size
        own = self.positions[start : start + self.batch_size]
        return self.images[BatchKey(list(own), seed=number)]


def to_unit(images: Tensor) -> Tensor:
    """Return pixels as floats in [0, 1]; uint8 is divided by 255.

    Args:
        images: uint8 or floating, any shape.

    Example:
        >>> to_unit(torch.tensor([0, 51, 255], dtype=torch.uint8))
        tensor([0.0000, 0.2000, 1.0000])
    """
    return images.float() / 255 if images.dtype == torch.uint8 else images
