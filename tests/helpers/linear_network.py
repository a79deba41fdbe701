"""A linear classifier whose attacks are written again in float64, without autograd."""

import numpy as np
import torch
from scipy.special import softmax
from torch import nn

from smoothcert.noise import draw_noise, generator
from smoothcert.types import NoisyBatch


class LinearNetwork(nn.Module):
    """Wx + b on flattened images; keeps the images and the logits of every call."""

    def __init__(self, weight, bias):
        super().__init__()
        self.weight = nn.Parameter(torch.as_tensor(weight, dtype=torch.float32))
        self.bias = nn.Parameter(torch.as_tensor(bias, dtype=torch.float32))
        self.inputs = []
        self.logits = []

    def forward(self, images):
        logits = images.flatten(1) @ self.weight.T + self.bias
        self.inputs.append(images.detach().clone())
        self.logits.append(logits.detach().clone())
        return logits

    def visited(self, batch):
        """Return the images without their noise, by step, shape (T, B, d)."""
        shape = batch.noise.shape[:2]
        return [(seen.unflatten(0, shape) - batch.noise)[0].flatten(1) for seen in self.inputs]


def random_case(seed, size=4, classes=3, scale=0.7, shape=(1, 3, 3)):
    """A random linear classifier and a batch, some of whose pixels are 0 and 1.

    Unsure enough that float32 holds 1 − F̂_y, which the gradient is proportional to.
    """
    source = generator("cpu", seed)
    pixels = shape[0] * shape[1] * shape[2]
    weight = scale * torch.randn(classes, pixels, generator=source)
    bias = 0.3 * torch.randn(classes, generator=source)
    images = (1.5 * torch.rand(size, *shape, generator=source) - 0.25).clamp(0, 1)
    labels = torch.randint(classes, (size,), generator=source)
    batch = NoisyBatch(images, labels, draw_noise(images, 0.25, 4, source), 0.25)
    return LinearNetwork(weight, bias), batch


def exact(network, batch):
    """Return weight, bias, images (B, d), labels and noise (m, B, d) in float64."""
    return (
        network.weight.detach().double().numpy(),
        network.bias.detach().double().numpy(),
        batch.images.flatten(1).double().numpy(),
        batch.labels.numpy(),
        batch.noise.flatten(2).double().numpy(),
    )


def smoothed(weight, bias, image, noise):
    """Return the softmax of every draw at one image, shape (m, K)."""
    return softmax((image + noise) @ weight.T + bias, axis=1)


def gradient(weight, bias, image, label, noise):
    """Return the gradient of −log F̂_y by the chain rule of the softmax."""
    probabilities = smoothed(weight, bias, image, noise)
    share = probabilities[:, label] / probabilities[:, label].sum()
    return -share @ (weight[label] - probabilities @ weight)


def shorten(move, radius):
    """Return the move, shortened to the radius where it is longer."""
    return move * min(1.0, radius / max(np.linalg.norm(move), 1e-30))
