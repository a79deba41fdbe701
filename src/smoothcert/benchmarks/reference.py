"""Throughput of the algorithms in use today: the published reference and ART."""

import logging
import time
import warnings
from importlib.util import find_spec

import numpy as np
import torch
from torch import Tensor, nn

REFERENCE_BATCH = 1000
"""Noisy images per forward pass of the published code."""
ART_SELECTION = 100


def has_art() -> bool:
    """Return whether the Adversarial Robustness Toolbox is installed (extra `dev`)."""
    return find_spec("art") is not None


@torch.no_grad()
def reference_seconds(
    classifier: nn.Module, image: Tensor, sigma: float, num_classes: int, batches: int
) -> float:
    """Return the seconds per sample of the reference algorithm.

    Cohen et al. (2019), `core.py`: one image at a time, float32, contiguous, eager, batches of
    1000 repeats of the image plus `randn_like`, votes counted on the host. One batch runs before
    the clock starts.

    Args:
        classifier: in eval mode, on its device.
        image: shape (C, H, W), on that device.
        sigma: standard deviation of the noise.
        num_classes: number of classes.
        batches: number of timed batches.
    """
    counts = np.zeros(num_classes, dtype=int)
    start = 0.0
    for number in range(batches + 1):
        if number == 1:
            start = time.perf_counter()
        batch = image.repeat(REFERENCE_BATCH, 1, 1, 1)
        noise = torch.randn_like(batch) * sigma
        answers = classifier(batch + noise).argmax(1).cpu().numpy()
        counts += np.bincount(answers, minlength=num_classes)
    return (time.perf_counter() - start) / (batches * REFERENCE_BATCH)


def art_seconds(
    classifier: nn.Module, image: Tensor, sigma: float, num_classes: int, samples: int
) -> float:
    """Return the seconds per sample of ART's `PyTorchRandomizedSmoothing.certify`.

    With its default batch size. It stores all noisy copies of an image at once (6.6 GB for 100,000
    of CIFAR's size), so fewer are timed; its time grows at least linearly with them.

    Args:
        classifier: in eval mode, on its device.
        image: shape (C, H, W).
        sigma: standard deviation of the noise.
        num_classes: number of classes.
        samples: estimation samples of the timed call.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.getLogger("art").setLevel(logging.WARNING)
        from art.estimators.certification.randomized_smoothing import PyTorchRandomizedSmoothing

        smoothing = PyTorchRandomizedSmoothing(
            model=classifier,
            loss=nn.CrossEntropyLoss(),
            input_shape=tuple(image.shape),
            nb_classes=num_classes,
            clip_values=(0.0, 1.0),
            sample_size=ART_SELECTION,
            scale=sigma,
            alpha=0.001,
            device_type="gpu" if image.is_cuda else "cpu",
        )
        pixels = image.cpu().numpy()[None]
        smoothing.certify(pixels, n=ART_SELECTION)
        start = time.perf_counter()
        smoothing.certify(pixels, n=samples)
        return (time.perf_counter() - start) / (samples + ART_SELECTION)
