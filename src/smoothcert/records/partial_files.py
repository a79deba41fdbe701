"""Rows of several processes: each writes its own file until one process gathers them."""

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
    """Move the rows of all parts next to a file into the file, and remove the parts.

    A kill in between leaves rows in both places; they are not added twice.

    Args:
        file: the certificate file of all processes, open.

    Raises:
        RecordsError: if a part is being written by another process, belongs to different settings,
            or its certificate of an image differs from the file's; the part is then kept.
    """
    for path in _parts(file.path):
        with CertificateFile(path, file.settings, file.images) as part:
            file.extend(new_rows(part.rows, file.rows, f"{path} and {file.path}"))
            try:
                # The rows first: settings without rows do no harm.
                path.unlink()
                settings_path(path).unlink(missing_ok=True)
            except OSError as error:
                raise RecordsError(f"{path} cannot be removed: {error.strerror}") from error


def _parts(path: Path) -> list[Path]:
    """Return the parts next to a file, also those of which a kill left only the settings."""
    name = re.compile(
        rf"{re.escape(path.stem)}\.part([1-9]\d*)({re.escape(path.suffix)}|\.settings\.json)"
    )
    found = (name.fullmatch(sibling.name) for sibling in path.parent.iterdir())
    return [part_path(path, rank) for rank in sorted({int(each[1]) for each in found if each})]
