"""Logs that published code writes, in the field's six columns."""

from __future__ import annotations

import contextlib
import math
import os
import re
from decimal import Decimal
from pathlib import Path

from smoothcert.errors import RecordsError
from smoothcert.records.rows import COLUMNS, CertificateRow, check_sense, check_unique
from smoothcert.records.safe_files import LARGEST_TABLE, read_bounded, require_regular

CLOCK = re.compile(r"(?:(\d+) days?, )?(\d+):(\d\d):(\d\d(?:\.\d+)?)")
PLAIN = re.compile(r"\d+(?:\.\d*)?(?:[eE][-+]?\d+)?")
FIELD_COLUMNS = COLUMNS[:6]
"""Columns of the logs that published code writes."""


def is_field_log(path: Path) -> bool:
    """Return whether a file starts with the header of a published log."""
    require_regular(path)
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
    *finished, rest = (
        read_bounded(path, LARGEST_TABLE).decode("utf-8", errors="replace").rpartition("\n")
    )
    lines = "".join(finished).splitlines()
    rows = [
        _parse_field(line, path, number)
        for number, line in enumerate(lines[1:], start=2)
        if line.strip()
    ]
    with contextlib.suppress(RecordsError):
        rows += [_parse_field(rest, path, len(lines) + 1)]
    check_unique(rows, path)
    return rows


def _parse_field(line: str, path: Path, number: int) -> CertificateRow:
    cells = line.split("\t")
    try:
        idx, label, predict, radius, correct, time = cells
        values = int(idx), int(label), int(predict), float(radius), int(correct), _seconds(time)
        row = CertificateRow(*values, math.nan, math.nan, 0, 0, 0, "")
        check_sense(row)
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
