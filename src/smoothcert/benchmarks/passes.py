"""The forward and backward passes that a training step takes, counted."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from smoothcert.attacks import Attack
from smoothcert.noise import draw_noise, generator
from smoothcert.objectives import Objective
from smoothcert.types import NoisyBatch

LATE_EPOCH = 10_000
"""An epoch after every warm-up."""


@dataclass(frozen=True)
class Passes:
    """Passes through the network per image and training step.

    Attributes:
        forward: images that passed through the network, divided by the batch size.
        backward: images whose logits received a gradient, divided by the batch size.
    """

    forward: float
    backward: float


class CountingClassifier(nn.Module):
    """A small classifier that counts the images of its forward and backward passes.

    Args:
        shape: (C, H, W) of the images.
        num_classes: number of logits.
    """

    def __init__(self, shape: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Flatten(), nn.LazyLinear(num_classes))
        self.network(torch.zeros(1, *shape))
        self.forwards = self.backwards = 0

    def forward(self, images: Tensor) -> Tensor:
        """Return logits of images (N, C, H, W), and count them."""
        self.forwards += len(images)
        logits = self.network(images)
        if logits.requires_grad:
            logits.register_hook(self._count)
        return logits

    def _count(self, gradient: Tensor) -> None:
        self.backwards += len(gradient)


def count_passes(objective: Objective, attack: Attack, sigma: float) -> Passes:
    """Run one training step and count the passes through the network per image.

    Args:
        objective: the training loss.
        attack: perturbs the images before the loss is computed.
        sigma: standard deviation of the noise, in pixel units.

    Example:
        >>> from smoothcert.attacks import PGD
        >>> from smoothcert.objectives import Gaussian
        >>> count_passes(Gaussian(noise_draws=2), PGD(epsilon=1.0, steps=10), sigma=0.25)
        Passes(forward=22.0, backward=22.0)
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        classifier = CountingClassifier((1, 4, 4), num_classes=3)
    source = generator("cpu", 0)
    images = torch.rand((6, 1, 4, 4), generator=source)
    labels = torch.arange(6) % 3
    noise = draw_noise(images, sigma, objective.noise_draws, source)
    batch = NoisyBatch(images, labels, noise, sigma, LATE_EPOCH)
    attacked = attack(classifier, batch, source)
    objective(classifier, batch.with_images(attacked.images), source).value.backward()
    return Passes(classifier.forwards / len(images), classifier.backwards / len(images))
