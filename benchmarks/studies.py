"""What the studies share: their options, the subject of a run, and logged votes."""

import time
import zlib
from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import OmegaConf
from torch import nn
from tqdm import tqdm

from smoothcert.certify import Example, Execution
from smoothcert.certify.execution import Runner
from smoothcert.commands.benchmarking import Subject, trained_subject
from smoothcert.commands.commandline import check_given
from smoothcert.commands.loading import PATHS
from smoothcert.errors import NonFiniteError, RecordsError
from smoothcert.noise import GaussianCopies

DAMAGED = (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile, zlib.error)
"""What NumPy raises for a file that is damaged, or contains objects."""


def add_folder(parser: ArgumentParser) -> None:
    """Add the option `--folder`: where a study is written.

    Args:
        parser: of the script's command line.
    """
    now = datetime.now().strftime("%Y-%m-%d_%H-%M-%S-%f")
    default = Path("outputs", "benchmark", now)
    parser.add_argument("--folder", type=Path, default=default, help="where results are written")


STOPPED = "Nothing was measured. Start again with the same command"
"""What a script logs when a signal ends it."""


def add_run(parser: ArgumentParser, n: int) -> None:
    """Add the options of studies of a trained network.

    Args:
        parser: of the script's command line.
        n: default of `--n`.
    """
    parser.add_argument("run", help="run folder, whose best checkpoint and test images are used")
    parser.add_argument("--images", type=int, default=8, help="number of test images")
    parser.add_argument("--n", type=int, default=n, help="estimation samples per image")
    parser.add_argument("--alpha", type=float, default=0.001, help="failure probability")
    parser.add_argument("--seed", type=int, default=0, help="seed of the noise")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1")
    parser.add_argument("--data", help="folder of the data, if it was moved since the run")
    add_folder(parser)


def subject_of(options: Mapping[str, Any]) -> Subject:
    """Return the classifier and the test images of a run.

    Args:
        options: values of the options of `add_run`.

    Raises:
        SmoothCertError: if an option is out of range, this is no run folder, or a file of it is
            damaged.
    """
    given = {name: value for name, value in options.items() if name != "radii"}
    check_given(OmegaConf.create({**given, "votes": None}))
    names = ("run", "images", "device")
    own = {name: options[name] for name in names}
    return trained_subject(
        OmegaConf.create({**own, "data": {"root": options["data"]}, "paths": PATHS})
    )


@dataclass(frozen=True)
class VoteLog:
    """Every vote of a set of images, in the order in which they were drawn.

    Attributes:
        votes: the classes that received the votes, unsigned integers of shape (images, draws).
        labels: the true classes, int64 of shape (images,).
        num_classes: number of classes.
        sigma: standard deviation of the noise, in pixel units.
    """

    votes: NDArray[np.unsignedinteger]
    labels: NDArray[np.int64]
    num_classes: int
    sigma: float

    def save(self, path: Path) -> None:
        """Write the votes to an `.npz` file."""
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
        """Read what `save` has written, without running code that the file might contain.

        Raises:
            RecordsError: if the file is damaged, or contains something else.
        """
        try:
            # Opened here: NumPy leaves a damaged file open.
            with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                votes, labels = file["votes"], file["labels"]
                log = cls(votes, labels, int(file["num_classes"]), float(file["sigma"]))
        except DAMAGED as error:
            raise RecordsError(f"{path} is damaged, or contains no votes: {error}") from error
        fits = votes.ndim == 2 and labels.shape == votes.shape[:1] and votes.dtype.kind == "u"
        if not fits or votes.max(initial=0) >= log.num_classes:
            raise RecordsError(
                f"Expected votes of {log.num_classes} classes in {path}, shape (images, draws), "
                f"and one label per image, got {votes.dtype} {votes.shape} and {labels.shape}"
            )
        return log


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
    """Draw votes for each image and log them all, with a progress bar.

    Args:
        classifier: maps images (N, C, H, W) to logits.
        examples: images with their labels.
        sigma: standard deviation of the noise, in pixel units.
        num_classes: number of classes.
        draws: votes per image, selection included.
        execution: how to run the classifier; float32 unless given.
        seed: seed of the noise.

    Returns:
        The votes. The first ones of an image are those that a certification with this seed counts.

    Raises:
        NonFiniteError: if a logit is NaN or infinite.
    """
    device = next(iter(classifier.parameters())).device
    shape = tuple(examples[0].image.shape)
    runner = Runner(classifier, execution or Execution(), shape, device)
    votes = np.empty((len(examples), draws), dtype=np.min_scalar_type(num_classes - 1))
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
            predictions = logits.argmax(1).cpu().numpy()
            votes[row, done : done + len(predictions)] = predictions
            done += len(predictions)
        seconds = time.perf_counter() - start
        if row == 0 and runner.repays_compiling(seconds * (len(examples) - 1)):
            runner.compile()
    labels = np.array([example.label for example in examples], dtype=np.int64)
    return VoteLog(votes, labels, num_classes, sigma)
