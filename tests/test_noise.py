"""The noise law."""

import math
from bisect import bisect_right
from fractions import Fraction

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax, logsumexp
from scipy.stats import chisquare, kstest, norm
from torch import nn

from smoothcert.data.augmentation import CropAndFlip
from smoothcert.errors import InvalidArgumentError
from smoothcert.noise import (
    DiscreteCopies,
    GaussianCopies,
    NoiseStream,
    UniformStream,
    discrete_loss,
    discrete_thresholds,
    draw_noise,
    generator,
    noisy_logits,
    smoothed_log_probabilities,
)
from smoothcert.types import NoisyBatch


def test_training_noise_is_gaussian_with_the_given_deviation():
    noise = draw_noise(torch.zeros(10, 3, 8, 8), 0.25, 20, generator("cpu", 0))
    assert noise.shape == (20, 10, 3, 8, 8)
    assert kstest(noise.flatten().numpy(), "norm", (0, 0.25)).pvalue > 1e-4


FORMATS = [torch.contiguous_format, torch.channels_last]


def drawn(memory_format, shape=(40, 3, 8, 8), draws=16, sigma=0.5, seed=0):
    images = torch.zeros(shape).contiguous(memory_format=memory_format)
    return draw_noise(images, sigma, draws, generator("cpu", seed))


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("seed", [0, 1])
def test_training_noise_has_its_law_in_either_memory_format(memory_format, seed):
    noise = drawn(memory_format, seed=seed).flatten().double().numpy()
    assert abs(noise.mean()) < 4 * 0.5 / math.sqrt(noise.size)
    assert abs(noise.std() - 0.5) < 4 * 0.5 / math.sqrt(2 * noise.size)
    assert kstest(noise, "norm", (0, 0.5)).pvalue > 1e-3


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("axis", range(5), ids=["draw", "image", "channel", "row", "column"])
def test_training_noise_is_independent_along_every_axis(memory_format, axis):
    noise = drawn(memory_format).double()
    first, second = noise.narrow(axis, 0, noise.shape[axis] - 1), noise.roll(-1, axis)
    second = second.narrow(axis, 0, noise.shape[axis] - 1)
    for power in (1, 2):
        pair = torch.stack([first.flatten() ** power, second.flatten() ** power])
        assert abs(torch.corrcoef(pair)[0, 1]) < 4 / math.sqrt(first.numel())


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("axis", range(5), ids=["draw", "image", "channel", "row", "column"])
def test_training_noise_has_the_same_deviation_at_every_place(memory_format, axis):
    noise = drawn(memory_format).double()
    others = [other for other in range(5) if other != axis]
    count = noise.numel() / noise.shape[axis]
    assert ((noise.std(others) - 0.5).abs() < 5 * 0.5 / math.sqrt(2 * count)).all()
    assert (noise.mean(others).abs() < 5 * 0.5 / math.sqrt(count)).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("memory_format", FORMATS)
def test_training_noise_takes_type_shape_and_memory_format_of_the_images(memory_format, dtype):
    images = torch.rand(5, 3, 4, 6).to(dtype).contiguous(memory_format=memory_format)
    noise = draw_noise(images, 0.5, 7, generator("cpu", 0))
    assert (noise.dtype, noise.shape) == (dtype, (7, 5, 3, 4, 6))
    for copies in (noise[0], images + noise[6], (images + noise).flatten(0, 1)):
        assert copies.is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize("memory_format", FORMATS)
def test_training_noise_follows_from_the_generator_alone(memory_format):
    first, again, other = (drawn(memory_format, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(drawn(memory_format, sigma=1.0, seed=3), 2 * first)


def test_grey_images_get_the_same_noise_in_either_memory_format():
    contiguous, last = (drawn(each, shape=(6, 1, 8, 8)) for each in FORMATS)
    assert torch.equal(contiguous, last)


def test_noise_of_augmented_images_reaches_a_network_channels_last():
    images = CropAndFlip(2)(torch.rand(4, 3, 8, 8), torch.Generator().manual_seed(0))
    noise = draw_noise(images, 0.5, 2, generator("cpu", 0))
    seen = []

    def look(copies):
        seen.append(copies.is_contiguous(memory_format=torch.channels_last))
        return copies.mean((2, 3))

    noisy_logits(look, NoisyBatch(images, torch.zeros(4, dtype=torch.long), noise, 0.5))
    assert seen == [True]


def test_stream_is_standard_normal_and_uncorrelated_between_draws():
    draws = NoiseStream((1, 8, 8), seed=3, index=5).take(1000).flatten(1).numpy()
    assert kstest(draws.ravel(), "norm").pvalue > 1e-4
    neighbours = np.corrcoef(draws[:-1].ravel(), draws[1:].ravel())[0, 1]
    assert abs(neighbours) < 4 / np.sqrt(draws.size)


PARTS = st.lists(st.integers(1, 150), min_size=1, max_size=6)


@pytest.mark.parametrize("kind", [NoiseStream, UniformStream])
@given(parts=PARTS)
def test_stream_does_not_depend_on_how_many_draws_are_taken_at_a_time(kind, parts):
    stream = kind((1, 3, 3), seed=0, index=7)
    taken = torch.cat([stream.take(part) for part in parts])
    assert torch.equal(taken, kind((1, 3, 3), seed=0, index=7).take(sum(parts)))


@pytest.mark.parametrize("kind", [NoiseStream, UniformStream])
@given(parts=PARTS)
def test_filling_parts_of_a_buffer_writes_what_taking_all_at_once_gives(kind, parts):
    buffer = torch.empty((sum(parts), 1, 3, 3), dtype=kind.dtype)
    stream = kind((1, 3, 3), seed=0, index=7)
    for part in buffer.split(parts):
        assert stream.fill(part) is part
    assert torch.equal(buffer, kind((1, 3, 3), seed=0, index=7).take(sum(parts)))


@pytest.mark.parametrize("kind", [GaussianCopies, DiscreteCopies])
@given(parts=PARTS)
def test_copies_do_not_depend_on_how_many_are_filled_at_a_time(kind, parts):
    image = torch.arange(9).reshape(1, 3, 3) / 255
    whole, pieces = torch.empty(2, sum(parts), 1, 3, 3)
    kind(image, 0.25, 0, 7).fill(whole)
    copies = kind(image, 0.25, 0, 7)
    for part in pieces.split(parts):
        copies.fill(part)
    assert torch.equal(whole, pieces)


def test_gaussian_copies_are_the_image_and_the_streams_noise_unclipped():
    image = torch.rand(1, 3, 3, generator=generator("cpu", 5))
    copies = torch.empty(100, 1, 3, 3)
    GaussianCopies(image, 0.5, 3, 7).fill(copies)
    noise = NoiseStream((1, 3, 3), 3, 7).take(100)
    torch.testing.assert_close(copies, image + 0.5 * noise)
    assert copies.min() < 0
    assert copies.max() > 1


SIGMAS = (0.05, 0.12, 0.25, 0.5, 1.0)


BITS = 400


def exact_levels(sigma):
    """Φ((j + ½)/(255σ)) for j = −255, …, 254 in 400 bits, by another formula."""
    with mpmath.workdps(150):
        scale = 255 * mpmath.mpf(sigma) * mpmath.sqrt(2)
        levels = [mpmath.erfc(-(2 * j + 1) / (2 * scale)) / 2 for j in range(-255, 255)]
        return [Fraction(int(mpmath.floor(level * 2**BITS)), 2**BITS) for level in levels]


@pytest.mark.parametrize("sigma", SIGMAS)
def test_discrete_thresholds_are_the_gaussians_own_rounded_down(sigma):
    for threshold, level in zip(discrete_thresholds(sigma), exact_levels(sigma), strict=True):
        if 1 - level > Fraction(1, 10**48):
            assert threshold == math.floor(2**62 * level)
        else:
            # 1 to fifty digits.
            assert threshold in (2**62 - 1, 2**62)


@pytest.mark.parametrize("sigma", SIGMAS)
def test_discrete_noise_is_symmetric_up_to_one_unit(sigma):
    thresholds = discrete_thresholds(sigma)
    sums = {low + high for low, high in zip(thresholds, reversed(thresholds), strict=True)}
    assert sums <= {2**62 - 1, 2**62}


@pytest.mark.parametrize("sigma", SIGMAS)
def test_discrete_loss_covers_the_exact_distance_of_the_law(sigma):
    """Total variation of a pixel's noise, in fractions, against the Gaussian's in 400 bits."""
    ours = [Fraction(threshold, 2**62) for threshold in discrete_thresholds(sigma)]
    masses = [
        [b - a for a, b in zip([Fraction(0), *ends], [*ends, Fraction(1)], strict=True)]
        for ends in (ours, exact_levels(sigma))
    ]
    distance = sum(abs(a - b) for a, b in zip(*masses, strict=True)) / 2
    assert 0 < distance <= Fraction(discrete_loss((1,), 1))


def test_discrete_loss_adds_up_over_pixels_and_draws():
    one = discrete_loss((1,), 1)
    assert discrete_loss((3, 32, 32), 100_000) == pytest.approx(3072 * 100_000 * one)


class Given:
    """A stream of numbers that are given."""

    def __init__(self, numbers):
        self.numbers = numbers

    def take(self, count):
        assert count == len(self.numbers)
        return self.numbers


def levels_of(numbers, sigma, pixel=0):
    """Return what the given uniform integers do to one pixel, in 255ths."""
    copies = DiscreteCopies(torch.full((1, 1, 1), pixel / 255), sigma, 0, 0)
    copies.stream = Given(torch.tensor(numbers).view(-1, 1, 1, 1))
    out = torch.empty(len(numbers), 1, 1, 1)
    copies.fill(out)
    return (out * 255).round().int().flatten().tolist()


@pytest.mark.parametrize("sigma", [0.12, 1.0])
@pytest.mark.parametrize("pixel", [0, 100, 255])
def test_integers_beyond_float64_are_told_apart_at_every_threshold(sigma, pixel):
    """One less than a threshold is another level; as floats they would be the same number."""
    thresholds = discrete_thresholds(sigma)
    numbers = [number for t in thresholds for number in (t - 1, t, t + 1) if 0 <= number < 2**62]
    numbers += [0, 2**62 - 1]
    expected = [bisect_right(thresholds, number) - 255 for number in numbers]
    assert levels_of(numbers, sigma, pixel) == [min(255, max(0, pixel + j)) for j in expected]
    assert len({float(number) for number in numbers}) < len(set(numbers))


@pytest.mark.parametrize("sigma", [0.05, 0.25])
def test_discrete_levels_are_as_frequent_as_the_rounded_gaussians(sigma):
    """300,000 seeded draws around the middle and at the black end, against Φ's differences."""
    image = torch.tensor([128.0, 0.0]).view(1, 1, 2) / 255
    copies = torch.empty(300_000, 1, 1, 2)
    DiscreteCopies(image, sigma, seed=1, index=2).fill(copies)
    levels = (copies.double() * 255).round().numpy().reshape(-1, 2)
    for column, pixel in zip(levels.T, (128, 0), strict=True):
        ends = norm.cdf((np.arange(255) + 0.5 - pixel) / (255 * sigma))
        expected = np.diff(ends, prepend=0, append=1) * len(column)
        seen = np.bincount(column.astype(int), minlength=256)
        # Rare levels together: a chi-square wants ten of each.
        rare = expected < 10
        seen = np.append(seen[~rare], seen[rare].sum())
        expected = np.append(expected[~rare], expected[rare].sum())
        kept = expected > 0
        assert chisquare(seen[kept], expected[kept]).pvalue > 1e-4


def test_discrete_draws_of_neighbouring_pixels_and_draws_are_uncorrelated():
    copies = torch.empty(20_000, 1, 1, 2)
    DiscreteCopies(torch.full((1, 1, 2), 128 / 255), 0.1, seed=1, index=2).fill(copies)
    first, second = copies[:, 0, 0].numpy().T
    assert abs(np.corrcoef(first, second)[0, 1]) < 4 / math.sqrt(20_000)
    assert abs(np.corrcoef(first[1:], first[:-1])[0, 1]) < 4 / math.sqrt(20_000)


@given(st.integers(0, 2**31))
def test_discrete_copies_of_an_8_bit_image_are_8_bit_images(seed):
    image = torch.randint(0, 256, (1, 2, 3), generator=generator("cpu", seed)).float() / 255
    copies = torch.empty(20, 1, 2, 3)
    DiscreteCopies(image, 0.5, seed, 0).fill(copies)
    valid = torch.arange(256).float() / 255
    assert torch.isin(copies, valid).all()


@pytest.mark.parametrize("pixel", [0.5, 1e-3, 1 - 1e-3])
def test_discrete_noise_refuses_pixels_between_8_bit_levels(pixel):
    with pytest.raises(InvalidArgumentError, match=r"Expected 8-bit pixels.*at image 42"):
        DiscreteCopies(torch.full((1, 2, 2), pixel), 0.25, 0, index=42)


def test_streams_of_other_images_and_seeds_are_unrelated():
    first = NoiseStream((1, 16, 16), seed=0, index=0).take(64).flatten()
    for seed, index in ((0, 1), (1, 0), (1, 1)):
        other = NoiseStream((1, 16, 16), seed, index).take(64).flatten()
        correlation = torch.corrcoef(torch.stack([first, other]))[0, 1]
        assert abs(correlation) < 4 / np.sqrt(first.numel())


def test_no_global_random_state_is_used():
    before = torch.get_rng_state()
    NoiseStream((1, 3, 3), 0, 0).take(100)
    draw_noise(torch.zeros(1, 1, 3, 3), 1.0, 2, generator("cpu", 0))
    assert torch.equal(torch.get_rng_state(), before)


def test_noisy_logits_are_those_of_each_copy_alone(batch):
    classifier = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    with torch.no_grad():
        logits = noisy_logits(classifier, batch)
        for draw in range(4):
            alone = classifier(batch.images + batch.noise[draw])
            assert logits[draw] == pytest.approx(alone, abs=1e-5)


@given(st.integers(0, 2**31), st.sampled_from([1.0, 30.0, 1e4]))
def test_smoothed_log_probabilities_are_the_log_of_the_mean_softmax(seed, scale):
    logits = scale * np.random.default_rng(seed).standard_normal((6, 4, 5))
    expected = logsumexp(log_softmax(logits, axis=-1), axis=0) - np.log(6)
    got = smoothed_log_probabilities(torch.tensor(logits))
    assert got.numpy() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_smoothed_log_probabilities_of_half_precision_are_computed_in_full(dtype):
    logits = torch.randn(4, 2, 3, generator=generator("cpu", 0)).to(dtype)
    got = smoothed_log_probabilities(logits)
    assert got.dtype == torch.float32
    assert torch.equal(got, smoothed_log_probabilities(logits.float()))


@pytest.mark.parametrize(
    ("keys", "others"), [((0, 1), (0, 1, 0, 0)), ((0,), (0, 0)), ((2**32, 5), (0, 1, 5))]
)
def test_keys_of_another_length_are_other_keys(keys, others):
    assert generator("cpu", *keys).initial_seed() != generator("cpu", *others).initial_seed()
