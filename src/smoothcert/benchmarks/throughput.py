"""Certification throughput against the reference algorithm, in one process."""

import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import torch
from torch import nn

from smoothcert.benchmarks.reference import art_seconds, has_art, reference_seconds
from smoothcert.certify import Certifier, Example, Execution, SmoothedClassifier, peak_memory
from smoothcert.models import evaluating


@dataclass(frozen=True)
class Throughput:
    """Measurements of one way to certify, one entry a repeat.

    Attributes:
        name: what was measured.
        samples_per_second: votes counted a second, bounds and bookkeeping included for ours.
        samples_per_image: votes an image takes on average, selection included.
        peak_memory_bytes: most bytes in use by the end: of the GPU's allocator, or of the whole
            process on a CPU, where it never falls again.
        preparation_seconds: copying, folding and compiling, once; not part of the rates.
    """

    name: str
    samples_per_second: list[float]
    samples_per_image: float
    peak_memory_bytes: int
    preparation_seconds: float = 0.0

    @property
    def images_per_hour(self) -> list[float]:
        """Images certified in an hour, one entry a repeat."""
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
    """Time the reference algorithm, ART where it is installed, and ours, in turns.

    All of them run in every repeat, so that what else the machine does meets them alike. The
    reference takes n0 + n samples for every image, by definition; ours what its certifier asks
    for on the given images.

    Args:
        classifier: maps images (N, C, H, W) to logits, on the device to measure.
        examples: images that ours certifies.
        certifier: ours; its n0 and n are the reference's, too.
        sigma: standard deviation of the noise.
        num_classes: number of classes.
        executions: ways to run ours, by name.
        repeats: how often everything is measured.
        reference_batches: timed batches of 1000 of the reference, a repeat.
        art_samples: samples of ART's call, a repeat.
        seed: seed of our noise.

    Returns:
        The reference first, then ART, then ours in the order given.
    """
    fixed = certifier.n0 + certifier.n
    device = next(iter(classifier.parameters())).device
    image = examples[0].image.to(device)
    ours = {
        name: _Ours(classifier, examples, certifier, sigma, num_classes, execution, seed)
        for name, execution in executions.items()
    }
    rates: dict[str, list[float]] = {"reference": []}
    memory: dict[str, int] = {}
    if has_art():
        rates["ART"] = []
    rates |= {name: [] for name in ours}
    for _ in range(repeats):
        with evaluating(classifier):
            each = reference_seconds(classifier, image, sigma, num_classes, reference_batches)
            rates["reference"].append(1 / each)
            memory["reference"] = _memory(device)
            if "ART" in rates:
                each = art_seconds(classifier, image, sigma, num_classes, art_samples)
                rates["ART"].append(1 / each)
                memory["ART"] = _memory(device)
        for name, measured in ours.items():
            rates[name].append(measured.rate())
            memory[name] = _memory(device)
    return [
        Throughput(
            name,
            rate,
            ours[name].samples_per_image if name in ours else fixed,
            memory[name],
            ours[name].preparation_seconds if name in ours else 0.0,
        )
        for name, rate in rates.items()
    ]


def summarize_throughput(measured: Sequence[Throughput]) -> list[dict[str, object]]:
    """Return the measurements with their ratios to the first one, repeat by repeat.

    Args:
        measured: the reference first.

    Returns:
        JSON values: for each rate and ratio its median, smallest and largest value.
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


class _Ours:
    """Our certification of the examples, ready to be timed."""

    def __init__(
        self,
        classifier: nn.Module,
        examples: Sequence[Example],
        certifier: Certifier,
        sigma: float,
        num_classes: int,
        execution: Execution,
        seed: int,
    ) -> None:
        self._examples = examples
        self._certifier = certifier
        self._smoothed = SmoothedClassifier(classifier, sigma, num_classes, execution)
        self._seed = seed
        self.samples_per_image = 0.0
        start = time.perf_counter()
        # One short image: copies, folds and compiles, as the settings say.
        for _ in self._smoothed.stream(
            examples[:1], replace(certifier, n=min(certifier.n, 512)), seed
        ):
            pass
        self.preparation_seconds = time.perf_counter() - start

    def rate(self) -> float:
        """Certify all examples, and return the votes a second."""
        start = time.perf_counter()
        results = list(self._smoothed.stream(self._examples, self._certifier, self._seed))
        seconds = time.perf_counter() - start
        samples = sum(result.samples for result in results)
        self.samples_per_image = samples / len(results)
        return samples / seconds


def _memory(device: torch.device) -> int:
    peak = peak_memory(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    return peak


def _ratios(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float]:
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    return {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}
