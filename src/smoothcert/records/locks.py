"""Who may write: one process at a time a file, one command at a time a run folder."""

import contextlib
import errno
import io
import os
import socket
from pathlib import Path
from typing import Self
from weakref import WeakSet

from smoothcert.errors import RecordsError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

LOCK = ".lock"
WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""What a file system says that has no locks."""
_held: WeakSet[io.FileIO] = WeakSet()


def lock(file: io.FileIO) -> bool:
    """Keep other processes out until the file is closed; the system frees a dead one's lock.

    Args:
        file: an open file, unbuffered.

    Returns:
        False where another process has the lock; True too where there are no locks.
    """
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in WITHOUT_LOCKS
    _held.add(file)
    return True


def _let_go() -> None:
    """Close a parent's locked files in a forked child: data workers would outlive its lock."""
    for file in list(_held):
        file.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)


class FolderLock:
    """A run folder that one command writes, as a context manager.

    Args:
        folder: the run folder; it is made where it does not exist.

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
            folder.mkdir(parents=True, exist_ok=True)
            self._file = (folder / LOCK).open("ab+", buffering=0)
        except OSError as error:
            raise RecordsError(f"{folder} cannot be written: {error.strerror}") from error
        if not lock(self._file):
            owner = self._owner()
            self._file.close()
            raise RecordsError(
                f"{folder} is being written by another process{owner}. Wait for it, or choose "
                "another run folder"
            )
        with contextlib.suppress(OSError):  # A full disk: the lock holds without a name.
            self._file.truncate(0)
            self._file.write(f"{os.getpid()} on {socket.gethostname()}".encode())

    def _owner(self) -> str:
        self._file.seek(0)
        said = self._file.read(200).decode("utf-8", errors="replace")
        return f" ({said})" if said else ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
