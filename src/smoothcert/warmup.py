"""Warm-up schedules: factors in [0, 1] that scale a weight or an attack's radius by epoch."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from smoothcert.errors import require_count


class Warmup(ABC):
    """A factor in [0, 1] by epoch."""

    @abstractmethod
    def __call__(self, epoch: int) -> float:
        """Return the factor after `epoch` finished epochs."""


@dataclass(frozen=True)
class Immediate(Warmup):
    """Full strength from the first step on.

    Example:
        >>> Immediate()(epoch=0)
        1.0
    """

    def __call__(self, epoch: int) -> float:  # noqa: ARG002
        """Return 1."""
        return 1.0


@dataclass(frozen=True)
class Linear(Warmup):
    """Grows linearly and reaches 1 in the last of the given epochs, as in SmoothAdv and SmoothMix.

    Args:
        epochs: number of epochs, >= 1.

    Raises:
        InvalidArgumentError: if `epochs` < 1.

    Example:
        >>> [Linear(epochs=4)(epoch) for epoch in range(6)]
        [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    """

    epochs: int

    def __post_init__(self) -> None:
        require_count("epochs", self.epochs)

    def __call__(self, epoch: int) -> float:
        """Return the share of the epochs that have begun."""
        return min(1.0, (epoch + 1) / self.epochs)


@dataclass(frozen=True)
class Deferred(Warmup):
    """0 for the given epochs, then 1, as for MACER's λ at large σ.

    Args:
        epochs: number of epochs at 0, >= 0.

    Raises:
        InvalidArgumentError: if it is negative.

    Example:
        >>> [Deferred(epochs=2)(epoch) for epoch in range(4)]
        [0.0, 0.0, 1.0, 1.0]
    """

    epochs: int

    def __post_init__(self) -> None:
        require_count("epochs", self.epochs, minimum=0)

    def __call__(self, epoch: int) -> float:
        """Return 0 or 1."""
        return float(epoch >= self.epochs)
