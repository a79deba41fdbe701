"""CIFAR-10, as torchvision downloads it or as class folders."""

from pathlib import Path

import numpy as np
import torch
from torchvision.datasets import CIFAR10

from smoothcert.data.augmentation import CropAndFlip
from smoothcert.data.base import ImageDataModule, Split
from smoothcert.data.datasets import ImageSet, InMemoryImages
from smoothcert.data.decoding import decode_all, require_corrupt, warn_of_unreadable
from smoothcert.data.folders import (
    LAYOUT,
    ClassFolders,
    Splits,
    class_names_of,
    find_splits,
    read_class_folders,
    readable,
)
from smoothcert.data.sampling import held_out
from smoothcert.errors import DataError

CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
"""Names of the classes in torchvision's files."""


class CIFAR10DataModule(ImageDataModule):
    """50,000 training and 10,000 test images of 32×32 pixels (Krizhevsky, 2009).

    Images are decoded once, kept in memory as bytes and augmented as whole batches.

    Args:
        root: holds torchvision's `cifar-10-batches-py/`, or class folders `train/<class>/` and
            `test/<class>/` (there, or in a folder `cifar10/` or a lone folder inside).
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

    def find_classes(self) -> bool:
        """Set `class_names`: torchvision's, or the names of folders."""
        if self._is_torchvisions:
            self.class_names = list(CLASSES)
        else:
            self.class_names = class_names_of(self._class_folders().training)
        return True

    @property
    def _is_torchvisions(self) -> bool:
        return self.download or (self.root / CIFAR10.base_folder).is_dir()

    def load(self) -> dict[Split, ImageSet]:
        """Load the three sets into memory.

        Raises:
            DataError: if they are neither there nor to be downloaded, or no image of a class
                can be decoded.
        """
        if self._is_torchvisions:
            everything, test = (
                self._from_torchvision(train=True),
                self._from_torchvision(train=False),
            )
            size = len(everything)
        else:
            everything, test, size = self._from_class_folders()
        train, val = held_out(size, [self.val_fraction], self.split_seed)
        return {
            "train": everything.subset(_places(everything, train), self.augmentation),
            "val": everything.subset(_places(everything, val)),
            "test": test,
        }

    def _from_torchvision(self, train: bool) -> InMemoryImages:
        try:
            source = CIFAR10(str(self.root), train=train, download=self.download)
        except (OSError, RuntimeError) as error:
            raise DataError(f"{self._missing()} (torchvision: {error})") from error
        self.class_names = list(source.classes)
        images = torch.from_numpy(source.data).permute(0, 3, 1, 2).contiguous()
        return InMemoryImages(images, torch.tensor(source.targets))

    def _class_folders(self) -> Splits:
        inner = self.root / "cifar10"
        try:
            splits = find_splits(inner if inner.is_dir() else self.root, "data.root")
        except DataError as error:
            raise DataError(self._missing()) from error
        if splits.test is None:
            raise DataError(self._missing())
        return splits

    def _from_class_folders(self) -> tuple[InMemoryImages, InMemoryImages, int]:
        """Return the training and test images, and the number of all training files."""
        splits = self._class_folders()
        assert splits.test is not None, "there are test images"
        listed = read_class_folders(splits.training)
        self.class_names = listed.class_names
        others = read_class_folders(splits.test, self.class_names)
        train, unreadable = self._read(listed, "training")
        test, more = self._read(others, "test")
        warn_of_unreadable(unreadable | more, len(listed.paths) + len(others.paths))
        return train, test, len(listed.paths)

    def _read(self, listed: ClassFolders, split: str) -> tuple[InMemoryImages, dict[Path, str]]:
        cache = self.root / ".smoothcert" if self.cache else None
        images, unreadable = decode_all(listed.paths, cache, corrupt=self.corrupt)
        kept = readable(listed, torch.arange(len(listed.paths)), unreadable, split)
        if tuple(images.shape[1:]) != self.input_shape:
            raise DataError(
                f"Expected CIFAR-10 images of {self.input_shape}, got {tuple(images.shape[1:])} "
                f"in {listed.paths[kept[0]]}. For images of another size use data=image_folder"
            )
        return InMemoryImages(images, listed.labels[kept], kept), unreadable

    def _missing(self) -> str:
        return (
            f"No CIFAR-10 in {self.root.absolute()}. Expected torchvision's "
            f"{CIFAR10.base_folder}/, or {LAYOUT}. Set data.root=<folder> to where it is, "
            "or data.download=true to download it there"
        )


def _places(images: InMemoryImages, indices: np.ndarray) -> np.ndarray:
    """Return where the images with these indices are, those that were left out aside."""
    return np.flatnonzero(np.isin(images.indices.numpy(), indices))
