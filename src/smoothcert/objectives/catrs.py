"""CAT-RS: confidence-aware training (Jeong et al., 2023)."""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from smoothcert.attacks import AttackState, GradientAttack
from smoothcert.attacks.base import into_ball
from smoothcert.errors import require_positive
from smoothcert.noise import noisy_logits, smoothed_log_probabilities
from smoothcert.objectives.base import Loss, Objective, Weight, divergence, smoothed_accuracy
from smoothcert.types import NoisyBatch
from smoothcert.warmup import Warmup


class WorstNoise(GradientAttack):
    """Moves each noisy copy within a ball so that its prediction departs from a target.

    The labels are the targets' log-probabilities. Noisy copies are not confined to [0, 1].

    Args:
        steps: number T of steps, >= 1.
    """

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return KL(ŷ ‖ F) of each copy, shape (B,), for logits (1, B, K).

        In float64: its gradient F − ŷ cancels in float32 where both are confident.
        """
        return divergence(labels.double(), logits[0].double())

    def project(self, state: AttackState, images: Tensor) -> Tensor:
        """Return the copies projected to the ball around their starting points."""
        return state.batch.images + into_ball(images - state.batch.images, state.radius)


def bottom_k(losses: Tensor, counts: Tensor) -> Tensor:
    """Return (1/m) times the sum of each image's K smallest losses.

    Args:
        losses: shape (m, B).
        counts: K in 1 … m, shape (B,).

    Example:
        >>> bottom_k(torch.tensor([[3.0], [1.0], [2.0]]), torch.tensor([2]))
        tensor([1.])
    """
    order = torch.arange(len(losses), device=losses.device)[:, None]
    return torch.where(order < counts, losses.sort(0).values, 0.0).mean(0)


def confident_draws(logits: Tensor, labels: Tensor, source: torch.Generator) -> Tensor:
    """Draw K ~ Bin(m, p̂), at least 1, where p̂ is the share of an image's draws that are right.

    Args:
        logits: shape (m, B, K).
        labels: int64, shape (B,).
        source: generator on their device.

    Returns:
        Integers in 1 … m, shape (B,).
    """
    share = (logits.argmax(-1) == labels).float().mean(0)
    draws = torch.full_like(share, len(logits))
    return torch.binomial(draws, share, generator=source).clamp(min=1).long()


class CATRS(Objective):
    """(1/m) Σ of the K smallest CE_i, plus λ · 1[K = m] · max_i KL(ŷ ‖ F(x + δ_i*)).

    K ~ Bin(m, p̂), at least 1; δ_i* starts at the draw δ_i and takes T steps of length
    2ε/T within ε of it, to maximise KL (Jeong et al., 2023). Images that are often misclassified
    under noise are trained on their easiest draws only, the others on worst cases too.

    ŷ is F̂ of the classifier itself on the m draws, without gradient. The published code instead
    reads ŷ from a file, made by a Gaussian-trained network at σ = .25 with 10,000 draws per image,
    and rescales δ_i* after each step to the mean and the root mean square of δ_i. It divides each
    batch of 256 images into m parts and takes a step on each.

    Args:
        weight: λ >= 0.
        epsilon: ε > 0 in pixel units.
        steps: number T of steps.
        noise_draws: number m of draws per image.
        warmup: share of λ by epoch; None: all of it.

    Raises:
        InvalidArgumentError: if an argument is out of range.

    Example:
        >>> CATRS(weight=0.5).noise_draws
        4
    """

    def __init__(
        self,
        weight: float = 1.0,
        epsilon: float = 1.0,
        steps: int = 4,
        noise_draws: int = 4,
        warmup: Warmup | None = None,
    ) -> None:
        super().__init__(noise_draws)
        require_positive("epsilon", epsilon)
        self.weight = Weight(weight, warmup)
        self.epsilon = epsilon
        self.worst = WorstNoise(steps)

    def __call__(self, classifier: nn.Module, batch: NoisyBatch, source: torch.Generator) -> Loss:
        """Return the loss of a batch; see `Objective`."""
        weight = self.weight.at(batch.epoch)
        logits = noisy_logits(classifier, batch)
        labels = batch.labels.expand(len(logits), -1)
        losses = cross_entropy(logits.movedim(-1, 1), labels, reduction="none")
        counts = confident_draws(logits, batch.labels, source)
        confident = counts == len(logits)
        value = low = bottom_k(losses, counts).mean()
        report = {
            "bottom_k": low.detach(),
            "confident": confident.float().mean(),
            "weight": weight,
            "smoothed_accuracy": smoothed_accuracy(logits, batch.labels),
        }
        if weight > 0:
            worst = self.worst_case(classifier, batch, logits.detach(), source)
            high = (confident * worst).mean()
            report["worst_case"] = high.detach()
            value = value + weight * high
        return Loss(value, report)

    def worst_case(
        self, classifier: nn.Module, batch: NoisyBatch, logits: Tensor, source: torch.Generator
    ) -> Tensor:
        """Return max_i KL(ŷ ‖ F(x + δ_i*)) of each image, shape (B,), for logits (m, B, K)."""
        draws = len(logits)
        target = smoothed_log_probabilities(logits)
        noisy = (batch.images + batch.noise).flatten(0, 1)
        copies = NoisyBatch(
            noisy, target.repeat(draws, 1), torch.zeros_like(noisy)[None], batch.sigma
        )
        moved = self.worst.ascend(classifier, copies, self.epsilon, source)
        worst = classifier(moved).float().unflatten(0, (draws, -1))
        return divergence(target, worst).amax(0)

    def __repr__(self) -> str:
        return (
            f"CATRS(noise_draws={self.noise_draws}, weight={self.weight}, "
            f"epsilon={self.epsilon}, steps={self.worst.steps})"
        )
