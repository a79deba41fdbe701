"""Run folders, and the field's own logs, as runs that can be compared."""

import hashlib
import json
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from smoothcert.errors import RecordsError
from smoothcert.records import (
    CERTIFICATES,
    COLUMNS,
    SUMMARY,
    CertificateRow,
    RunFolder,
    is_field_log,
    log_columns,
    read_bounded,
    read_certificates,
    read_field_log,
    run_left_by,
    settings_path,
)
from smoothcert.records.summary import Reading, readings
from smoothcert.report.log_paths import LogPath

OF_A_RUN = re.compile(r"/certificates(/epoch_\d+_\w+|\.part\d+)\.tsv$")
"""Certificates of an epoch and of one process, which are no runs of their own."""
NEEDED = ("certifier", "sigma", "alpha", "n0", "n", "seed", "split")
NUMBERS = ("sigma", "alpha", "n0", "n", "alpha_for_votes", "mean_samples_per_image")
"""Settings and figures that are numbers where they are recorded."""
UNSEEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
"""Signs that are no text: a terminal obeys some of them, and others cannot be written."""
DEFAULTS = {"precision": "float32", "noise": "gaussian", "target": "selection"}
"""What certificates of before these could be chosen were made with."""
OF_THE_RUN = ("sigma", "seed", "weights", "device", "skip", "max_images", "start")
"""Settings that runs which are compared may differ in; the images themselves are compared."""


@dataclass(frozen=True)
class Run:
    """Certificates of one classifier, with what is known of how it came about.

    Attributes:
        name: its folder, as short as the runs that it was read with allow.
        path: the certificate file.
        rows: at least one certificate.
        settings: what the rows depend on; empty for a log of published code.
        summary: the run's `summary.json`; empty for such a log.
    """

    name: str
    path: Path
    rows: Sequence[CertificateRow]
    settings: Mapping[str, Any] = field(default_factory=dict)
    summary: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_foreign(self) -> bool:
        """Whether it is a log of published code."""
        return not self.settings

    @property
    def sigma(self) -> float | None:
        """σ of the noise; of a published log as its path says it, None where it does not."""
        if self.settings:
            return float(self.settings["sigma"])
        return self.log_path.sigma

    @cached_property
    def log_path(self) -> LogPath:
        """What the path says, of a published log."""
        place = _place(self.path)
        above = place.parts[1 : len(place.parts) - len(Path(self.name).parts)]
        return LogPath(self.name, [_seen(part) for part in above])

    @property
    def seed(self) -> int | None:
        """Seed of the training."""
        # Of a checkpoint file only the certification's own seed is known.
        own = None if "ckpt" in self.summary else self.summary.get("seed")
        return self.summary.get("training_seed", own)

    def value(self, key: str) -> Any:
        """Return what the summary, or the training's settings in it, say; None if nothing.

        Of a published log its path says it; see `LogPath.settings`.

        Args:
            key: such as `objective`, or with dots, `training.objective.weight` or
                `objective.weight`.
        """
        if self.is_foreign:
            return self.log_path.settings.get(key)
        for place in (self.summary, self.summary.get("training", {})):
            found: Any = place
            for part in key.split("."):
                found = found.get(part) if isinstance(found, Mapping) else None
            if found is not None:
                return found
        return None

    @cached_property
    def bounds(self) -> list[Reading]:
        """Radii as certified, and where the votes allow it under Cohen's bound."""
        if self.settings:
            return readings(self.rows, self.settings)
        radius = np.array([row.radius for row in self.rows])
        correct = np.array([bool(row.correct) for row in self.rows])
        return [Reading("as logged", radius, correct)]

    @property
    def certified(self) -> Reading:
        """Radii as they were certified."""
        return self.bounds[0]

    @property
    def radii_that_count(self) -> np.ndarray:
        """Certified radius of each image, 0 where it is wrong or abstained on."""
        return np.where(self.certified.correct, self.certified.radius, 0.0)

    @cached_property
    def images(self) -> str:
        """A digest of which images were certified: equal for equal images and labels."""
        listed = sorted((row.idx, row.label) for row in self.rows)
        return hashlib.sha256(repr(listed).encode()).hexdigest()[:16]

    @property
    def conditions(self) -> dict[str, Any]:
        """What other runs must share to be compared; empty for a log of published code."""
        if self.is_foreign:
            return {}
        said = {**DEFAULTS, "data": self.summary.get("data"), **self.settings}
        return {name: said[name] for name in sorted(said) if name not in OF_THE_RUN}


@dataclass(frozen=True)
class Runs:
    """What was found, and what was left out.

    Attributes:
        runs: in the order of their names.
        notes: what a reader should know of folders that are no run, in sentences.
    """

    runs: Sequence[Run]
    notes: Sequence[str]


def read_runs(
    paths: Iterable[Path], skip_damaged: bool = False, named: Iterable[Path] = ()
) -> Runs:
    """Read the runs among files and folders.

    A run is a folder with certificates and a summary, or a log with the field's columns, whatever
    its name. Other files are passed over, but for those that begin like a log.

    Args:
        paths: files and folders.
        skip_damaged: leave out damaged runs with a note, where many are read.
        named: those of them that have to be runs, whatever is skipped.

    Raises:
        RecordsError: if a path is not there, a certificate file or what is next to it is
            damaged, or a named path is no run.
    """
    required = set(named)
    runs, notes = [], []
    places: dict[Path, bool] = {}
    for path in dict.fromkeys([*paths, *required]):
        try:
            _check_inside(path)
        except RecordsError as error:
            if path in required or not skip_damaged:
                raise
            notes.append(_seen(f"{path} is left out: {error}"))
            continue
        # A file stays where it is named: a link in a run folder is no run somewhere else.
        place = path.resolve() if path.is_dir() else path.parent.resolve() / path.name
        places[place] = path in required or places.get(place, False)
    found: dict[Path, bool] = {}
    for path, is_required in sorted(places.items()):
        certificates = _certificates_in(path, is_required)
        if certificates is not None:
            found[certificates] = is_required or found.get(certificates, False)
    names = _short(list(found))
    for (path, is_required), name in zip(found.items(), names, strict=True):
        try:
            run = _read_run(path, name)
        except (RecordsError, OSError) as error:
            if is_required or not skip_damaged:
                raise
            run = _seen(f"{name} is left out: {error}".replace(f"{path.parent}{os.sep}", ""))
        if isinstance(run, Run):
            runs.append(run)
        elif is_required:
            raise RecordsError(run)
        else:
            notes.append(run)
    return Runs(_once(runs, notes), notes)


def _check_inside(path: Path) -> None:
    """Refuse a link that is in a run folder and leads out of it."""
    run = run_left_by(path)
    if run is not None:
        raise RecordsError(
            f"Expected files in the run folder {run}, got {path}, which leads to {path.resolve()}"
        )


def _certificates_in(path: Path, is_required: bool) -> Path | None:
    if not path.exists():
        raise RecordsError(f"Expected a run folder or a log, got {path}, which is not there")
    run = RunFolder(path)
    if path.is_dir() and not run.is_certified:
        if is_required:
            raise RecordsError(
                f"Expected a run folder or a log, got {path}, a folder without {CERTIFICATES}; "
                f"runs='{path}/**' reads what is in it"
            )
        return None
    path = run.certificates if path.is_dir() else path
    if not path.is_file():
        if is_required:
            raise RecordsError(f"Expected a run folder or a log, got {path}, which is no file")
        return None
    if is_required or path.name == CERTIFICATES:
        return path
    if OF_A_RUN.search(path.as_posix()):
        return None
    try:
        return path if is_field_log(path) else None
    except OSError:  # Whoever reads it says why it cannot be read.
        return path


def _is_log(path: Path) -> bool:
    """Return whether a file is another program's log, or a copy of ours without its settings."""
    if path.name != CERTIFICATES:
        return True
    others = settings_path(path), RunFolder(path.parent).summary_file
    is_ours = log_columns(path) == list(COLUMNS) and any(file.exists() for file in others)
    return is_field_log(path) and not is_ours


def _read_run(path: Path, name: str) -> Run | str:
    """Return a run, or why there is none."""
    run = RunFolder(path.parent)
    if path.name == CERTIFICATES:
        run.check_links(nested=False)
    if _is_log(path):
        rows = read_field_log(path)
        return Run(name, path, rows) if rows else f"{name} is an empty log."
    rows = read_certificates(path)
    if not run.is_summarized:
        return f"{name} is not finished: it has {len(rows)} certificates and no {SUMMARY}."
    settings, summary = (read_json(file) for file in (settings_path(path), run.summary_file))
    if summary.get("images") != len(rows):
        return (
            f"{name} is not finished: its {SUMMARY} speaks of {summary.get('images')} images, and "
            f"it has {len(rows)} certificates."
        )
    if "shard" in settings:
        return (
            f"{name} is shard {settings['shard']} of a certification and is left out: "
            "python -m src.merge makes one of all of them."
        )
    lacking = [name for name in NEEDED if name not in settings]
    if lacking:
        raise RecordsError(f"{settings_path(path)} lacks {', '.join(lacking)}")
    check_values(settings, settings_path(path))
    check_values(summary, run.summary_file)
    return Run(name, path, rows, settings, summary)


def check_values(values: Mapping[str, Any], path: Path, numbers: Iterable[str] = NUMBERS) -> None:
    """Refuse values of a file that are no numbers, where they are there.

    Raises:
        RecordsError: with the file and the value.
    """
    for name in numbers:
        value = values.get(name, 0)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not math.isfinite(value):
            raise RecordsError(f"{path} is damaged: expected a number for {name}, got {value!r}")
    if not isinstance(values.get("training", {}), Mapping):
        raise RecordsError(f"{path} is damaged: expected settings by name for training")


def read_json(path: Path) -> dict[str, Any]:
    """Return what a run recorded in a file.

    Raises:
        RecordsError: if it cannot be read.
    """
    try:
        content = _all_seen(json.loads(read_bounded(path)))
    except OSError as error:
        raise RecordsError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        found = f"damaged JSON ({error})" if path.stat().st_size else "an empty file"
        again = (
            "; remove it and run the command that made its folder again: it writes it from the "
            "certificates that are there"
        )
        raise RecordsError(
            f"Expected what a run records in {path}, got {found}"
            + (again if path.name == SUMMARY else "")
        ) from error
    if not isinstance(content, dict):
        raise RecordsError(f"{path} is damaged: expected values by name")
    return content


def _all_seen(value: Any) -> Any:
    """Return what a file says with nothing in its texts but text."""
    if isinstance(value, dict):
        return {_seen(name): _all_seen(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_all_seen(each) for each in value]
    return _seen(value) if isinstance(value, str) else value


def _seen(text: str) -> str:
    return UNSEEN.sub("\N{REPLACEMENT CHARACTER}", text)


def _short(files: Sequence[Path]) -> list[str]:
    """Return the folders, or the logs' own names, without what all of them begin with."""
    places = [_place(path) for path in files]
    if len(places) < 2:
        return [_seen(place.name) for place in places]
    start = Path(os.path.commonpath(places))
    # A run and what was certified of it lie in each other.
    start = start.parent if start in places else start
    return [_seen(place.relative_to(start).as_posix()) for place in places]


def _place(path: Path) -> Path:
    """Return what a certificate file is named after: its run folder, or a log's own file."""
    return path.parent if path.name == CERTIFICATES else path


def _once(runs: Sequence[Run], notes: list[str]) -> list[Run]:
    """Leave out copies: the same rows, certified under the same settings."""
    kept: dict[str, Run] = {}
    for run in runs:
        # Ours name their weights: a run that was repeated says nothing new. Of logs the times tell
        # copies from classifiers with equal certificates, such as constant ones.
        rows = [
            (row.idx, row.predict, row.radius, row.time if run.is_foreign else None)
            for row in run.rows
        ]
        key = repr((sorted(run.settings.items()), run.sigma, rows))
        if key in kept:
            notes.append(f"{run.name} has the certificates of {kept[key].name} and is left out.")
        else:
            kept[key] = run
    return list(kept.values())
