"""Certificate files that are being written."""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

from smoothcert.errors import RecordsError
from smoothcert.records.atomic import write_atomically
from smoothcert.records.locks import open_locked
from smoothcert.records.reading import finished_bytes, read_certificates
from smoothcert.records.rows import COLUMNS, CertificateRow, format_row
from smoothcert.records.safe_files import read_bounded


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
        >>> from smoothcert.types import Certificate
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
        self._file = self._opened()
        try:
            self.rows = self._resume()
            if not self.rows and self._size == 0:
                self._write([COLUMNS])
        except BaseException:
            self.close()
            raise

    @property
    def finished(self) -> set[int]:
        """Indices of the images that have their row."""
        return {row.idx for row in self.rows}

    def append(self, row: CertificateRow) -> None:
        """Add a row; it is on the disk when this returns.

        Raises:
            RecordsError: if it cannot be written; the rows before it are kept.
        """
        self.extend([row])

    def extend(self, rows: Iterable[CertificateRow]) -> None:
        """Add rows; all of them are on the disk when this returns.

        Raises:
            RecordsError: if they cannot be written; the rows before them are kept.
        """
        rows = list(rows)
        self._write(format_row(row) for row in rows)
        self.rows += rows

    def finish(self) -> None:
        """Put the rows in the order of their images' indices, and close the file.

        Raises:
            RecordsError: if that cannot be written; the rows then stay in the order they had.
        """
        ordered = sorted(self.rows, key=lambda row: row.idx)
        try:
            if ordered != self.rows:
                write_atomically(self.path, _text([COLUMNS, *map(format_row, ordered)]))
        except OSError as error:
            raise self._unwritable(error) from error
        finally:
            self.close()
        self.rows = ordered

    def close(self) -> None:
        """Close the file; the rows stay readable."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def _size(self) -> int:
        return os.fstat(self._file.fileno()).st_size

    def _write(self, lines: Iterable[Iterable[str]]) -> None:
        before, rest = self._size, memoryview(_text(lines))
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
            os.fsync(self._file.fileno())
        except OSError as error:
            with contextlib.suppress(OSError):
                self._file.truncate(before)
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> RecordsError:
        kept = len(getattr(self, "rows", ()))
        return RecordsError(
            f"{self.path} cannot be written: {error.strerror}. The {kept} certificates in it are "
            "kept; the same command goes on with them"
        )

    def _opened(self) -> io.FileIO:
        try:
            return open_locked(self.path, "ab", self._refusal)
        except OSError as error:
            raise RecordsError(f"{self.path} cannot be written: {error.strerror}") from error

    def _refusal(self, _: object) -> RecordsError:
        return RecordsError(
            f"{self.path} is being written by another process. Wait for it, or choose another run "
            "folder"
        )

    def _resume(self) -> list[CertificateRow]:
        sidecar = settings_path(self.path)
        rows = read_certificates(self.path)
        if rows:
            self._check_settings(sidecar)
        try:
            if not rows:
                write_atomically(sidecar, json.dumps(self.settings, indent=2) + "\n")
            self._file.truncate(len(finished_bytes(self.path)))
        except OSError as error:
            raise self._unwritable(error) from error
        return rows

    def _check_settings(self, sidecar: Path) -> None:
        if not sidecar.is_file():
            raise RecordsError(
                f"{self.path} has no {sidecar.name} beside it, so its rows cannot be told from "
                "another configuration's. Move it away, or choose another run folder"
            )
        theirs = read_settings(sidecar)
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


def read_settings(sidecar: Path) -> dict[str, Any]:
    """Return the settings that lie beside a certificate file.

    Raises:
        RecordsError: if they are missing or damaged.
    """
    try:
        settings = json.loads(read_bounded(sidecar))
    except OSError as error:
        raise RecordsError(f"{sidecar} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise RecordsError(f"{sidecar} is damaged: {error}") from error
    if not isinstance(settings, dict):
        raise RecordsError(f"{sidecar} is damaged: expected settings by name")
    return settings


def _text(lines: Iterable[Iterable[str]]) -> bytes:
    return "".join("\t".join(cells) + "\n" for cells in lines).encode("utf-8")
