"""Stability training against its formula in float64."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import entropy

from smoothcert.errors import InvalidArgumentError
from smoothcert.noise import generator
from smoothcert.objectives import Stability, stability_regularizer
from tests.helpers.references import (
    arrays,
    assert_is_formula_of_parameters,
    cross_entropies,
    perceptron,
    perceptron_logits,
    small_batch,
    softmax,
)


@pytest.mark.parametrize("draws", [1, 3])
def test_loss_and_gradient_are_the_papers_formula(draws):
    """CE(f(x), y) + λ times the mean cross-entropy between F(x) and F(x + δ_i)."""
    network, batch = perceptron(), small_batch(draws)
    images, labels, noise = arrays(batch)

    def formula(parameters):
        clean = perceptron_logits(parameters, images)
        noisy = perceptron_logits(parameters, images + noise)
        between = -(softmax(clean) * np.log(softmax(noisy))).sum(-1)
        return cross_entropies(clean[None], labels).mean() + 1.7 * between.mean()

    loss = Stability(1.7, draws)(network, batch, generator("cpu", 0))
    assert_is_formula_of_parameters(loss, network, formula)


def test_without_noise_the_term_is_the_entropy_of_the_prediction():
    network, batch = perceptron(), small_batch(draws=2)
    loss = Stability(2.0, 2)(
        network, replace(batch, noise=torch.zeros_like(batch.noise)), generator("cpu", 0)
    )
    with torch.no_grad():
        clean = network(batch.images).double().numpy()
    expected = entropy(softmax(clean), axis=-1).mean()
    assert loss.report["stability"].item() == pytest.approx(expected, rel=1e-5)
    labels = batch.labels.numpy()
    total = cross_entropies(clean[None], labels).mean() + 2 * expected
    assert loss.value.item() == pytest.approx(total, rel=1e-5)


def test_the_term_is_least_where_noisy_copies_predict_what_the_image_does():
    """Gibbs' inequality: the cross-entropy is at least the entropy."""
    source = generator("cpu", 0)
    clean, noisy = torch.randn(4, 6, generator=source), torch.randn(3, 4, 6, generator=source)
    assert (stability_regularizer(clean, noisy) > stability_regularizer(clean, clean[None])).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weight": -0.1}, "Expected `weight` >= 0 and finite, got -0.1"),
        ({"noise_draws": 0}, "Expected `noise_draws`"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(InvalidArgumentError, match=message):
        Stability(**arguments)
