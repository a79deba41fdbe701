"""Which images form a batch, and with which seed they are augmented."""

from collections.abc import Iterator
from numbers import Real
from typing import NamedTuple

import numpy as np
from torch.utils.data import Sampler

from smoothcert.errors import InvalidArgumentError


class BatchKey(NamedTuple):
    """What a data set needs to make one batch.

    Attributes:
        positions: positions of the images in the data set.
        seed: seed of the batch's augmentation.
    """

    positions: list[int]
    seed: int


class EpochBatches(Sampler[BatchKey]):
    """Shuffled batches of an epoch, from the seed and the epoch's number alone.

    A run that resumes at epoch e gets the same batches as an uninterrupted run. Lightning calls
    `set_epoch` before each epoch. A last batch that is not full is dropped, unless it is the only
    batch: its images appear in other epochs.

    Several processes take equal shares of each batch, so that a step uses the same images for any
    number of processes.

    Args:
        size: number of images.
        batch_size: images in a batch, over all processes.
        seed: seed of the shuffling and the augmentation.
        share: this process's rank, and the number of processes.

    Raises:
        InvalidArgumentError: if a batch cannot be shared equally.

    Example:
        >>> [len(key.positions) for key in EpochBatches(size=10, batch_size=4, seed=0)]
        [4, 4]
        >>> halves = [EpochBatches(10, 4, seed=0, share=(rank, 2)) for rank in range(2)]
        >>> [len(key.positions) for half in halves for key in half]
        [2, 2, 2, 2]
    """

    def __init__(
        self, size: int, batch_size: int, seed: int, share: tuple[int, int] = (0, 1)
    ) -> None:
        self.rank, self.processes = share
        if batch_size % self.processes or size < self.processes:
            raise InvalidArgumentError(
                f"Expected `data.batch_size` a multiple of the {self.processes} processes, which "
                f"share each batch, got {batch_size} (of {size} images)"
            )
        self.size = size
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = self.start = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose batches come next."""
        self.epoch = epoch

    def start_at(self, batch: int) -> None:
        """Skip the first batches of an epoch, which an interrupted run has finished."""
        self.start = batch

    def __len__(self) -> int:
        return max(1, self.size // self.batch_size)

    def __iter__(self) -> Iterator[BatchKey]:
        source = np.random.default_rng((self.seed, self.epoch))
        order = source.permutation(self.size)
        seeds = source.integers(2**63, size=(len(self), self.processes))
        # If the only batch is small, images that cannot be shared equally are left out.
        last = min(self.batch_size, self.size // self.processes * self.processes)
        for number in range(self.start, len(self)):
            first = number * self.batch_size
            own = order[first + self.rank : first + last : self.processes]
            yield BatchKey(own.tolist(), int(seeds[number, self.rank]))


def require_share(fraction: float) -> None:
    """Raise unless a share of held-out images is in [0, 1).

    Args:
        fraction: the share.

    Raises:
        InvalidArgumentError: if it is not.

    Example:
        >>> require_share(0.1)
    """
    if not (isinstance(fraction, Real) and 0 <= fraction < 1):
        raise InvalidArgumentError(
            f"Expected a share of held-out images (val_fraction, test_fraction) in [0, 1), "
            f"got {fraction}"
        )


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
        require_share(fraction)
    order = np.random.default_rng(seed).permutation(size)
    sizes = [max(round(size * fraction), 1) if fraction > 0 else 0 for fraction in fractions]
    ends = np.cumsum(sizes)
    others = [np.sort(order[end - count : end]) for count, end in zip(sizes, ends, strict=True)]
    return [np.sort(order[ends[-1] :]), *others]
