"""Certificate files as anyone reads them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from smoothcert.errors import RecordsError
from smoothcert.records.limits import Limits
from smoothcert.records.rows import (
    COLUMNS,
    CertificateRow,
    begins_row,
    check_possible,
    parse_row,
)
from smoothcert.records.safe_files import LARGEST_TABLE, read_bounded

HEADER = ("\t".join(COLUMNS) + "\n").encode()


def read_certificates(path: str | os.PathLike[str]) -> list[CertificateRow]:
    """Return the finished rows of a certificate file, in the order in which they stand.

    A last line without its line break was being written when its process died: it is left out.
    A row that no certification could have written, under the settings next to the file, is an
    error: a radius above what its samples allow, for example.

    Args:
        path: the file to read.

    Raises:
        RecordsError: if the file is missing or unreadable, is no certificate file, or a line of
            it is damaged or impossible.
    """
    path = Path(path)
    try:
        if not path.is_file():
            raise RecordsError(f"No certificate file at {path}")
        content = read_bounded(path, LARGEST_TABLE)
    except OSError as error:
        raise RecordsError(f"{path} cannot be read: {error.strerror}") from error
    lines = _finished_lines(content, path)
    sidecar = settings_path(path)
    limits = Limits.of(read_settings(sidecar)) if lines and sidecar.is_file() else None
    rows: dict[int, CertificateRow] = {}
    for number, line in enumerate(lines, start=2):
        try:
            row = parse_row(line)
            check_possible(row, limits)
        except ValueError as error:
            raise RecordsError(
                f"{path}, line {number} is damaged: {line[:200]!r} ({error})"
            ) from error
        if row.idx in rows:
            raise RecordsError(f"{path}, line {number} holds image {row.idx} twice")
        rows[row.idx] = row
    return list(rows.values())


def _finished_lines(content: bytes, path: Path) -> list[str]:
    """Return the finished lines after the header, without their breaks.

    Raises:
        RecordsError: unless the content is the beginning of a certificate file, such as a kill
            leaves; anything else may be somebody's, and must not be cut off.
    """
    if HEADER.startswith(content):
        return []
    head, *lines = content.decode("utf-8", errors="replace").split("\n")
    if not content.startswith(HEADER):
        raise RecordsError(
            f"{path} does not start with the header of a certificate file. "
            f"Expected {' '.join(COLUMNS)!r} (tab-separated), got {head[:200]!r}"
        )
    rest = lines.pop()
    if not begins_row(rest):
        raise RecordsError(
            f"{path}, line {len(lines) + 2} is damaged: {rest[:200]!r} (expected the beginning of "
            "a row)"
        )
    return lines


def finished_bytes(path: Path) -> bytes:
    """Return a file up to the end of its last whole line."""
    text = read_bounded(path, LARGEST_TABLE)
    return text[: text.rfind(b"\n") + 1]


def settings_path(path: Path) -> Path:
    """Return where the settings of a certificate file are kept."""
    return path.with_name(path.stem + ".settings.json")


def read_settings(sidecar: Path) -> dict[str, Any]:
    """Return the settings next to a certificate file.

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
