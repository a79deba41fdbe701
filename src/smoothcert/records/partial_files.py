"""Rows of several processes: each has a file of its own until one process gathers them."""

import re
from pathlib import Path

from smoothcert.errors import RecordsError
from smoothcert.records.files import CertificateFile
from smoothcert.records.reading import settings_path
from smoothcert.records.rows import new_rows


def part_path(path: Path, rank: int) -> Path:
    """Return where a process other than the first writes its rows.

    Args:
        path: the certificate file of all processes.
        rank: number of the process, from 1.

    Example:
        >>> part_path(Path("run/certificates.tsv"), 3).name
        'certificates.part3.tsv'
    """
    return path.with_name(f"{path.stem}.part{rank}{path.suffix}")


def absorb_parts(file: CertificateFile) -> None:
    """Take over the rows of all parts that lie beside a file, and remove the parts.

    A kill in between leaves rows in both places; they are not taken over twice.

    Args:
        file: the certificate file of all processes, open.

    Raises:
        RecordsError: if a part is being written by another process, belongs to other settings, or
            has another certificate of an image than the file; it is not removed then.
    """
    for path in _parts(file.path):
        with CertificateFile(path, file.settings, file.images) as part:
            file.extend(new_rows(part.rows, file.rows, f"{path} and {file.path}"))
            _remove(path)


def _parts(path: Path) -> list[Path]:
    """Return the parts beside a file, those too of which a kill left the settings alone."""
    name = re.compile(
        rf"{re.escape(path.stem)}\.part([1-9]\d*)({re.escape(path.suffix)}|\.settings\.json)"
    )
    found = (name.fullmatch(beside.name) for beside in path.parent.iterdir())
    return [part_path(path, rank) for rank in sorted({int(each[1]) for each in found if each})]


def _remove(path: Path) -> None:
    try:
        # The rows first: settings without rows are no harm.
        path.unlink()
        settings_path(path).unlink(missing_ok=True)
    except OSError as error:
        raise RecordsError(f"{path} cannot be removed: {error.strerror}") from error
