"""Locks for file systems without locks: a file that names the only process that may write.

Some network file systems (NFS without its lock service, Lustre mounted without `flock`) answer
every lock with an error. Creating a file that must not exist yet is atomic on all of them. Unlike
a lock, such a file outlives a killed process. It is removed once its process is known to be dead;
only a process on the same machine can know this.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import time
import uuid
from pathlib import Path
from typing import Any

ENDING = ".held"
"""How the names of these files end."""
BEING_WRITTEN = 2.0
"""Seconds for a process to write its name into the file that it has just created."""


class Claim:
    """A file that names the process that created it; the first process to create it has the claim.

    Args:
        path: the file; its folder must exist.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / ".lock.held"
        >>> first, second = Claim(path), Claim(path)
        >>> first.take(), second.take(), first.release(), second.take()
        (True, False, None, True)
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._own = b""

    def take(self) -> bool:
        """Create the file, or replace a dead process's; return False where another process has it.

        Raises:
            OSError: if it cannot be created.
        """
        while not self._create():
            content = self._read()
            if content is None:
                continue
            if not is_dead(content):
                return False
            self._remove(content)
        return True

    def release(self) -> None:
        """Remove the file, if this process created it; a fork of that process must not."""
        created_here = _named(self._own).get("pid") == os.getpid()
        if created_here and self._now() == self._own:
            with contextlib.suppress(OSError):
                self.path.unlink()

    def is_held(self) -> bool:
        """Return whether a process that is alive, or may be, has the claim."""
        content = self._read()
        return content is not None and not is_dead(content)

    def advice(self) -> str:
        """Return advice for a message if this machine cannot check the holder, else nothing."""
        content = self._read()
        if content is None or (_machine() and _named(content).get("machine") == _machine()):
            return ""
        return f". If no command is writing it any more, delete {self.path}"

    def _create(self) -> bool:
        try:
            file = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            return False
        try:
            self._own = json.dumps(_this_process()).encode()
            os.write(file, self._own)
            os.fsync(file)
        except BaseException:
            self.path.unlink(missing_ok=True)
            raise
        finally:
            os.close(file)
        return True

    def _remove(self, dead: bytes) -> None:
        """Remove the file of a dead process, unless another process has replaced it.

        Removing needs a second claim, on the content of the dead process: of two processes that
        find the same file, the slower one must not remove the file that the faster one creates.
        """
        name = hashlib.sha256(dead).hexdigest()[:16]
        removal = Claim(self.path.with_name(f"{self.path.name}.{name}"))
        if not removal.take():
            time.sleep(0.01)
            return
        try:
            if self._now() == dead:
                self.path.unlink()
        finally:
            removal.release()

    def _read(self) -> bytes | None:
        """Return the file's content, once it is written; None if the file is gone."""
        deadline = time.monotonic() + BEING_WRITTEN
        while (content := self._now()) == b"" and time.monotonic() < deadline:
            time.sleep(0.05)
        return content

    def _now(self) -> bytes | None:
        try:
            return self.path.read_bytes()
        except FileNotFoundError:
            return None


def is_dead(content: bytes) -> bool:
    """Return whether a claim belongs to a process of this machine that has certainly ended."""
    named, machine = _named(content), _machine()
    pid = named.get("pid")
    if not machine or named.get("machine") != machine or not isinstance(pid, int) or pid < 1:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False
    state, started = _of_process(pid)
    # A process number is reused once its process has ended.
    return state in ("Z", "X") or (started is not None and started != named.get("started"))


def _this_process() -> dict[str, Any]:
    return {
        "pid": os.getpid(),
        "started": _of_process(os.getpid())[1],
        "host": socket.gethostname(),
        "machine": _machine(),
        "claim": uuid.uuid4().hex,
    }


def _machine() -> str:
    """Return an identifier of the machine and its process numbering; "" if unknown.

    Two machines may have the same name, and each container numbers its own processes. A restarted
    machine counts as a different one, as nothing distinguishes it from one of the same name.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _of_process(pid: int) -> tuple[str | None, str | None]:
    """Return a process's state and its start time, in clock ticks since the machine started."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None, None
    # The program's name, in brackets, may contain any character.
    fields = text.rpartition(")")[2].split()
    return fields[0], fields[19]


def _named(content: bytes) -> dict[str, Any]:
    try:
        named = json.loads(content)
    except ValueError:
        return {}
    return named if isinstance(named, dict) else {}
