"""Shards: disjoint shares of a data set for machines that do not communicate."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from smoothcert.errors import InvalidArgumentError, RecordsError
from smoothcert.records.files import CertificateFile
from smoothcert.records.partial_files import absorb_parts
from smoothcert.records.reading import read_certificates, read_settings, settings_path
from smoothcert.records.rows import CertificateRow, new_rows

OF_SHARD = ("shard", "shard_images")
"""Settings of a shard that the merged certification does not have."""
MOST_IMAGES = 5_000_000
"""Largest number of images of all shards: settings that claim more would fill the memory."""
NAMED = 10
"""Largest number of images or shards that a message names."""
Item = TypeVar("Item")


@dataclass(frozen=True)
class Shard:
    """One of K shares of the images: every K-th image.

    Attributes:
        number: which share, from 1.
        of: number of shares, K.

    Raises:
        InvalidArgumentError: if there is no such share.

    Example:
        >>> Shard.parse("2/3").share(range(7))
        [1, 4]
    """

    number: int
    of: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.of:
            raise InvalidArgumentError(
                f"Expected `shard` k/K with 1 <= k <= K, got {self.number}/{self.of}"
            )

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Return the share of a text such as `2/3`.

        Raises:
            InvalidArgumentError: if the text has another form.
        """
        found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", str(text))
        if found is None:
            raise InvalidArgumentError(f"Expected `shard` k/K, for example 1/4, got {text!r}")
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def share(self, items: Sequence[Item]) -> list[Item]:
        """Return this share of a sequence; neighbours, often of one class, are in different shares.

        Raises:
            InvalidArgumentError: if there are more shares than items: a merge could not tell
                whether an empty share is missing.
        """
        if self.of > len(items):
            raise InvalidArgumentError(
                f"Expected `shard` k/K with K at most {len(items)}, the number of images, got "
                f"{self}"
            )
        return list(items[self.number - 1 :: self.of])

    def settings(self, indices: Sequence[int]) -> dict[str, Any]:
        """Return the settings that only a shard's certificate file has.

        Args:
            indices: the images of this share, by their indices in the data set.
        """
        return {"shard": str(self), "shard_images": ranges(indices)}


def ranges(numbers: Sequence[int]) -> str:
    """Return increasing numbers as text: runs of equal steps as `first-last:step`.

    Example:
        >>> ranges([0, 4, 8, 12, 13, 20])
        '0-12:4,13,20'
    """
    parts: list[str] = []
    start = 0
    while start < len(numbers):
        end = start + 1
        step = numbers[end] - numbers[start] if end < len(numbers) else 0
        while end < len(numbers) and numbers[end] - numbers[end - 1] == step > 0:
            end += 1
        if end - start < 3:
            end = start + 1
            parts.append(str(numbers[start]))
        else:
            parts.append(f"{numbers[start]}-{numbers[end - 1]}:{step}")
        start = end
    return ",".join(parts)


def numbers_of(text: str) -> list[int]:
    """Return the numbers of what `ranges` wrote.

    Raises:
        ValueError: if the text has another form, or means more than 5,000,000 numbers.

    Example:
        >>> numbers_of("0-12:4,13,20")
        [0, 4, 8, 12, 13, 20]
    """
    found: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+):([1-9]\d*))?", part)
        if match is None:
            raise ValueError(f"expected numbers and ranges, got {part[:40]!r}")
        first, last, step = match.groups()
        run = range(int(first), int(last or first) + 1, int(step or 1))
        if not run:
            raise ValueError(f"expected numbers that increase, got {part[:40]!r}")
        # From its ends: `len` fails on a range of more than 2**63 numbers.
        if len(found) + (run[-1] - run[0]) // run.step >= MOST_IMAGES:
            raise ValueError(f"expected at most {MOST_IMAGES:,} images, got {part[:40]!r}")
        found += run
    return found


@dataclass(frozen=True)
class _Piece:
    """A shard's file as it was read."""

    path: Path
    shard: Shard
    images: list[int]
    settings: dict[str, Any]
    rows: list[CertificateRow]


@dataclass(frozen=True)
class MergedCertificates:
    """The certification that the shards make together.

    Attributes:
        settings: what the rows depend on.
        rows: all rows, shard after shard.
    """

    settings: dict[str, Any]
    rows: list[CertificateRow]

    def write(self, out: Path) -> CertificateFile:
        """Write the certificates in index order, and return their file, closed.

        Args:
            out: the certificate file. An existing one, and parts next to it, are completed.

        Raises:
            RecordsError: if the file, or a part, belongs to another configuration, has a different
                certificate of an image, or cannot be written.
        """
        with CertificateFile(out, self.settings) as file:
            absorb_parts(file)
            file.extend(new_rows(self.rows, file.rows, f"The shards and {out}"))
            file.finish()
        return file


def gather_shards(paths: Iterable[Path]) -> MergedCertificates:
    """Read all shards of a certification; nothing is written before `MergedCertificates.write`.

    Args:
        paths: the shards' certificate files, each next to its settings.

    Raises:
        RecordsError: if shards have different configurations, are missing, incomplete or given
            twice; the message names every fault.
    """
    pieces: list[_Piece] = []
    for path in paths:
        pieces.append(_read(path))
        if sum(len(piece.images) for piece in pieces) > MOST_IMAGES:
            raise RecordsError(f"Expected shards of at most {MOST_IMAGES:,} images, got more")
    pieces.sort(key=lambda piece: piece.shard.number)
    if not pieces:
        raise RecordsError("Expected certificate files of shards, got none")
    _check_configurations(pieces)
    faults = [*_twice(pieces), *_gaps(pieces)]
    if faults:
        raise RecordsError(f"The shards are not one certification: {'; '.join(faults)}")
    return MergedCertificates(pieces[0].settings, [row for piece in pieces for row in piece.rows])


def _read(path: Path) -> _Piece:
    settings = read_settings(settings_path(path))
    if not all(name in settings for name in OF_SHARD):
        raise RecordsError(f"{path} is not a shard: it was certified without shard=k/K")
    own = {name: value for name, value in settings.items() if name not in OF_SHARD}
    try:
        shard, images = Shard.parse(settings["shard"]), numbers_of(str(settings["shard_images"]))
    except ValueError as error:
        raise RecordsError(f"{settings_path(path)} is damaged: {error}") from error
    return _Piece(path, shard, images, own, read_certificates(path))


def _check_configurations(pieces: Sequence[_Piece]) -> None:
    first = pieces[0]
    for piece in pieces[1:]:
        one = {**first.settings, "number of shards": first.shard.of}
        other = {**piece.settings, "number of shards": piece.shard.of}
        different = ", ".join(
            f"{name} {one.get(name)!r} and {other.get(name)!r}"
            for name in {**one, **other}
            if one.get(name) != other.get(name)
        )
        if different:
            raise RecordsError(
                f"{first.path} and {piece.path} have different configurations: {different}"
            )


def _twice(pieces: Sequence[_Piece]) -> list[str]:
    by_number, by_image = defaultdict(list), Counter()
    for piece in pieces:
        by_number[piece.shard.number].append(str(piece.path))
        by_image.update({row.idx for row in piece.rows})
    faults = [
        f"shard {number}/{pieces[0].shard.of} is given twice, in {' and '.join(places)}"
        for number, places in by_number.items()
        if len(places) > 1
    ]
    images = sorted(idx for idx, count in by_image.items() if count > 1)
    return faults or ([f"images {_named(images)} are given twice"] if images else [])


def _gaps(pieces: Sequence[_Piece]) -> list[str]:
    of = pieces[0].shard.of
    found = {piece.shard.number for piece in pieces}
    absent = [f"{number}/{of}" for number in range(1, of + 1) if number not in found]
    faults = [f"shard {_named(absent)} is missing"] if absent else []
    for piece in pieces:
        lacking = sorted(set(piece.images) - {row.idx for row in piece.rows})
        foreign = sorted({row.idx for row in piece.rows} - set(piece.images))
        if lacking:
            faults.append(
                f"shard {piece.shard} lacks {len(lacking)} of its {len(piece.images)} images, "
                f"{_named(lacking)} ({piece.path}); resume with the command that made it"
            )
        if foreign:
            faults.append(f"{piece.path} has images of other shards, {_named(foreign)}")
    return faults


def _named(things: Sequence[object]) -> str:
    more = f" and {len(things) - NAMED} more" if len(things) > NAMED else ""
    return ", ".join(map(str, things[:NAMED])) + more
