"""The noise law: δ ~ N(0, σ²I) in [0, 1] pixel units, always from an explicit generator."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn

from smoothcert.errors import InvalidArgumentError, require_count
from smoothcert.types import NoisyBatch

BLOCK = 32
"""Number of draws generated per call. It is part of the noise law: a generator's output
depends on how many numbers each call requests, so another value would give different noise."""
UNIFORM_BITS = 62
"""Bits of a uniform integer; their bound 2⁶² fits int64 too."""


def generator(device: torch.device | str, *keys: int) -> torch.Generator:
    """Return a random generator that depends on the keys alone.

    Args:
        device: device of the generator.
        keys: non-negative integers, for example (seed, epoch, batch). All of them are hashed
            together, so neighbouring keys give unrelated streams. A CPU generator uses 32 bits of
            the hash: among many thousands of images two may share a stream, and each of their
            certificates is still valid.

    Example:
        >>> first, again = generator("cpu", 1, 2), generator("cpu", 1, 2)
        >>> bool(torch.equal(torch.rand(3, generator=first), torch.rand(3, generator=again)))
        True
    """
    # The number of keys is hashed too: to NumPy, (1, 2) and (1, 2, 0) are the same seed.
    seed = int(np.random.SeedSequence((len(keys), *keys)).generate_state(1, np.uint64)[0])
    return torch.Generator(device).manual_seed(seed)


def draw_noise(images: Tensor, sigma: float, draws: int, source: torch.Generator) -> Tensor:
    """Draw Gaussian noise for a batch of images.

    Args:
        images: shape (B, C, H, W); the noise takes its dtype and device.
        sigma: standard deviation in pixel units, >= 0.
        draws: number m of draws per image.
        source: generator on the images' device.

    Returns:
        Noise of shape (m, B, C, H, W), in the memory format of the images.

    Example:
        >>> draw_noise(torch.zeros(2, 1, 8, 8), 0.5, 4, generator("cpu", 0)).shape
        torch.Size([4, 2, 1, 8, 8])
    """
    if images.is_contiguous():
        noise = torch.empty((draws, *images.shape), dtype=images.dtype, device=images.device)
        return noise.normal_(generator=source).mul_(sigma)
    # Drawn in memory order: in any other order a CPU draws the numbers one by one.
    count, channels, height, width = images.shape
    shape = (draws, count, height, width, channels)
    noise = torch.empty(shape, dtype=images.dtype, device=images.device)
    return noise.normal_(generator=source).mul_(sigma).permute(0, 1, 4, 2, 3)


def noisy_logits(classifier: nn.Module, batch: NoisyBatch) -> Tensor:
    """Return the logits of every noisy copy of a batch, in one forward pass.

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

    Computed as the logsumexp of the log-softmax minus log m, which is finite for all finite logits:
    the logarithm of a mean of underflowing probabilities would be -inf, and an epsilon inside the
    logarithm would add a bias.

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
    """Standard normal draws for one image, the same however many are taken at a time.

    Draw number j depends on (seed, image index, j) alone, not on batch sizes, on other
    images of the batch, or on a resume.

    Args:
        shape: shape of one draw, (C, H, W).
        seed: seed of the certification, >= 0.
        index: index of the image in its data set, >= 0.
        device: where the noise is drawn. Devices of different kinds draw different noise.

    Example:
        >>> five = NoiseStream((1, 2, 2), seed=0, index=7).take(5)
        >>> stream = NoiseStream((1, 2, 2), seed=0, index=7)
        >>> bool(torch.equal(five, torch.cat([stream.take(2), stream.take(3)])))
        True
    """

    dtype = torch.float32

    def __init__(
        self,
        shape: tuple[int, ...],
        seed: int,
        index: int,
        device: torch.device | str = "cpu",
    ) -> None:
        require_count("seed", seed, minimum=0)
        self.shape = shape
        self.device = device
        self._source = generator(device, seed, index)
        self._left: Tensor | None = None

    def take(self, count: int) -> Tensor:
        """Return the next `count` draws, shape (count, *shape)."""
        return self.fill(torch.empty((count, *self.shape), dtype=self.dtype, device=self.device))

    def fill(self, out: Tensor) -> Tensor:
        """Write the next draws into a contiguous tensor of shape (count, *shape); return it."""
        filled = 0
        while filled < len(out):
            if self._left is None and len(out) - filled >= BLOCK:
                self._generate(out[filled : filled + BLOCK])
                filled += BLOCK
                continue
            if self._left is None:
                self._left = torch.empty((BLOCK, *self.shape), dtype=self.dtype, device=self.device)
                self._generate(self._left)
            part = self._left[: len(out) - filled]
            out[filled : filled + len(part)] = part
            filled += len(part)
            self._left = self._left[len(part) :] if len(part) < len(self._left) else None
        return out

    def _generate(self, block: Tensor) -> None:
        block.normal_(generator=self._source)


class UniformStream(NoiseStream):
    """Uniform integers in [0, 2⁶²) for one image, drawn as in `NoiseStream`.

    Example:
        >>> UniformStream((1, 2, 2), seed=0, index=7).take(5).dtype
        torch.int64
    """

    dtype = torch.int64

    def _generate(self, block: Tensor) -> None:
        block.random_(0, 2**UNIFORM_BITS, generator=self._source)


class NoisyCopies(ABC):
    """Noisy copies of one image, drawn from its own stream and written into given tensors.

    Args:
        image: pixels in [0, 1], float32, shape (C, H, W), on the device of the draws.
        sigma: standard deviation of the noise, in pixel units.
        seed: seed of the certification.
        index: index of the image in its data set.
    """

    @abstractmethod
    def __init__(self, image: Tensor, sigma: float, seed: int, index: int) -> None: ...

    @abstractmethod
    def fill(self, out: Tensor) -> None:
        """Write the next copies into a contiguous float32 tensor of shape (count, C, H, W)."""


class GaussianCopies(NoisyCopies):
    """x + δ with δ ~ N(0, σ²I), not clipped: the law of randomized smoothing, in float32.

    Args:
        image: pixels in [0, 1], float32, shape (C, H, W), on the device of the draws.
        sigma: standard deviation of the noise, in pixel units.
        seed: seed of the certification.
        index: index of the image in its data set.

    Example:
        >>> copies = torch.empty(4, 1, 8, 8)
        >>> GaussianCopies(torch.full((1, 8, 8), 0.5), 0.1, seed=0, index=7).fill(copies)
        >>> 0.4 < float(copies.mean()) < 0.6
        True
    """

    def __init__(self, image: Tensor, sigma: float, seed: int, index: int) -> None:
        self.image = image
        self.sigma = sigma
        self.stream = NoiseStream(tuple(image.shape), seed, index, image.device)

    def fill(self, out: Tensor) -> None:
        """Write the next copies into a contiguous float32 tensor of shape (count, C, H, W)."""
        self.stream.fill(out).mul_(self.sigma).add_(self.image)


class DiscreteCopies(NoisyCopies):
    """clip(round(255·(x + δ))) / 255 with δ ~ N(0, σ²I), drawn and added in integers.

    In floating point x + δ is not N(x, σ²): rounding reveals x. Certificates here are for f∘g,
    where g rounds to multiples of 1/255 and clips to [0, 1]. For an 8-bit image, g(x + δ) depends
    only on δ rounded to multiples of 1/255, so nothing is added in floating point. The rounded
    Gaussian is drawn from 62 uniform bits and thresholds computed to 50 digits; `discrete_loss`
    bounds what this adds to the failure probability.

    Args:
        image: 8-bit pixels, multiples of 1/255 in [0, 1], float32, shape (C, H, W).
        sigma: standard deviation of the noise, in pixel units.
        seed: seed of the certification.
        index: index of the image in its data set.

    Raises:
        InvalidArgumentError: if a pixel is not a multiple of 1/255.

    Example:
        >>> copies = torch.empty(4, 1, 8, 8)
        >>> DiscreteCopies(torch.full((1, 8, 8), 0.2), 0.1, seed=0, index=7).fill(copies)
        >>> bool(torch.equal(copies, (copies * 255).round() / 255))
        True
    """

    def __init__(self, image: Tensor, sigma: float, seed: int, index: int) -> None:
        self.levels = (image.double() * 255).round().to(torch.int64)
        off = float((image.double() * 255 - self.levels).abs().max())
        if off > 1e-4:
            raise InvalidArgumentError(
                f"Expected 8-bit pixels, multiples of 1/255, for discrete noise at image {index}, "
                f"got one that is {off:.2g}/255 away"
            )
        self.stream = UniformStream(tuple(image.shape), seed, index, image.device)
        self.thresholds = torch.tensor(discrete_thresholds(sigma), device=image.device)

    def fill(self, out: Tensor) -> None:
        """Write the next copies into a contiguous float32 tensor of shape (count, C, H, W)."""
        uniform = self.stream.take(len(out))
        # The number of thresholds reached, minus 255, is the noise level.
        noise = torch.bucketize(uniform, self.thresholds, right=True) - 255
        out.copy_(noise.add_(self.levels).clamp_(0, 255)).div_(255)


@lru_cache(maxsize=16)
def discrete_thresholds(sigma: float) -> list[int]:
    """Return ⌊2⁶² Φ((j + ½)/(255σ))⌋ for j = −255, …, 254.

    A uniform integer in [0, 2⁶²) that is at least as large as k of them stands for the noise level
    k − 255. Levels beyond ±255 are clipped for every pixel value.

    Args:
        sigma: standard deviation of the noise, in pixel units.

    Example:
        >>> thresholds = discrete_thresholds(0.25)
        >>> len(thresholds), thresholds == sorted(thresholds)
        (510, True)
    """
    import mpmath

    with mpmath.workdps(50):
        scale = 255 * mpmath.mpf(sigma)
        return [
            # In the far tail 50 digits round Φ to 1, but the exact floor is 2⁶² − 1.
            min(
                2**UNIFORM_BITS - 1,
                int(mpmath.floor(2**UNIFORM_BITS * mpmath.ncdf((j + mpmath.mpf("0.5")) / scale))),
            )
            for j in range(-255, 255)
        ]


def discrete_loss(shape: Sequence[int], draws: int) -> float:
    """Return a bound on the total-variation distance of discrete noise from the exact law.

    Each threshold is too low by less than 2⁻⁶², so the probability of each of the 511 levels is
    off by less than 2⁻⁶²; distances of independent draws add up. A certificate at level alpha under
    the exact law is computed at alpha minus this bound.

    Args:
        shape: shape of an image.
        draws: number of draws of a certificate.

    Example:
        >>> discrete_loss((3, 32, 32), 100_000) < 2e-8
        True
    """
    return 511 / 2 * 2.0**-UNIFORM_BITS * math.prod(shape) * draws


NOISES: dict[str, type[NoisyCopies]] = {"gaussian": GaussianCopies, "discrete": DiscreteCopies}
"""Noise laws for certification."""
