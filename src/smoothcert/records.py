"""Certificate rows: appended as they are finished, resumed after a kill, read by anyone.

A certificate file is tab-separated text with one header line. Its first six columns are the
field's own (`idx label predict radius correct time`), so that published analysis scripts read
it. Beside it lies `<name>.settings.json`: which configuration the rows belong to.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass, fields
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from smoothcert.errors import RecordsError
from smoothcert.types import Certificate

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

DECIMALS = Decimal("0.000001")
CLOCK = re.compile(r"(?:(\d+) days?, )?(\d+):(\d\d):(\d\d(?:\.\d+)?)")
PLAIN = re.compile(r"\d+(?:\.\d*)?(?:[eE][-+]?\d+)?")


@dataclass(frozen=True)
class CertificateRow:
    """One line of a certificate file.

    Attributes:
        idx: index of the image in its data set, before any split.
        label: the true class.
        predict: the certified class, or -1 where the classifier abstains.
        radius: certified l2 radius in pixel units, 0.0 on abstention; floored to 6 decimals.
        correct: 1 where `predict` equals `label`, else 0.
        time: seconds spent on the image.
        p_a_lower: lower bound on the selected class's probability; floored.
        p_b_upper: upper bound on the largest other probability; rounded up.
        n_a: votes for the selected class.
        n_b: largest number of votes for another class.
        n_samples: number of estimation samples.
        stop: why sampling ended; see `Certificate`.
    """

    idx: int
    label: int
    predict: int
    radius: float
    correct: int
    time: float
    p_a_lower: float
    p_b_upper: float
    n_a: int
    n_b: int
    n_samples: int
    stop: str

    @classmethod
    def from_certificate(
        cls, certificate: Certificate, *, idx: int, label: int, seconds: float
    ) -> CertificateRow:
        """Return the row of a certificate, each bound rounded to the safe side.

        Args:
            certificate: what was proved.
            idx: index of the image in its data set.
            label: the true class.
            seconds: time spent on the image.

        Example:
            >>> proof = Certificate(3, 0.3123456789, 0.93, 0.04, 9500, 300, 10_000, "fixed")
            >>> CertificateRow.from_certificate(proof, idx=7, label=3, seconds=0.5).radius
            0.312345
        """
        return cls(
            idx=idx,
            label=label,
            predict=certificate.label,
            radius=_round(certificate.radius, ROUND_FLOOR),
            correct=int(certificate.label == label),
            time=round(seconds, 3),
            p_a_lower=_round(certificate.p_a_lower, ROUND_FLOOR),
            p_b_upper=_round(certificate.p_b_upper, ROUND_CEILING),
            n_a=certificate.n_a,
            n_b=certificate.n_b,
            n_samples=certificate.n_samples,
            stop=certificate.stop,
        )


COLUMNS = tuple(field.name for field in fields(CertificateRow))
_PARSERS = (int, int, int, float, int, float, float, float, int, int, int, str)


def read_certificates(path: str | os.PathLike[str]) -> list[CertificateRow]:
    """Return the finished rows of a certificate file, in the order in which they stand.

    A last line without its line break was being written when its process died: it is left out.

    Args:
        path: the file to read.

    Raises:
        RecordsError: if the file is missing, or a line of it is damaged.
    """
    path = Path(path)
    if not path.is_file():
        raise RecordsError(f"No certificate file at {path}")
    finished = _finished_bytes(path).decode("utf-8", errors="replace").split("\n")[:-1]
    if not finished:
        return []
    if finished[0] != "\t".join(COLUMNS):
        raise RecordsError(
            f"{path} does not start with the header of a certificate file. "
            f"Expected {' '.join(COLUMNS)!r} (tab-separated), got {finished[0][:200]!r}"
        )
    rows = [_parse(line, path, number) for number, line in enumerate(finished[1:], start=2)]
    _check_unique(rows, path)
    return rows


FIELD_COLUMNS = COLUMNS[:6]
"""Columns of the logs that published code writes."""


def is_field_log(path: Path) -> bool:
    """Return whether a file starts with the header of a published log."""
    with path.open("rb") as file:
        return file.readline(200).split() == [name.encode() for name in FIELD_COLUMNS]


def read_field_log(path: str | os.PathLike[str]) -> list[CertificateRow]:
    r"""Return the rows of a log in the field's six-column format (Cohen et al., 2019).

    What it does not record is NaN (bounds), 0 (counts) or empty (why sampling ended). Times are
    seconds or `H:MM:SS.ffffff`, as Python prints them. A last line without its line break counts
    where it reaches to its time: all that stands before is whole then.

    Args:
        path: a file of `idx label predict radius correct time`, tab-separated, with a header.

    Raises:
        RecordsError: if a line of it is damaged.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "sigma_0.25"
        >>> lines = ["\t".join(FIELD_COLUMNS), "7\t3\t3\t0.41\t1\t0:00:12.500000", ""]
        >>> _ = path.write_text("\n".join(lines))
        >>> [(row.idx, row.radius, row.time) for row in read_field_log(path)]
        [(7, 0.41, 12.5)]
    """
    path = Path(path)
    *finished, rest = path.read_bytes().decode("utf-8", errors="replace").rpartition("\n")
    lines = "".join(finished).splitlines()
    rows = [
        _parse_field(line, path, number)
        for number, line in enumerate(lines[1:], start=2)
        if line.strip()
    ]
    with contextlib.suppress(RecordsError):
        rows += [_parse_field(rest, path, len(lines) + 1)]
    _check_unique(rows, path)
    return rows


def _parse_field(line: str, path: Path, number: int) -> CertificateRow:
    cells = line.split("\t")
    try:
        idx, label, predict, radius, correct, time = cells
        values = int(idx), int(label), int(predict), float(radius), int(correct), _seconds(time)
        row = CertificateRow(*values, math.nan, math.nan, 0, 0, 0, "")
        _check_sense(row)
    except ValueError as error:
        raise RecordsError(f"{path}, line {number} is damaged: {line[:200]!r} ({error})") from error
    return row


def _seconds(time: str) -> float:
    """Return the seconds of a number or of what Python prints for a time difference."""
    match = CLOCK.fullmatch(time)
    if match is None:
        return float(Decimal(time) if PLAIN.fullmatch(time) else "no time")
    days, hours, minutes, seconds = (float(part or 0) for part in match.groups())
    return 86_400 * days + 3600 * hours + 60 * minutes + seconds


class CertificateFile:
    """A certificate file that is open for appending, as a context manager.

    Opening an existing file keeps its finished rows, cuts off a half-written last line, and
    refuses rows that another configuration made.

    Args:
        path: the file; it is made where it does not exist.
        settings: what the rows depend on (JSON values). Rows are only ever continued under
            equal settings.

    Raises:
        RecordsError: if the file is damaged, its rows belong to other settings, or another
            process is writing it.

    Example:
        >>> import tempfile
        >>> proof = Certificate(3, 0.31, 0.93, 0.04, 9500, 300, 10_000, "fixed")
        >>> path = Path(tempfile.mkdtemp()) / "certificates.tsv"
        >>> with CertificateFile(path, {"sigma": 0.25}) as file:
        ...     file.append(CertificateRow.from_certificate(proof, idx=7, label=3, seconds=0.5))
        >>> [row.idx for row in read_certificates(path)]
        [7]
    """

    def __init__(self, path: str | os.PathLike[str], settings: Mapping[str, Any]) -> None:
        self.path = Path(path)
        self.settings = json.loads(json.dumps(settings))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._handle = self.path.open("a", encoding="utf-8", newline="")
        try:
            self._lock()
            self.rows = self._resume()
        except BaseException:
            self.close()
            raise
        if not self.rows and self.path.stat().st_size == 0:
            self._write(COLUMNS)

    @property
    def finished(self) -> set[int]:
        """Indices of the images that have their row."""
        return {row.idx for row in self.rows}

    def append(self, row: CertificateRow) -> None:
        """Add a row; it is on the disk when this returns."""
        self._write(_format(row))
        self.rows.append(row)

    def close(self) -> None:
        """Close the file; the rows stay readable."""
        self._handle.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _write(self, cells: Iterable[str]) -> None:
        self._handle.write("\t".join(cells) + "\n")
        self._handle.flush()
        os.fsync(self._handle.fileno())

    def _lock(self) -> None:
        """Keep other processes out until the file is closed; the system frees a dead one's lock."""
        if fcntl is None:
            return
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
                # A file system without locks.
                return
            raise RecordsError(
                f"{self.path} is being written by another process. Wait for it, or choose another "
                "run folder"
            ) from error

    def _resume(self) -> list[CertificateRow]:
        sidecar = settings_path(self.path)
        rows = read_certificates(self.path)
        if rows:
            self._check_settings(sidecar)
        else:
            write_atomically(sidecar, json.dumps(self.settings, indent=2) + "\n")
        with self.path.open("r+b") as handle:
            handle.truncate(len(_finished_bytes(self.path)))
        return rows

    def _check_settings(self, sidecar: Path) -> None:
        if not sidecar.is_file():
            raise RecordsError(
                f"{self.path} has no {sidecar.name} beside it, so its rows cannot be told from "
                "another configuration's. Move it away, or choose another run folder"
            )
        theirs = _read_settings(sidecar)
        different = sorted(
            key
            for key in theirs.keys() | self.settings.keys()
            if theirs.get(key) != self.settings.get(key)
        )
        if different:
            details = ", ".join(
                f"{key} was {theirs.get(key)!r} and is now {self.settings.get(key)!r}"
                for key in different
            )
            raise RecordsError(
                f"{self.path} holds certificates of another configuration: {details}. "
                "Nothing was overwritten; move the file away, or choose another run folder"
            )


def settings_path(path: Path) -> Path:
    """Return where the settings of a certificate file are kept."""
    return path.with_name(path.stem + ".settings.json")


def _read_settings(sidecar: Path) -> dict[str, Any]:
    try:
        settings = json.loads(sidecar.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RecordsError(f"{sidecar} is damaged: {error}") from error
    if not isinstance(settings, dict):
        raise RecordsError(f"{sidecar} is damaged: expected settings by name")
    return settings


def write_atomically(path: Path, text: str) -> None:
    """Write a whole file or nothing, whatever kills the process.

    Args:
        path: the file to write or replace.
        text: its new contents.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8", newline="")
    temporary.replace(path)


def _round(value: float, towards: str) -> float:
    # The shortest digits that name the same float: a radius of 0.15 stays one, though the float
    # nearest to it is smaller.
    return float(Decimal(repr(float(value))).quantize(DECIMALS, rounding=towards))


def _format(row: CertificateRow) -> list[str]:
    return [
        f"{cell:.6f}" if name in ("radius", "p_a_lower", "p_b_upper") else str(cell)
        for name, cell in zip(COLUMNS, astuple(row), strict=True)
    ]


def _finished_bytes(path: Path) -> bytes:
    text = path.read_bytes()
    return text[: text.rfind(b"\n") + 1]


def _parse(line: str, path: Path, number: int) -> CertificateRow:
    cells = line.split("\t")
    try:
        row = CertificateRow(
            *(parse(cell) for parse, cell in zip(_PARSERS, cells, strict=True))  # pyright: ignore[reportArgumentType]
        )
        _check_sense(row)
    except ValueError as error:
        raise RecordsError(f"{path}, line {number} is damaged: {line[:200]!r} ({error})") from error
    return row


def _check_sense(row: CertificateRow) -> None:
    """Refuse what no certification writes, and what would count as certified in a table."""
    if not 0 <= row.radius < math.inf:
        raise ValueError("expected a radius >= 0")
    if row.correct != int(row.predict == row.label) or (row.predict < 0 and row.radius > 0):
        raise ValueError("expected correct to say whether predict is the label, radius 0 with -1")


def _check_unique(rows: list[CertificateRow], path: Path) -> None:
    seen: set[int] = set()
    for row in rows:
        if row.idx in seen:
            raise RecordsError(f"{path} holds image {row.idx} twice")
        seen.add(row.idx)
