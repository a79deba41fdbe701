"""The run folder: where each of its files is, and how it is read and written."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from smoothcert.records.atomic import write_atomically
from smoothcert.records.locks import FolderLock
from smoothcert.records.reading import CERTIFICATES, SUMMARY, read_certificates, read_settings
from smoothcert.records.rows import CertificateRow
from smoothcert.records.safe_files import HYDRA, check_links


class RunFolder:
    """A folder that a training, a certification or a merge writes, and that a report reads.

    Files and folders in it, none of which needs to exist:

    - `certificates.tsv`, one row per image, and `certificates.settings.json`, the settings that
      the rows depend on;
    - `summary.json`, the figures over all rows and the settings of the run;
    - `checkpoints/best.ckpt` and `checkpoints/last.ckpt`, of a training;
    - `thumbnails.png` and `certified_accuracy.png`;
    - `.hydra/config.yaml` and `.hydra/overrides.yaml`, the configuration of the command.

    Args:
        path: the folder; it need not exist yet.

    Example:
        >>> import tempfile
        >>> run = RunFolder(tempfile.mkdtemp())
        >>> run.summary() is None
        True
        >>> run.write_summary({"acr": 0.5})
        >>> run.summary()
        {'acr': 0.5}
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def __repr__(self) -> str:
        return f"RunFolder({str(self.path)!r})"

    def __str__(self) -> str:
        return str(self.path)

    @property
    def certificates(self) -> Path:
        """The certificate file."""
        return self.path / CERTIFICATES

    @property
    def thumbnails(self) -> Path:
        """The picture of the certified images, one small image each."""
        return self.path / "thumbnails.png"

    @property
    def figure(self) -> Path:
        """The figure of certified accuracy over radii."""
        return self.path / "certified_accuracy.png"

    @property
    def summary_file(self) -> Path:
        """The file of figures and settings."""
        return self.path / SUMMARY

    def checkpoint(self, name: str) -> Path:
        """Return the path of a checkpoint.

        Args:
            name: `best` or `last`.
        """
        return self.path / "checkpoints" / f"{name}.ckpt"

    def configuration(self, name: str) -> Path:
        """Return the path of a file that Hydra wrote.

        Args:
            name: `config`, `overrides` or `hydra`.
        """
        return self.path / HYDRA / f"{name}.yaml"

    @property
    def is_certified(self) -> bool:
        """Whether there is a certificate file."""
        return self.certificates.is_file()

    @property
    def is_summarized(self) -> bool:
        """Whether there is a summary."""
        return self.summary_file.is_file()

    def rows(self) -> list[CertificateRow]:
        """Return the finished certificates.

        Raises:
            RecordsError: see `read_certificates`.
        """
        return read_certificates(self.certificates)

    def summary(self) -> dict[str, Any] | None:
        """Return the summary; None where there is none.

        Raises:
            RecordsError: if it is damaged.
        """
        return read_settings(self.summary_file) if self.is_summarized else None

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write the summary, completely or not at all.

        Args:
            summary: JSON values by name.

        Raises:
            OSError: if it cannot be written.
        """
        write_atomically(self.summary_file, json.dumps(summary, indent=2) + "\n")

    def lock(self) -> FolderLock:
        """Return the lock that a command holds while it writes, as a context manager."""
        return FolderLock(self.path)

    def check_links(self, nested: bool = True) -> None:
        """Refuse links that lead out of the folder; see `check_links`.

        Args:
            nested: whether to check all folders in it, or only the files directly in it.

        Raises:
            RecordsError: if there is one.
        """
        check_links(self.path, nested)
