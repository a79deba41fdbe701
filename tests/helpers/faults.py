"""What may happen to files that are being written."""

import ctypes
import io
import os
import resource
import subprocess
from contextlib import contextmanager
from pathlib import Path

import pytest

from smoothcert.records import CertificateFile

CAPABILITIES, OVERRIDING = 0x20080522, 0b110
"""Version of Linux's capabilities; CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH."""


class Killed(BaseException):
    """The end of a process."""


@contextmanager
def killed_after(steps):
    """Let so many changes of files happen, half of the next one if it writes, and nothing more.

    Raises:
        Killed: unless the work is done by then.
    """
    left = steps

    def step():
        nonlocal left
        if left == 0:
            raise Killed
        left -= 1

    def dying(method):
        def changed(*arguments, **options):
            step()
            return method(*arguments, **options)

        return changed

    class Dying(io.FileIO):
        def write(self, data):
            if left == 0:
                super().write(bytes(data)[: len(data) // 2])
            step()
            return super().write(data)

        def truncate(self, size=None):
            step()
            return super().truncate(size)

    opened = CertificateFile._opened

    def dying_file(file):
        with opened(file) as plain:
            return Dying(plain.name, "ab")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CertificateFile, "_opened", dying_file)
        for name in ("unlink", "replace"):
            patch.setattr(Path, name, dying(getattr(Path, name)))
        yield


@contextmanager
def largest_file(size):
    """Let no file grow beyond so many bytes, as a full disk does; Python ignores SIGXFSZ."""
    before, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (before, hard))


@contextmanager
def small_disk(folder):
    """A disk of 64 KiB at a folder, where this machine lets us have one."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "smoothcert", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no disk of its own: {error}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@contextmanager
def under_permissions(path, mode):
    """Give a file or folder a mode, and let it count for root too, in this thread."""
    before = path.stat().st_mode
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(CAPABILITIES, 0)
    held = (ctypes.c_uint32 * 6)()
    if not hasattr(libc, "capget") or libc.capget(header, held):
        pytest.skip("no capabilities on this machine")
    fewer = (ctypes.c_uint32 * 6)(*held)
    fewer[0] &= ~OVERRIDING
    path.chmod(mode)
    libc.capset(header, fewer)
    try:
        if not mode & 0o222 and os.access(path, os.W_OK, effective_ids=True):
            pytest.skip("permissions do not count for this user")
        yield
    finally:
        libc.capset(header, held)
        path.chmod(before)
