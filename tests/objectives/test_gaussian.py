"""Gaussian training against its formula in float64."""

import pytest

from smoothcert.errors import InvalidArgumentError
from smoothcert.noise import generator
from smoothcert.objectives import Gaussian
from tests.helpers.references import (
    arrays,
    assert_is_formula_of_parameters,
    cross_entropies,
    perceptron,
    perceptron_logits,
    small_batch,
)


def test_loss_is_the_mean_cross_entropy_over_noisy_copies():
    network, batch = perceptron(), small_batch(draws=3)
    images, labels, noise = arrays(batch)

    def formula(parameters):
        return cross_entropies(perceptron_logits(parameters, images + noise), labels).mean()

    loss = Gaussian(3)(network, batch, generator("cpu", 0))
    assert_is_formula_of_parameters(loss, network, formula)


@pytest.mark.parametrize("draws", [0, -1, 1.5])
def test_draws_out_of_range_are_refused(draws):
    with pytest.raises(InvalidArgumentError, match="Expected `noise_draws` a whole number >= 1"):
        Gaussian(draws)
