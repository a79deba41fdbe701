"""Reading run folders, and logs of published code, as runs that can be compared."""

import hashlib
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
    read_certificates,
    read_field_log,
    read_settings,
    run_left_by,
    settings_path,
)
from smoothcert.records.summary import Reading, readings
from smoothcert.report.log_paths import LogPath

OF_A_RUN = re.compile(r"/certificates(/epoch_\d+_\w+|\.part\d+)\.tsv$")
"""Certificates of an epoch or of one process, which are not separate runs."""
NEEDED = ("certifier", "sigma", "alpha", "n0", "n", "seed", "split")
NUMBERS = ("sigma", "alpha", "n0", "n", "alpha_for_votes", "mean_samples_per_image")
"""Settings and figures that must be numbers, if recorded."""
UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
"""Characters that a terminal would execute, or that cannot be encoded."""
DEFAULTS = {"precision": "float32", "noise": "gaussian", "target": "selection"}
"""Values for certificates that are older than these settings."""
OF_THE_RUN = ("sigma", "seed", "weights", "device", "skip", "max_images", "start")
"""Settings that may differ between compared runs; the images themselves are compared."""


@dataclass(frozen=True)
class Run:
    """Certificates of one classifier, with what is recorded of its training.

    Attributes:
        name: its folder, without what the names of all runs begin with.
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
        """σ of the noise; for a published log σ in its path, None if there is none."""
        if self.settings:
            return float(self.settings["sigma"])
        return self.log_path.sigma

    @cached_property
    def log_path(self) -> LogPath:
        """The information in the path of a published log."""
        place = _place(self.path)
        above = place.parts[1 : len(place.parts) - len(Path(self.name).parts)]
        return LogPath(self.name, [_printable(part) for part in above])

    @property
    def seed(self) -> int | None:
        """Seed of the training."""
        # For a checkpoint file only the seed of the certification is known.
        own = None if "ckpt" in self.summary else self.summary.get("seed")
        return self.summary.get("training_seed", own)

    def value(self, key: str) -> Any:
        """Return a value of the summary, or of the training's settings in it; None if missing.

        For a published log, return a value from its path; see `LogPath.settings`.

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
        """Radii as certified, and under Cohen's bound if the votes allow it."""
        if self.settings:
            return readings(self.rows, self.settings)
        return [Reading.of("as logged", self.rows)]

    @property
    def certified(self) -> Reading:
        """Radii as they were certified."""
        return self.bounds[0]

    @property
    def radii_that_count(self) -> np.ndarray:
        """Certified radius of each image, shape (N,), 0 if wrong or an abstention."""
        return np.where(self.certified.correct, self.certified.radius, 0.0)

    @cached_property
    def images(self) -> str:
        """A digest of the certified images: equal for equal indices and labels."""
        listed = sorted((row.idx, row.label) for row in self.rows)
        return hashlib.sha256(repr(listed).encode()).hexdigest()[:16]

    @property
    def conditions(self) -> dict[str, Any]:
        """Settings that compared runs must share; empty for a log of published code."""
        if self.is_foreign:
            return {}
        settings = {**DEFAULTS, "data": self.summary.get("data"), **self.settings}
        return {name: settings[name] for name in sorted(settings) if name not in OF_THE_RUN}


@dataclass(frozen=True)
class Runs:
    """The runs among files and folders, and which of them were left out.

    Attributes:
        runs: in the order of their names.
        notes: sentences about files and folders that were left out.
    """

    runs: Sequence[Run]
    notes: Sequence[str]


def read_runs(
    paths: Iterable[Path], skip_damaged: bool = False, named: Iterable[Path] = ()
) -> Runs:
    """Read the runs among files and folders.

    A run is a folder with certificates and a summary, or a log with the field's columns and any
    name. Other files are ignored, unless they begin like a log: those are damaged logs.

    Args:
        paths: files and folders.
        skip_damaged: leave out damaged runs with a note, instead of raising.
        named: paths that must be runs, even with `skip_damaged`.

    Raises:
        RecordsError: if a path does not exist, a certificate file or a file next to it is
            damaged, or a named path is not a run.
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
            notes.append(_printable(f"{path} is left out: {error}"))
            continue
        # A linked file keeps its own folder: its run is not in the folder of the link's target.
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
            text = f"{name} is left out: {error}".replace(f"{path.parent}{os.sep}", "")
            run = _printable(text)
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
        raise RecordsError(f"Expected a run folder or a log, got {path}, which does not exist")
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
            raise RecordsError(f"Expected a run folder or a log, got {path}, which is not a file")
        return None
    if is_required or path.name == CERTIFICATES:
        return path
    if OF_A_RUN.search(path.as_posix()):
        return None
    try:
        return path if is_field_log(path) else None
    except OSError:  # Reading it gives the reason.
        return path


def _is_log(path: Path) -> bool:
    """Return whether a file is another program's log, or certificates without their settings."""
    if path.name != CERTIFICATES:
        return True
    others = settings_path(path), RunFolder(path.parent).summary_file
    is_of_a_run = log_columns(path) == list(COLUMNS) and any(file.exists() for file in others)
    return is_field_log(path) and not is_of_a_run


def _read_run(path: Path, name: str) -> Run | str:
    """Return a run, or a sentence why the files are not a run."""
    run = RunFolder(path.parent)
    if path.name == CERTIFICATES:
        run.check_links(nested=False)
    if _is_log(path):
        rows = read_field_log(path)
        return Run(name, path, rows) if rows else f"{name} is an empty log."
    rows = read_certificates(path)
    if not run.is_summarized:
        return f"{name} is not finished: it has {len(rows)} certificates and no {SUMMARY}."
    settings = _all_printable(read_settings(settings_path(path)))
    summary = _all_printable(read_settings(run.summary_file))
    if summary.get("images") != len(rows):
        return (
            f"{name} is not finished: its {SUMMARY} counts {summary.get('images')} images, and it "
            f"has {len(rows)} certificates."
        )
    if "shard" in settings:
        return (
            f"{name} is shard {settings['shard']} of a certification and is left out: "
            "python -m src.merge merges all shards."
        )
    lacking = [name for name in NEEDED if name not in settings]
    if lacking:
        raise RecordsError(f"{settings_path(path)} lacks {', '.join(lacking)}")
    check_values(settings, settings_path(path))
    check_values(summary, run.summary_file)
    return Run(name, path, rows, settings, summary)


def check_values(values: Mapping[str, Any], path: Path, numbers: Iterable[str] = NUMBERS) -> None:
    """Refuse values of a file that should be numbers and are not.

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


def _all_printable(value: Any) -> Any:
    """Return JSON values whose texts have no unprintable characters."""
    if isinstance(value, dict):
        return {_printable(name): _all_printable(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_all_printable(each) for each in value]
    return _printable(value) if isinstance(value, str) else value


def _printable(text: str) -> str:
    return UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", text)


def _short(files: Sequence[Path]) -> list[str]:
    """Return the names of run folders and logs, without what all of them begin with."""
    places = [_place(path) for path in files]
    if len(places) < 2:
        return [_printable(place.name) for place in places]
    start = Path(os.path.commonpath(places))
    # A certification may be in the folder of its training.
    start = start.parent if start in places else start
    return [_printable(place.relative_to(start).as_posix()) for place in places]


def _place(path: Path) -> Path:
    """Return the path that names a run: its folder, or the file of a log."""
    return path.parent if path.name == CERTIFICATES else path


def _once(runs: Sequence[Run], notes: list[str]) -> list[Run]:
    """Leave out copies: the same rows, certified under the same settings."""
    kept: dict[str, Run] = {}
    for run in runs:
        # Settings of run folders identify the weights: a repeated run adds nothing. For logs the
        # times tell copies from classifiers with equal certificates, such as constant ones.
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
