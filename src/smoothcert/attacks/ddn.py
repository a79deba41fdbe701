"""DDN on the smoothed classifier (Rony et al., 2019; SmoothAdv_DDN of Salman et al., 2019)."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from smoothcert.attacks.base import AttackState, SmoothedAttack, direction, within
from smoothcert.errors import require_positive, require_probability
from smoothcert.noise import smoothed_log_probabilities
from smoothcert.types import NoisyBatch
from smoothcert.warmup import Warmup


@dataclass
class DDNState(AttackState):
    """State of DDN, with the nearest flipped image so far.

    Attributes:
        best: nearest images so far whose smoothed prediction is wrong.
        distance: their distances from the originals, infinite before the first, shape (B,).
    """

    best: Tensor
    distance: Tensor


class DDN(SmoothedAttack):
    """Decoupled direction and norm: seeks the smallest move that flips the smoothed prediction.

    Each step follows the normalised gradient of −log F̂_y, by a length that falls from 1 towards
    .01 along a cosine. It then projects the move onto a sphere whose radius shrinks by the factor
    1 − γ where the prediction is flipped, and grows by 1 + γ, up to ε, where it is not. The result
    is the smallest flipping move, or the last move if none flips.

    The noise stays the same during the attack, and the smoothed prediction is argmax F̂ over its
    draws. The published code takes the majority vote of the draws, rounds images to 256 levels,
    lets the radius exceed ε (up to the farthest image) and shrinks the result, and returns the
    original image where nothing was flipped, so that training uses the original. As in the
    published code, the prediction after the last step is not evaluated; the lengths here are one
    step behind the published ones, which begin below 1. Success on these draws does not prove
    success on other draws.

    Args:
        epsilon: largest radius in pixel units, > 0.
        steps: number T of steps, >= 1.
        gamma: γ in (0, 1).
        initial_radius: radius of the first sphere; None: ε, as in SmoothAdv's training script.
        warmup: share of ε by epoch; None: all of it.
        noise_draws: number of draws that the attack sees; None: as many as the loss.
        reuse_noise: attack on the draws of the loss, as published; False: on fresh draws.

    Raises:
        InvalidArgumentError: if an argument is out of range.

    Example:
        >>> DDN(epsilon=1.0, steps=4).gamma
        0.05
    """

    def __init__(
        self,
        epsilon: float,
        steps: int = 10,
        gamma: float = 0.05,
        initial_radius: float | None = None,
        warmup: Warmup | None = None,
        noise_draws: int | None = None,
        reuse_noise: bool = True,
    ) -> None:
        super().__init__(epsilon, steps, warmup, noise_draws, reuse_noise)
        require_probability("gamma", gamma)
        if initial_radius is not None:
            require_positive("initial_radius", initial_radius)
        self.gamma = gamma
        self.initial_radius = initial_radius

    def start(self, batch: NoisyBatch, epsilon: float, source: torch.Generator) -> AttackState:
        """Return the images, on spheres of the initial radius."""
        first = epsilon if self.initial_radius is None else min(self.initial_radius, epsilon)
        radius = torch.full_like(batch.images[:, 0, 0, 0], first)
        infinite = torch.full_like(radius, math.inf)
        return DDNState(batch, epsilon, batch.images, radius, source, batch.images, infinite)

    def step(self, state: AttackState, gradient: Tensor, logits: Tensor) -> Tensor:
        """Record flipped images, adapt the radii, and follow the gradient."""
        assert isinstance(state, DDNState)
        flipped = smoothed_log_probabilities(logits).argmax(1) != state.batch.labels
        distance = (state.images - state.batch.images).flatten(1).norm(dim=1)
        nearer = flipped & (distance < state.distance)
        state.distance = torch.where(nearer, distance, state.distance)
        state.best = torch.where(nearer.view(-1, 1, 1, 1), state.images, state.best)
        factor = torch.where(flipped, 1 - self.gamma, 1 + self.gamma)
        state.radius = (state.radius * factor.to(state.radius.dtype)).clamp(max=state.epsilon)
        length = 0.01 + 0.99 * (1 + math.cos(math.pi * state.number / self.steps)) / 2
        return state.images + length * direction(gradient, state.source)

    def project(self, state: AttackState, images: Tensor) -> Tensor:
        """Put each move on its sphere, then clamp to [0, 1], which only shortens it."""
        move = images - state.batch.images
        length = move.flatten(1).norm(dim=1).clamp(min=1e-12)
        scaled = move * (within(move, state.radius) / length).view(-1, 1, 1, 1)
        return (state.batch.images + scaled).clamp(0, 1)

    def end(self, state: AttackState) -> Tensor:
        """Return the nearest flipped images, and the last images where none was flipped."""
        assert isinstance(state, DDNState)
        return torch.where(state.distance.isfinite().view(-1, 1, 1, 1), state.best, state.images)
