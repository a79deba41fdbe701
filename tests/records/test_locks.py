"""Who may write: one process at a time."""

import errno
import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager

import pytest
from row_files import ROWS, SETTINGS, certify, write

from smoothcert.errors import RecordsError
from smoothcert.records import CertificateFile, FolderLock, locks, read_certificates

HOLDER = """
import json, os, sys
from pathlib import Path
from smoothcert.records import CertificateFile, FolderLock

folder, values = Path(sys.argv[1]), json.loads(sys.argv[2])
with FolderLock(folder), CertificateFile(folder / "c.tsv", values):
    if not os.fork():
        print(os.getpid(), flush=True)
    sys.stdin.read()
    os._exit(0)
"""
"""A process that writes, with a child, as one that loads images is. Both end with their input."""


@contextmanager
def holder(folder):
    """Start it, and yield it and the number of its child."""
    values = '{"sigma": 0.25, "certifier": "TightCertifier", "max_images": null}'
    command = [sys.executable, "-c", HOLDER, str(folder), values]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as process:
        yield process, int(process.stdout.readline())
        process.kill()


def is_alive(number):
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_second_process_is_refused_and_told_of_the_first(tmp_path):
    with holder(tmp_path) as (process, _):
        owner = re.escape(f"({process.pid} on {socket.gethostname()})")
        for _ in range(2):
            with pytest.raises(RecordsError, match=rf"written by another process {owner}\. Wait"):
                FolderLock(tmp_path)
        with pytest.raises(RecordsError, match=r"c\.tsv is being written by another process"):
            CertificateFile(tmp_path / "c.tsv", SETTINGS)


def test_the_lock_of_a_killed_process_is_free_at_once_though_a_child_of_it_lives(tmp_path):
    with holder(tmp_path) as (process, child):
        process.send_signal(signal.SIGKILL)
        process.wait(30)
        with FolderLock(tmp_path):
            certify(tmp_path / "c.tsv", ROWS)
            assert is_alive(child)
            owner = (tmp_path / ".lock").read_text()
        assert owner == f"{os.getpid()} on {socket.gethostname()}"


def test_a_folder_is_free_when_its_command_is_done(tmp_path):
    with FolderLock(tmp_path), pytest.raises(RecordsError, match=str(os.getpid())):
        FolderLock(tmp_path)
    with FolderLock(tmp_path):
        pass
    with pytest.raises(ZeroDivisionError), FolderLock(tmp_path):
        1 / 0  # noqa: B018
    FolderLock(tmp_path).__exit__()


def test_a_lock_that_its_last_holder_has_just_removed_is_made_again(tmp_path, monkeypatch):
    """Two commands would each hold a file of that name otherwise."""
    lock = locks.lock

    def locked_late(file):
        monkeypatch.setattr(locks, "lock", lock)
        (tmp_path / ".lock").unlink()
        return lock(file)

    monkeypatch.setattr(locks, "lock", locked_late)
    with FolderLock(tmp_path), pytest.raises(RecordsError, match="by another process"):
        FolderLock(tmp_path)


def failing(number):
    def flock(*_):
        raise OSError(number, os.strerror(number))

    return flock


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_without_locks_files_are_written_all_the_same(tmp_path, monkeypatch, number):
    monkeypatch.setattr(locks.fcntl, "flock", failing(number))
    with FolderLock(tmp_path), FolderLock(tmp_path):
        write(tmp_path / "c.tsv", ROWS)
    assert read_certificates(tmp_path / "c.tsv") == ROWS


def test_where_nothing_knows_of_locks_files_are_written_all_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "fcntl", None)
    with FolderLock(tmp_path), FolderLock(tmp_path):
        write(tmp_path / "c.tsv", ROWS)
    assert read_certificates(tmp_path / "c.tsv") == ROWS


@pytest.mark.parametrize("number", [errno.EWOULDBLOCK, errno.EACCES])
def test_a_lock_that_another_machine_holds_is_refused(tmp_path, monkeypatch, number):
    monkeypatch.setattr(locks.fcntl, "flock", failing(number))
    with pytest.raises(RecordsError, match=re.escape(f"{tmp_path} is being written by another")):
        FolderLock(tmp_path)


@pytest.mark.parametrize("name", [".lock", ".workers"])
def test_a_lock_that_cannot_be_made_is_named_with_the_reason(tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(RecordsError, match=rf"{tmp_path} cannot be written: Is a directory"):
        FolderLock(tmp_path)
    (tmp_path / name).rmdir()
    with FolderLock(tmp_path):
        pass


def test_a_folder_that_cannot_be_made_is_named_with_the_reason(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordsError, match=r"file/run cannot be written: Not a directory"):
        FolderLock(tmp_path / "file" / "run")
