"""One line of a certificate file: the certificate of one image."""

from __future__ import annotations

import math
import re
from dataclasses import astuple, dataclass, fields, replace
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

from smoothcert.errors import RecordsError
from smoothcert.records.limits import Limits
from smoothcert.types import ABSTAIN, Certificate

DECIMALS = Decimal("0.000001")
LARGEST = 2**63 - 1


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
            certificate: the certificate.
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
ROUNDED = ("radius", "p_a_lower", "p_b_upper")
"""Columns with six decimals."""
_PARSERS = (int, int, int, float, int, float, float, float, int, int, int, str)
_COMPLETE = {
    **dict.fromkeys(COLUMNS, re.compile(r"-?[0-9]+")),
    **dict.fromkeys(ROUNDED, re.compile(r"[0-9]+\.[0-9]{6}")),
    "time": re.compile(r"[0-9]+(\.[0-9]+)?"),
}
_CUT_OFF = {
    **dict.fromkeys(COLUMNS, re.compile(r"-?[0-9]*")),
    **dict.fromkeys(ROUNDED, re.compile(r"([0-9]+(\.[0-9]{0,6})?)?")),
    "time": re.compile(r"([0-9]+(\.[0-9]*)?)?"),
    # A custom certifier may use any word.
    "stop": re.compile(r"\S*"),
}
"""Texts that a column may contain: complete, and cut off by a kill."""


def format_row(row: CertificateRow) -> list[str]:
    """Return the cells of a row as text."""
    return [
        f"{cell:.6f}" if name in ROUNDED else str(cell)
        for name, cell in zip(COLUMNS, astuple(row), strict=True)
    ]


def parse_row(line: str) -> CertificateRow:
    """Return the row of a line, without its break.

    Raises:
        ValueError: with what was expected, if `format_row` writes no such line.
    """
    cells = line.split("\t")
    row = CertificateRow(
        *(parse(cell) for parse, cell in zip(_PARSERS, cells, strict=True))  # pyright: ignore[reportArgumentType]
    )
    check_sense(row)
    for name, cell, written in zip(COLUMNS, cells, format_row(row), strict=True):
        # Times are not part of a certificate.
        if cell != written and name != "time":
            raise ValueError(f"expected {name} {written}")
    return row


def begins_row(text: str) -> bool:
    r"""Return whether a text may be the beginning of a row that a kill cut off.

    Example:
        >>> begins_row("7\t3\t-1\t0.0"), begins_row("total: 7")
        (True, False)
    """
    *complete, last = text.split("\t")
    if len(complete) >= len(COLUMNS):
        return False
    *names, last_name = COLUMNS[: len(complete) + 1]
    patterns = [*(_COMPLETE[name] for name in names), _CUT_OFF[last_name]]
    cells = zip(patterns, [*complete, last], strict=True)
    return all(pattern.fullmatch(cell) for pattern, cell in cells)


def check_possible(row: CertificateRow, limits: Limits | None) -> None:
    """Refuse a row that no certification could have written.

    Args:
        row: the row.
        limits: what its settings allow; None if unknown.

    Raises:
        ValueError: with what was expected.
    """
    check_sense(row)
    if not 0 <= row.time < math.inf:
        raise ValueError("expected a time >= 0")
    if not (0 <= row.p_a_lower <= 1 and 0 <= row.p_b_upper <= 1):
        raise ValueError("expected p_a_lower and p_b_upper in [0, 1]")
    if min(row.n_a, row.n_b) < 0 or row.n_a + row.n_b > row.n_samples:
        raise ValueError("expected counts n_a, n_b >= 0 with n_a + n_b at most n_samples")
    if not re.fullmatch(r"\S+", row.stop):
        raise ValueError("expected one word for stop")
    if (row.stop == "wrong") != (row.n_samples == 0) or (
        row.stop == "wrong" and row.predict != ABSTAIN
    ):
        raise ValueError("expected n_samples >= 1, or 0 and predict -1 if stop is `wrong`")
    if limits is not None:
        limits.check(row)


def check_sense(row: CertificateRow) -> None:
    """Refuse a row that is inconsistent in itself, for example a radius of an abstention.

    Raises:
        ValueError: with what was expected.
    """
    if row.idx < 0 or row.label < 0 or row.predict < ABSTAIN:
        raise ValueError("expected idx and label >= 0, predict >= -1")
    if max(row.idx, row.label, row.predict, row.n_samples) > LARGEST:
        raise ValueError(f"expected whole numbers of at most {LARGEST}")
    if not 0 <= row.radius < math.inf:
        raise ValueError("expected a radius >= 0")
    if row.correct != int(row.predict == row.label) or (row.predict < 0 and row.radius > 0):
        raise ValueError(
            "expected correct 1 only if predict is the label, radius 0 if predict is -1"
        )


def new_rows(
    rows: list[CertificateRow], known: list[CertificateRow], places: str
) -> list[CertificateRow]:
    """Return the rows of images that have no row yet.

    Args:
        rows: rows to add.
        known: existing rows.
        places: the two files, for the message.

    Raises:
        RecordsError: if an image has two certificates that differ by more than their time.
    """
    existing = {row.idx: replace(row, time=0.0) for row in known}
    for row in rows:
        if row.idx in existing and existing[row.idx] != replace(row, time=0.0):
            raise RecordsError(
                f"{places} contain different certificates of image {row.idx}. Nothing was "
                "overwritten"
            )
    return [row for row in rows if row.idx not in existing]


def _round(value: float, towards: str) -> float:
    # From the shortest digits of the float: a radius of 0.15 stays 0.15, though the float nearest
    # to it is smaller.
    return float(Decimal(repr(float(value))).quantize(DECIMALS, rounding=towards))
