"""Your own images, one folder per class."""

import os
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path

import torch
from joblib import cpu_count
from torch import Tensor

from smoothcert.data.augmentation import CropAndFlip
from smoothcert.data.base import ImageDataModule, Split
from smoothcert.data.class_folders import ClassFolders, readable
from smoothcert.data.datasets import FileImages, ImageSet, InMemoryImages
from smoothcert.data.decoding import (
    decode_all,
    find_unreadable,
    is_checked,
    require_corrupt,
    warn_of_unreadable,
)
from smoothcert.data.photographs import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    DividedFolders,
    evaluation_transform,
    training_transform,
)
from smoothcert.data.sampling import require_share
from smoothcert.errors import InvalidArgumentError, require_count, require_positive

SMALL = 64
"""Images up to this side are kept decoded in memory unless the user says otherwise."""


class ImageFolderDataModule(ImageDataModule):
    """Images in class folders; the class names are the folders' names.

    Large images are decoded on request, with random resized crop and flip for training.
    Small ones are resized once, kept in memory as bytes, and padded, cropped and flipped.

    Args:
        root: `train/<class>/` and `test/<class>/` or `val/<class>/`, or class folders alone
            (then validation and test images are held out of them).
        image_size: side in pixels that images are resized and cropped to.
        in_memory: whether to keep the images decoded; None: where `image_size` is at most 64.
        batch_size: images in a batch.
        val_fraction: share of the training images held out, if there is no folder for it.
        test_fraction: share held out for testing, if there is no folder for it.
        crop_padding: padding of the random crop of images in memory.
        flip: whether to mirror half of the training images in memory.
        mean: mean of each channel, for the model's normalisation.
        std: standard deviation of each channel.
        num_workers: processes that decode; None: one per CPU that may be used, at most 8.
        corrupt: what to do about an image that cannot be decoded: `error`, or `skip`: leave out
            all such images, with a warning; the splits and indices of the others stay the same.
            Large unreadable images are found by reading every file once, before anything else,
            and listed under `root/.smoothcert/`.
        seed: seed of the shuffling and the augmentation.
        split_seed: seed of the choice of held-out images.
    """

    published_classes: Sequence[str] | None = None
    """Names of the classes of published weights, in order, if there are such weights."""

    def __init__(
        self,
        root: str,
        image_size: int = 224,
        in_memory: bool | None = None,
        batch_size: int = 64,
        val_fraction: float = 0.1,
        test_fraction: float = 0.1,
        crop_padding: int = 4,
        flip: bool = True,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        num_workers: int | None = None,
        corrupt: str = "error",
        seed: int = 0,
        split_seed: int = 0,
    ) -> None:
        require_count("image_size", image_size)
        require_corrupt(corrupt)
        self.in_memory = image_size <= SMALL if in_memory is None else in_memory
        if num_workers is None:
            # Per process: each process on this machine has as many.
            sharing = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
            num_workers = min(8, max(1, cpu_count() // sharing))
        super().__init__(
            batch_size, val_fraction, seed, split_seed, 0 if self.in_memory else num_workers
        )
        require_share(test_fraction)
        for name, values in (("mean", mean), ("std", std)):
            if isinstance(values, str) or len(values) != 3:
                raise InvalidArgumentError(f"Expected `{name}` of 3 channels, got {values}")
        for value in std:
            require_positive("std", value)
        self.root = Path(root)
        self.corrupt = corrupt
        self.test_fraction = test_fraction
        self.input_shape = (3, image_size, image_size)
        self.crop_and_flip = CropAndFlip(crop_padding, flip)
        self.mean, self.std = tuple(mean), tuple(std)

    @cached_property
    def _folders(self) -> DividedFolders:
        return DividedFolders(
            self.root,
            self.val_fraction,
            self.test_fraction,
            self.split_seed,
            self.trained_classes or self.published_classes,
            self.labels_of,
        )

    def labels_of(self, folder: Path) -> Mapping[str, str] | None:  # noqa: ARG002
        """Return the classes of a folder of images without class folders, by their files' names.

        None: no file records them. Data sets that come with such a file override this.
        """
        return None

    @property
    def class_names(self) -> list[str]:
        """Names of the class folders, sorted.

        Raises:
            DataError: if the images are missing or not laid out as expected.
        """
        return self._folders.class_names

    def load(self, split: Split) -> dict[Split, ImageSet]:
        """List the images of a split, and decode them where they are kept in memory.

        Raises:
            DataError: if they are missing or not laid out as expected, or none of the split or
                of a class can be decoded.
        """
        source, part = self._folders.part(split)
        paths = [source.paths[i] for i in part.tolist()]
        images, unreadable = self._read(source.paths, paths, split)
        warn_of_unreadable(unreadable, len(part))
        # The held-out part of a small class may be a single image.
        every_class = split == "train" or len(part) == len(source.paths)
        kept = readable(source, part, unreadable, split, every_class)
        return {split: self._set(images, source, kept, split == "train")}

    def _read(
        self, listed: list[Path], paths: list[Path], split: Split
    ) -> tuple[Tensor | None, dict[Path, str]]:
        """Decode the images that are kept in memory, and find those that cannot be decoded."""
        if self.in_memory:
            return decode_all(paths, None, partial(_resize, size=self.input_shape[1]), self.corrupt)
        if self.corrupt == "error":
            return None, {}
        cache = self.root / ".smoothcert"
        # Training images and those held out of them are checked together, for any `split_seed`.
        complete = split == "train" or len(paths) == len(listed) or is_checked(listed, cache)
        found = find_unreadable(listed if complete else paths, cache)
        return None, {path: found[path] for path in paths if path in found}

    def _set(
        self, images: Tensor | None, source: ClassFolders, kept: Tensor, training: bool
    ) -> ImageSet:
        if images is not None:
            augmentation = self.crop_and_flip if training else None
            return InMemoryImages(images, source.labels[kept], kept, augmentation)
        size = self.input_shape[1]
        everything = FileImages(source.paths, source.labels, evaluation_transform(size))
        return everything.subset(kept.numpy(), training_transform(size) if training else None)


def _resize(image: Tensor, size: int) -> Tensor:
    return (evaluation_transform(size)(image) * 255).round().to(torch.uint8)
