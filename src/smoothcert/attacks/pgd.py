"""SmoothAdv's projected gradient descent on the smoothed classifier (Salman et al., 2019)."""

import math

import torch
from torch import Tensor, nn

from smoothcert.attacks.base import AttackResult, GradientAttack
from smoothcert.errors import require_positive
from smoothcert.noise import noisy_logits, smoothed_log_probabilities
from smoothcert.types import NoisyBatch


class PGD(GradientAttack):
    """Ascend −log F̂_y(x′) inside an l2 ball, on the noise draws that the loss will see.

    Each step moves every image by 2ε/T along its normalised gradient, clamps it to [0, 1] and
    projects it back to the ball (Salman et al., 2019, section 2.2 and appendix; SmoothAdv_PGD).
    The published code draws the same distinction: weights frozen and in eval mode during the
    attack, training mode afterwards.

    Args:
        epsilon: radius of the ball in pixel units, > 0.
        steps: number T of steps, >= 1.
        warmup_epochs: ε grows linearly over this many epochs; 0 starts at full strength.

    Raises:
        InvalidArgumentError: if an argument is out of range.

    Example:
        >>> PGD(epsilon=1.0).strength(epoch=4)
        0.5
    """

    def __init__(self, epsilon: float, steps: int = 10, warmup_epochs: int = 10) -> None:
        super().__init__(steps)
        require_positive("epsilon", epsilon)
        self.epsilon = epsilon
        self.warmup_epochs = warmup_epochs

    def __call__(
        self, classifier: nn.Module, batch: NoisyBatch, epoch: int, source: torch.Generator
    ) -> AttackResult:
        """Attack a batch; see `Attack`. Reports the radius in force and the mean distance moved."""
        strength = self.strength(epoch)
        images = self.ascend(classifier, batch, strength, source)
        distance = (images - batch.images).flatten(1).norm(dim=1).mean()
        return AttackResult(images, {"attack_epsilon": strength, "attack_distance": distance})

    def strength(self, epoch: int) -> float:
        """Return the radius in force after `epoch` finished epochs."""
        if self.warmup_epochs == 0:
            return self.epsilon
        return self.epsilon * min(1.0, (epoch + 1) / self.warmup_epochs)

    def loss(self, classifier: nn.Module, batch: NoisyBatch) -> Tensor:
        """Return −log F̂_y of each image, shape (B,)."""
        log_probabilities = smoothed_log_probabilities(noisy_logits(classifier, batch))
        return -log_probabilities.gather(1, batch.labels[:, None]).squeeze(1)

    def step(
        self, images: Tensor, gradient: Tensor, strength: float, source: torch.Generator
    ) -> Tensor:
        """Move 2ε/T along the unit gradient; a zero gradient takes a random direction."""
        direction = unit(gradient)
        flat = direction.flatten(1).norm(dim=1) == 0
        # Drawn always, used rarely: whether to draw would have to wait for the device.
        random = unit(torch.empty_like(gradient).normal_(generator=source))
        direction = torch.where(flat.view(-1, 1, 1, 1), random, direction)
        return images + 2 * strength / self.steps * direction

    def project(self, images: Tensor, originals: Tensor, strength: float) -> Tensor:
        """Clamp to [0, 1], then shrink the move to length ε; the second keeps the first."""
        move = images.clamp(0, 1) - originals
        length = move.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        # Each pixel of the sum is rounded once more: leave room for that inside the ball.
        room = torch.finfo(images.dtype).eps * math.sqrt(move[0].numel())
        shrunk = move * (max(strength - room, 0.0) / length.clamp(min=1e-12)).clamp(max=1)
        return (originals + shrunk).clamp(0, 1)

    def __repr__(self) -> str:
        return (
            f"PGD(epsilon={self.epsilon}, steps={self.steps}, warmup_epochs={self.warmup_epochs})"
        )


def unit(vectors: Tensor) -> Tensor:
    """Scale each image to l2 length 1; zero and non-finite ones become zero.

    Args:
        vectors: shape (B, C, H, W).

    Example:
        >>> unit(torch.tensor([3.0, 4.0]).view(1, 1, 1, 2)).flatten()
        tensor([0.6000, 0.8000])
    """
    # Scaled by the largest entry first: the square of a tiny gradient underflows.
    largest = vectors.abs().amax((1, 2, 3), keepdim=True)
    scaled = torch.where(largest > 0, vectors / largest, torch.zeros_like(vectors)).nan_to_num(0.0)
    length = scaled.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    return torch.where(length > 0, scaled / length, scaled)
