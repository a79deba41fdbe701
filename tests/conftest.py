"""What several tests share."""

import os
from copy import deepcopy

# Before torch is imported anywhere: more threads than cores make the suite several times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from hydra._internal.config_repository import ConfigRepository
from hypothesis import settings
from torch import nn

from smoothcert.noise import draw_noise, generator
from smoothcert.types import NoisyBatch

# Deadlines measure the machine, and a random example that fails today must fail tomorrow.
settings.register_profile("suite", deadline=None, derandomize=True)
settings.load_profile("suite")


@pytest.fixture(scope="session", autouse=True)
def configuration_files_are_parsed_once():
    """Keep what Hydra reads: parsing YAML is half of the time that a composition takes."""
    load, kept = ConfigRepository.load_config, {}

    def load_once(repository, config_path):
        key = (*(source.path for source in repository.sources), config_path)
        if key not in kept:
            kept[key] = load(repository, config_path)
        return deepcopy(kept[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ConfigRepository, "load_config", load_once)
        yield


@pytest.fixture
def network() -> nn.Module:
    """A small classifier with BatchNorm and dropout, in training mode."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Flatten(),
        nn.Linear(4 * 36, 3),
    )


@pytest.fixture
def batch() -> NoisyBatch:
    """Five 6×6 images with four noise draws each."""
    source = generator("cpu", 1)
    images = torch.rand(5, 1, 6, 6, generator=source)
    labels = torch.randint(3, (5,), generator=source)
    return NoisyBatch(images, labels, draw_noise(images, 0.5, 4, source), 0.5)
