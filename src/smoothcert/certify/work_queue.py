"""Images dealt out to the processes that share them, and the rows that these bring back."""

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

NETWORK = 60.0
"""Seconds that a network's file system may show an old list of files."""
TURNS = 2
"""Of what is left, each process may have one in so many times the number of processes in flight."""


class Deal:
    """Positions of images, each handed to whichever process asks next.

    An image may cost a hundred times what another one does, so none is promised to a process in
    advance.

    Args:
        positions: the same ones in every process.
        team: the processes.

    Example:
        >>> list(Deal([4, 7, 9], Processes()))
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

        The less is left, the fewer: at the end no process sits on images that another one could
        begin with.
        """
        left = max(0, len(self._positions) - self._taken)
        if self._team.size == 1:
            return len(self._positions)
        return max(1, left // (TURNS * self._team.size))


class Ledger:
    """The rows of a certification, whichever processes write them, as a context manager.

    The first process writes the certificate file, the others a part each beside it; the first one
    gathers them. What a kill leaves of parts is taken over by the next certification, whatever its
    number of processes.

    Args:
        path: the certificate file.
        settings: what the rows depend on (JSON values).
        team: the processes.
        images: the images that are certified; no other one may have a row.

    Attributes:
        team: the processes.
        settings: as they lie beside the file.
        finished: images that had their row at the beginning.

    Raises:
        RecordsError: if the file is damaged, belongs to other settings, or is being written.
        ProcessError: if processes have other settings than the first: other weights, for example.
    """

    def __init__(
        self, path: Path, settings: Mapping[str, Any], team: Processes, images: Images
    ) -> None:
        self.team = team
        self._path = path
        with ExitStack() as undo:
            undo.push(self._tell_why)
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
                self._check_alike()
            undo.pop_all()

    def append(self, row: CertificateRow, samples: int) -> None:
        """Add a finished image's row; it is on the disk when this returns.

        Args:
            row: the row.
            samples: votes that were counted, selection included.
        """
        self._file.append(row)
        self.team.add("samples", samples)
        self.team.add("done")

    @property
    def done(self) -> int:
        """Images that all processes have finished since the beginning."""
        return self.team.add("done", 0)

    @property
    def samples(self) -> int:
        """Votes that all processes have counted for finished images."""
        return self.team.add("samples", 0)

    def wait_for_others(self, tell: Callable[[int], object]) -> None:
        """Wait until no process has an image in flight.

        Args:
            tell: called now and then with the number of images that all processes have finished.

        Raises:
            ProcessError: if a process has given up.
        """
        self.team.add("through")
        while self.team.add("through", 0) < self.team.size:
            tell(self.done)
            self.team.check_aborted()
            time.sleep(POLL_SECONDS)
        tell(self.done)

    def gathered(self) -> list[CertificateRow]:
        """Return all rows, in index order, once they stand so in the file.

        Raises:
            RecordsError: if rows of other processes are not to be found.
        """
        if not self.team.first:
            self._file.settle()
            self._file.close()
            self.team.barrier("closed")
            self.team.get("gathered")
            return read_certificates(self._path)
        self.team.barrier("closed")
        absorb_parts(self._file)
        deadline = time.monotonic() + NETWORK
        while not self._is_complete and time.monotonic() < deadline:
            time.sleep(1)
            absorb_parts(self._file)
        self._check_complete()
        self._file.finish()
        self.team.set("gathered", True)
        return self._file.rows

    @property
    def _is_complete(self) -> bool:
        return len(self._file.rows) == len(self.finished) + self.done

    def _check_complete(self) -> None:
        expected = len(self.finished) + self.done
        if not self._is_complete:
            raise RecordsError(
                f"Expected {expected} certificates beside {self._path}, got "
                f"{len(self._file.rows)}: every process must see the same folder. On machines "
                "without a common one certify shards (shard=1/4, …) and merge them"
            )

    def _check_alike(self) -> None:
        # As the first one's have been: through JSON, where a tuple is a list.
        ours = self._file.settings
        different = [name for name in ours if ours[name] != self.settings.get(name)]
        if different:
            raise ProcessError(
                f"Process {self.team.rank} would certify otherwise than the first one: its "
                f"{', '.join(different)} differ"
            )

    def _tell_why(self, _: object, error: BaseException | None, __: object) -> None:
        if error is None:
            return
        with suppress(ProcessError):
            self.team.abort(error)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._tell_why(kind, error, trace)
        self._file.close()
