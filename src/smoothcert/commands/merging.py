"""The command `python -m src.merge`, which needs no torch."""

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig

from smoothcert.errors import InvalidArgumentError, RecordsError
from smoothcert.records import (
    RunFolder,
    gather_shards,
    paths_matching,
    read_bounded,
    write_atomically,
)
from smoothcert.records.summary import summarize
from smoothcert.report import plot_certified_accuracy, print_summary

logger = logging.getLogger(__name__)

ACCURACIES, NEAR_CHANCE = "certified_accuracy", "near_chance"
OF_A_SHARD = re.compile(r"_shard-\d+-of-\d+|,shard=\d+_\d+|shard=\d+_\d+,|_shard=\d+_\d+$")
"""The shard in a folder's name; the last three forms are those of older folders."""
MEASURED = (
    *("images_per_second", "samples_per_second", "peak_memory_bytes", "batch_size", "compiled"),
    *("device", "processes"),
)
"""Measurements of one command; a merged certification is the work of several."""


def merge(cfg: DictConfig) -> float:
    """Merge shards and summarize the result; see `smoothcert.commands.merge`."""
    shards = _shards(cfg.runs)
    out = RunFolder(_default_folder(shards) if cfg.out is None else cfg.out)
    for each in (*shards, out):
        # Folders in them may be links to the shards.
        each.check_links(nested=False)
    # Everything that can be refused is refused before anything is written.
    gathered = gather_shards(each.certificates for each in shards)
    summaries = [summary for each in shards if (summary := each.summary()) is not None]
    base = _checked_summary(shards, summaries)
    before = None
    with suppress(RecordsError):
        before = out.summary()
    with out.lock(), _writing(out):
        merged = gathered.write(out.certificates)
        if before is not None and before.get("images") == len(merged.rows):
            logger.info("All %d certificates were merged before", len(merged.rows))
            print_summary(before, out.path)
            return before["acr"]
        plot_certified_accuracy(merged.rows, merged.settings, out.figure)
        for each in shards:
            if each.thumbnails.is_file():
                write_atomically(out.thumbnails, read_bounded(each.thumbnails))
                break
        summary = {
            **{name: value for name, value in base.items() if name != NEAR_CHANCE},
            **summarize(merged.rows, merged.settings, [float(r) for r in base[ACCURACIES]]),
            **_near_chance(summaries),
            "images_asked": len(merged.rows),
            "shards": len(shards),
            **dict.fromkeys(MEASURED),
        }
        out.write_summary(summary)
        # The figure took some time: the file must still have the rows that are summarized.
        gathered.write(out.certificates)
    print_summary(summary, out.path)
    return summary["acr"]


@contextmanager
def _writing(run: RunFolder) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RecordsError(
            f"{run} cannot be written: {error.strerror}. The shards are unchanged. Resume with the "
            "same command"
        ) from error


def _shards(patterns: str | Sequence[str]) -> list[RunFolder]:
    """Return the folders of the certificates that globs match; they may match the files instead."""
    patterns = [patterns] if isinstance(patterns, str) else list(patterns)
    # By resolved paths: a link to a shard is not another shard.
    found: dict[Path, RunFolder] = {}
    for place in sorted((p for pattern in patterns for p in _matches(pattern)), reverse=True):
        run = RunFolder(place if place.is_dir() else place.parent)
        if run.is_certified and place in (run.path, run.certificates):
            found[run.certificates.resolve()] = run
    if not found:
        raise InvalidArgumentError(f"Expected folders of shards at {patterns}, got none")
    return sorted(found.values(), key=lambda run: run.path)


def _matches(pattern: str) -> list[Path]:
    # Names of older folders have brackets, from overrides that were lists.
    return paths_matching(pattern) or paths_matching(pattern.replace("[", "[[]"))


def _default_folder(runs: Sequence[RunFolder]) -> Path:
    """Return the folder of the same certification without shards."""
    shards = {run.path.absolute() for run in runs}
    folders = {each.with_name(OF_A_SHARD.sub("", each.name) or each.name) for each in shards}
    if len(folders) != 1 or folders & shards:
        raise InvalidArgumentError(
            "Expected out=<folder>: the names of the shards' folders differ by more than the shard"
        )
    return folders.pop()


def _checked_summary(
    shards: Sequence[RunFolder], summaries: Sequence[Mapping[str, Any]]
) -> Mapping[str, Any]:
    """Return the first summary, whose settings the merged certification repeats."""
    if not summaries:
        raise RecordsError("No shard has a summary.json: run the command of one of them again")
    if not isinstance(summaries[0].get(ACCURACIES), dict):
        first = next(each for each in shards if each.is_summarized)
        raise RecordsError(f"{first.summary_file} is damaged: expected {ACCURACIES} by radius")
    return summaries[0]


def _near_chance(summaries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the entry of a classifier near chance, if all shards' summaries have it."""
    found = [each.get(NEAR_CHANCE) or {} for each in summaries]
    if not all(found):
        return {}
    images = [each["images"] for each in summaries]
    means = {name: np.average([each[name] for each in found], weights=images) for name in found[0]}
    return {NEAR_CHANCE: {name: float(mean) for name, mean in means.items()}}
