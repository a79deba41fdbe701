"""The smoothed classifier on classifiers whose radii are known."""

import pytest
import torch
from torch import nn

from smoothcert.certify import CohenCertifier, SmoothedClassifier, TightCertifier
from smoothcert.errors import InvalidArgumentError, MismatchError, NonFiniteError
from smoothcert.noise import generator

QUICK = TightCertifier(n0=20, n=500)


def half_space(dimension: int = 16) -> nn.Module:
    """Class 1 where the pixels' mean exceeds one half: σ-smoothing leaves it unchanged."""
    linear = nn.Linear(dimension, 2)
    with torch.no_grad():
        linear.weight.copy_(torch.stack([torch.zeros(dimension), torch.ones(dimension)]))
        linear.bias.copy_(torch.tensor([0.0, -dimension / 2]))
    return nn.Sequential(nn.Flatten(), linear)


@pytest.mark.parametrize("certifier", [CohenCertifier(n=20_000), TightCertifier(n=20_000)], ids=str)
@pytest.mark.parametrize("pixel", [0.52, 0.6, 0.7])
def test_radius_of_a_half_space_is_close_to_the_distance_and_never_beyond(certifier, pixel):
    """The smoothed classifier's exact radius is the distance to the plane."""
    image = torch.full((1, 1, 4, 4), pixel)
    [proof] = SmoothedClassifier(half_space(), 0.25, 2).certify(image, certifier)
    distance = (pixel - 0.5) * 4
    assert proof.label == 1
    assert 0.85 * distance - 0.02 < proof.radius <= distance


def test_images_do_not_influence_each_other_and_batch_size_does_not_matter(network):
    images = torch.rand(3, 1, 6, 6, generator=generator("cpu", 0))
    together = SmoothedClassifier(network, 0.5, 3).certify(images, QUICK, indices=[4, 9, 11])
    for batch_size in (1, 37, 1000):
        smoothed = SmoothedClassifier(network, 0.5, 3, batch_size)
        for image, index, proof in zip(images, [4, 9, 11], together, strict=True):
            assert smoothed.certify(image[None], QUICK, indices=[index]) == [proof]


def test_seed_and_index_choose_the_noise(network):
    image = torch.full((1, 1, 6, 6), 0.5)
    smoothed = SmoothedClassifier(network, 2.0, 3)
    counts = {
        (seed, index): smoothed.certify(image, QUICK, seed, [index])[0].n_a
        for seed in range(3)
        for index in range(3)
    }
    assert len(set(counts.values())) > 3


def test_the_classifier_votes_in_eval_mode_and_is_left_in_its_own(network):
    image = torch.full((2, 1, 6, 6), 0.5)
    state = {name: value.clone() for name, value in network.state_dict().items()}
    random_state = torch.get_rng_state()
    trained = SmoothedClassifier(network, 0.5, 3).certify(image, QUICK)
    assert all(part.training for part in network.modules())
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state)
    assert SmoothedClassifier(network.eval(), 0.5, 3).certify(image, QUICK) == trained


@pytest.mark.parametrize("value", [1.5, -0.1, torch.nan, torch.inf])
def test_pixels_outside_the_range_name_the_image(network, value):
    images = torch.full((2, 1, 6, 6), 0.5)
    images[1, 0, 3, 3] = value
    with pytest.raises(NonFiniteError, match=r"Expected pixels in \[0, 1\] at image 42"):
        SmoothedClassifier(network, 0.5, 3).certify(images, QUICK, indices=[7, 42])


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_non_finite_logits_are_an_error_and_never_a_vote(value):
    class SometimesNan(nn.Module):
        def forward(self, images):
            logits = images.flatten(1)[:, :3].clone()
            logits[-1, 0] = value
            return logits

    with pytest.raises(NonFiniteError, match="NaN or infinite logits at image 42"):
        SmoothedClassifier(SometimesNan(), 0.5, 3).certify(
            torch.full((1, 1, 6, 6), 0.5), QUICK, indices=[42]
        )


def test_another_number_of_logits_names_both_numbers(network):
    with pytest.raises(MismatchError, match=r"Expected logits of shape \(N, 10\).*, 3\)"):
        SmoothedClassifier(network, 0.5, 10).certify(torch.full((1, 1, 6, 6), 0.5), QUICK)


def test_a_single_image_without_a_batch_dimension_is_refused(network):
    with pytest.raises(MismatchError, match=r"\(B, C, H, W\), got \(1, 6, 6\)"):
        SmoothedClassifier(network, 0.5, 3).certify(torch.full((1, 6, 6), 0.5))


@pytest.mark.parametrize("arguments", [{"sigma": 0.0}, {"num_classes": 1}, {"batch_size": 0}])
def test_arguments_out_of_range_are_refused(network, arguments):
    with pytest.raises(InvalidArgumentError, match="Expected"):
        SmoothedClassifier(**{"classifier": network, "sigma": 0.5, "num_classes": 3, **arguments})
