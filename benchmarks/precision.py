"""How often bfloat16 votes differently from float32, and the effect on radii.

    python benchmarks/precision.py <run folder> [--images 8] [--n 2000] [--folder <new folder>]

Prints one row and writes it to `benchmark.json`.
"""

from argparse import ArgumentParser
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from smoothcert.certify import Example, Execution
from smoothcert.commands.benchmarking import record
from smoothcert.commands.build import device_of
from smoothcert.commands.error_handling import command
from smoothcert.stats import certified_radius
from studies import STOPPED, add_run, draw_votes, subject_of


def compare_precisions(
    classifier: nn.Module,
    examples: Sequence[Example],
    sigma: float,
    num_classes: int,
    n: int = 2000,
    alpha: float = 0.001,
    precision: str = "bfloat16",
    seed: int = 0,
) -> dict[str, Any]:
    """Compare the votes of float32 and of another precision on the same noise.

    Args:
        classifier: maps images (N, C, H, W) to logits.
        examples: images with their labels.
        sigma: standard deviation of the noise, in pixel units.
        num_classes: number of classes.
        n: votes per image.
        alpha: level of the radii, for the class of each image with most votes in float32.
        precision: what is compared with float32.
        seed: seed of the noise.

    Returns:
        Share of votes that differ, and mean, largest and signed mean difference of the radii, in
        pixel units.
    """
    logs = [
        draw_votes(classifier, examples, sigma, num_classes, n, Execution(p, compile=False), seed)
        for p in ("float32", precision)
    ]
    counts = [
        np.stack([np.bincount(row, minlength=num_classes) for row in log.votes]) for log in logs
    ]
    selected = counts[0].argmax(1)
    rows = np.arange(len(selected))
    radii = []
    for each in counts:
        others = each.copy()
        others[rows, selected] = -1
        radii.append(certified_radius(each[rows, selected], others.max(1), n, sigma, alpha))
    difference = radii[1] - radii[0]
    return {
        "precision": precision,
        "images": len(examples),
        "votes_per_image": n,
        "share_of_votes_that_differ": float(np.mean(logs[0].votes != logs[1].votes)),
        "share_of_labels_that_differ": float(np.mean(counts[0].argmax(1) != counts[1].argmax(1))),
        "radius_mean_absolute_difference": float(np.abs(difference).mean()),
        "radius_largest_difference": float(np.abs(difference).max()),
        "radius_mean_difference": float(difference.mean()),
        "torch": torch.__version__,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare, print and write.

    Args:
        arguments: of the command line; None: those of this process.
    """
    parser = ArgumentParser(description="How often bfloat16 votes differently from float32.")
    add_run(parser, n=2000)
    options = vars(parser.parse_args(arguments))
    folder = options.pop("folder")
    with command(STOPPED):
        subject = subject_of(options)
        entry = compare_precisions(
            subject.classifier,
            subject.examples,
            subject.sigma,
            subject.num_classes,
            options["n"],
            options["alpha"],
            seed=options["seed"],
        )
        record("precisions", options, [entry], folder, device_of(options["device"]))


if __name__ == "__main__":
    main()
