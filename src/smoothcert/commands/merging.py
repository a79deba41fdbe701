"""What `python -m src.merge` does: no torch, so it answers at once."""

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
"""What a folder's name says of its shard alone."""
MEASURED = (
    *("images_per_second", "samples_per_second", "peak_memory_bytes", "batch_size", "compiled"),
    *("device", "processes"),
)
"""What a summary says of one call, of which a merged certification has had several."""


def merge(cfg: DictConfig) -> float:
    """Merge shards and summarize the whole; see `smoothcert.commands.merge`."""
    shards = _shards(cfg.runs)
    out = RunFolder(_default_folder(shards) if cfg.out is None else cfg.out)
    for each in (*shards, out):
        # Folders in it may be links: to the shards.
        each.check_links(nested=False)
    # All that can be refused is, before anything is written.
    whole = gather_shards(each.certificates for each in shards)
    summaries = [summary for each in shards if (summary := each.summary()) is not None]
    base = _checked_summary(shards, summaries)
    before = _finished(out)
    with out.lock(), _writing(out):
        merged = whole.write(out.certificates)
        if before is not None and before.get("images") == len(merged.rows):
            logger.info("All %d certificates were there already", len(merged.rows))
            print_summary(before, out.path)
            return before["acr"]
        plot_certified_accuracy(merged.rows, merged.settings, out.figure)
        _copy_thumbnails(shards, out)
        summary = {
            **{name: value for name, value in base.items() if name != NEAR_CHANCE},
            **summarize(merged.rows, merged.settings, [float(r) for r in base[ACCURACIES]]),
            **_near_chance(summaries),
            "images_asked": len(merged.rows),
            "shards": len(shards),
            **dict.fromkeys(MEASURED),
        }
        out.write_summary(summary)
        # The picture took its time: what is reported is in the folder that is named.
        whole.write(out.certificates)
    print_summary(summary, out.path)
    return summary["acr"]


def _finished(run: RunFolder) -> dict[str, Any] | None:
    """Return the summary of a certification that was finished before; None without a whole one."""
    with suppress(RecordsError):
        return run.summary()
    return None


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
    """Return the folders with certificates among the folders and files that globs match."""
    patterns = [patterns] if isinstance(patterns, str) else list(patterns)
    # By where its file is: a link next to a shard is not another copy of it.
    found: dict[Path, RunFolder] = {}
    for place in sorted((p for pattern in patterns for p in _matches(pattern)), reverse=True):
        run = RunFolder(place if place.is_dir() else place.parent)
        if run.is_certified and place in (run.path, run.certificates):
            found[run.certificates.resolve()] = run
    if not found:
        raise InvalidArgumentError(f"Expected folders of shards by {patterns}, got none")
    return sorted(found.values(), key=lambda run: run.path)


def _matches(pattern: str) -> list[Path]:
    # Older folders have brackets in their names, where an override was a list.
    return paths_matching(pattern) or paths_matching(pattern.replace("[", "[[]"))


def _default_folder(runs: Sequence[RunFolder]) -> Path:
    """Return the folder that the same command would have without its shard."""
    shards = {run.path.absolute() for run in runs}
    folders = {each.with_name(OF_A_SHARD.sub("", each.name) or each.name) for each in shards}
    if len(folders) != 1 or folders & shards:
        raise InvalidArgumentError(
            "Expected out=<folder>: the shards' folders do not differ by their shard alone"
        )
    return folders.pop()


def _checked_summary(
    shards: Sequence[RunFolder], summaries: Sequence[Mapping[str, Any]]
) -> Mapping[str, Any]:
    """Return the first summary, of which the merged certification repeats the settings."""
    if not summaries:
        raise RecordsError("No shard has a summary.json: run the command of one of them again")
    if not isinstance(summaries[0].get(ACCURACIES), dict):
        first = next(each for each in shards if each.is_summarized)
        raise RecordsError(f"{first.summary_file} is damaged: expected {ACCURACIES} by radius")
    return summaries[0]


def _near_chance(summaries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what the shards' summaries record of a classifier that guesses, if all do."""
    found = [each.get(NEAR_CHANCE) or {} for each in summaries]
    if not all(found):
        return {}
    images = [each["images"] for each in summaries]
    means = {name: np.average([each[name] for each in found], weights=images) for name in found[0]}
    return {NEAR_CHANCE: {name: float(mean) for name, mean in means.items()}}


def _copy_thumbnails(shards: Sequence[RunFolder], out: RunFolder) -> None:
    for each in shards:
        if each.thumbnails.is_file():
            write_atomically(out.thumbnails, read_bounded(each.thumbnails))
            return
