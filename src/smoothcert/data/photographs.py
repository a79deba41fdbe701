"""Photographs in class folders: splits, and the field's usual transforms."""

import logging
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torchvision.transforms import v2

from smoothcert.data.folders import ClassFolders, find_splits, read_class_folders
from smoothcert.data.sampling import held_out

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


def split_class_folders(
    root: Path, val_fraction: float, test_fraction: float, split_seed: int
) -> tuple[list[ClassFolders], list[torch.Tensor]]:
    """Read training, validation and test images that share no image.

    Folders that exist are used as they are. Validation images that have no folder are held out
    of the training images; where there is one folder of class folders and nothing else, test
    images are held out of it too, with a warning.

    Args:
        root: the data folder; see `find_splits`.
        val_fraction: share held out for validation where there is no folder for it.
        test_fraction: share held out for testing where there is no folder for it.
        split_seed: seed of both choices.

    Returns:
        For train, val and test: the folders they come from, and the positions used there.

    Raises:
        DataError: if nothing of that kind is there.
    """
    splits = find_splits(root, "data.root")
    train = read_class_folders(splits.training)
    fractions = [
        val_fraction if splits.validation is None else 0.0,
        test_fraction if splits.test is None else 0.0,
    ]
    parts = [torch.as_tensor(p) for p in held_out(len(train.paths), fractions, split_seed)]
    if splits.test is None:
        logger.warning(
            "%s has no test/ or val/ beside its training images: %d of its %d images are held "
            "out for validation and %d for testing",
            splits.training, len(parts[1]), len(train.paths), len(parts[2]),
        )  # fmt: skip
    sources = [train, train, train]
    for place, folder in ((1, splits.validation), (2, splits.test)):
        if folder is not None:
            sources[place] = read_class_folders(folder, train.class_names)
            parts[place] = torch.arange(len(sources[place].paths))
    return sources, parts
