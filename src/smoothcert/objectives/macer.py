"""MACER: maximizing the certified radius (Zhai et al., 2020)."""

import torch
from torch import Tensor
from torch.nn.functional import nll_loss

from smoothcert.errors import require_positive
from smoothcert.noise import smoothed_log_probabilities
from smoothcert.objectives.base import LogitsObjective, Loss, Weight
from smoothcert.types import NoisyBatch
from smoothcert.warmup import Warmup

SMALLEST = -700.0
"""Smaller log-probabilities are clamped to this one. Its Φ⁻¹ is about −37, beyond any γ up to 37,
where the derivative of Φ⁻¹ is still finite in float64."""


def soft_margin(logits: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """Return ξ = Φ⁻¹(p₁) − Φ⁻¹(p₂) of each image, and the class of p₁.

    p₁ and p₂ are the largest probabilities of the mean softmax of β · logits. Φ⁻¹(p₁) is computed
    from 1 − p₁, summed over the other classes: p₁ itself rounds to 1 where ξ is large.

    Args:
        logits: shape (m, B, K), K >= 2.
        beta: inverse temperature β > 0.

    Returns:
        ξ >= 0 but for rounding, float64, shape (B,); classes, int64, shape (B,).

    Example:
        >>> soft_margin(torch.tensor([[[0.9, 0.1]]]).log(), beta=1.0)[0]
        tensor([2.5631], dtype=torch.float64)
    """
    log_probabilities = smoothed_log_probabilities(beta * logits)
    (_, second), classes = (part.unbind(-1) for part in log_probabilities.topk(2))
    others = log_probabilities.scatter(1, classes[0][:, None], -torch.inf).logsumexp(-1)
    return -_probit(others) - _probit(second), classes[0]


class MACER(LogitsObjective):
    """−log F̂_y + λ (σ/2) max(γ − ξ, 0) where the prediction is right and |ξ| <= γ.

    See `soft_margin` for ξ and for the prediction, both taken with β (Zhai et al., 2020,
    algorithm 1). As in the published code, β scales the logits of the second term only. That code
    adds 1e-10 inside the logarithm of F̂_y and leaves out images whose p₁ rounds to 1; here both
    are exact. For σ = 1, Jeong and Shin (2020) keep λ at 0 until the first drop of the learning
    rate: a `Deferred` warm-up.

    Args:
        weight: λ >= 0.
        beta: inverse temperature β > 0.
        gamma: γ > 0, where the hinge ends.
        noise_draws: number m of draws per image.
        warmup: share of λ by epoch; None: all of it.

    Raises:
        InvalidArgumentError: if an argument is out of range.

    Example:
        >>> MACER(weight=12.0)
        MACER(noise_draws=16, weight=12.0, beta=16.0, gamma=8.0)
    """

    def __init__(
        self,
        weight: float = 12.0,
        beta: float = 16.0,
        gamma: float = 8.0,
        noise_draws: int = 16,
        warmup: Warmup | None = None,
    ) -> None:
        super().__init__(noise_draws)
        require_positive("beta", beta)
        require_positive("gamma", gamma)
        self.weight = Weight(weight, warmup)
        self.beta = beta
        self.gamma = gamma

    def of_logits(self, logits: Tensor, batch: NoisyBatch) -> Loss:
        """Return the loss of logits (m, B, K)."""
        weight = self.weight.at(batch.epoch)
        entropy = nll_loss(smoothed_log_probabilities(logits), batch.labels)
        margin, predicted = soft_margin(logits, self.beta)
        inside = (predicted == batch.labels) & (margin.abs() <= self.gamma)
        hinge = torch.where(inside, self.gamma - margin, 0.0)
        robustness = (batch.sigma / 2 * hinge).mean().to(entropy.dtype)
        report = {
            "cross_entropy": entropy.detach(),
            "robustness": robustness.detach(),
            "inside_hinge": inside.float().mean(),
            "weight": weight,
        }
        return Loss(entropy + weight * robustness, report)


def _probit(log_probability: Tensor) -> Tensor:
    """Return Φ⁻¹ of a probability given by its logarithm, in float64."""
    return torch.special.ndtri(log_probability.double().clamp(min=SMALLEST, max=0.0).exp())
