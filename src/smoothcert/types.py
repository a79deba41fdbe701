"""Plain data types that the packages share."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

ABSTAIN = -1
"""Label of a certificate that guarantees nothing."""


class Example(NamedTuple):
    """One image of a data set, without augmentation.

    Attributes:
        image: pixels in [0, 1], shape (C, H, W).
        label: the true class; None where it is not known.
        index: its index in its data set before any split, which selects its noise.
    """

    image: Tensor
    label: int | None
    # Hides `tuple.index`, which examples do not need.
    index: int  # pyright: ignore[reportIncompatibleMethodOverride]


class ImageBatch(NamedTuple):
    """Images with their labels and their indices in the data set.

    Attributes:
        images: pixels in [0, 1], float32, shape (B, C, H, W).
        labels: class numbers, int64, shape (B,).
        indices: each image's index in its data set before any split, int64, shape (B,).
    """

    images: Tensor
    labels: Tensor
    indices: Tensor


@dataclass(frozen=True)
class NoisyBatch:
    """Images, their labels and the noise draws that an attack and the loss share.

    Attributes:
        images: pixels in [0, 1], shape (B, C, H, W); adversarial once an attack has moved them.
        labels: class numbers, int64, shape (B,); or other targets that a loss compares logits
            with, one row per image.
        noise: draws from N(0, sigma² I), shape (m, B, C, H, W).
        sigma: standard deviation of the noise, in pixel units.
        epoch: number of finished epochs, for warm-ups.
    """

    images: Tensor
    labels: Tensor
    noise: Tensor
    sigma: float
    epoch: int = 0

    def with_images(self, images: Tensor) -> NoisyBatch:
        """Return a batch with the same labels and noise, and other images of the same shape."""
        return replace(self, images=images)

    def split(self, size: int) -> list[NoisyBatch]:
        """Return the batch in parts of at most `size` images, each with its own noise."""
        parts = zip(
            self.images.split(size), self.labels.split(size), self.noise.split(size, 1), strict=True
        )
        return [NoisyBatch(*part, self.sigma, self.epoch) for part in parts]


@dataclass(frozen=True)
class Counts:
    """Votes of the base classifier under noise, for N images and C classes.

    Attributes:
        selection: votes of the selection samples, integers of shape (N, C).
        estimation: votes of the estimation samples, integers of shape (N, C); independent of
            the selection samples.
    """

    selection: np.ndarray
    estimation: np.ndarray


@dataclass(frozen=True)
class Certificate:
    """What is proved about the smoothed classifier at one image.

    With probability at least 1 − alpha over the noise draws, the smoothed classifier answers
    `label` everywhere inside the open l2 ball of radius `radius` around the image.

    Attributes:
        label: the class that is certified, or `ABSTAIN`.
        radius: certified l2 radius in pixel units, at least 0; never rounded up.
        p_a_lower: lower confidence bound on the probability of the selected class.
        p_b_upper: upper confidence bound on the largest probability of another class. The two
            bounds hold jointly at alpha; a radius from its own test is not computed from them.
        n_a: votes for the selected class among the estimation samples.
        n_b: the largest number of votes for another class among the estimation samples.
        n_samples: number of estimation samples.
        stop: why sampling ended. `fixed` or `planned`: the number was set before the first vote.
            `certified`: every radius of the grid is certified. `futile`: the next radius of the
            grid is too unlikely to be certified. `exhausted`: no more samples may be drawn.
            `wrong`: the selected class is not the label, and nothing was tested.

    Example:
        >>> Certificate(3, 0.31, 0.93, 0.04, 9500, 300, 10_000, "fixed").abstained
        False
    """

    label: int
    radius: float
    p_a_lower: float
    p_b_upper: float
    n_a: int
    n_b: int
    n_samples: int
    stop: str

    @property
    def abstained(self) -> bool:
        """Whether nothing is guaranteed at this image."""
        return self.label == ABSTAIN
