"""CIFAR-10, as torchvision downloads it or as class folders."""

from pathlib import Path

import torch
from torchvision.datasets import CIFAR10

from smoothcert.data.augmentation import CropAndFlip
from smoothcert.data.base import ImageDataModule, Split
from smoothcert.data.datasets import ImageSet, InMemoryImages
from smoothcert.data.decoding import decode_all
from smoothcert.data.folders import LAYOUT, find_splits, read_class_folders
from smoothcert.data.sampling import held_out
from smoothcert.errors import DataError


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
        seed: int = 0,
        split_seed: int = 0,
    ) -> None:
        super().__init__(batch_size, val_fraction, seed, split_seed, num_workers=0)
        self.root = Path(root)
        self.download = download
        self.cache = cache
        self.augmentation = CropAndFlip(crop_padding, flip)

    def load(self) -> dict[Split, ImageSet]:
        """Load the three sets into memory.

        Raises:
            DataError: if they are neither there nor to be downloaded.
        """
        if self.download or (self.root / CIFAR10.base_folder).is_dir():
            everything, test = (
                self._from_torchvision(train=True),
                self._from_torchvision(train=False),
            )
        else:
            everything, test = self._from_class_folders()
        train, val = held_out(len(everything), [self.val_fraction], self.split_seed)
        return {
            "train": everything.subset(train, self.augmentation),
            "val": everything.subset(val),
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

    def _from_class_folders(self) -> tuple[InMemoryImages, InMemoryImages]:
        inner = self.root / "cifar10"
        try:
            splits = find_splits(inner if inner.is_dir() else self.root, "data.root")
        except DataError as error:
            raise DataError(self._missing()) from error
        if splits.test is None:
            raise DataError(self._missing())
        train = self._read(splits.training, None)
        return train, self._read(splits.test, self.class_names)

    def _read(self, folder: Path, class_names: list[str] | None) -> InMemoryImages:
        listed = read_class_folders(folder, class_names)
        self.class_names = listed.class_names
        images = decode_all(listed.paths, self.root / ".smoothcert" if self.cache else None)
        if tuple(images.shape[1:]) != self.input_shape:
            raise DataError(
                f"Expected CIFAR-10 images of {self.input_shape} in {folder}, "
                f"got {tuple(images.shape[1:])}. For images of another size use data=image_folder"
            )
        return InMemoryImages(images, listed.labels)

    def _missing(self) -> str:
        return (
            f"No CIFAR-10 in {self.root.absolute()}. Expected torchvision's "
            f"{CIFAR10.base_folder}/, or {LAYOUT}. Set data.root=<folder> to where it is, "
            "or data.download=true to download it there"
        )
