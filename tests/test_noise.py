"""The noise law."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax, logsumexp
from scipy.stats import kstest
from torch import nn

from smoothcert.noise import (
    NoiseStream,
    draw_noise,
    generator,
    noisy_logits,
    smoothed_log_probabilities,
)


def test_training_noise_is_gaussian_with_the_given_deviation():
    noise = draw_noise(torch.zeros(10, 3, 8, 8), 0.25, 20, generator("cpu", 0))
    assert noise.shape == (20, 10, 3, 8, 8)
    assert kstest(noise.flatten().numpy(), "norm", (0, 0.25)).pvalue > 1e-4


def test_stream_is_standard_normal_and_uncorrelated_between_draws():
    draws = NoiseStream((1, 8, 8), seed=3, index=5).take(1000).flatten(1).numpy()
    assert kstest(draws.ravel(), "norm").pvalue > 1e-4
    neighbours = np.corrcoef(draws[:-1].ravel(), draws[1:].ravel())[0, 1]
    assert abs(neighbours) < 4 / np.sqrt(draws.size)


@given(st.lists(st.integers(1, 150), min_size=1, max_size=6))
def test_stream_does_not_depend_on_how_many_draws_are_taken_at_a_time(parts):
    stream = NoiseStream((1, 3, 3), seed=0, index=7)
    taken = torch.cat([stream.take(part) for part in parts])
    assert torch.equal(taken, NoiseStream((1, 3, 3), seed=0, index=7).take(sum(parts)))


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
