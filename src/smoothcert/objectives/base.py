"""What an objective is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from smoothcert.errors import require_count
from smoothcert.noise import noisy_logits, smoothed_log_probabilities
from smoothcert.types import NoisyBatch


@dataclass(frozen=True)
class Loss:
    """A training loss and what it is made of.

    Attributes:
        value: the scalar to minimise.
        report: scalars worth logging, by name, without gradient.
    """

    value: Tensor
    report: dict[str, Tensor | float] = field(default_factory=dict)


class Objective(ABC):
    """A training loss on noisy copies of a batch.

    Args:
        noise_draws: number m >= 1 of noise draws an image, shared by the attack and the loss.
    """

    def __init__(self, noise_draws: int) -> None:
        require_count("noise_draws", noise_draws)
        self.noise_draws = noise_draws

    @abstractmethod
    def __call__(self, classifier: nn.Module, batch: NoisyBatch) -> Loss:
        """Return the loss of a batch.

        Args:
            classifier: the base classifier, in training mode; maps (N, C, H, W) to logits.
            batch: images, labels and `noise_draws` draws of noise.
        """


class LogitsObjective(Objective):
    """An objective that needs nothing but the logits of the noisy copies."""

    def __call__(self, classifier: nn.Module, batch: NoisyBatch) -> Loss:
        """Return the loss of a batch; see `Objective`."""
        logits = noisy_logits(classifier, batch)
        loss = self.of_logits(logits, batch.labels)
        predicted = smoothed_log_probabilities(logits.detach()).argmax(-1)
        accuracy = (predicted == batch.labels).float().mean()
        return Loss(loss.value, {**loss.report, "smoothed_accuracy": accuracy})

    @abstractmethod
    def of_logits(self, logits: Tensor, labels: Tensor) -> Loss:
        """Return the loss of float32 logits (m, B, K) under labels (B,)."""


def mean_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy, averaged over draws and images.

    Args:
        logits: shape (m, B, K).
        labels: int64, shape (B,).

    Returns:
        A scalar.

    Example:
        >>> import torch
        >>> mean_cross_entropy(torch.zeros(4, 2, 10), torch.tensor([3, 7]))
        tensor(2.3026)
    """
    return cross_entropy(logits.flatten(0, 1), labels.repeat(logits.shape[0]))
