"""Logs that published code writes, in the field's six columns."""

from __future__ import annotations

import codecs
import csv
import math
import os
import re
from collections import Counter
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path

from smoothcert.errors import RecordsError
from smoothcert.records.rows import COLUMNS, CertificateRow, check_sense
from smoothcert.records.safe_files import LARGEST_TABLE, read_bounded, require_regular

CLOCK = re.compile(r"(?:(\d+) days?, )?(\d+):(\d\d):(\d\d(?:\.\d+)?)")
PLAIN = re.compile(r"\d+(?:\.\d*)?(?:[eE][-+]?\d+)?")
DECIMAL_COMMA = re.compile(r"(?<=\d),(?=\d)")
FIELD_COLUMNS = COLUMNS[:6]
"""Columns of the logs that published code writes."""
NEEDED, INTEGERS = FIELD_COLUMNS[:5], ("idx", "label", "predict", "correct")
FEWEST_NAMES = 4
"""Columns by which a file is recognized as a log, even if it lacks others."""
FIRST_BYTES = 4096
ENCODINGS = (
    *((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16")),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
"""Encodings by their byte-order marks, which spreadsheets write."""


def log_columns(path: Path) -> list[str]:
    """Return the names in the first line of a file, in lower case."""
    return _names(_first_line(path))


def is_field_log(path: Path) -> bool:
    """Return whether a file begins like a certificate log: with at least four of its six names."""
    return len(set(log_columns(path)).intersection(FIELD_COLUMNS)) >= FEWEST_NAMES


def read_field_log(path: str | os.PathLike[str]) -> list[CertificateRow]:
    r"""Return the rows of a log with the columns of the field's format (Cohen et al., 2019).

    Columns are found by their names, in any order; further columns are ignored, and `time` may be
    missing. Tabs, commas, semicolons (then also with decimal commas) or spaces separate them.

    Values that a log does not record are NaN (bounds, time), 0 (counts) or empty (why sampling
    ended). Times are seconds or `H:MM:SS.ffffff`, as Python prints them. A last line without its
    line break counts if it is complete up to its last cell.

    Args:
        path: a file of `idx label predict radius correct time`, with a header.

    Raises:
        RecordsError: if the header lacks a column, or a line is damaged.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "sigma_0.25"
        >>> lines = ["\t".join(FIELD_COLUMNS), "7\t3\t3\t0.41\t1\t0:00:12.500000", ""]
        >>> _ = path.write_text("\n".join(lines))
        >>> [(row.idx, row.radius, row.time) for row in read_field_log(path)]
        [(7, 0.41, 12.5)]
    """
    path = Path(path)
    # Before the file is read: a file that is not a log may be as large as a checkpoint.
    first = _first_line(path)
    names, separator = _names(first), _separator(first)
    lacking = [name for name in NEEDED if name not in names]
    twice = [name for name in FIELD_COLUMNS if names.count(name) > 1]
    if lacking or twice:
        fault = f"lacks {', '.join(lacking)}" if lacking else f"has {', '.join(twice)} twice"
        raise RecordsError(
            f"Expected a log whose first line names the columns {' '.join(FIELD_COLUMNS)}, got "
            f"{path}, whose first line {fault}: {first[:80]!r}"
        )
    _, *finished = _lines(read_bounded(path, LARGEST_TABLE))
    rest = finished.pop() if finished else ""
    rows = [
        _parse_field(line, path, number, names, separator)
        for number, line in enumerate(finished, start=2)
        if line.strip()
    ]
    try:
        last = [_parse_field(rest, path, len(finished) + 2, names, separator)]
    except RecordsError:  # It was being written when its process died.
        last = []
    if last and names[-1] == "radius":
        raise RecordsError(
            f"{path} ends with a radius and no line break: the radius may be cut off, for example "
            "1.5e-05 after 1.5. If it is complete, add the line break"
        )
    rows += last
    repeated = [idx for idx, count in Counter(row.idx for row in rows).items() if count > 1]
    if repeated:
        raise RecordsError(f"{path} contains image {repeated[0]} twice")
    return rows


def _first_line(path: Path) -> str:
    require_regular(path)
    with path.open("rb") as file:
        return _lines(file.read(FIRST_BYTES))[0]


def _lines(content: bytes) -> list[str]:
    """Return the lines of a text with the line ends of any system; the last line has no end."""
    encoding = next((name for mark, name in ENCODINGS if content.startswith(mark)), "utf-8")
    text = content.decode(encoding, errors="replace")
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def _separator(line: str) -> str | None:
    """Return the separator of the cells in a file with this first line; None for spaces."""
    return next((sign for sign in "\t;," if sign in line), None)


def _names(line: str) -> list[str]:
    return [cell.strip().lower() for cell in _cells(line, _separator(line))]


def _cells(line: str, separator: str | None, count: int = 0) -> list[str]:
    if separator is None:
        # The last of `count` cells may contain spaces: a time of `1 day, 0:00:01`.
        return [cell.strip('"') for cell in line.split(maxsplit=count - 1)]
    cells = next(csv.reader([line], delimiter=separator)) if '"' in line else line.split(separator)
    # Where semicolons separate, commas are decimal points.
    return [DECIMAL_COMMA.sub(".", cell) for cell in cells] if separator == ";" else cells


def _parse_field(
    line: str, path: Path, number: int, names: Sequence[str], separator: str | None
) -> CertificateRow:
    try:
        cells = _cells(line, separator, len(names))
        if len(cells) != len(names):
            raise ValueError(f"expected {len(names)} cells, got {len(cells)}")
        values = dict(zip(names, cells, strict=True))
        idx, label, predict, correct = (int(values[name]) for name in INTEGERS)
        time = _seconds(values["time"].strip()) if "time" in values else math.nan
        row = CertificateRow(
            *(idx, label, predict, float(values["radius"]), correct, time),
            *(math.nan, math.nan, 0, 0, 0, ""),
        )
        check_sense(row)
    except (ValueError, csv.Error) as error:
        raise RecordsError(f"{path}, line {number} is damaged: {line[:200]!r} ({error})") from error
    return row


def _seconds(time: str) -> float:
    """Return the seconds of a number, or of a time difference as Python prints it."""
    match = CLOCK.fullmatch(time)
    if match is None:
        return float(Decimal(time) if PLAIN.fullmatch(time) else "no time")
    days, hours, minutes, seconds = (float(part or 0) for part in match.groups())
    return 86_400 * days + 3600 * hours + 60 * minutes + seconds
