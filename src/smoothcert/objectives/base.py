"""Base classes of objectives, and the terms that they share."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from smoothcert.errors import InvalidArgumentError, require_count
from smoothcert.noise import noisy_logits, smoothed_log_probabilities
from smoothcert.types import NoisyBatch
from smoothcert.warmup import Immediate, Warmup


@dataclass(frozen=True)
class Loss:
    """A training loss and its terms.

    Attributes:
        value: the scalar to minimise.
        report: scalars worth logging, by name, without gradient.
    """

    value: Tensor
    report: dict[str, Tensor | float] = field(default_factory=dict)


class Objective(ABC):
    """A training loss on noisy copies of a batch.

    Args:
        noise_draws: number m >= 1 of noise draws per image, shared by the attack and the loss.

    Raises:
        InvalidArgumentError: if `noise_draws` < 1.
    """

    def __init__(self, noise_draws: int) -> None:
        require_count("noise_draws", noise_draws)
        self.noise_draws = noise_draws

    @abstractmethod
    def __call__(self, classifier: nn.Module, batch: NoisyBatch, source: torch.Generator) -> Loss:
        """Return the loss of a batch.

        Args:
            classifier: the base classifier, in training mode; maps (N, C, H, W) to logits.
            batch: images, labels, `noise_draws` draws of noise, σ and the epoch.
            source: generator on the images' device, for all other randomness.
        """

    def __repr__(self) -> str:
        settings = ", ".join(f"{name}={value}" for name, value in vars(self).items())
        return f"{type(self).__name__}({settings})"


class LogitsObjective(Objective):
    """An objective that needs only the logits of the noisy copies; see `of_logits`."""

    def __call__(
        self,
        classifier: nn.Module,
        batch: NoisyBatch,
        source: torch.Generator,  # noqa: ARG002
    ) -> Loss:
        """Return the loss of a batch; see `Objective`."""
        logits = noisy_logits(classifier, batch)
        loss = self.of_logits(logits, batch)
        if not isinstance(loss, Loss):
            raise InvalidArgumentError(
                f"Expected a Loss from {type(self).__name__}.of_logits, got {type(loss).__name__}: "
                "return Loss(value)"
            )
        accuracy = smoothed_accuracy(logits, batch.labels)
        return Loss(loss.value, {**loss.report, "smoothed_accuracy": accuracy})

    @abstractmethod
    def of_logits(self, logits: Tensor, batch: NoisyBatch) -> Loss:
        """Return the loss of float32 logits (m, B, K) of a batch's noisy copies."""


class Weight:
    """The weight λ of a loss term, with a warm-up.

    Args:
        value: λ >= 0, finite.
        warmup: share of λ by epoch; None: all of it.
        name: its name in errors.

    Raises:
        InvalidArgumentError: if λ is negative or not finite.

    Example:
        >>> from smoothcert.warmup import Deferred
        >>> weight = Weight(12.0, Deferred(epochs=200))
        >>> weight.at(199), weight.at(200)
        (0.0, 12.0)
    """

    def __init__(self, value: float, warmup: Warmup | None = None, name: str = "weight") -> None:
        if not (value >= 0 and math.isfinite(value)):
            raise InvalidArgumentError(f"Expected `{name}` >= 0 and finite, got {value}")
        self.value = value
        self.warmup = warmup or Immediate()

    def at(self, epoch: int) -> float:
        """Return the weight after `epoch` finished epochs."""
        return self.value * self.warmup(epoch)

    def __repr__(self) -> str:
        return f"{self.value}" if self.warmup == Immediate() else f"{self.value}·{self.warmup}"


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


def divergence(log_target: Tensor, logits: Tensor) -> Tensor:
    """Return KL(target ‖ softmax of the logits).

    Args:
        log_target: logarithms of the target's probabilities, shape (..., K).
        logits: shape (..., K), broadcast against the target.

    Returns:
        Values >= 0 but for rounding, shape (...,).

    Example:
        >>> import torch
        >>> certain = torch.tensor([0.0, -torch.inf])
        >>> divergence(certain, torch.tensor([[0.0, 0.0]]))
        tensor([0.6931])
    """
    # A probability of 0 contributes 0, and gets no gradient.
    log_target = log_target.clamp(min=torch.finfo(log_target.dtype).min)
    return (log_target.exp() * (log_target - logits.log_softmax(-1))).sum(-1)


def smoothed_accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the share of images whose smoothed prediction argmax F̂ is right.

    Args:
        logits: shape (m, B, K).
        labels: int64, shape (B,).

    Example:
        >>> import torch
        >>> smoothed_accuracy(torch.eye(3)[None], torch.tensor([0, 1, 0]))
        tensor(0.6667)
    """
    predicted = smoothed_log_probabilities(logits.detach()).argmax(-1)
    return (predicted == labels).float().mean()
