"""What an attack is, and the loop that gradient attacks share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from smoothcert.errors import require_count
from smoothcert.models import evaluating, frozen
from smoothcert.types import NoisyBatch

CPU_NOISY_PIXELS = 128 * 3 * 32 * 32
"""Pixels of noisy images that a CPU handles at a time, so that their activations stay in its cache:
a step of ADREADV with ResNet-20 and 256 images took 27 s so, and 92 s in one piece."""


@dataclass(frozen=True)
class AttackResult:
    """Images that an attack has moved.

    Attributes:
        images: adversarial images in [0, 1], the shape of the originals, without gradient.
        report: scalars worth logging, by name.
    """

    images: Tensor
    report: dict[str, Tensor | float] = field(default_factory=dict)


class Attack(ABC):
    """Moves the images of a batch so that the smoothed classifier does worse on them."""

    @abstractmethod
    def __call__(
        self, classifier: nn.Module, batch: NoisyBatch, epoch: int, source: torch.Generator
    ) -> AttackResult:
        """Attack a batch on its own noise draws.

        Args:
            classifier: the base classifier; its weights, gradients, modes and BatchNorm
                statistics are left as they were.
            batch: the images, their labels and the draws that the loss will see.
            epoch: number of finished epochs, for schedules of the attack's strength.
            source: generator on the images' device.
        """


class GradientAttack(Attack):
    """Start, then follow the gradient of a loss: `loss`, `step` and `project` are replaceable.

    Args:
        steps: number of gradient steps, >= 1.
    """

    def __init__(self, steps: int) -> None:
        require_count("steps", steps)
        self.steps = steps

    def start(self, batch: NoisyBatch) -> Tensor:
        """Return the images to start from: the originals."""
        return batch.images

    @abstractmethod
    def loss(self, classifier: nn.Module, batch: NoisyBatch) -> Tensor:
        """Return each image's loss, which the attack raises, shape (B,)."""

    @abstractmethod
    def step(
        self, images: Tensor, gradient: Tensor, strength: float, source: torch.Generator
    ) -> Tensor:
        """Return the images one step further along the gradient."""

    @abstractmethod
    def project(self, images: Tensor, originals: Tensor, strength: float) -> Tensor:
        """Return the nearest images that the attack may use."""

    def ascend(
        self, classifier: nn.Module, batch: NoisyBatch, strength: float, source: torch.Generator
    ) -> Tensor:
        """Run the loop on a batch and return the adversarial images, without gradient."""
        size = len(batch.images)
        if batch.images.device.type == "cpu":
            # In eval mode no image depends on another, so the parts give what the whole would.
            size = max(1, CPU_NOISY_PIXELS // batch.noise[:, 0].numel())
        parts = [self._ascend(classifier, part, strength, source) for part in batch.split(size)]
        return torch.cat(parts)

    def _ascend(
        self, classifier: nn.Module, batch: NoisyBatch, strength: float, source: torch.Generator
    ) -> Tensor:
        images = self.start(batch).detach()
        with evaluating(classifier), frozen(classifier), torch.enable_grad():
            for _ in range(self.steps):
                images.requires_grad_(True)
                loss = self.loss(classifier, batch.with_images(images)).sum()
                (gradient,) = torch.autograd.grad(loss, images)
                images = self.step(images.detach(), gradient, strength, source)
                images = self.project(images, batch.images, strength)
        return images.detach()
