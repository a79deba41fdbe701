"""Driving samplings with simulated votes, and classifiers whose answers are known."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from smoothcert.types import Certificate


def drive(sampling, draw: Callable[[int], np.ndarray]) -> tuple[Certificate, list[int]]:
    """Answer a sampling's requests to its end; return its certificate and the requests."""
    requests: list[int] = []
    try:
        wanted = next(sampling)
        while True:
            requests.append(wanted)
            wanted = sampling.send(draw(wanted))
    except StopIteration as stop:
        return stop.value, requests


def multinomial(p, seed: int = 0) -> Callable[[int], np.ndarray]:
    """Return what draws so many votes of classes with probabilities p."""
    source = np.random.default_rng(seed)
    return lambda n: source.multinomial(n, p)


def unanimous(selected: int, classes: int = 3) -> Callable[[int], np.ndarray]:
    """Return what gives all votes to one class."""
    return lambda n: n * np.eye(classes, dtype=np.int64)[selected]


def half_space(dimension: int = 16) -> nn.Module:
    """Class 1 where the pixels' mean exceeds one half: σ-smoothing leaves it unchanged."""
    linear = nn.Linear(dimension, 2)
    with torch.no_grad():
        linear.weight.copy_(torch.stack([torch.zeros(dimension), torch.ones(dimension)]))
        linear.bias.copy_(torch.tensor([0.0, -dimension / 2]))
    return nn.Sequential(nn.Flatten(), linear)


class Watched(nn.Module):
    """Gives another network's logits and keeps what it was given, in any copy of itself.

    Its forward pass cannot be traced, so that it is run as it stands.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.seen = Log()

    def forward(self, images: Tensor) -> Tensor:
        assert len(images) > 0
        self.seen.append(images.detach().clone())
        return self.network(images)


class Narrow(nn.Module):
    """Runs out of memory above so many images; every copy of it counts the failures in one list."""

    def __init__(self, fits: int) -> None:
        super().__init__()
        self.fits = fits
        self.failures = Log()

    def forward(self, images: Tensor) -> Tensor:
        if len(images) > self.fits:
            self.failures.append(len(images))
            raise torch.OutOfMemoryError("out of memory")
        return images.flatten(1)[:, :3]


class Log(list):
    """A list that copies of its owner share."""

    def __deepcopy__(self, memo: dict) -> "Log":
        return self
