"""Images distributed among processes, and the rows that the processes write."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Self

from smoothcert.distributed.group import POLL_SECONDS, Processes
from smoothcert.errors import ProcessError, RecordsError
from smoothcert.records import (
    CertificateFile,
    CertificateRow,
    Images,
    absorb_parts,
    part_path,
    read_certificates,
)

FILE_SYSTEM_SECONDS = 60.0
"""How long a network file system may show an old list of files."""
QUEUE_SHARES = 2
"""A process keeps at most 1 / (QUEUE_SHARES · processes) of the remaining images in flight."""


class WorkQueue:
    """Positions of images; each goes to the process that requests one next.

    One image may cost a hundred times as many votes as another. Images are therefore not
    assigned to processes in advance.

    Args:
        positions: positions of the images, the same list in every process.
        team: the processes.

    Example:
        >>> list(WorkQueue([4, 7, 9], Processes()))
        [4, 7, 9]
    """

    def __init__(self, positions: Sequence[int], team: Processes) -> None:
        self._positions = positions
        self._team = team
        self._taken = 0

    def __iter__(self) -> Iterator[int]:
        while True:
            self._taken = self._team.add("taken")
            if self._taken > len(self._positions):
                return
            yield self._positions[self._taken - 1]

    def room(self) -> int:
        """Return how many images this process may have in flight.

        The number falls with the remaining images: near the end, no process keeps waiting images
        that an idle process could start.
        """
        if self._team.size == 1:
            return len(self._positions)
        left = max(0, len(self._positions) - self._taken)
        return max(1, left // (QUEUE_SHARES * self._team.size))


class CertificateWriter:
    """The rows of a certification in one or several processes, as a context manager.

    Process 0 writes the certificate file. Each other process writes a partial file next to it,
    and process 0 gathers these at the end. After a kill, the next certification absorbs the
    partial files, with any number of processes.

    Args:
        path: the certificate file.
        settings: what the rows depend on (JSON values).
        team: the processes.
        images: the images that are certified; only these may have rows.

    Attributes:
        team: the processes.
        settings: the settings as they are stored next to the file.
        finished: indices of images that had a row at the start.

    Raises:
        RecordsError: if the file is damaged, belongs to other settings, or is being written.
        ProcessError: if a process has different settings from process 0, for example different
            weights.
    """

    def __init__(
        self, path: Path, settings: Mapping[str, Any], team: Processes, images: Images
    ) -> None:
        self.team = team
        self._path = path
        with ExitStack() as undo:
            undo.push(self._abort_others)
            if team.first:
                self._file = undo.enter_context(CertificateFile(path, settings, images))
                absorb_parts(self._file)
                begun = {"finished": sorted(self._file.finished), "settings": self._file.settings}
                team.set("begun", begun)
            begun = team.get("begun")
            self.finished: set[int] = set(begun["finished"])
            self.settings: dict[str, Any] = begun["settings"]
            if not team.first:
                part = part_path(path, team.rank)
                self._file = undo.enter_context(CertificateFile(part, settings, images))
                self._require_equal_settings()
            undo.pop_all()

    def append(self, row: CertificateRow, samples: int) -> None:
        """Add a finished image's row; it is on the disk when this returns.

        Args:
            row: the row.
            samples: number of counted votes, selection included.
        """
        self._file.append(row)
        self.team.add("samples", samples)
        self.team.add("done")

    @property
    def done(self) -> int:
        """Number of images that all processes have finished since the start."""
        return self.team.add("done", 0)

    @property
    def samples(self) -> int:
        """Number of votes that all processes have counted for finished images."""
        return self.team.add("samples", 0)

    def wait_for_others(self, show: Callable[[int], object]) -> None:
        """Wait until no process has an image in flight.

        Args:
            show: called regularly with the number of images that all processes have finished.

        Raises:
            ProcessError: if a process has aborted.
        """
        self.team.add("ended")
        while self.team.add("ended", 0) < self.team.size:
            show(self.done)
            self.team.check_aborted()
            time.sleep(POLL_SECONDS)
        show(self.done)

    def gathered(self) -> list[CertificateRow]:
        """Return all rows in index order, once the file contains them in that order.

        Raises:
            RecordsError: if rows of other processes are missing.
        """
        if not self.team.first:
            self._file.settle()
            self._file.close()
            self.team.barrier("closed")
            self.team.get("gathered")
            return read_certificates(self._path)
        self.team.barrier("closed")
        absorb_parts(self._file)
        expected = len(self.finished) + self.done
        deadline = time.monotonic() + FILE_SYSTEM_SECONDS
        while len(self._file.rows) != expected:
            if time.monotonic() >= deadline:
                raise RecordsError(
                    f"Expected {expected} certificates next to {self._path}, got "
                    f"{len(self._file.rows)}: every process must see the same folder. On machines "
                    "without a common folder certify shards (shard=1/4, …) and merge them"
                )
            time.sleep(1)
            absorb_parts(self._file)
        self._file.finish()
        self.team.set("gathered", True)
        return self._file.rows

    def _require_equal_settings(self) -> None:
        # The file's settings have passed through JSON, where a tuple becomes a list.
        own = self._file.settings
        different = [name for name in own if own[name] != self.settings.get(name)]
        if different:
            raise ProcessError(
                f"Expected the settings of process 0 in every process, got different ones in "
                f"process {self.team.rank}: {', '.join(different)}"
            )

    def _abort_others(self, _: object, error: BaseException | None, __: object) -> None:
        if error is None:
            return
        with suppress(ProcessError):
            self.team.abort(error)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._abort_others(kind, error, trace)
        self._file.close()
