"""The noise law: δ ~ N(0, σ²I) in [0, 1] pixel units, always from an explicit generator."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from smoothcert.errors import require_count
from smoothcert.types import NoisyBatch

BLOCK = 64
"""Draws that are generated together. It is part of the noise law: a generator's output depends on
how many numbers it is asked for at once, so another value would be other noise."""


def generator(device: torch.device | str, *keys: int) -> torch.Generator:
    """Return a random generator that depends on the keys alone.

    Args:
        device: where it will draw.
        keys: non-negative integers, for example (seed, epoch, batch). All of them are hashed
            together, so neighbouring keys give unrelated streams.

    Example:
        >>> first, again = generator("cpu", 1, 2), generator("cpu", 1, 2)
        >>> bool(torch.equal(torch.rand(3, generator=first), torch.rand(3, generator=again)))
        True
    """
    # Their number is hashed too: NumPy takes (1, 2) and (1, 2, 0) for the same.
    seed = int(np.random.SeedSequence((len(keys), *keys)).generate_state(1, np.uint64)[0])
    return torch.Generator(device).manual_seed(seed)


def draw_noise(images: Tensor, sigma: float, draws: int, source: torch.Generator) -> Tensor:
    """Draw Gaussian noise for a batch of images.

    Args:
        images: shape (B, C, H, W); the noise takes its dtype and device.
        sigma: standard deviation in pixel units, >= 0.
        draws: number m of draws for each image.
        source: generator on the images' device.

    Returns:
        Noise of shape (m, B, C, H, W).

    Example:
        >>> draw_noise(torch.zeros(2, 1, 8, 8), 0.5, 4, generator("cpu", 0)).shape
        torch.Size([4, 2, 1, 8, 8])
    """
    noise = torch.empty((draws, *images.shape), dtype=images.dtype, device=images.device)
    return noise.normal_(generator=source).mul_(sigma)


def noisy_logits(classifier: nn.Module, batch: NoisyBatch) -> Tensor:
    """Logits of every noisy copy of a batch, in one forward pass.

    Args:
        classifier: maps (N, C, H, W) to logits (N, K).
        batch: images and m draws of noise.

    Returns:
        float32 logits, shape (m, B, K).
    """
    noisy = batch.images + batch.noise
    logits = classifier(noisy.flatten(0, 1))
    return logits.float().unflatten(0, noisy.shape[:2])


def smoothed_log_probabilities(logits: Tensor) -> Tensor:
    """Return log F̂, the logarithm of the mean softmax over noise draws.

    Computed as logsumexp of the log-softmax minus log m, it is finite for any finite logits: the
    logarithm of a mean of underflowing probabilities would be -inf, and an epsilon inside it
    would be a bias.

    Args:
        logits: shape (m, B, K), any floating dtype; m draws, B images, K classes.

    Returns:
        float32 (float64 for float64 logits), shape (B, K).

    Example:
        >>> logits = torch.tensor([[[0.0, -2e4]], [[0.0, -2e4]]])
        >>> smoothed_log_probabilities(logits)
        tensor([[     0., -20000.]])
    """
    if logits.dtype in (torch.bfloat16, torch.float16):
        logits = logits.float()
    return logits.log_softmax(-1).logsumexp(0) - math.log(logits.shape[0])


class NoiseStream:
    """Standard normal draws for one image, the same ones however many are taken at a time.

    Draw number j depends on (seed, image index, j) alone: not on batch sizes, nor on what is
    certified beside the image, nor on a resume.

    Args:
        shape: shape of one draw, (C, H, W).
        seed: seed of the certification, >= 0.
        index: index of the image in its data set, >= 0.
        device: where the noise is drawn. Devices of different kinds draw different noise.

    Example:
        >>> whole = NoiseStream((1, 2, 2), seed=0, index=7).take(5)
        >>> parts = NoiseStream((1, 2, 2), seed=0, index=7)
        >>> bool(torch.equal(whole, torch.cat([parts.take(2), parts.take(3)])))
        True
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        seed: int,
        index: int,
        device: torch.device | str = "cpu",
    ) -> None:
        require_count("seed", seed, minimum=0)
        self._block = torch.empty((BLOCK, *shape), device=device)
        self._source = generator(device, seed, index)
        self._used = BLOCK

    def take(self, count: int) -> Tensor:
        """Return the next `count` draws, float32, shape (count, *shape)."""
        taken = torch.empty((count, *self._block.shape[1:]), device=self._block.device)
        filled = 0
        while filled < count:
            if self._used == BLOCK:
                self._block.normal_(generator=self._source)
                self._used = 0
            part = min(count - filled, BLOCK - self._used)
            taken[filled : filled + part] = self._block[self._used : self._used + part]
            filled += part
            self._used += part
        return taken
