"""Any user's own images, one folder a class."""

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from smoothcert.data.augmentation import CropAndFlip
from smoothcert.data.base import SPLITS, ImageDataModule, Split
from smoothcert.data.datasets import FileImages, ImageSet, InMemoryImages
from smoothcert.data.decoding import decode_all
from smoothcert.data.folders import ClassFolders
from smoothcert.data.photographs import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    evaluation_transform,
    split_class_folders,
    training_transform,
)
from smoothcert.errors import require_count

SMALL = 64
"""Images up to this side are kept decoded in memory unless the user says otherwise."""


class ImageFolderDataModule(ImageDataModule):
    """Images in class folders; the class names are the folders' names.

    Large images are decoded when they are due, with random resized crop and flip for training.
    Small ones are resized once, kept in memory as bytes, and padded, cropped and flipped.

    Args:
        root: `train/<class>/` and `test/<class>/` or `val/<class>/`, or class folders alone
            (then validation and test images are held out of them).
        image_size: side in pixels that images are resized and cropped to.
        in_memory: whether to keep the images decoded; None: where `image_size` is at most 64.
        batch_size: images in a batch.
        val_fraction: share of the training images held out, where there is no folder for it.
        test_fraction: share held out for testing, where there is no folder for it.
        crop_padding: padding of the random crop of images in memory.
        flip: whether to mirror half of the training images in memory.
        mean: mean of each channel, for the model's normalisation.
        std: standard deviation of each channel.
        num_workers: processes that decode; None: one a CPU core, at most 8.
        seed: seed of the shuffling and the augmentation.
        split_seed: seed of the choice of held-out images.
    """

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
        seed: int = 0,
        split_seed: int = 0,
    ) -> None:
        require_count("image_size", image_size)
        self.in_memory = image_size <= SMALL if in_memory is None else in_memory
        if num_workers is None:
            num_workers = min(8, os.cpu_count() or 1)
        super().__init__(
            batch_size, val_fraction, seed, split_seed, 0 if self.in_memory else num_workers
        )
        self.root = Path(root)
        self.test_fraction = test_fraction
        self.input_shape = (3, image_size, image_size)
        self.crop_and_flip = CropAndFlip(crop_padding, flip)
        self.mean, self.std = tuple(mean), tuple(std)

    def load(self) -> dict[Split, ImageSet]:
        """List the images, and decode them where they are kept in memory.

        Raises:
            DataError: if they are missing or not laid out as expected.
        """
        sources, parts = split_class_folders(
            self.root, self.val_fraction, self.test_fraction, self.split_seed
        )
        self.class_names = sources[0].class_names
        make = self._in_memory if self.in_memory else self._from_files
        return {
            split: make(source, part, split == "train")
            for split, source, part in zip(SPLITS, sources, parts, strict=True)
        }

    def _from_files(self, source: ClassFolders, part: torch.Tensor, training: bool) -> ImageSet:
        size = self.input_shape[1]
        whole = FileImages(source.paths, source.labels, evaluation_transform(size))
        return whole.subset(part.numpy(), training_transform(size) if training else None)

    def _in_memory(self, source: ClassFolders, part: torch.Tensor, training: bool) -> ImageSet:
        paths = [source.paths[i] for i in part]
        images = decode_all(paths, None, partial(_resize, size=self.input_shape[1]))
        augmentation = self.crop_and_flip if training else None
        return InMemoryImages(images, source.labels[part], part, augmentation)


def _resize(image: torch.Tensor, size: int) -> torch.Tensor:
    return (evaluation_transform(size)(image) * 255).round().to(torch.uint8)
