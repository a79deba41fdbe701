"""Formulas in float64 NumPy that objectives are held against, with derivatives by complex steps.

An analytic function has its derivative in the imaginary part of f(x + ih): no difference is taken,
so nothing cancels and it is exact to float64. Maxima and orders are those of the real parts.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parameters_to_vector

from smoothcert.models import evaluating
from smoothcert.noise import draw_noise, generator, noisy_logits
from smoothcert.types import NoisyBatch

LABELS = torch.tensor([0, 2, 4, 1])
STEP = 1e-40


def gradient(function, point):
    """Derivative of a function of an array, in the array's shape."""
    result = np.empty(point.shape)
    for index in np.ndindex(point.shape):
        moved = point.astype(complex)
        moved[index] += 1j * STEP
        result[index] = function(moved).imag / STEP
    return result


def softmax(logits):
    powers = np.exp(logits - logits.real.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def cross_entropies(logits, labels):
    """−log F_y of each draw and image, shape (m, B)."""
    return -np.log(softmax(logits)[:, np.arange(len(labels)), labels])


def divergence(target, probabilities):
    return (target * np.log(target / probabilities)).sum(-1)


def random_logits(seed, scale=3.0, draws=8):
    """Logits of four images and five classes, in float64."""
    return scale * torch.randn(draws, 4, 5, dtype=torch.float64, generator=generator("cpu", seed))


def loss_of(objective, logits, labels=LABELS, sigma=0.5, epoch=0):
    """Loss of logits of images that nobody looks at."""
    images = torch.zeros(len(labels), 1, 1, 1)
    noise = torch.zeros(len(logits), *images.shape)
    return objective.of_logits(logits, NoisyBatch(images, labels, noise, sigma, epoch))


def assert_is_formula_of_logits(objective, logits, formula, sigma=0.5):
    """Value and gradient of an objective are those of a formula (logits, labels) → scalar."""
    logits = logits.clone().requires_grad_()
    loss = loss_of(objective, logits, sigma=sigma)
    loss.value.backward()
    labels, exact = LABELS.numpy(), logits.detach().numpy()
    assert loss.value.item() == pytest.approx(formula(exact, labels), rel=1e-9, abs=1e-10)
    expected = gradient(lambda point: formula(point, labels), exact)
    assert logits.grad.numpy() == pytest.approx(expected, rel=1e-7, abs=1e-9)


def half_right(network, batch):
    """The batch with labels of which the first three are right under its noise, the others not."""
    with torch.no_grad(), evaluating(network):
        smoothed = noisy_logits(network, batch).softmax(-1).mean(0)
    right = torch.arange(len(smoothed)) < 3
    return replace(batch, labels=torch.where(right, smoothed.argmax(-1), smoothed.argmin(-1)))


def perceptron():
    """A smooth classifier of 3×3 images: nine pixels, six hidden units, three classes."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(9, 6), nn.Tanh(), nn.Linear(6, 3))
    source = generator("cpu", 3)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0, 0.8, generator=source)
    return network


def perceptron_logits(parameters, images):
    """The same classifier, of flat images (..., 9) and a flat vector of parameters."""
    first, bias, second, other_bias = np.split(parameters, np.cumsum([54, 6, 18]))
    hidden = np.tanh(images @ first.reshape(6, 9).T + bias)
    return hidden @ second.reshape(3, 6).T + other_bias


def small_batch(draws):
    """Eight 3×3 images, some of which the perceptron gets right."""
    source = generator("cpu", 4)
    images = torch.rand(8, 1, 3, 3, generator=source)
    labels = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])
    return NoisyBatch(images, labels, draw_noise(images, 0.3, draws, source), 0.3)


def arrays(batch):
    """Images (B, 9), labels (B,) and noise (m, B, 9) of a batch, in float64."""
    images, noise = batch.images.flatten(1), batch.noise.flatten(2)
    return images.double().numpy(), batch.labels.numpy(), noise.double().numpy()


def flat_parameters(network):
    return parameters_to_vector(network.parameters()).detach().double().numpy()


def assert_is_formula_of_parameters(loss, network, formula):
    """Value of a float32 loss, and its gradient in the parameters, are those of a formula."""
    loss.value.backward()
    parameters = flat_parameters(network)
    assert loss.value.item() == pytest.approx(formula(parameters), rel=2e-5)
    own = parameters_to_vector([parameter.grad for parameter in network.parameters()])
    expected = gradient(formula, parameters)
    assert own.numpy() == pytest.approx(expected, rel=1e-3, abs=1e-4 * np.abs(expected).max())
