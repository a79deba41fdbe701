"""Images as Lightning data modules, pixels in [0, 1]."""

from smoothcert.data.base import ImageDataModule
from smoothcert.data.cifar10 import CIFAR10DataModule
from smoothcert.data.digits import DigitsDataModule
from smoothcert.data.image_folder import ImageFolderDataModule
from smoothcert.data.imagenet import ImageNetDataModule
from smoothcert.data.thumbnails import thumbnails_of, write_thumbnails

__all__ = [
    "CIFAR10DataModule",
    "DigitsDataModule",
    "ImageDataModule",
    "ImageFolderDataModule",
    "ImageNetDataModule",
    "thumbnails_of",
    "write_thumbnails",
]
