"""Gaussian data augmentation (Cohen et al., 2019)."""

from torch import Tensor

from smoothcert.objectives.base import LogitsObjective, Loss, mean_cross_entropy
from smoothcert.types import NoisyBatch


class Gaussian(LogitsObjective):
    """Mean cross-entropy over noisy copies: mean_i CE(f(x + δ_i), y).

    With an attack it is SmoothAdv, as one forward pass over the m copies (Salman et al., 2019;
    `--train-multi-noise` in the published code). That code divides each batch of 256 images into m
    parts and takes a step on each; here each batch of `data.batch_size` images is one step.

    Args:
        noise_draws: number m of draws per image; the paper uses one.

    Example:
        >>> Gaussian()
        Gaussian(noise_draws=1)
    """

    def __init__(self, noise_draws: int = 1) -> None:
        super().__init__(noise_draws)

    def of_logits(self, logits: Tensor, batch: NoisyBatch) -> Loss:
        """Return the mean cross-entropy of logits (m, B, K)."""
        value = mean_cross_entropy(logits, batch.labels)
        return Loss(value, {"cross_entropy": value.detach()})
