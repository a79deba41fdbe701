"""CAT-RS against its formula in float64."""

from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, chisquare

from smoothcert.errors import InvalidArgumentError
from smoothcert.models import evaluating
from smoothcert.noise import generator, noisy_logits, smoothed_log_probabilities
from smoothcert.objectives import CATRS, catrs
from smoothcert.objectives import divergence as kl
from smoothcert.objectives.catrs import WorstNoise, bottom_k, confident_draws
from smoothcert.types import NoisyBatch
from tests.helpers.references import (
    arrays,
    assert_is_formula_of_parameters,
    cross_entropies,
    divergence,
    flat_parameters,
    gradient,
    perceptron,
    perceptron_logits,
    small_batch,
    softmax,
)


def ascent(parameters, copy, target, epsilon, steps):
    """Steps of 2ε/T along the normalised gradient of KL(ŷ ‖ F), drawn back into the ball."""

    def loss(moved):
        return divergence(target, softmax(perceptron_logits(parameters, moved)))

    moved = copy
    for _ in range(steps):
        slope = gradient(loss, moved)
        move = moved + 2 * epsilon / steps * slope / np.linalg.norm(slope) - copy
        moved = copy + move * min(1, epsilon / np.linalg.norm(move))
    return moved


@pytest.mark.parametrize(("epsilon", "steps"), [(0.2, 1), (1.0, 4)])
def test_loss_and_gradient_are_the_papers_formula(epsilon, steps, monkeypatch):
    """No gradient flows through ŷ or through the moved draws."""
    network, batch = perceptron(), small_batch(draws=3)
    counts = torch.tensor([1, 2, 3, 3, 1, 3, 2, 3])
    monkeypatch.setattr(catrs, "confident_draws", lambda *_: counts)
    images, labels, noise = arrays(batch)
    start, copies = flat_parameters(network), images + noise
    target = softmax(perceptron_logits(start, copies)).mean(0)
    moved = np.empty_like(copies)
    for draw, image in np.ndindex(copies.shape[:2]):
        moved[draw, image] = ascent(start, copies[draw, image], target[image], epsilon, steps)

    def formula(parameters):
        losses = cross_entropies(perceptron_logits(parameters, copies), labels)
        total = 0
        for image, count in enumerate(counts.tolist()):
            total = total + np.sort(losses[:, image])[:count].sum() / 3
            if count == 3:
                worst = softmax(perceptron_logits(parameters, moved[:, image]))
                total = total + 1.5 * divergence(target[image], worst).max()
        return total / len(counts)

    loss = CATRS(1.5, epsilon, steps, 3)(network, batch, generator("cpu", 0))
    assert_is_formula_of_parameters(loss, network, formula)


def test_images_of_which_a_draw_is_left_out_get_no_worst_case(network, batch, monkeypatch):
    network.eval()
    value = {}
    for counts in ([3, 1, 2, 3, 1], [3, 1, 4, 3, 1]):
        monkeypatch.setattr(catrs, "confident_draws", lambda *_, k=counts: torch.tensor(k))
        for weight in (0.0, 1.0):
            loss = CATRS(weight, noise_draws=4)(network, batch, generator("cpu", 0))
            value[max(counts), weight] = loss.value.item()
            assert loss.report["confident"].item() == pytest.approx(counts.count(4) / 5)
    assert value[3, 1.0] == value[3, 0.0]
    assert value[4, 1.0] > value[4, 0.0]


@given(
    st.integers(1, 4).flatmap(
        lambda draws: st.lists(
            st.tuples(
                st.lists(
                    st.floats(0, 100) | st.sampled_from([0.0, 1.0]), min_size=draws, max_size=draws
                ),
                st.integers(1, draws),
            ),
            min_size=1,
            max_size=4,
        )
    )
)
def test_bottom_k_is_the_least_sum_over_all_choices_of_draws(images):
    losses = torch.tensor([own for own, _ in images], dtype=torch.float64).T
    counts = torch.tensor([count for _, count in images])
    expected = [
        min(sum(choice) for choice in combinations(own, count)) / len(own) for own, count in images
    ]
    assert bottom_k(losses, counts).tolist() == pytest.approx(expected)


def agreeing(right, draws, images):
    """Logits of two classes, of which class 1 is right in so many draws of every image."""
    logits = torch.zeros(draws, images, 2)
    logits[:right, :, 1] = 1.0
    logits[right:, :, 0] = 1.0
    return logits, torch.ones(images, dtype=torch.int64)


@pytest.mark.parametrize("right", [1, 2, 3])
@pytest.mark.parametrize("draws", [4, 8])
def test_confident_draws_are_binomial_but_at_least_one(right, draws):
    images = 20_000
    counts = confident_draws(*agreeing(right, draws, images), generator("cpu", right, draws))
    law = binom.pmf(np.arange(draws + 1), draws, right / draws)
    law[1] += law[0]
    observed = np.bincount(counts.numpy(), minlength=draws + 1)
    assert observed[0] == 0
    likely = law[1:] * images >= 5
    rest = [law[1:][~likely].sum() * images] if not likely.all() else []
    tail = [observed[1:][~likely].sum()] if not likely.all() else []
    expected = np.append(law[1:][likely] * images, rest)
    assert chisquare(np.append(observed[1:][likely], tail), expected).pvalue > 0.01


@pytest.mark.parametrize(("right", "count"), [(0, 1), (7, 7)])
def test_sure_images_keep_every_draw_and_hopeless_ones_a_single_one(right, count):
    counts = confident_draws(*agreeing(right, 7, 1000), generator("cpu", 0))
    assert counts.dtype == torch.int64
    assert (counts == count).all()


@pytest.mark.parametrize("epsilon", [1e-2, 0.5, 5.0])
@pytest.mark.parametrize("steps", [1, 4])
def test_moved_copies_stay_in_the_ball_and_raise_the_divergence(network, batch, epsilon, steps):
    with torch.no_grad(), evaluating(network):
        target = smoothed_log_probabilities(noisy_logits(network, batch)).repeat(4, 1)
    starts = (batch.images + batch.noise).flatten(0, 1)
    copies = NoisyBatch(starts, target, torch.zeros_like(starts)[None], 0.5)
    moved = WorstNoise(steps).ascend(network, copies, epsilon, generator("cpu", 0))
    distance = (moved.double() - starts.double()).flatten(1).norm(dim=1)
    assert distance.max() <= epsilon * (1 + 1e-6)
    assert distance.min() > epsilon / 4
    with torch.no_grad(), evaluating(network):
        before, after = kl(target, network(starts)), kl(target, network(moved))
    assert after.mean() > before.mean()
    assert not (moved.min() >= 0 and moved.max() <= 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weight": -1.0}, "Expected `weight` >= 0"),
        ({"epsilon": 0.0}, "Expected `epsilon` > 0"),
        ({"steps": 0}, "Expected `steps` a whole number >= 1"),
        ({"noise_draws": 0}, "Expected `noise_draws`"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(InvalidArgumentError, match=message):
        CATRS(**arguments)


@pytest.mark.parametrize("margin", [5.0, 16.0, 25.0])
def test_the_ascent_keeps_its_direction_where_copies_are_sure(margin):
    """Its gradient F − ŷ is a small difference of probabilities near 1."""
    source = generator("cpu", 1)
    logits = torch.randn(4, 5, generator=source)
    logits[:, 0] += margin
    target = smoothed_log_probabilities(logits[:, None]).repeat(4, 1)
    logits.requires_grad_()
    (ours,) = torch.autograd.grad(WorstNoise(1).loss(logits[None], target).sum(), logits)
    wide = logits.detach().double()
    exact = (wide.softmax(-1) - wide.softmax(-1).mean(0)).numpy()
    assert ours.numpy() == pytest.approx(exact, rel=1e-3, abs=1e-5 * abs(exact).max())
