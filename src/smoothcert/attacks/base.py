"""What an attack is, and the loop that gradient attacks share."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, one_hot

from smoothcert.errors import require_count, require_positive
from smoothcert.models import evaluating, folded, frozen
from smoothcert.noise import draw_noise, noisy_logits
from smoothcert.types import NoisyBatch
from smoothcert.warmup import Immediate, Warmup

CPU_NOISY_PIXELS = 128 * 3 * 32 * 32
"""Pixels of noisy images per pass on a CPU, so that their activations stay in its cache: a step of
ADREADV with ResNet-20 and 256 images takes 27 s in such parts, and 92 s in one pass."""


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
        self, classifier: nn.Module, batch: NoisyBatch, source: torch.Generator
    ) -> AttackResult:
        """Attack a batch.

        Args:
            classifier: the base classifier; its weights, gradients, modes and BatchNorm
                statistics are left as they were.
            batch: the images, their labels, the draws that the loss will see, and the epoch.
            source: generator on the images' device.
        """


@dataclass
class AttackState:
    """State of a gradient attack; an attack with more state extends it.

    Attributes:
        batch: the original images, with the draws that the attack sees.
        epsilon: current radius, in pixel units.
        images: current images, shape (B, C, H, W).
        radius: radius of each image's own ball, <= epsilon, shape (B,).
        source: generator on the images' device.
        number: number of finished steps.
    """

    batch: NoisyBatch
    epsilon: float
    images: Tensor
    radius: Tensor
    source: torch.Generator
    number: int = field(default=0, kw_only=True)


class GradientAttack:
    """Gradient ascent on a loss.

    Subclasses override `start`, `loss`, `step` and `project`; `end` returns the result.

    Args:
        steps: number of gradient steps, >= 1.

    Raises:
        InvalidArgumentError: if `steps` < 1.
    """

    def __init__(self, steps: int) -> None:
        require_count("steps", steps)
        self.steps = steps

    def start(self, batch: NoisyBatch, epsilon: float, source: torch.Generator) -> AttackState:
        """Return the initial state, at the original images."""
        radius = torch.full_like(batch.images[:, 0, 0, 0], epsilon)
        return AttackState(batch, epsilon, batch.images, radius, source)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss to maximise, log (1 − F̂_y)/F̂_y, shape (B,), for logits (m, B, K).

        It increases with −log F̂_y, and its gradient has the same direction. In float32 the gradient
        of −log F̂_y itself cancels for confident predictions, from a margin of about 16 on.
        """
        others = one_hot(labels, logits.shape[-1]) == 0
        own = logits.masked_fill(others, 0).sum(-1)
        margin = own - logits.masked_fill(~others, -math.inf).logsumexp(-1)
        # F̂_y is the mean over draws of the margins' sigmoid.
        return logsigmoid(-margin).logsumexp(0) - logsigmoid(margin).logsumexp(0)

    def step(self, state: AttackState, gradient: Tensor, logits: Tensor) -> Tensor:  # noqa: ARG002
        """Return the images one step further: 2ε/T along the gradient scaled to length 1.

        Args:
            state: state of the attack.
            gradient: gradient of the loss at `state.images`, the same shape.
            logits: logits at `state.images`, shape (m, B, K).
        """
        return state.images + 2 * state.epsilon / self.steps * direction(gradient, state.source)

    def project(self, state: AttackState, images: Tensor) -> Tensor:
        """Return images in [0, 1] and in each image's ball.

        Clamped, then scaled towards the original, which keeps them in [0, 1] (Salman et al., 2019).
        """
        move = into_ball(images.clamp(0, 1) - state.batch.images, state.radius)
        return (state.batch.images + move).clamp(0, 1)

    def end(self, state: AttackState) -> Tensor:
        """Return the adversarial images: the last ones."""
        return state.images

    def ascend(
        self, classifier: nn.Module, batch: NoisyBatch, epsilon: float, source: torch.Generator
    ) -> Tensor:
        """Run the loop on a batch and return the adversarial images, without gradient.

        Args:
            classifier: the base classifier, not changed.
            batch: the images, their labels, and the draws that the attack sees.
            epsilon: current radius, in pixel units.
            source: generator on the images' device.
        """
        with evaluating(classifier), frozen(classifier), torch.enable_grad():
            if batch.images.device.type != "cpu":
                return self._ascend(classifier, batch, epsilon, source)
            # In eval mode no image depends on another, so the batch can be split.
            size = max(1, CPU_NOISY_PIXELS // batch.noise[:, 0].numel())
            network = folded(classifier)
            return torch.cat(
                [self._ascend(network, part, epsilon, source) for part in batch.split(size)]
            )

    def _ascend(
        self, classifier: nn.Module, batch: NoisyBatch, epsilon: float, source: torch.Generator
    ) -> Tensor:
        state = self.start(batch, epsilon, source)
        for number in range(self.steps):
            state.number = number
            images = state.images.detach().requires_grad_(True)
            logits = noisy_logits(classifier, batch.with_images(images))
            loss = self.loss(logits, batch.labels).sum()
            gradient = torch.zeros_like(images)
            # A classifier that ignores its images has no gradient.
            if loss.requires_grad:
                gradient = torch.autograd.grad(loss, images)[0]
            with torch.no_grad():
                state.images = self.project(state, self.step(state, gradient, logits))
        return self.end(state).detach()


class SmoothedAttack(GradientAttack, Attack):
    """A gradient attack on the smoothed classifier inside an l2 ball.

    Args:
        epsilon: radius of the ball in pixel units, > 0.
        steps: number T of steps, >= 1.
        warmup: share of ε by epoch; None: all of it.
        noise_draws: number of draws that the attack sees; None: as many as the loss.
        reuse_noise: attack on the draws of the loss, and on fresh draws only beyond them, as
            published; False: on fresh draws only.

    Raises:
        InvalidArgumentError: if an argument is out of range.
    """

    def __init__(
        self,
        epsilon: float,
        steps: int,
        warmup: Warmup | None,
        noise_draws: int | None,
        reuse_noise: bool,
    ) -> None:
        super().__init__(steps)
        require_positive("epsilon", epsilon)
        if noise_draws is not None:
            require_count("noise_draws", noise_draws)
        self.epsilon = epsilon
        self.warmup = warmup or Immediate()
        self.noise_draws = noise_draws
        self.reuse_noise = reuse_noise

    def __call__(
        self, classifier: nn.Module, batch: NoisyBatch, source: torch.Generator
    ) -> AttackResult:
        """Attack a batch; see `Attack`. Reports the current radius and the mean distance moved."""
        epsilon = self.strength(batch.epoch)
        if epsilon == 0:
            return AttackResult(batch.images, {"attack_epsilon": 0.0, "attack_distance": 0.0})
        seen = NoisyBatch(
            batch.images, batch.labels, self.draws(batch, source), batch.sigma, batch.epoch
        )
        images = self.ascend(classifier, seen, epsilon, source)
        distance = (images - batch.images).flatten(1).norm(dim=1).mean()
        return AttackResult(images, {"attack_epsilon": epsilon, "attack_distance": distance})

    def strength(self, epoch: int) -> float:
        """Return the radius after `epoch` finished epochs."""
        return self.epsilon * self.warmup(epoch)

    def draws(self, batch: NoisyBatch, source: torch.Generator) -> Tensor:
        """Return the draws that the attack sees, shape (`noise_draws`, B, C, H, W)."""
        wanted = self.noise_draws or len(batch.noise)
        shared = batch.noise[: wanted if self.reuse_noise else 0]
        if len(shared) == wanted:
            return shared
        fresh = draw_noise(batch.images, batch.sigma, wanted - len(shared), source)
        return torch.cat([shared, fresh])

    def __repr__(self) -> str:
        settings = ", ".join(f"{name}={value}" for name, value in vars(self).items())
        return f"{type(self).__name__}({settings})"


def direction(gradient: Tensor, source: torch.Generator) -> Tensor:
    """Return each image's gradient scaled to length 1; a zero gradient becomes a random direction.

    Args:
        gradient: shape (B, C, H, W).
        source: generator on its device.
    """
    scaled = unit(gradient)
    flat = scaled.flatten(1).norm(dim=1) == 0
    # Always drawn, rarely used: to decide whether to draw would have to wait for the device.
    random = unit(draw_noise(gradient, 1.0, 1, source)[0])
    return torch.where(flat.view(-1, 1, 1, 1), random, scaled)


def into_ball(move: Tensor, radius: Tensor) -> Tensor:
    """Shrink each move that is longer than its radius to that length.

    Args:
        move: differences of images, shape (B, C, H, W).
        radius: shape (B,).
    """
    length = move.flatten(1).norm(dim=1)
    return move * (within(move, radius) / length.clamp(min=1e-12)).clamp(max=1).view(-1, 1, 1, 1)


def within(move: Tensor, radius: Tensor) -> Tensor:
    """Return lengths slightly below the radii, so that rounding image + move cannot exceed them.

    Each pixel of the sum is rounded once more. Radii below that margin, 1e-5 for large images,
    become 0.
    """
    room = torch.finfo(move.dtype).eps * math.sqrt(move[0].numel())
    return (radius - room).clamp(min=0)


def unit(vectors: Tensor) -> Tensor:
    """Scale each image to l2 length 1; zero and non-finite images become zero.

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
