"""Consistency regularization (Jeong and Shin, 2020)."""

from torch import Tensor

from smoothcert.errors import InvalidArgumentError
from smoothcert.noise import smoothed_log_probabilities
from smoothcert.objectives.base import (
    LogitsObjective,
    Loss,
    Weight,
    divergence,
    mean_cross_entropy,
)
from smoothcert.types import NoisyBatch
from smoothcert.warmup import Warmup


def consistency_regularizer(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean_i KL(F̂ ‖ F(x + δ_i)) and the entropy H(F̂), image by image.

    Their sum is the cross-entropy between F̂ and F(x + δ_i), averaged over draws.

    Args:
        logits: shape (m, B, K), m noise draws.

    Returns:
        Two tensors of values >= 0 but for rounding, each of shape (B,).

    Example:
        >>> import torch
        >>> consistency_regularizer(torch.zeros(2, 1, 10))
        (tensor([0.]), tensor([2.3026]))
    """
    average = smoothed_log_probabilities(logits)
    entropy = -(average.exp() * average).sum(-1)
    return divergence(average, logits).mean(0), entropy


class Consistency(LogitsObjective):
    """mean_i CE + λ · mean_i KL(F̂ ‖ F(x + δ_i)) + η · H(F̂).

    Jeong and Shin, 2020. Gradients flow through F̂ as well, as in the published code by default;
    with η = λ this is the code's cross-entropy form. That code clamps F̂ at 1e-20 in the logarithm
    of the entropy, which is exact here. It also divides each batch of 256 images into m parts and
    takes a step on each.

    Args:
        weight: λ >= 0.
        entropy_weight: η >= 0.
        noise_draws: number m of draws per image.
        warmup: share of λ and η by epoch; None: all of it.

    Raises:
        InvalidArgumentError: if an argument is out of range, or if `noise_draws` < 2: with one draw
            the term is constant.

    Example:
        >>> Consistency(weight=20.0)
        Consistency(noise_draws=2, weight=20.0, entropy_weight=0.5)
    """

    def __init__(
        self,
        weight: float = 10.0,
        entropy_weight: float = 0.5,
        noise_draws: int = 2,
        warmup: Warmup | None = None,
    ) -> None:
        super().__init__(noise_draws)
        if noise_draws < 2:
            raise InvalidArgumentError(
                f"Expected `noise_draws` >= 2, got {noise_draws}: one draw gives a constant term"
            )
        self.weight = Weight(weight, warmup)
        self.entropy_weight = Weight(entropy_weight, warmup, "entropy_weight")

    def of_logits(self, logits: Tensor, batch: NoisyBatch) -> Loss:
        """Return cross-entropy plus the weighted terms of logits (m, B, K)."""
        weight = self.weight.at(batch.epoch)
        cross_entropy = mean_cross_entropy(logits, batch.labels)
        consistency, entropy = (term.mean() for term in consistency_regularizer(logits))
        value = cross_entropy + weight * consistency
        value = value + self.entropy_weight.at(batch.epoch) * entropy
        report = {
            "cross_entropy": cross_entropy.detach(),
            "consistency": consistency.detach(),
            "entropy": entropy.detach(),
            "weight": weight,
        }
        return Loss(value, report)
