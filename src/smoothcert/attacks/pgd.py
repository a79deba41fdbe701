"""SmoothAdv's projected gradient descent on the smoothed classifier (Salman et al., 2019)."""

import torch

from smoothcert.attacks.base import AttackState, SmoothedAttack, unit
from smoothcert.noise import draw_noise
from smoothcert.types import NoisyBatch
from smoothcert.warmup import Warmup


class PGD(SmoothedAttack):
    """Ascend −log F̂_y(x′) inside an l2 ball, on the noise draws that the loss will see.

    Each step moves every image by 2ε/T along its normalised gradient, clamps it to [0, 1] and
    projects it back to the ball (Salman et al., 2019, section 2.2 and appendix; SmoothAdv_PGD).
    The published code differentiates the logarithm of the mean softmax clamped at 1e-20, whose
    gradient cancels in float32 for confident predictions; see `GradientAttack.loss`. Both replace a
    zero gradient by a random direction, which the published code does not normalise. That code has
    an unused option `random_start`; here it is implemented.

    Args:
        epsilon: radius of the ball in pixel units, > 0.
        steps: number T of steps, >= 1.
        warmup: share of ε by epoch; None: all of it.
        random_start: start from a point drawn uniformly from the ball, not from the image.
        noise_draws: number of draws that the attack sees; None: as many as the loss.
        reuse_noise: attack on the draws of the loss, as published; False: on fresh draws.

    Raises:
        InvalidArgumentError: if an argument is out of range.

    Example:
        >>> from smoothcert.warmup import Linear
        >>> PGD(epsilon=1.0, warmup=Linear(epochs=10)).strength(epoch=4)
        0.5
    """

    def __init__(
        self,
        epsilon: float,
        steps: int = 10,
        warmup: Warmup | None = None,
        random_start: bool = False,
        noise_draws: int | None = None,
        reuse_noise: bool = True,
    ) -> None:
        super().__init__(epsilon, steps, warmup, noise_draws, reuse_noise)
        self.random_start = random_start

    def start(self, batch: NoisyBatch, epsilon: float, source: torch.Generator) -> AttackState:
        """Return the images, or a random image in the ball around each of them."""
        state = super().start(batch, epsilon, source)
        if self.random_start:
            move = unit(draw_noise(state.images, 1.0, 1, source)[0])
            share = torch.empty_like(state.radius).uniform_(generator=source)
            # Uniform in volume: the ball of radius r·ε has r^d of it.
            length = state.radius * share ** (1 / move[0].numel())
            state.images = self.project(state, state.images + move * length.view(-1, 1, 1, 1))
        return state
