"""The UCI digits that come with scikit-learn: real images, nothing to download."""

from typing import Any

import torch
from sklearn.datasets import load_digits

from smoothcert.data.augmentation import CropAndFlip
from smoothcert.data.base import ImageDataModule, Split
from smoothcert.data.datasets import ImageSet, InMemoryImages
from smoothcert.data.sampling import held_out, require_share


class DigitsDataModule(ImageDataModule):
    """1,797 handwritten digits of 8×8 grey pixels (Alpaydin and Kaynak, UCI, 1998).

    Args:
        batch_size: images in a batch.
        val_fraction: share of all images held out for validation.
        test_fraction: share of all images held out for testing.
        crop_padding: training images are shifted by up to this many pixels.
        seed: seed of the shuffling and the augmentation.
        split_seed: seed of the choice of held-out images.

    Example:
        >>> digits = DigitsDataModule()
        >>> digits.setup()
        >>> [len(digits.images(split)) for split in ("train", "val", "test")]
        [1078, 180, 539]
    """

    input_shape = (1, 8, 8)
    # Of all 1,797 images.
    mean = (0.3053,)
    std = (0.3760,)

    def __init__(
        self,
        batch_size: int = 64,
        val_fraction: float = 0.1,
        test_fraction: float = 0.3,
        crop_padding: int = 1,
        seed: int = 0,
        split_seed: int = 0,
    ) -> None:
        super().__init__(batch_size, val_fraction, seed, split_seed, num_workers=0)
        require_share(test_fraction)
        self.test_fraction = test_fraction
        self.crop_padding = crop_padding

    @property
    def class_names(self) -> list[str]:
        """The ten digits."""
        return list("0123456789")

    def load(self, split: Split) -> dict[Split, ImageSet]:  # noqa: ARG002
        """Load the three sets from scikit-learn's own files."""
        bundled: Any = load_digits()
        pixels = torch.tensor(bundled.images, dtype=torch.float32)[:, None] / 16
        everything = InMemoryImages(pixels, torch.tensor(bundled.target))
        train, val, test = held_out(
            len(everything), [self.val_fraction, self.test_fraction], self.split_seed
        )
        return {
            # Digits are never mirrored.
            "train": everything.subset(train, CropAndFlip(self.crop_padding, flip=False)),
            "val": everything.subset(val),
            "test": everything.subset(test),
        }
