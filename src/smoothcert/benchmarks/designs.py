"""What each design of sampling costs and loses, replayed on votes that were drawn once."""

import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from tqdm import tqdm

from smoothcert.certify import (
    AnytimeCertifier,
    Certifier,
    CohenCertifier,
    Example,
    Execution,
    PrecisionCertifier,
    SequentialCertifier,
    TightCertifier,
)
from smoothcert.certify.execution import Runner
from smoothcert.errors import InvalidArgumentError, NonFiniteError, RecordsError
from smoothcert.noise import GaussianCopies
from smoothcert.stats import certified_accuracy
from smoothcert.types import Certificate

DAMAGED = (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile, zlib.error)
"""What NumPy raises on a file that is none of its own, or holds objects."""


@dataclass(frozen=True)
class VoteLog:
    """Every vote of a set of images, in the order in which it was drawn.

    Attributes:
        votes: classes that were voted for, unsigned integers of shape (images, draws).
        labels: the true classes, shape (images,).
        num_classes: number of classes.
        sigma: standard deviation of the noise.
    """

    votes: NDArray[np.unsignedinteger]
    labels: NDArray[np.int64]
    num_classes: int
    sigma: float

    def save(self, path: Path) -> None:
        """Write the votes to a file of NumPy's."""
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(
            path,
            votes=self.votes,
            labels=self.labels,
            num_classes=self.num_classes,
            sigma=self.sigma,
        )

    @classmethod
    def load(cls, path: Path) -> "VoteLog":
        """Read what `save` has written, without running any code that the file might hold.

        Raises:
            RecordsError: if the file is damaged, or holds something else.
        """
        try:
            # Opened here: NumPy leaves a damaged file open.
            with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                votes, labels = file["votes"], file["labels"]
                log = cls(votes, labels, int(file["num_classes"]), float(file["sigma"]))
        except DAMAGED as error:
            raise RecordsError(f"{path} is damaged, or holds no votes: {error}") from error
        fits = votes.ndim == 2 and labels.shape == votes.shape[:1] and votes.dtype.kind == "u"
        if not fits or votes.max(initial=0) >= log.num_classes:
            raise RecordsError(
                f"Expected votes of {log.num_classes} classes in {path}, shape (images, draws), "
                f"and as many labels, got {votes.dtype} {votes.shape} and {labels.shape}"
            )
        return log


def usual_designs(n0: int, n: int, alpha: float, radii: Sequence[float]) -> dict[str, Certifier]:
    """Return the designs that are worth comparing, the fixed joint test first.

    Args:
        n0: selection samples.
        n: estimation samples, at most.
        alpha: failure probability of a certificate.
        radii: the grid of the sequential designs.
    """
    fixed = {"n0": n0, "n": n, "alpha": alpha}
    grid = {**fixed, "radii": tuple(radii)}
    # The pilot comes out of the same votes.
    first = min(1000, (n0 + n) // 2)
    pilot = {"n0": first, "n": n0 + n - first, "alpha": alpha}
    return {
        "fixed, joint": TightCertifier(**fixed),
        "fixed, rectangle": TightCertifier(**fixed, bound="rectangle", split=0.5),
        "fixed, cohen": CohenCertifier(**fixed),
        "sequential": SequentialCertifier(**grid),
        "sequential, wrong ones too": SequentialCertifier(**grid, stop_when_wrong=False),
        "sequential, rectangle": SequentialCertifier(**grid, bound="rectangle"),
        "sequential, cohen": SequentialCertifier(**grid, bound="cohen"),
        "sequential, target=label": SequentialCertifier(**grid, target="label"),
        "anytime": AnytimeCertifier(**grid),
        "precision, 5 %": PrecisionCertifier(**pilot, tolerance=0.05),
        "precision, 10 %": PrecisionCertifier(**pilot, tolerance=0.1),
    }


@torch.inference_mode()
def draw_votes(
    classifier: nn.Module,
    examples: Sequence[Example],
    sigma: float,
    num_classes: int,
    draws: int,
    execution: Execution | None = None,
    seed: int = 0,
) -> VoteLog:
    """Draw a number of votes for each image and keep them all, with a progress bar.

    Args:
        classifier: maps images (N, C, H, W) to logits.
        examples: images with their labels.
        sigma: standard deviation of the noise.
        num_classes: number of classes.
        draws: votes of an image, selection included.
        execution: how to run the classifier; float32 unless given.
        seed: seed of the noise.

    Returns:
        The votes; an image's first ones are those that a certification with this seed would see.
    """
    device = next(iter(classifier.parameters())).device
    shape = tuple(examples[0].image.shape)
    runner = Runner(classifier, execution or Execution(), shape, device)
    dtype = np.min_scalar_type(num_classes - 1)
    votes = np.empty((len(examples), draws), dtype=dtype)
    for row, example in enumerate(tqdm(examples, desc="votes", unit="image")):
        start = time.perf_counter()
        copies = GaussianCopies(example.image.to(device), sigma, seed, example.index)
        done = 0
        while done < draws:
            size = (min(runner.batch_size, draws - done), *shape)
            noisy = torch.empty(size, dtype=torch.float32, device=device)
            copies.fill(noisy)
            logits = runner(noisy)
            if not logits.isfinite().all():
                raise NonFiniteError(
                    f"The classifier gave NaN or infinite logits at image {example.index}"
                )
            answers = logits.argmax(1).cpu().numpy()
            votes[row, done : done + len(answers)] = answers
            done += len(answers)
        seconds = time.perf_counter() - start
        if row == 0 and runner.repays_compiling(seconds * (len(examples) - 1)):
            runner.compile()
    labels = np.array([example.label for example in examples], dtype=np.int64)
    return VoteLog(votes, labels, num_classes, sigma)


def compare_designs(
    log: VoteLog, certifiers: Mapping[str, Certifier], radii: Sequence[float]
) -> list[dict[str, Any]]:
    """Replay certifiers on logged votes; the first one is what the others are compared with.

    Args:
        log: at least as many votes of each image as a certifier may ask for.
        certifiers: designs by name.
        radii: radii of the certified accuracies, in pixel units.

    Returns:
        One entry a design: mean, median and 95th percentile of the samples of an image
        (selection included), certified accuracy at each radius, the change against the first
        design in points, ACR, and how often each stop reason occurred.
    """
    table: list[dict[str, Any]] = []
    for name, certifier in certifiers.items():
        replayed = [
            _replay(certifier, votes, int(label), log)
            for votes, label in zip(log.votes, log.labels, strict=True)
        ]
        certificates = [certificate for certificate, _ in replayed]
        samples = np.array([used for _, used in replayed])
        radius = np.array([certificate.radius for certificate in certificates])
        answers = np.array([certificate.label for certificate in certificates])
        correct = answers == log.labels
        accuracy = certified_accuracy(radius, correct, radii)
        first = table[0]["certified_accuracy"] if table else accuracy.tolist()
        stops, counts = np.unique([c.stop for c in certificates], return_counts=True)
        table.append(
            {
                "design": name,
                "samples_mean": float(samples.mean()),
                "samples_median": float(np.median(samples)),
                "samples_p95": float(np.percentile(samples, 95)),
                "certified_accuracy": accuracy.tolist(),
                "change_in_points": [
                    round(100 * (a - b), 4) for a, b in zip(accuracy, first, strict=True)
                ],
                "acr": float(np.mean(np.where(correct, radius, 0))),
                "stops": dict(zip(stops.tolist(), counts.tolist(), strict=True)),
            }
        )
    return table


def _replay(
    certifier: Certifier, votes: NDArray[Any], label: int, log: VoteLog
) -> tuple[Certificate, int]:
    sampling = certifier.sampling(log.sigma, log.num_classes, label)
    used, wanted = 0, next(sampling)
    while True:
        part = votes[used : used + wanted]
        if len(part) < wanted:
            raise InvalidArgumentError(
                f"Expected at least {used + wanted} votes an image in the log, got {len(votes)}"
            )
        used += wanted
        try:
            wanted = sampling.send(np.bincount(part, minlength=log.num_classes))
        except StopIteration as stop:
            return stop.value, used
