"""What `python -m src.merge` does: no torch, so it answers at once."""

import json
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig

from smoothcert.errors import InvalidArgumentError, RecordsError
from smoothcert.records import (
    FolderLock,
    check_links,
    gather_shards,
    paths_matching,
    read_bounded,
    read_settings,
    write_atomically,
)
from smoothcert.records.summary import summarize
from smoothcert.report import plot_certified_accuracy, print_summary

logger = logging.getLogger(__name__)

CERTIFICATES, SUMMARY, THUMBNAILS = "certificates.tsv", "summary.json", "thumbnails.png"
ACCURACIES, NEAR_CHANCE = "certified_accuracy", "near_chance"
OF_A_SHARD = re.compile(r",shard=\d+_\d+|shard=\d+_\d+,|_shard=\d+_\d+$")
"""What a folder's name says of its shard alone."""
MEASURED = (
    *("images_per_second", "samples_per_second", "peak_memory_bytes", "batch_size", "compiled"),
    *("device", "processes"),
)
"""What a summary says of one call, of which a merged certification has had several."""


def merge(cfg: DictConfig) -> float:
    """Merge shards and summarize the whole; see `smoothcert.runs.merge`."""
    files = _certificate_files(cfg.runs)
    folder = _default_folder(files) if cfg.out is None else Path(cfg.out)
    for each in [*(path.parent for path in files), folder]:
        # Folders in it may be links: to the shards.
        check_links(each, nested=False)
    # All that can be refused is, before anything is written.
    whole, base = gather_shards(files), _summary_of(files)
    before = _finished(folder)
    with FolderLock(folder), _writing(folder):
        merged = whole.write(folder / CERTIFICATES)
        if before is not None and before.get("images") == len(merged.rows):
            logger.info("All %d certificates were there already", len(merged.rows))
            print_summary(before, folder)
            return before["acr"]
        plot_certified_accuracy(merged.rows, merged.settings, folder / "certified_accuracy.png")
        _copy_thumbnails(files, folder)
        summary = {
            **{name: value for name, value in base.items() if name != NEAR_CHANCE},
            **summarize(merged.rows, merged.settings, [float(r) for r in base[ACCURACIES]]),
            **_near_chance(files),
            "images_asked": len(merged.rows),
            "shards": len(files),
            **dict.fromkeys(MEASURED),
        }
        write_atomically(folder / SUMMARY, json.dumps(summary, indent=2) + "\n")
        # The picture took its time: what is reported is in the folder that is named.
        whole.write(folder / CERTIFICATES)
    print_summary(summary, folder)
    return summary["acr"]


def _finished(folder: Path) -> dict[str, Any] | None:
    """Return the summary of a certification that was finished before; None without a whole one."""
    with suppress(RecordsError):
        return read_settings(folder / SUMMARY)
    return None


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RecordsError(
            f"{folder} cannot be written: {error.strerror}. The shards are as they were; the same "
            "command goes on"
        ) from error


def _certificate_files(patterns: str | Sequence[str]) -> list[Path]:
    """Return the certificate files among what globs of folders and files match."""
    patterns = [patterns] if isinstance(patterns, str) else list(patterns)
    places = [place for pattern in patterns for place in _matches(pattern)]
    files = [place / CERTIFICATES if place.is_dir() else place for place in places]
    # By where they are: a link beside a shard is not another copy of it.
    found = {
        path.resolve(): path
        for path in sorted(files, reverse=True)
        if path.name == CERTIFICATES and path.is_file()
    }
    if not found:
        raise InvalidArgumentError(f"Expected folders of shards by {patterns}, got none")
    return sorted(found.values())


def _matches(pattern: str) -> list[Path]:
    # Folders of ours have brackets in their names, where a list is overridden.
    return paths_matching(pattern) or paths_matching(pattern.replace("[", "[[]"))


def _default_folder(files: Sequence[Path]) -> Path:
    """Return the folder that the same command would have without its shard."""
    shards = {path.parent.absolute() for path in files}
    folders = {each.with_name(OF_A_SHARD.sub("", each.name) or each.name) for each in shards}
    if len(folders) != 1 or folders & shards:
        raise InvalidArgumentError(
            "Expected out=<folder>: the shards' folders do not differ by their shard alone"
        )
    return folders.pop()


def _summary_of(files: Sequence[Path]) -> dict[str, Any]:
    """Return what all shards' summaries say alike, from the first that is there."""
    for path in files:
        place = path.with_name(SUMMARY)
        if place.is_file():
            summary = read_settings(place)
            if not isinstance(summary.get(ACCURACIES), dict):
                raise RecordsError(f"{place} is damaged: expected {ACCURACIES} by radius")
            return summary
    raise RecordsError(f"No shard has a {SUMMARY}: run the command of one of them again")


def _near_chance(files: Sequence[Path]) -> dict[str, Any]:
    """Return what the shards' summaries say of a classifier that guesses, where all say so."""
    places = [path.with_name(SUMMARY) for path in files]
    summaries = [read_settings(place) for place in places if place.is_file()]
    found = [each.get(NEAR_CHANCE) or {} for each in summaries]
    if not all(found):
        return {}
    images = [each["images"] for each in summaries]
    means = {name: np.average([each[name] for each in found], weights=images) for name in found[0]}
    return {NEAR_CHANCE: {name: float(mean) for name, mean in means.items()}}


def _copy_thumbnails(files: Sequence[Path], folder: Path) -> None:
    for path in files:
        if path.with_name(THUMBNAILS).is_file():
            write_atomically(folder / THUMBNAILS, read_bounded(path.with_name(THUMBNAILS)))
            return
