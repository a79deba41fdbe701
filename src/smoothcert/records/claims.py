"""Locks for file systems without locks: a file that names the one process which may write.

Some network file systems (NFS without its lock service, Lustre mounted without `flock`) answer
every lock with an error. To create a file that must not exist yet is atomic on all of them. Unlike
a lock, such a file outlives a process that is killed: it is removed once its process is known to be
dead, which only the same machine can know.
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
"""Seconds for a process to write its name into the file that it has just made."""


class Claim:
    """A file that names the process which made it; whoever makes it first has the claim.

    Args:
        path: the file; its folder must be there.

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
        """Make the file, in place of a dead process's; False where another process has it.

        Raises:
            OSError: if it cannot be made.
        """
        while not self._made():
            theirs = self._read()
            if theirs is None:
                continue
            if not is_dead(theirs):
                return False
            self._remove(theirs)
        return True

    def release(self) -> None:
        """Remove the file, if this process made it; a fork of that process must not."""
        if self._own and _pid_in(self._own) == os.getpid() and self._now() == self._own:
            with contextlib.suppress(OSError):
                self.path.unlink()

    def is_held(self) -> bool:
        """Return whether a process that is alive, or may be, has the claim."""
        theirs = self._read()
        return theirs is not None and not is_dead(theirs)

    def way_out(self) -> str:
        """Return what a message says of a holder that nobody here can look for; else nothing."""
        theirs = self._read()
        if theirs is None or (_machine() and _named(theirs).get("machine") == _machine()):
            return ""
        return f". If no command writes it any more, delete {self.path}"

    def _made(self) -> bool:
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

    def _remove(self, theirs: bytes) -> None:
        """Remove the file of a dead process, unless another process has put its own there.

        Removing needs a claim of its own, on this one dead process's file: two processes that have
        both found it must not each remove what they find later.
        """
        name = hashlib.sha256(theirs).hexdigest()[:16]
        right = Claim(self.path.with_name(f"{self.path.name}.{name}"))
        if not right.take():
            time.sleep(0.01)
            return
        try:
            if self._now() == theirs:
                self.path.unlink()
        finally:
            right.release()

    def _read(self) -> bytes | None:
        """Return what the file says, once it says something; None where it is gone."""
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
    """Return whether a claim is that of a process of this machine which has ended for certain."""
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
    # A number is given to another process once its own has ended.
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
    """Return what tells machines apart on which a process's number means something; "": unknown.

    Two machines may have one name, and containers of one machine number their processes apart. A
    restarted machine counts as another one: nothing tells it from a namesake.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _of_process(pid: int) -> tuple[str | None, str | None]:
    """Return a process's state and when it started, in ticks since the machine did."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None, None
    # The name before it, in brackets, may hold anything.
    fields = text.rpartition(")")[2].split()
    return fields[0], fields[19]


def _named(content: bytes) -> dict[str, Any]:
    try:
        named = json.loads(content)
    except ValueError:
        return {}
    return named if isinstance(named, dict) else {}


def _pid_in(content: bytes) -> Any:
    return _named(content).get("pid")
