"""Stability training (Li et al., 2019)."""

import torch
from torch import Tensor, nn

from smoothcert.noise import noisy_logits
from smoothcert.objectives.base import (
    Loss,
    Objective,
    Weight,
    mean_cross_entropy,
    smoothed_accuracy,
)
from smoothcert.types import NoisyBatch
from smoothcert.warmup import Warmup


def stability_regularizer(clean: Tensor, noisy: Tensor) -> Tensor:
    """Return the cross-entropy between F(x) and F(x + δ), averaged over draws, image by image.

    Args:
        clean: logits of the images without noise, shape (B, K).
        noisy: logits of m noisy copies, shape (m, B, K).

    Returns:
        Values >= 0, shape (B,).

    Example:
        >>> stability_regularizer(torch.zeros(1, 10), torch.zeros(2, 1, 10))
        tensor([2.3026])
    """
    return -(clean.softmax(-1) * noisy.log_softmax(-1)).sum(-1).mean(0)


class Stability(Objective):
    """CE(f(x), y) + λ · cross-entropy between F(x) and F(x + δ) (Li et al., 2019).

    The classification loss uses images without noise, the second term compares noisy copies with
    them; its gradients flow through both arguments. As in the code of later papers (Jeong and Shin,
    2020), with two forward passes.

    Args:
        weight: λ >= 0.
        noise_draws: number m of draws per image; the paper uses one.
        warmup: share of λ by epoch; None: all of it.

    Raises:
        InvalidArgumentError: if an argument is out of range.

    Example:
        >>> Stability(weight=2.0)
        Stability(noise_draws=1, weight=2.0)
    """

    def __init__(
        self, weight: float = 2.0, noise_draws: int = 1, warmup: Warmup | None = None
    ) -> None:
        super().__init__(noise_draws)
        self.weight = Weight(weight, warmup)

    def __call__(
        self,
        classifier: nn.Module,
        batch: NoisyBatch,
        source: torch.Generator,  # noqa: ARG002
    ) -> Loss:
        """Return the loss of a batch; see `Objective`."""
        weight = self.weight.at(batch.epoch)
        clean = classifier(batch.images).float()
        noisy = noisy_logits(classifier, batch)
        entropy = mean_cross_entropy(clean[None], batch.labels)
        regularizer = stability_regularizer(clean, noisy).mean()
        report = {
            "cross_entropy": entropy.detach(),
            "stability": regularizer.detach(),
            "weight": weight,
            "smoothed_accuracy": smoothed_accuracy(noisy, batch.labels),
        }
        return Loss(entropy + weight * regularizer, report)
