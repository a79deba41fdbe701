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
    CertificateRow,
    check_links,
    is_field_log,
    read_bounded,
    read_certificates,
    read_field_log,
    run_left_by,
    settings_path,
)
from smoothcert.report.summary import Reading, readings

CERTIFICATES, SUMMARY = "certificates.tsv", "summary.json"
SIGMA = re.compile(
    r"(?<![A-Za-z])[-_ ]?(?P<what>sigma|noise)[-_= ]?(?P<value>\d*\.\d+|\d+)"
    r"(?=$|[/\\_, -]|\.[a-z]+$)",
    re.IGNORECASE,
)
LARGEST_SIGMA = 10
"""Larger numbers in a path are no σ of pixels in [0, 1]."""
ENDINGS = (".tsv", ".txt", ".log", ".csv")
NEEDED = ("certifier", "sigma", "alpha", "n0", "n", "seed", "split")
NUMBERS = ("sigma", "alpha", "n0", "n", "alpha_for_votes", "mean_samples_per_image")
"""Settings and figures that are numbers where they are recorded."""
UNSEEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
"""Signs that are no text: a terminal obeys some of them, and others cannot be written."""
DEFAULTS = {"precision": "float32", "noise": "gaussian", "target": "selection"}
"""What certificates of before these could be chosen were made with."""
OF_THE_RUN = ("sigma", "seed", "weights", "device", "skip", "max_images", "start")
"""Settings that runs which are compared may differ in; the images themselves are compared."""


def sigma_in(path: str) -> re.Match[str] | None:
    """Return where a path names the σ of its log: the last `sigma…`, else the last `noise…`.

    Args:
        path: such as `noise_0.50/sigma_0.25`.

    Example:
        >>> sigma_in("models/noise_0.50/sigma_0.25.tsv")["value"], sigma_in("noise2noise")
        ('0.25', None)
    """
    found = [each for each in SIGMA.finditer(path) if 0 < float(each["value"]) <= LARGEST_SIGMA]
    named = [each for each in found if each["what"].lower() == "sigma"]
    return next(iter((named or found)[::-1]), None)


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
        found = sigma_in(self.name) or sigma_in(self.path.parent.name)
        return float(found["value"]) if found else None

    @property
    def seed(self) -> int | None:
        """Seed of the training."""
        # Of a checkpoint file only the certification's own seed is known.
        own = None if "ckpt" in self.summary else self.summary.get("seed")
        return self.summary.get("training_seed", own)

    def value(self, key: str) -> Any:
        """Return what the summary, or the training's settings in it, say; None if nothing.

        Args:
            key: such as `objective`, or with dots, `training.objective.weight` or
                `objective.weight`.
        """
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


def read_runs(paths: Iterable[Path], skip_damaged: bool = False) -> Runs:
    """Read the runs among files and folders.

    A run is a folder with certificates and a summary, or a log in the field's six columns,
    whatever its name. Other files are passed over.

    Args:
        paths: files and folders.
        skip_damaged: leave out damaged runs with a note, where many are read.

    Raises:
        RecordsError: if a path is not there, or a certificate file or what lies beside it is
            damaged.
    """
    runs, notes = [], []
    places = set()
    for path in paths:
        try:
            _check_inside(path)
            # A file stays where it is named: a link in a run folder is no run somewhere else.
            places.add(path.resolve() if path.is_dir() else path.parent.resolve() / path.name)
        except RecordsError as error:
            if not skip_damaged:
                raise
            notes.append(_seen(f"{path} is left out: {error}"))
    files = [found for path in sorted(places) if (found := _certificates_in(path)) is not None]
    files = list(dict.fromkeys(files))
    names = _short(files)
    for path, name in zip(files, names, strict=True):
        try:
            run = _read_run(path, name)
        except (RecordsError, OSError) as error:
            if not skip_damaged:
                raise
            run = _seen(f"{name} is left out: {error}".replace(f"{path.parent}{os.sep}", ""))
        if isinstance(run, Run):
            runs.append(run)
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


def _certificates_in(path: Path) -> Path | None:
    if not path.exists():
        raise RecordsError(f"Expected a run folder or a log, got {path}, which is not there")
    if path.is_dir():
        path = path / CERTIFICATES
    if not path.is_file():
        return None
    return path if path.name == CERTIFICATES or is_field_log(path) else None


def _read_run(path: Path, name: str) -> Run | str:
    """Return a run, or why there is none."""
    if path.name == CERTIFICATES:
        check_links(path.parent, nested=False)
    if is_field_log(path):
        rows = read_field_log(path)
        return Run(name, path, rows) if rows else f"{name} is an empty log."
    rows = read_certificates(path)
    if not (path.with_name(SUMMARY)).is_file():
        return f"{name} is not finished: it has {len(rows)} certificates and no {SUMMARY}."
    settings, summary = (_json(file) for file in (settings_path(path), path.with_name(SUMMARY)))
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
    _check_values(settings, settings_path(path))
    _check_values(summary, path.with_name(SUMMARY))
    return Run(name, path, rows, settings, summary)


def _check_values(values: Mapping[str, Any], path: Path) -> None:
    for name in NUMBERS:
        value = values.get(name, 0)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not math.isfinite(value):
            raise RecordsError(f"{path} is damaged: expected a number for {name}, got {value!r}")
    if not isinstance(values.get("training", {}), Mapping):
        raise RecordsError(f"{path} is damaged: expected settings by name for training")


def _json(path: Path) -> dict[str, Any]:
    try:
        content = _all_seen(json.loads(read_bounded(path)))
    except (OSError, ValueError, RecursionError) as error:
        raise RecordsError(f"{path} cannot be read: {error}") from error
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
    places = [path.parent if path.name == CERTIFICATES else path for path in files]
    if len(places) < 2:
        return [_seen(place.name) for place in places]
    start = Path(os.path.commonpath(places))
    # A run and what was certified of it lie in each other.
    start = start.parent if start in places else start
    return [_seen(place.relative_to(start).as_posix()) for place in places]


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
