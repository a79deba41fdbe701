"""One line of a certificate file: what was proved of one image."""

from __future__ import annotations

import math
from dataclasses import astuple, dataclass, fields
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from pathlib import Path

from smoothcert.errors import RecordsError
from smoothcert.types import Certificate

DECIMALS = Decimal("0.000001")


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


def format_row(row: CertificateRow) -> list[str]:
    """Return the cells of a row as text."""
    return [
        f"{cell:.6f}" if name in ("radius", "p_a_lower", "p_b_upper") else str(cell)
        for name, cell in zip(COLUMNS, astuple(row), strict=True)
    ]


def parse_row(line: str, path: Path, number: int) -> CertificateRow:
    """Return the row of a line.

    Args:
        line: the line, without its break.
        path: its file, for the message.
        number: its number, from 1, for the message.

    Raises:
        RecordsError: if the line is damaged.
    """
    cells = line.split("\t")
    try:
        row = CertificateRow(
            *(parse(cell) for parse, cell in zip(_PARSERS, cells, strict=True))  # pyright: ignore[reportArgumentType]
        )
        check_sense(row)
    except ValueError as error:
        raise RecordsError(f"{path}, line {number} is damaged: {line[:200]!r} ({error})") from error
    return row


def check_sense(row: CertificateRow) -> None:
    """Refuse what no certification writes, and what would count as certified in a table.

    Raises:
        ValueError: with what was expected.
    """
    if not 0 <= row.radius < math.inf:
        raise ValueError("expected a radius >= 0")
    if row.correct != int(row.predict == row.label) or (row.predict < 0 and row.radius > 0):
        raise ValueError("expected correct to say whether predict is the label, radius 0 with -1")


def check_unique(rows: list[CertificateRow], path: Path) -> None:
    """Refuse an image that has two rows.

    Raises:
        RecordsError: with the image's index.
    """
    seen: set[int] = set()
    for row in rows:
        if row.idx in seen:
            raise RecordsError(f"{path} holds image {row.idx} twice")
        seen.add(row.idx)


def _round(value: float, towards: str) -> float:
    # The shortest digits that name the same float: a radius of 0.15 stays one, though the float
    # nearest to it is smaller.
    return float(Decimal(repr(float(value))).quantize(DECIMALS, rounding=towards))
