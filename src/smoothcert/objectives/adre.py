"""ADRE, the adaptive radius-enhancing regularizer (Feng et al., 2020)."""

import math

from torch import Tensor

from smoothcert.errors import require_probability
from smoothcert.noise import smoothed_log_probabilities
from smoothcert.objectives.base import LogitsObjective, Loss, Weight, mean_cross_entropy
from smoothcert.types import NoisyBatch
from smoothcert.warmup import Warmup


def adre_regularizer(logits: Tensor, labels: Tensor, floor: float | None = None) -> Tensor:
    """Return max over c ≠ y of log F̂_c(x), image by image (Feng et al., 2020).

    Where the smoothed prediction is right, lowering it lowers the runner-up and enlarges the
    radius; where the prediction is wrong, it lowers the wrong class.

    Args:
        logits: shape (m, B, K), m noise draws, K >= 2 classes, any floating dtype.
        labels: true classes, int64, shape (B,).
        floor: probability in (0, 1) below which F̂_c is not rewarded further, like γ in MACER;
            None: no floor, as in the paper; the term is then unbounded below.

    Returns:
        Values <= 0, shape (B,), float32 (float64 for float64 logits).

    Example:
        >>> import torch
        >>> adre_regularizer(torch.zeros(8, 1, 10), torch.tensor([3])).exp()
        tensor([0.1000])
    """
    others = smoothed_log_probabilities(logits).scatter(1, labels[:, None], -math.inf)
    runner_up = others.amax(1)
    return runner_up if floor is None else runner_up.clamp(min=math.log(floor))


class ADRE(LogitsObjective):
    """Mean cross-entropy plus λ times the ADRE regularizer; with an attack, ADREADV.

    mean_i CE(f(x + δ_i), y) + λ · max_{c ≠ y} log F̂_c(x), averaged over images, with F̂
    estimated by the same m draws (Feng et al., 2020). The authors published no code.

    Args:
        weight: λ >= 0.
        noise_draws: number m of draws per image. With few draws the loss can fall without
            limit. Each misclassified draw keeps F̂_c at about 1/m or more, so a larger m also
            bounds the loss.
        floor: see `adre_regularizer`.
        warmup: share of λ by epoch; None: all of it.

    Raises:
        InvalidArgumentError: if an argument is out of range.

    Example:
        >>> ADRE(weight=0.1)
        ADRE(noise_draws=8, weight=0.1, floor=None)
    """

    def __init__(
        self,
        weight: float = 0.1,
        noise_draws: int = 8,
        floor: float | None = None,
        warmup: Warmup | None = None,
    ) -> None:
        super().__init__(noise_draws)
        if floor is not None:
            require_probability("floor", floor)
        self.weight = Weight(weight, warmup)
        self.floor = floor

    def of_logits(self, logits: Tensor, batch: NoisyBatch) -> Loss:
        """Return cross-entropy plus λ times the regularizer of logits (m, B, K)."""
        weight = self.weight.at(batch.epoch)
        entropy = mean_cross_entropy(logits, batch.labels)
        regularizer = adre_regularizer(logits, batch.labels, self.floor).mean()
        report = {"cross_entropy": entropy.detach(), "adre": regularizer.detach()}
        return Loss(entropy + weight * regularizer, {**report, "weight": weight})
