"""Which images form a batch, and with which seed they are augmented."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from torch.utils.data import Sampler

from smoothcert.errors import InvalidArgumentError


class BatchKey(NamedTuple):
    """What a data set needs to make one batch.

    Attributes:
        positions: places of the images in the data set.
        seed: seed of the batch's augmentation.
    """

    positions: list[int]
    seed: int


class EpochBatches(Sampler[BatchKey]):
    """Shuffled batches of an epoch, from the seed and the epoch's number alone.

    A run that resumes at epoch e sees what an uninterrupted run sees there. Lightning calls
    `set_epoch` before each epoch. A last batch that is not full is dropped, unless it is the only
    one: its images turn up in other epochs.

    Args:
        size: number of images.
        batch_size: images in a batch.
        seed: seed of the shuffling and the augmentation.

    Example:
        >>> [len(key.positions) for key in EpochBatches(size=10, batch_size=4, seed=0)]
        [4, 4]
    """

    def __init__(self, size: int, batch_size: int, seed: int) -> None:
        self.size = size
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose batches come next."""
        self.epoch = epoch

    def __len__(self) -> int:
        return max(1, self.size // self.batch_size)

    def __iter__(self) -> Iterator[BatchKey]:
        source = np.random.default_rng((self.seed, self.epoch))
        order = source.permutation(self.size)
        for number, seed in enumerate(source.integers(2**63, size=len(self))):
            start = number * self.batch_size
            yield BatchKey(order[start : start + self.batch_size].tolist(), int(seed))


def held_out(size: int, fractions: list[float], seed: int) -> list[np.ndarray]:
    """Divide positions 0 … size − 1 at random into disjoint parts.

    Args:
        size: number of images.
        fractions: share of each part after the first, in [0, 1); the first gets the rest. A
            positive share of a non-empty set gets at least one image.
        seed: seed of the division.

    Returns:
        Sorted positions of the first part, then of the others.

    Raises:
        InvalidArgumentError: if a share is outside [0, 1).

    Example:
        >>> [len(part) for part in held_out(100, [0.1, 0.2], seed=0)]
        [70, 10, 20]
    """
    for fraction in fractions:
        if not 0 <= fraction < 1:
            raise InvalidArgumentError(
                f"Expected a share of held-out images (val_fraction, test_fraction) in [0, 1), "
                f"got {fraction}"
            )
    order = np.random.default_rng(seed).permutation(size)
    sizes = [max(round(size * fraction), 1) if fraction > 0 else 0 for fraction in fractions]
    ends = np.cumsum(sizes)
    others = [np.sort(order[end - count : end]) for count, end in zip(sizes, ends, strict=True)]
    return [np.sort(order[ends[-1] :]), *others]
