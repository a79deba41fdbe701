"""Certificate files that are being written."""

from __future__ import annotations

import contextlib
import json
import os
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

from smoothcert.errors import RecordsError, SmoothCertWarning
from smoothcert.records.atomic import write_atomically
from smoothcert.records.limits import Images, Limits
from smoothcert.records.locks import LockedFile, claim_of, open_locked
from smoothcert.records.reading import (
    finished_bytes,
    read_certificates,
    read_settings,
    settings_path,
)
from smoothcert.records.rows import (
    COLUMNS,
    CertificateRow,
    check_possible,
    format_row,
    new_rows,
)


class CertificateFile:
    """A certificate file that is open for appending, as a context manager.

    Opening an existing file keeps its finished rows, cuts off a half-written last line, and
    refuses rows of a different configuration. The file on the disk is compared with the rows in
    memory before each row and at the end: the rows of a file that was removed, cut off or
    replaced in the meantime are written again, or an error is raised.

    Args:
        path: the file; it is created if it does not exist.
        settings: what the rows depend on (JSON values). Rows are resumed under equal settings
            only.
        images: the images that are certified, if known; a row of any other image is an error.

    Raises:
        RecordsError: if the file is damaged, is not a certificate file, its rows belong to
            different settings, or another process is writing it.

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

    def __init__(
        self,
        path: str | os.PathLike[str],
        settings: Mapping[str, Any],
        images: Images | None = None,
    ) -> None:
        self.path = Path(path)
        self.settings = json.loads(json.dumps(settings))
        self.images = images
        self._limits = Limits.of(self.settings)
        self._file = self._opened()
        try:
            self._folder = self.path.parent.stat()
            self.rows = self._resume()
            self._indices = {row.idx for row in self.rows}
            if not self.rows and self._size == 0:
                self._write([COLUMNS])
            self._length = self._size
        except BaseException:
            self.close()
            raise

    @property
    def finished(self) -> set[int]:
        """Indices of the images that have a row."""
        return set(self._indices)

    def append(self, row: CertificateRow) -> None:
        """Add a row; it is on the disk when this returns.

        Raises:
            RecordsError: see `extend`.
        """
        self.extend([row])

    def extend(self, rows: Iterable[CertificateRow]) -> None:
        """Add rows; all of them are on the disk when this returns.

        Raises:
            RecordsError: if they cannot be written, an image already has a row, or no
                certification under these settings gives such a row; earlier rows are kept. Also
                if the file has changed; see `settle`.
        """
        rows = list(rows)
        new = {row.idx for row in rows}
        for row in rows:
            try:
                check_possible(row, self._limits)
                if self.images is not None:
                    self.images.check(row)
                if row.idx in self._indices or len(new) < len(rows):
                    raise ValueError("expected one row per image")
            except ValueError as error:
                raise RecordsError(f"{self.path}: image {row.idx} is refused: {error}") from error
        if not self._is_there:
            self._restore()
        self._write(format_row(row) for row in rows)
        self._length = self._size
        self.rows += rows
        self._indices |= new

    def settle(self) -> None:
        """Compare the file on the disk with the rows in memory, and write missing rows.

        Raises:
            RecordsError: if the file was moved, or replaced by different rows, by another kind of
                file or by another process; none of these is overwritten.
        """
        try:
            if not self._is_there or self.path.read_bytes() != self._contents:
                self._restore()
            if not settings_path(self.path).is_file():
                self._write_settings()
        except OSError as error:
            raise self._unwritable(error) from error
        self._check_settings()

    def finish(self) -> None:
        """Put the rows in the order of their images' indices, and close the file.

        Raises:
            RecordsError: if the sorted rows cannot be written; the file then keeps its order. Also
                if the file has changed; see `settle`.
        """
        self.settle()
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

    @property
    def _contents(self) -> bytes:
        return _text([COLUMNS, *map(format_row, self.rows)])

    @property
    def _is_there(self) -> bool:
        """Whether the path still leads to the open file, at the expected length."""
        try:
            there = self.path.stat()
        except OSError:
            return False
        opened = os.fstat(self._file.fileno())
        return os.path.samestat(there, opened) and there.st_size == self._length

    def _restore(self) -> None:
        """Rewrite or complete a file that was removed, cut off or replaced.

        Raises:
            RecordsError: if this would overwrite or duplicate rows, or the run folder itself is
                gone: the command must not continue without its lock.
        """
        folder = self.path.parent
        is_folder = folder.is_dir() and os.path.samestat(folder.stat(), self._folder)
        if not is_folder and os.fstat(self._file.fileno()).st_nlink:
            raise RecordsError(
                f"{folder} was moved while its certificates were written. Its {len(self.rows)} "
                "certificates are in the moved folder. Move it back, or name its new path, and "
                "start again: finished images are kept"
            )
        self.close()
        reopened = CertificateFile(self.path, self.settings, self.images)
        try:
            lost = new_rows(self.rows, reopened.rows, f"{self.path} and the command that writes it")
            if unexpected := reopened.finished - self.finished:
                raise RecordsError(
                    f"{self.path} was replaced while it was written: expected only the rows of "
                    f"this command, got further rows, for example of image {min(unexpected)}. "
                    "Nothing was overwritten; start again to resume"
                )
            reopened.extend(lost)
        except BaseException:
            reopened.close()
            raise
        self._file, self._length, self.rows = reopened._file, reopened._length, reopened.rows
        self._indices = reopened._indices
        what = f"{self.path} was removed or changed while it was written"
        if not is_folder:
            raise RecordsError(
                f"{what}, with its folder. Its {len(self.rows)} certificates were written again. "
                "Start the same command again to resume"
            )
        warnings.warn(
            f"{what}. It has all {len(self.rows)} certificates; {len(lost)} were written again",
            SmoothCertWarning,
            stacklevel=3,
        )

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
            f"{self.path} cannot be written: {error.strerror}. Its {kept} certificates are kept. "
            "Resume with the same command"
        )

    def _opened(self) -> LockedFile:
        def refusal(_: LockedFile) -> RecordsError:
            return RecordsError(
                f"{self.path} is being written by another process. Wait for it, or choose another "
                f"run folder{claim_of(self.path).advice()}"
            )

        try:
            return open_locked(self.path, "ab", refusal)
        except OSError as error:
            raise RecordsError(f"{self.path} cannot be written: {error.strerror}") from error

    def _resume(self) -> list[CertificateRow]:
        rows = read_certificates(self.path)
        if rows:
            self._check_settings()
        for number, row in enumerate(rows, start=2):
            try:
                if self.images is not None:
                    self.images.check(row)
            except ValueError as error:
                raise RecordsError(f"{self.path}, line {number} is damaged: {error}") from error
        try:
            if not rows:
                self._write_settings()
            self._file.truncate(len(finished_bytes(self.path)))
        except OSError as error:
            raise self._unwritable(error) from error
        return rows

    def _write_settings(self) -> None:
        text = json.dumps(self.settings, indent=2) + "\n"
        write_atomically(settings_path(self.path), text)

    def _check_settings(self) -> None:
        sidecar = settings_path(self.path)
        if not sidecar.is_file():
            raise RecordsError(
                f"{self.path} has no {sidecar.name} next to it, so the configuration of its rows "
                "is unknown. Move it away, or choose another run folder"
            )
        saved = read_settings(sidecar)
        details = ", ".join(
            f"{key} was {saved.get(key)!r} and is now {self.settings.get(key)!r}"
            for key in sorted(saved.keys() | self.settings.keys())
            if saved.get(key) != self.settings.get(key)
        )
        if details:
            raise RecordsError(
                f"{self.path} contains certificates of another configuration: {details}. "
                "Nothing was overwritten; move the file away, or choose another run folder"
            )


def _text(lines: Iterable[Iterable[str]]) -> bytes:
    return "".join("\t".join(cells) + "\n" for cells in lines).encode("utf-8")
