"""Certificate files as anyone reads them."""

from __future__ import annotations

import os
from pathlib import Path

from smoothcert.errors import RecordsError
from smoothcert.records.rows import COLUMNS, CertificateRow, check_unique, parse_row
from smoothcert.records.safe_files import LARGEST_TABLE, read_bounded


def read_certificates(path: str | os.PathLike[str]) -> list[CertificateRow]:
    """Return the finished rows of a certificate file, in the order in which they stand.

    A last line without its line break was being written when its process died: it is left out.

    Args:
        path: the file to read.

    Raises:
        RecordsError: if the file is missing or unreadable, or a line of it is damaged.
    """
    path = Path(path)
    try:
        if not path.is_file():
            raise RecordsError(f"No certificate file at {path}")
        text = finished_bytes(path)
    except OSError as error:
        raise RecordsError(f"{path} cannot be read: {error.strerror}") from error
    finished = text.decode("utf-8", errors="replace").split("\n")[:-1]
    if not finished:
        return []
    if finished[0] != "\t".join(COLUMNS):
        raise RecordsError(
            f"{path} does not start with the header of a certificate file. "
            f"Expected {' '.join(COLUMNS)!r} (tab-separated), got {finished[0][:200]!r}"
        )
    rows = [parse_row(line, path, number) for number, line in enumerate(finished[1:], start=2)]
    check_unique(rows, path)
    return rows


def finished_bytes(path: Path) -> bytes:
    """Return a file up to the end of its last whole line."""
    text = read_bounded(path, LARGEST_TABLE)
    return text[: text.rfind(b"\n") + 1]
