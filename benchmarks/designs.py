"""What sampling designs cost and lose, replayed on votes that are drawn once.

    python benchmarks/designs.py <run folder> [--images 8] [--votes <file>] [--folder <new>]

Prints the table of docs/certification.md and writes it to `benchmark.json`.
"""

from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smoothcert.certify import (
    AnytimeCertifier,
    Certifier,
    CohenCertifier,
    Execution,
    PrecisionCertifier,
    SequentialCertifier,
    TightCertifier,
)
from smoothcert.commands.benchmarking import record
from smoothcert.commands.build import device_of
from smoothcert.commands.commandline import checked_radii
from smoothcert.commands.error_handling import command
from smoothcert.errors import InvalidArgumentError
from smoothcert.stats import certified_accuracy
from smoothcert.types import Certificate
from studies import STOPPED, VoteLog, add_run, draw_votes, subject_of


def usual_designs(n0: int, n: int, alpha: float, radii: Sequence[float]) -> dict[str, Certifier]:
    """Return the designs to compare, the fixed joint test first.

    Args:
        n0: selection samples.
        n: estimation samples, at most.
        alpha: failure probability of a certificate.
        radii: the grid of the sequential designs.
    """
    fixed = {"n0": n0, "n": n, "alpha": alpha}
    grid = {**fixed, "radii": tuple(radii)}
    # The pilot is part of the same votes.
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


def compare_designs(
    log: VoteLog, certifiers: Mapping[str, Certifier], radii: Sequence[float]
) -> list[dict[str, Any]]:
    """Replay certifiers on logged votes, and compare them with the first one.

    Args:
        log: at least as many votes per image as a certifier may request.
        certifiers: designs by name.
        radii: radii of the certified accuracies, in pixel units.

    Returns:
        One entry per design: mean, median and 95th percentile of the samples per image
        (selection included), certified accuracy at each radius, the change against the first
        design in points, ACR, and how often each stop reason occurred.

    Raises:
        InvalidArgumentError: if the log has fewer votes than a certifier requests.
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
        predictions = np.array([certificate.label for certificate in certificates])
        correct = predictions == log.labels
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
    """Return the certificate of an image, and the number of votes that it took."""
    sampling = certifier.sampling(log.sigma, log.num_classes, label)
    used, wanted = 0, next(sampling)
    while True:
        part = votes[used : used + wanted]
        if len(part) < wanted:
            raise InvalidArgumentError(
                f"Expected at least {used + wanted} votes per image in the log, got {len(votes)}"
            )
        used += wanted
        try:
            wanted = sampling.send(np.bincount(part, minlength=log.num_classes))
        except StopIteration as stop:
            return stop.value, used


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw or read votes, replay the designs, print and write.

    Args:
        arguments: of the command line; None: those of this process.
    """
    parser = ArgumentParser(description="What sampling designs cost and lose.")
    add_run(parser, n=100_000)
    parser.add_argument("--n0", type=int, default=100, help="selection samples per image")
    radii = [0.0, 0.25, 0.5, 0.75]
    parser.add_argument("--radii", type=float, nargs="+", default=radii, help="grid of radii")
    precisions = ("float32", "bfloat16")
    parser.add_argument("--precision", choices=precisions, default=precisions[0])
    text = "file of votes: read if it exists, else written; votes.npz of the folder unless given"
    parser.add_argument("--votes", type=Path, help=text)
    options = vars(parser.parse_args(arguments))
    folder = options.pop("folder")
    with command(STOPPED):
        radii = checked_radii(options["radii"])
        designs = usual_designs(options["n0"], options["n"], options["alpha"], radii)
        path = options.pop("votes") or folder / "votes.npz"
        device = "cpu"
        if path.is_file():
            log = VoteLog.load(path)
        else:
            device = device_of(options["device"])
            subject, execution = subject_of(options), Execution(options["precision"])
            draws = options["n0"] + options["n"]
            parts = (subject.classifier, subject.examples, subject.sigma, subject.num_classes)
            log = draw_votes(*parts, draws, execution, options["seed"])
            log.save(path)
        configuration = {**options, "votes": str(path)}
        record("designs", configuration, compare_designs(log, designs, radii), folder, device)


if __name__ == "__main__":
    main()
