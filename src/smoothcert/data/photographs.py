"""Photographs in class folders: splits, and the standard transforms."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor
from torchvision.transforms import v2

from smoothcert.data.base import SPLITS, Split
from smoothcert.data.class_folders import (
    LAYOUT,
    ClassFolders,
    Splits,
    find_splits,
    is_flat,
    read_class_folders,
    read_class_names,
    read_flat_folder,
)
from smoothcert.data.sampling import held_out
from smoothcert.errors import DataError

logger = logging.getLogger(__name__)

Transform = Callable[[Tensor], Tensor]
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def training_transform(size: int) -> Transform:
    """Random resized crop and flip, to floats in [0, 1].

    Args:
        size: side of the square result in pixels.
    """
    return v2.Compose(
        [
            v2.RandomResizedCrop(size, antialias=True),
            v2.RandomHorizontalFlip(),
            v2.ToDtype(torch.float32, scale=True),
        ]
    )


def evaluation_transform(size: int) -> Transform:
    """Resize the shorter side to 8/7 of the size (256 for 224), centre crop, to floats in [0, 1].

    Args:
        size: side of the square result in pixels.
    """
    return v2.Compose(
        [
            v2.Resize(round(size * 256 / 224), antialias=True),
            v2.CenterCrop(size),
            v2.ToDtype(torch.float32, scale=True),
        ]
    )


class DividedFolders:
    """Training, validation and test images in class folders, which share no image.

    Folders that exist are used unchanged. Without a validation folder, validation images are held
    out of the training images; if there is only one folder of class folders, test images are held
    out of it too, with a warning. A folder is listed when its images are first
    requested: test images in a folder of their own need no training images.

    Args:
        root: the data folder; see `find_splits`.
        val_fraction: share held out for validation if there is no folder for it.
        test_fraction: share held out for testing if there is no folder for it.
        split_seed: seed of both choices.
        known: names of all classes, in the order of the labels. They number the classes of test
            images without training images; class folders with other names get a warning.
        labels_of: returns the class names of images in a folder without class folders, by their
            files' names without suffix, or None where no file records them.

    Raises:
        InvalidArgumentError: if `test_fraction` is outside [0, 1).
    """

    def __init__(
        self,
        root: Path,
        val_fraction: float,
        test_fraction: float,
        split_seed: int,
        known: Sequence[str] | None = None,
        labels_of: Callable[[Path], Mapping[str, str] | None] = lambda _: None,
    ) -> None:
        self.root = root
        self.fractions = val_fraction, test_fraction
        self.split_seed = split_seed
        self.known = known
        self.labels_of = labels_of

    @cached_property
    def splits(self) -> Splits:
        """The folders of training, validation and test images.

        Raises:
            DataError: if there are none.
        """
        return Splits(None, None, self.root) if self._labels(self.root) else find_splits(self.root)

    @cached_property
    def class_names(self) -> list[str]:
        """Names of the classes, in the order of the labels.

        Raises:
            DataError: if there are fewer than two.
        """
        folder = self.splits.training or self.splits.test
        assert folder is not None, "find_splits finds one of them"
        labels = self._labels(folder)
        names = read_class_names(folder) if labels is None else sorted(set(labels.values()))
        if self.known is None:
            return names
        others = sorted(set(names) - set(self.known))
        if others:
            logger.warning(
                "%s has class folders with other names than %s …, for example %s: published "
                "weights may number the classes in another order",
                folder, self.known[0], others[0],
            )  # fmt: skip
        return names if others or self.splits.training else list(self.known)

    def part(self, split: Split) -> tuple[ClassFolders, Tensor]:
        """Return the class folders that contain a split, and its positions there, int64.

        Raises:
            DataError: if there are no such images.
        """
        folder = {"val": self.splits.validation, "test": self.splits.test}.get(split)
        if folder is None:
            listed, parts = self._training
            return listed, parts[split]
        labels = self._labels(folder)
        if labels is None:
            listed = read_class_folders(folder, self.class_names)
        else:
            listed = read_flat_folder(folder, labels, self.class_names)
        return listed, torch.arange(len(listed.paths))

    def _labels(self, folder: Path) -> Mapping[str, str] | None:
        """Return the classes of images without class folders, if a file records them."""
        return self.labels_of(folder) if is_flat(folder) else None

    @cached_property
    def _training(self) -> tuple[ClassFolders, dict[Split, Tensor]]:
        """Return the training folders, and the positions of each split there."""
        training, validation, test = astuple(self.splits)
        if training is None:
            raise DataError(
                f"No training images in {self.root}: those in {test} are test images (split=test). "
                f"Expected {LAYOUT}. To divide these images instead: data.root={test}"
            )
        listed = read_class_folders(training)
        own = [validation is None, test is None]
        fractions = [f if held else 0.0 for f, held in zip(self.fractions, own, strict=True)]
        parts = held_out(len(listed.paths), fractions, self.split_seed)
        if test is None:
            logger.warning(
                "%s has no test/ or val/ next to its training images: %d of its %d images are held "
                "out for validation and %d for testing",
                training, len(parts[1]), len(listed.paths), len(parts[2]),
            )  # fmt: skip
        return listed, dict(zip(SPLITS, map(torch.as_tensor, parts), strict=True))
