"""Any user's own images, one folder a class."""

import os
from collections.abc import Sequence
from functools import partial
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor

from smoothcert.data.augmentation import CropAndFlip
from smoothcert.data.base import SPLITS, ImageDataModule, Split
from smoothcert.data.datasets import FileImages, ImageSet, InMemoryImages
from smoothcert.data.decoding import (
    Decoded,
    decode_all,
    find_unreadable,
    require_corrupt,
    warn_of_unreadable,
)
from smoothcert.data.folders import ClassFolders, class_names_of, find_splits, readable
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
        corrupt: what to do about an image that cannot be decoded: `error`, or `skip`: leave out
            all such images, with a warning, whatever the other images' split and index. Large
            ones are found by reading every file once, before anything else; they are listed
            under `root/.smoothcert/`.
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
        corrupt: str = "error",
        seed: int = 0,
        split_seed: int = 0,
    ) -> None:
        require_count("image_size", image_size)
        require_corrupt(corrupt)
        self.in_memory = image_size <= SMALL if in_memory is None else in_memory
        if num_workers is None:
            # Of this process: others of this machine have as many.
            sharing = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
            num_workers = min(8, max(1, (os.cpu_count() or 1) // sharing))
        super().__init__(
            batch_size, val_fraction, seed, split_seed, 0 if self.in_memory else num_workers
        )
        self.root = Path(root)
        self.corrupt = corrupt
        self.test_fraction = test_fraction
        self.input_shape = (3, image_size, image_size)
        self.crop_and_flip = CropAndFlip(crop_padding, flip)
        self.mean, self.std = tuple(mean), tuple(std)

    def find_classes(self) -> bool:
        """Set `class_names` from the names of folders."""
        self.class_names = class_names_of(find_splits(self.root, "data.root").training)
        return True

    def load(self) -> dict[Split, ImageSet]:
        """List the images, and decode them where they are kept in memory.

        Raises:
            DataError: if they are missing or not laid out as expected, or none of a split or
                class can be decoded.
        """
        sources, parts = split_class_folders(
            self.root, self.val_fraction, self.test_fraction, self.split_seed
        )
        self.class_names = sources[0].class_names
        pixels, unreadable = self._read(sources, parts)
        warn_of_unreadable(unreadable, sum(map(len, parts)))
        sets: dict[Split, ImageSet] = {}
        for split, source, part, images in zip(SPLITS, sources, parts, pixels, strict=True):
            # What is held out of a small class may be one image.
            every_class = split == "train" or source is not sources[0]
            kept = readable(source, part, unreadable, split, every_class)
            sets[split] = self._set(images, source, kept, split == "train")
        return sets

    def _read(
        self, sources: list[ClassFolders], parts: list[Tensor]
    ) -> tuple[Sequence[Tensor | None], dict[Path, str]]:
        """Decode the images that are kept in memory, and find those that cannot be decoded."""
        if self.in_memory:
            decoded = [self._decode(*each) for each in zip(sources, parts, strict=True)]
            found = {path: why for each in decoded for path, why in each.unreadable.items()}
            return [each.images for each in decoded], found
        if self.corrupt == "error":
            return [None] * len(parts), {}
        # One folder may serve several splits.
        distinct = {id(source): source.paths for source in sources}.values()
        found = find_unreadable(list(chain(*distinct)), self.root / ".smoothcert")
        return [None] * len(parts), found

    def _decode(self, source: ClassFolders, part: Tensor) -> Decoded:
        paths = [source.paths[i] for i in part.tolist()]
        return decode_all(paths, None, partial(_resize, size=self.input_shape[1]), self.corrupt)

    def _set(
        self, images: Tensor | None, source: ClassFolders, kept: Tensor, training: bool
    ) -> ImageSet:
        if images is not None:
            augmentation = self.crop_and_flip if training else None
            return InMemoryImages(images, source.labels[kept], kept, augmentation)
        size = self.input_shape[1]
        whole = FileImages(source.paths, source.labels, evaluation_transform(size))
        return whole.subset(kept.numpy(), training_transform(size) if training else None)


def _resize(image: Tensor, size: int) -> Tensor:
    return (evaluation_transform(size)(image) * 255).round().to(torch.uint8)
