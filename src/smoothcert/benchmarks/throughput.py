"""Certification throughput against the reference algorithm, in one process."""

import statistics
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import torch
from torch import nn

from smoothcert.benchmarks.reference import art_seconds, has_art, reference_seconds
from smoothcert.certify import Certifier, Example, Execution, SmoothedClassifier, peak_memory
from smoothcert.models import evaluating


@dataclass(frozen=True)
class Throughput:
    """Measurements of one way to certify.

    Attributes:
        name: its name in tables.
        samples_per_second: of each repeat; for smoothcert with the time for bounds and records.
        samples_per_image: mean samples per image, selection included.
        peak_memory_bytes: most bytes in use: of the GPU's allocator, or of the process on a CPU,
            where the peak includes all that was measured before.
        preparation_seconds: time to copy, fold and compile the network, once; not in the rates.
    """

    name: str
    samples_per_second: list[float]
    samples_per_image: float
    peak_memory_bytes: int
    preparation_seconds: float = 0.0

    @property
    def images_per_hour(self) -> list[float]:
        """Certified images per hour, of each repeat."""
        return [3600 * rate / self.samples_per_image for rate in self.samples_per_second]


def measure_throughput(
    classifier: nn.Module,
    examples: Sequence[Example],
    certifier: Certifier,
    sigma: float,
    num_classes: int,
    executions: dict[str, Execution],
    repeats: int = 3,
    reference_batches: int = 5,
    art_samples: int = 2000,
    seed: int = 0,
) -> list[Throughput]:
    """Time the reference algorithm, ART if it is installed, and smoothcert, in turns.

    All of them run in every repeat, so that other load on the machine affects them alike. The
    reference takes n0 + n samples for every image, by definition; smoothcert takes what its
    certifier requests for the given images.

    Args:
        classifier: maps images (N, C, H, W) to logits, on the device to measure.
        examples: images that smoothcert certifies.
        certifier: of smoothcert; the reference has the same n0 and n.
        sigma: standard deviation of the noise.
        num_classes: number of classes.
        executions: variants of smoothcert, by name.
        repeats: number of measurements of each.
        reference_batches: timed batches of 1000 of the reference in each repeat.
        art_samples: samples of ART's call in each repeat.
        seed: seed of the noise of smoothcert.

    Returns:
        The reference first, then ART, then the variants of smoothcert in the order given.
    """
    device = next(iter(classifier.parameters())).device
    image = examples[0].image.to(device)
    reference = (classifier, image, sigma, num_classes)
    variants = {
        name: SmoothedClassifier(classifier, sigma, num_classes, execution)
        for name, execution in executions.items()
    }
    names = ["reference", *(["ART"] if has_art() else []), *variants]
    rates: dict[str, list[float]] = {name: [] for name in names}
    samples = dict.fromkeys(names, float(certifier.n0 + certifier.n))
    memory, preparation = dict.fromkeys(names, 0), dict.fromkeys(names, 0.0)
    short = replace(certifier, n=min(certifier.n, 512))
    for name, smoothed in variants.items():
        start = time.perf_counter()
        # The first image copies, folds and compiles the network.
        deque(smoothed.stream(examples[:1], short, seed), maxlen=0)
        preparation[name] = time.perf_counter() - start
    for _ in range(repeats):
        with evaluating(classifier):
            rates["reference"].append(1 / reference_seconds(*reference, reference_batches))
            memory["reference"] = _memory(device)
            if "ART" in rates:
                rates["ART"].append(1 / art_seconds(*reference, art_samples))
                memory["ART"] = _memory(device)
        for name, smoothed in variants.items():
            start = time.perf_counter()
            results = list(smoothed.stream(examples, certifier, seed))
            seconds = time.perf_counter() - start
            taken = sum(result.samples for result in results)
            rates[name].append(taken / seconds)
            samples[name] = taken / len(results)
            memory[name] = _memory(device)
    return [
        Throughput(name, rates[name], samples[name], memory[name], preparation[name])
        for name in names
    ]


def summarize_throughput(measured: Sequence[Throughput]) -> list[dict[str, object]]:
    """Return the measurements with their ratios to the first one in the same repeat.

    Args:
        measured: the reference first.

    Returns:
        JSON values: the rates of each repeat; median, smallest and largest ratio.
    """
    reference = measured[0]
    return [
        {
            **asdict(each),
            "images_per_hour": each.images_per_hour,
            "samples_ratio": _ratios(each.samples_per_second, reference.samples_per_second),
            "images_ratio": _ratios(each.images_per_hour, reference.images_per_hour),
        }
        for each in measured
    ]


def _memory(device: torch.device) -> int:
    peak = peak_memory(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    return peak


def _ratios(rates: Sequence[float], reference: Sequence[float]) -> dict[str, float]:
    ratios = [a / b for a, b in zip(rates, reference, strict=True)]
    return {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}
