"""Locks: one process at a time writes a file, one command at a time writes a run folder."""

import contextlib
import errno
import io
import os
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, Self
from weakref import WeakSet

from smoothcert.errors import RecordsError
from smoothcert.records.claims import ENDING, Claim

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

LOCK, WORKERS = ".lock", ".workers"
"""The file that a command locks, and the file that all of its processes lock together."""
WAIT_SECONDS, POLL_SECONDS = 150.0, 0.2
"""Seconds for the processes of a killed command to end, and seconds between two checks."""
WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""Errors of a file system without locks."""


class LockedFile(io.FileIO):
    """A file that can be locked, unbuffered; closing it ends the lock."""

    claim: Claim | None = None
    """Replaces the lock where the file system has none."""

    def close(self) -> None:
        """Close the file, then release its claim."""
        super().close()
        if self.claim is not None:
            self.claim.release()


_held: WeakSet[LockedFile] = WeakSet()


def lock(file: LockedFile, shared: bool = False) -> bool:
    """Keep other processes out until the file is closed; the system frees a dead one's lock.

    Args:
        file: an open file.
        shared: keep out only processes that do not share.

    Returns:
        False where another process has the lock.

    Raises:
        OSError: if there are no locks, and no claim can be created instead.
    """
    path = Path(str(file.name))
    if (locked := _flock(file, shared)) is not None:
        # Of two machines that see the file, one may have locks and the other none.
        return locked and (shared or not claim_of(path).is_held())
    if file.claim is not None:
        return True
    claim = claim_of(path, uuid.uuid4().hex if shared else "")
    if not claim.take():
        return False
    file.claim = claim
    return True


def _flock(file: LockedFile, shared: bool) -> bool | None:
    """Return whether the system has locked the file; None where it has no locks."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as error:
        return None if error.errno in WITHOUT_LOCKS else False
    _held.add(file)
    return True


def claim_of(path: Path, sharer: str = "") -> Claim:
    """Return the claim that replaces the lock of a file, or one of several that share it."""
    name = path.name.removeprefix(".")
    return Claim(path.with_name(f".{name}.{sharer}{ENDING}" if sharer else f".{name}{ENDING}"))


def open_locked(
    path: Path, mode: Literal["ab", "ab+"], refusal: Callable[[LockedFile], RecordsError]
) -> LockedFile:
    """Open a file for this process alone; it is created if it does not exist.

    Args:
        path: the file; its folder is created, too.
        mode: how to open it.
        refusal: makes the error from the open file, if another process has it.

    Raises:
        RecordsError: if another process has it.
        OSError: if it cannot be opened.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        file = LockedFile(path, mode)
        try:
            if not lock(file):
                raise refusal(file)
        except BaseException:
            file.close()
            raise
        # Its last writer may just have replaced or removed it: this would be a lost file.
        if os.fstat(file.fileno()).st_nlink:
            return file
        file.close()


def _let_go() -> None:
    """Close the parent's locked files in a forked child: a data worker would keep them locked."""
    for file in list(_held):
        file.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)


class FolderLock:
    """A run folder that one command writes, as a context manager.

    Args:
        folder: the run folder; it is created if it does not exist.

    Raises:
        RecordsError: if another process has it, or it cannot be written.

    Example:
        >>> import tempfile
        >>> with FolderLock(Path(tempfile.mkdtemp())) as held:
        ...     held.folder.is_dir()
        True
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            self._file = open_locked(folder / LOCK, "ab+", self._refusal)
            try:
                self._await_workers()
            except BaseException:
                self._file.close()
                raise
        except OSError as error:
            raise RecordsError(f"{folder} cannot be written: {error.strerror}") from error
        with contextlib.suppress(OSError):  # A full disk: the lock holds without a name.
            self._file.truncate(0)
            self._file.write(f"{os.getpid()} on {socket.gethostname()}".encode())

    def _await_workers(self) -> None:
        """Wait for processes that still save their state after their command was killed."""
        deadline = time.monotonic() + WAIT_SECONDS
        claims: list[Claim] = []
        with LockedFile(self.folder / WORKERS, "ab") as file:
            while not lock(file) or (claims := self._claims_of_workers()):
                if time.monotonic() > deadline:
                    raise RecordsError(
                        f"{self.folder} is still being written by processes of a command that has "
                        "ended. End them, or choose another run folder"
                        + (claims[0].advice() if claims else "")
                    )
                time.sleep(POLL_SECONDS)

    def _claims_of_workers(self) -> list[Claim]:
        """Return the claims of workers that may be alive; remove the claims of dead workers."""
        claims = [Claim(path) for path in self.folder.glob(f"{WORKERS}.*{ENDING}")]
        for claim in claims:
            if not claim.is_held():
                claim.path.unlink(missing_ok=True)
        return [claim for claim in claims if claim.path.exists()]

    def _refusal(self, file: LockedFile) -> RecordsError:
        file.seek(0)
        holder = file.read(200).decode("utf-8", errors="replace")
        return RecordsError(
            f"{self.folder} is being written by another process{f' ({holder})' if holder else ''}. "
            f"Wait for it, or choose another run folder{claim_of(self.folder / LOCK).advice()}"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for name in (WORKERS, LOCK):
            with contextlib.suppress(OSError):  # A folder that has become read-only, or is gone.
                (self.folder / name).unlink()
        self._file.close()


@contextlib.contextmanager
def working_in(folder: Path) -> Iterator[None]:
    """Mark this process as a worker of a command: the next command waits for all workers to end.

    Args:
        folder: the run folder, which the command has locked.

    Example:
        >>> import tempfile
        >>> with working_in(Path(tempfile.mkdtemp())):
        ...     pass
    """
    with LockedFile(folder / WORKERS, "ab") as file:
        lock(file, shared=True)
        yield
