"""Reading certificate files and the settings next to them."""

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

CERTIFICATES, SUMMARY = "certificates.tsv", "summary.json"
HEADER = ("\t".join(COLUMNS) + "\n").encode()


def read_certificates(path: str | os.PathLike[str]) -> list[CertificateRow]:
    """Return the finished rows of a certificate file, in the order of the file.

    A last line without its line break was being written when its process died: it is left out.
    A row that no certification under the settings next to the file could have written is an
    error, for example a radius larger than its samples allow.

    Args:
        path: the file to read.

    Raises:
        RecordsError: if the file is missing or unreadable, is not a certificate file, or one of
            its lines is damaged or impossible.
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
            raise RecordsError(f"{path}, line {number} contains image {row.idx} twice")
        rows[row.idx] = row
    return list(rows.values())


def _finished_lines(content: bytes, path: Path) -> list[str]:
    """Return the finished lines after the header, without their breaks.

    Raises:
        RecordsError: unless the content is the beginning of a certificate file, as a kill leaves
            it; any other file may be the user's, and must not be cut off.
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
    """Return a file up to the end of its last complete line."""
    text = read_bounded(path, LARGEST_TABLE)
    return text[: text.rfind(b"\n") + 1]


def settings_path(path: Path) -> Path:
    """Return where the settings of a certificate file are kept."""
    return path.with_name(path.stem + ".settings.json")


def read_settings(path: Path) -> dict[str, Any]:
    """Return the settings next to a certificate file, or a summary: JSON values by name.

    Raises:
        RecordsError: if they are missing or damaged.
    """
    try:
        values = json.loads(read_bounded(path))
        if not isinstance(values, dict):
            raise ValueError(f"got {type(values).__name__}")
    except OSError as error:
        raise RecordsError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        fault = error if path.stat().st_size else "got an empty file"
        advice = (
            ". Remove it and run the command of its folder again: the command writes it from the "
            "certificates"
        )
        raise RecordsError(
            f"{path} is damaged: expected JSON values by name, {fault}"
            f"{advice if path.name == SUMMARY else ''}"
        ) from error
    return values
