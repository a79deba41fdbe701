"""Who may write: one process at a time."""

import errno
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from smoothcert.errors import RecordsError
from smoothcert.records import CertificateFile, FolderLock, claims, locks, read_certificates
from smoothcert.records.locks import working_in
from tests.helpers.row_files import ROWS, SETTINGS, certify

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
def holder(folder, before=""):
    """Start it after some other lines, and yield it and the number of its child."""
    values = '{"sigma": 0.25, "certifier": "TightCertifier", "max_images": null}'
    command = [sys.executable, "-c", before + HOLDER, str(folder), values]
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


def test_a_second_process_is_refused_and_the_first_one_is_named(tmp_path):
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


NO_LOCKS = """
import errno, fcntl, os
def flock(*_):
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
fcntl.flock = flock
"""
"""What a file system answers that has no locks."""


@pytest.fixture(params=[errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, None])
def without_locks(request, monkeypatch):
    """A file system, or with None a system, that has no locks."""
    if request.param is None:
        monkeypatch.setattr(locks, "fcntl", None)
    else:
        monkeypatch.setattr(locks.fcntl, "flock", failing(request.param))


@pytest.mark.usefixtures("without_locks")
def test_without_locks_a_second_process_is_refused_and_the_first_one_is_named(tmp_path):
    with holder(tmp_path, NO_LOCKS) as (process, _):
        owner = re.escape(f"({process.pid} on {socket.gethostname()})")
        for _ in range(2):
            with pytest.raises(RecordsError, match=rf"written by another process {owner}\. Wait"):
                FolderLock(tmp_path)
            with pytest.raises(RecordsError, match=r"c\.tsv is being written by another process"):
                CertificateFile(tmp_path / "c.tsv", SETTINGS)


def test_where_some_have_locks_and_others_have_none_a_second_process_is_refused(tmp_path):
    with (
        holder(tmp_path, NO_LOCKS) as (process, _),
        pytest.raises(RecordsError, match=rf"written by another process \({process.pid} on"),
    ):
        FolderLock(tmp_path)


@pytest.mark.usefixtures("without_locks")
def test_without_locks_what_a_killed_process_has_locked_is_free(tmp_path):
    with holder(tmp_path, NO_LOCKS) as (process, child):
        process.send_signal(signal.SIGKILL)
        process.wait(30)
        for _ in range(2):
            with FolderLock(tmp_path):
                certify(tmp_path / "c.tsv", ROWS)
                assert is_alive(child)
    assert read_certificates(tmp_path / "c.tsv") == sorted(ROWS, key=lambda row: row.idx)
    assert not list(tmp_path.glob(".*"))


def test_another_command_waits_for_the_workers(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "WAIT_SECONDS", 0.3)
    with (
        working_in(tmp_path),
        pytest.raises(RecordsError, match="still being written by processes of a command"),
    ):
        FolderLock(tmp_path)
    with FolderLock(tmp_path):
        pass


@pytest.mark.usefixtures("without_locks")
def test_without_locks_another_command_waits_for_the_workers(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "WAIT_SECONDS", 0.3)
    with (
        working_in(tmp_path),
        working_in(tmp_path),
        pytest.raises(RecordsError, match="still being written by processes of a command"),
    ):
        FolderLock(tmp_path)
    with FolderLock(tmp_path):
        pass


@pytest.mark.parametrize(
    ("changed", "refused"),
    [
        ({}, True),
        ({"started": "1"}, False),
        ({"pid": 2**22 + 1}, False),
        ({"pid": 2**22 + 1, "machine": "another"}, True),
        ({"machine": ""}, True),
        ({"pid": "7"}, True),
        (None, True),
    ],
)
@pytest.mark.usefixtures("without_locks")
def test_only_a_process_of_this_machine_that_is_dead_for_certain_is_not_waited_for(
    tmp_path, monkeypatch, changed, refused
):
    """A number may be another process's by now, and on another machine it says nothing."""
    monkeypatch.setattr(claims, "BEING_WRITTEN", 0.1)
    path = tmp_path / ".lock.held"
    this = {"pid": os.getpid(), "started": started_at(os.getpid()), "machine": claims._machine()}
    path.write_text("" if changed is None else json.dumps(this | changed))
    if refused:
        with pytest.raises(RecordsError, match="by another process") as caught:
            FolderLock(tmp_path)
        is_ours = changed is not None and changed.get("machine", this["machine"]) == this["machine"]
        assert (f"delete {path}" in str(caught.value)) is not is_ours
    else:
        with FolderLock(tmp_path):
            pass
        assert not path.exists()


def started_at(pid):
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]


RACER = (
    NO_LOCKS
    + """
import sys, time
from pathlib import Path
from smoothcert.errors import RecordsError
from smoothcert.records import FolderLock

folder, start = Path(sys.argv[1]), float(sys.argv[2])
time.sleep(max(0, start - time.time()))
for _ in range(40):
    try:
        with FolderLock(folder):
            (folder / "alone").mkdir()
            time.sleep(0.001)
            (folder / "alone").rmdir()
            print("in", end=" ")
            if sys.argv[3] == "mortal":
                os._exit(1)
    except RecordsError:
        time.sleep(0.002)
"""
)


def test_without_locks_there_is_never_more_than_one_whoever_dies(tmp_path):
    """Processes that take the folder again and again, and some that die with it in their hands."""
    start = str(time.time() + 1.0)
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, str(tmp_path), start, kind],
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for kind in ("mortal", "mortal", "mortal", "immortal", "immortal")
    ]
    said = [racer.communicate(timeout=60) for racer in racers]
    assert [errors for _, errors in said] == [""] * 5
    assert all("in" in words for words, _ in said[3:])


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
