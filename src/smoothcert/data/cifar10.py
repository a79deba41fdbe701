"""CIFAR-10, as torchvision downloads it or as class folders."""

from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torchvision.datasets import CIFAR10

from smoothcert.data.augmentation import CropAndFlip
from smoothcert.data.base import ImageDataModule, Split
from smoothcert.data.class_folders import LAYOUT, ClassFolders, listing, readable
from smoothcert.data.datasets import ImageSet, InMemoryImages
from smoothcert.data.decoding import (
    decode_all,
    is_cached,
    require_corrupt,
    warn_of_unreadable,
)
from smoothcert.data.photographs import DividedFolders
from smoothcert.data.sampling import held_out
from smoothcert.errors import DataError

CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
"""The published names, in the order of the labels."""


class _TrainingFiles(CIFAR10):
    """The training images only: test images may be missing and are not checked."""

    test_list: ClassVar[list[Any]] = []


class _TestFiles(CIFAR10):
    """The test images only: training images may be missing and are not checked."""

    train_list: ClassVar[list[Any]] = []


class CIFAR10DataModule(ImageDataModule):
    """50,000 training and 10,000 test images of 32×32 pixels (Krizhevsky, 2009).

    Images are decoded once, kept in memory as bytes and augmented as whole batches.

    Args:
        root: contains torchvision's `cifar-10-batches-py/`, or class folders `train/<class>/` and
            `test/<class>/` (directly, in a folder `cifar10/`, or in the only folder inside);
            `test/` alone is enough to certify test images.
        download: whether torchvision may download the data set to `root`.
        batch_size: images in a batch.
        val_fraction: share of the training images held out for validation.
        crop_padding: padding of the random crop.
        flip: whether to mirror half of the training images.
        cache: whether to keep the decoded images of class folders under `root/.smoothcert/`.
        corrupt: what to do about an image of class folders that cannot be decoded: `error`, or
            `skip`: leave out all such images, with a warning.
        seed: seed of the shuffling and the augmentation.
        split_seed: seed of the choice of held-out images.
    """

    input_shape = (3, 32, 32)
    mean = (0.4914, 0.4822, 0.4465)
    std = (0.2023, 0.1994, 0.2010)

    def __init__(
        self,
        root: str = "data/cifar10",
        download: bool = False,
        batch_size: int = 256,
        val_fraction: float = 0.1,
        crop_padding: int = 4,
        flip: bool = True,
        cache: bool = True,
        corrupt: str = "error",
        seed: int = 0,
        split_seed: int = 0,
    ) -> None:
        require_corrupt(corrupt)
        super().__init__(batch_size, val_fraction, seed, split_seed, num_workers=0)
        self.root = Path(root)
        self.download = download
        self.cache = cache
        self.corrupt = corrupt
        self.augmentation = CropAndFlip(crop_padding, flip)

    @property
    def class_names(self) -> list[str]:
        """Names of the classes: the published ones, or those of class folders, sorted.

        Raises:
            DataError: if there are no images and none are to be downloaded.
        """
        return list(CLASSES) if self._is_published else self._folders.class_names

    def load(self, split: Split) -> dict[Split, ImageSet]:
        """Load a split into memory; training and validation images together.

        If only validation images are requested and no images are cached, only these are decoded.

        Raises:
            DataError: if it is missing and not to be downloaded, or no image of a class can be
                decoded.
        """
        if not self._is_published:
            return self._from_class_folders(split)
        everything = self._from_torchvision(train=split != "test")
        if split == "test":
            return {"test": everything}
        train, val = held_out(len(everything), [self.val_fraction], self.split_seed)
        return self._divided(everything, train, val)

    def _divided(
        self, everything: InMemoryImages, train: np.ndarray, val: np.ndarray
    ) -> dict[Split, ImageSet]:
        return {
            "train": everything.subset(_places(everything, train), self.augmentation),
            "val": everything.subset(_places(everything, val)),
        }

    @property
    def _is_published(self) -> bool:
        """Whether the images are, or will be, the files that torchvision downloads."""
        with listing(self.root):
            return self.download or (self.root / CIFAR10.base_folder).is_dir()

    def _from_torchvision(self, train: bool) -> InMemoryImages:
        files = _TrainingFiles if train else _TestFiles
        try:
            source = files(str(self.root), train=train, download=self.download)
        except (OSError, RuntimeError) as error:
            if self.download and not (self.root / CIFAR10.base_folder).is_dir():
                raise DataError(
                    f"CIFAR-10 cannot be downloaded to {self.root.absolute()}: {error}. Try again, "
                    "or set data.root=<folder> to where it is"
                ) from error
            raise DataError(f"{self._missing()} (torchvision: {error})") from error
        images = torch.from_numpy(source.data).permute(0, 3, 1, 2).contiguous()
        return InMemoryImages(images, torch.tensor(source.targets))

    @cached_property
    def _folders(self) -> DividedFolders:
        inner = self.root / "cifar10"
        with listing(self.root):
            root = inner if inner.is_dir() else self.root
        folders = DividedFolders(
            root,
            self.val_fraction,
            0.0,
            self.split_seed,
            self.trained_classes or CLASSES,
        )
        try:
            splits = folders.splits
        except DataError as error:
            # A folder that cannot be listed may contain CIFAR-10.
            raise error if error.__cause__ else DataError(self._missing()) from error
        if splits.test is None:
            raise DataError(self._missing())
        if splits.training is not None:
            # Validation images are always held out of the 50,000.
            folders.splits = replace(splits, validation=None)
        return folders

    def _from_class_folders(self, split: Split) -> dict[Split, ImageSet]:
        listed, part = self._folders.part(split)
        cache = self.root / ".smoothcert" if self.cache else None
        complete = split != "val" or is_cached(listed.paths, cache, self.corrupt)
        chosen = torch.arange(len(listed.paths)) if complete else part
        everything = self._decode(listed, chosen, cache, split)
        if not complete or len(part) == len(listed.paths):
            return {split: everything}
        train, val = (self._folders.part(name)[1].numpy() for name in ("train", "val"))
        return self._divided(everything, train, val)

    def _decode(
        self, listed: ClassFolders, chosen: Tensor, cache: Path | None, split: Split
    ) -> InMemoryImages:
        paths = [listed.paths[i] for i in chosen.tolist()]
        images, unreadable = decode_all(paths, cache, corrupt=self.corrupt)
        kept = readable(listed, chosen, unreadable, split, every_class=split != "val")
        warn_of_unreadable(unreadable, len(paths))
        if tuple(images.shape[1:]) != self.input_shape:
            raise DataError(
                f"Expected CIFAR-10 images of {self.input_shape}, got {tuple(images.shape[1:])} "
                f"in {listed.paths[kept[0]]}. For images of another size use data=image_folder"
            )
        return InMemoryImages(images, listed.labels[kept], kept)

    def _missing(self) -> str:
        return (
            f"No CIFAR-10 in {self.root.absolute()}. Expected torchvision's "
            f"{CIFAR10.base_folder}/, or {LAYOUT}. Set data.root=<folder> to where it is, "
            "or data.download=true to download it there"
        )


def _places(images: InMemoryImages, indices: np.ndarray) -> np.ndarray:
    """Return the positions of the images with these indices, as far as they were decoded."""
    return np.flatnonzero(np.isin(images.indices.numpy(), indices))
