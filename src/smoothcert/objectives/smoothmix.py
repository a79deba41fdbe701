"""SmoothMix: mixing with unrestricted adversarial images (Jeong et al., 2021)."""

import math

import torch
from torch import Tensor, nn

from smoothcert.attacks import AttackState, GradientAttack
from smoothcert.attacks.base import direction
from smoothcert.errors import require_positive
from smoothcert.noise import noisy_logits, smoothed_log_probabilities
from smoothcert.objectives.base import (
    Loss,
    Objective,
    Weight,
    divergence,
    mean_cross_entropy,
    smoothed_accuracy,
)
from smoothcert.types import NoisyBatch
from smoothcert.warmup import Warmup


class FreeAscent(GradientAttack):
    """Steps of constant length along the normalised gradient of −log F̂_y, in [0, 1], in no ball.

    Args:
        steps: number T of steps, >= 1.
        step_size: length of a step in pixel units, > 0.
    """

    def __init__(self, steps: int, step_size: float) -> None:
        super().__init__(steps)
        require_positive("step_size", step_size)
        self.step_size = step_size

    def step(self, state: AttackState, gradient: Tensor, logits: Tensor) -> Tensor:  # noqa: ARG002
        """Return the images one step further."""
        return state.images + self.step_size * direction(gradient, state.source)

    def project(self, state: AttackState, images: Tensor) -> Tensor:  # noqa: ARG002
        """Return the nearest images in [0, 1]."""
        return images.clamp(0, 1)


def mixed_targets(log_probabilities: Tensor, share: Tensor) -> Tensor:
    """Return log((1 − t) F̂ + t/K), the targets of images mixed with the share t.

    Args:
        log_probabilities: log F̂, shape (B, K).
        share: t in [0, 1), shape (B,).

    Example:
        >>> mixed_targets(torch.tensor([[0.9, 0.1]]).log(), torch.tensor([0.5])).exp()
        tensor([[0.7000, 0.3000]])
    """
    own = log_probabilities + torch.log1p(-share)[:, None]
    uniform = share.log()[:, None] - math.log(log_probabilities.shape[1])
    return torch.logaddexp(own, uniform.expand_as(own))


class SmoothMix(Objective):
    """mean_i CE + η w · 1[argmax F̂ = y] · mean_i KL(y_mix ‖ F(x_mix + δ_i)).

    x̃ is T ascent steps of length a away from x, on the same draws; t ~ U[0, ½] per image,
    x_mix = (1 − t) x + t x̃, y_mix = (1 − t) F̂ + t/K (Jeong et al., 2021, algorithm 1). As
    in the published code gradients flow through F̂ in y_mix, and the same draws serve x and
    x_mix. The code divides each batch of 256 images into m parts and takes a step on each. Its
    "one-step adversary" in place of x is `attack=pgd` with one step and ε = a, and T − 1 steps
    here, once ε is warmed up.

    Args:
        weight: η >= 0.
        steps: number T of ascent steps.
        step_size: their length a in pixel units.
        noise_draws: number m of draws per image.
        warmup: w, the share of η by epoch; None: all of it. The paper ramps
            over 10 epochs.

    Raises:
        InvalidArgumentError: if an argument is out of range.

    Example:
        >>> SmoothMix(step_size=0.5).noise_draws
        2
    """

    def __init__(
        self,
        weight: float = 5.0,
        steps: int = 4,
        step_size: float = 1.0,
        noise_draws: int = 2,
        warmup: Warmup | None = None,
    ) -> None:
        super().__init__(noise_draws)
        self.weight = Weight(weight, warmup)
        self.ascent = FreeAscent(steps, step_size)

    def __call__(self, classifier: nn.Module, batch: NoisyBatch, source: torch.Generator) -> Loss:
        """Return the loss of a batch; see `Objective`. With η = 0 it is Gaussian training."""
        weight = self.weight.at(batch.epoch)
        logits = noisy_logits(classifier, batch)
        value = entropy = mean_cross_entropy(logits, batch.labels)
        report = {
            "cross_entropy": entropy.detach(),
            "weight": weight,
            "smoothed_accuracy": smoothed_accuracy(logits, batch.labels),
        }
        if weight > 0:
            mixup = self.mixup(classifier, batch, logits, source).mean()
            report["mixup"] = mixup.detach()
            value = value + weight * mixup
        return Loss(value, report)

    def mixup(
        self, classifier: nn.Module, batch: NoisyBatch, logits: Tensor, source: torch.Generator
    ) -> Tensor:
        """Return the second term of each image, shape (B,), for logits (m, B, K) of the first."""
        log_probabilities = smoothed_log_probabilities(logits)
        right = log_probabilities.argmax(-1) == batch.labels
        adversarial = self.ascent.ascend(classifier, batch, math.inf, source)
        share = torch.empty_like(batch.images[:, 0, 0, 0]).uniform_(0, 0.5, generator=source)
        mixed = torch.lerp(batch.images, adversarial, share.view(-1, 1, 1, 1))
        mixed_logits = noisy_logits(classifier, batch.with_images(mixed))
        targets = mixed_targets(log_probabilities, share)
        return right * divergence(targets, mixed_logits).mean(0)

    def __repr__(self) -> str:
        return (
            f"SmoothMix(noise_draws={self.noise_draws}, weight={self.weight}, "
            f"steps={self.ascent.steps}, step_size={self.ascent.step_size})"
        )
