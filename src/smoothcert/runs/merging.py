"""What `python -m src.merge` does: no torch, so it answers at once."""

import json
import re
import shutil
from collections.abc import Sequence
from glob import glob
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from smoothcert.errors import InvalidArgumentError, RecordsError
from smoothcert.records import FolderLock, merge_shards, write_atomically
from smoothcert.report import plot_certified_accuracy, print_summary, summarize

CERTIFICATES, SUMMARY, THUMBNAILS = "certificates.tsv", "summary.json", "thumbnails.png"
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
    with FolderLock(folder):
        merged = merge_shards(files, folder / CERTIFICATES)
        base = _summary_of(files)
        radii = [float(radius) for radius in base["certified_accuracy"]]
        plot_certified_accuracy(merged.rows, merged.settings, folder / "certified_accuracy.png")
        _copy_thumbnails(files, folder)
        summary = {
            **base,
            **summarize(merged.rows, merged.settings, radii),
            "images_asked": len(merged.rows),
            "shards": len(files),
            **dict.fromkeys(MEASURED),
        }
        write_atomically(folder / SUMMARY, json.dumps(summary, indent=2) + "\n")
    print_summary(summary, folder)
    return summary["acr"]


def _certificate_files(patterns: str | Sequence[str]) -> list[Path]:
    """Return the certificate files among what globs of folders and files match."""
    patterns = [patterns] if isinstance(patterns, str) else list(patterns)
    places = [Path(place) for pattern in patterns for place in glob(pattern, recursive=True)]  # noqa: PTH207
    files = {place / CERTIFICATES if place.is_dir() else place for place in places}
    found = sorted(path for path in files if path.name == CERTIFICATES and path.is_file())
    if not found:
        raise InvalidArgumentError(f"Expected folders of shards by {patterns}, got none")
    return found


def _default_folder(files: Sequence[Path]) -> Path:
    """Return the folder that the same command would have without its shard."""
    folders = {path.parent.with_name(OF_A_SHARD.sub("", path.parent.name)) for path in files}
    if len(folders) != 1 or folders & {path.parent for path in files}:
        raise InvalidArgumentError(
            "Expected out=<folder>: the shards' folders do not differ by their shard alone"
        )
    return folders.pop()


def _summary_of(files: Sequence[Path]) -> dict[str, Any]:
    """Return what all shards' summaries say alike, from the first that is there."""
    for path in files:
        summary = path.with_name(SUMMARY)
        if summary.is_file():
            return json.loads(summary.read_text(encoding="utf-8"))
    raise RecordsError(f"No shard has a {SUMMARY}: run the command of one of them again")


def _copy_thumbnails(files: Sequence[Path], folder: Path) -> None:
    for path in files:
        if path.with_name(THUMBNAILS).is_file():
            shutil.copyfile(path.with_name(THUMBNAILS), folder / THUMBNAILS)
            return
