"""Commands that start processes of their own."""

import os
import re
import signal
import socket
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from smoothcert.commands import launching
from smoothcert.commands.launching import devices_of, machine, require_common_folder
from smoothcert.distributed import launch
from smoothcert.distributed.group import processes
from smoothcert.errors import (
    DataError,
    InvalidArgumentError,
    ProcessError,
    RecordsError,
    SmoothCertError,
    Stopped,
)
from smoothcert.records import FolderLock
from tests.helpers.commands import from_a_terminal
from tests.helpers.support import TINY, composed
from tests.helpers.together import PATIENCE, ending, started


def report(cfg):
    """Say who did it, and return what the first one is to return."""
    team = processes()
    folder = Path(cfg.paths.run)
    facts = [os.environ[name] for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE")]
    (folder / f"rank{team.rank}").write_text(" ".join(facts))
    team.barrier("done")
    return {"sigma": cfg.sigma, "ranks": team.size, "addresses": listening_addresses(team)}


def fail(cfg):
    """End otherwise than expected, in the second process: the first one waits for it."""
    how, team = cfg.name, processes()
    if team.rank == 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        time.sleep(120)
    if how == "an error of ours":
        raise DataError("No images here")
    if how == "another error":
        raise ZeroDivisionError("by zero")
    os.kill(os.getpid(), signal.SIGKILL)


def listening_addresses(team):
    """Return where the processes of a command listen, once all kinds of them have spoken."""
    dist.all_reduce(torch.ones(1))
    dist.barrier(dist.new_group(backend="gloo"))
    found = team.all_gather_object(
        "listens", sorted({*listening(os.getpid()), *listening(os.getppid())})
    )
    return sorted({address for each in found for address in each})


def listening(pid):
    """Return the addresses on which a process takes connections, as Linux lists them."""
    held = set()
    for opened in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            held.add(str(opened.readlink()))
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            cells = line.split()
            if cells[3] == "0A" and f"socket:[{cells[9]}]" in held:
                yield cells[1].partition(":")[0]


def stop(cfg):
    """Get a signal in one process; the other one has not heard of it."""
    team = processes()
    team.barrier("here")
    if team.rank == 1:
        os.kill(os.getpid(), signal.SIGUSR1)
    time.sleep(120)


def interrupt(cfg):
    """Do as a terminal does at Ctrl-C: it sends SIGINT to the parent and to its processes."""
    team = processes()
    try:
        os.kill(os.getpid(), signal.SIGINT)
        team.barrier("here")
        if team.rank == 1:
            os.kill(os.getppid(), signal.SIGINT)
        time.sleep(120)
    finally:
        (Path(cfg.paths.run) / f"saved{team.rank}").touch()


def launched(folder, function, *overrides):
    with composed(folder, [*TINY, *overrides]) as cfg:
        return launching.run(function, cfg, each=2)


LOOPBACK = {"0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F"}
"""127.0.0.1 and its forms in IPv6, as little-endian machines list them."""


@pytest.mark.skipif(not Path("/proc/self/net/tcp").is_file(), reason="needs Linux")
def test_each_process_works_once_and_they_listen_to_their_own_machine_alone(tmp_path, monkeypatch):
    """The first one's answer is returned; whoever reached them could end the run."""
    # What is set for a cluster does not hold for one machine.
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth0")
    monkeypatch.setenv("MASTER_ADDR", "gpu07")
    answer = launched(tmp_path, report, "sigma=0.75")
    assert (answer["sigma"], answer["ranks"]) == (0.75, 2)
    written = {path.name: path.read_text() for path in tmp_path.glob("rank*")}
    assert written == {"rank0": "0 0 2", "rank1": "1 1 2"}
    assert answer["addresses"]
    assert set(answer["addresses"]) <= LOOPBACK


@pytest.mark.parametrize(
    ("how", "kind", "message"),
    [
        ("an error of ours", DataError, "^No images here$"),
        pytest.param(
            "another error",
            ProcessError,
            "^Process 1 of 2 failed: ZeroDivisionError: by zero$",
            marks=pytest.mark.slow,
        ),
        ("death", ProcessError, r"^Process 1 of 2 \(pid \d+\) was killed by SIGKILL"),
    ],
)
def test_a_process_that_fails_ends_the_others_with_its_reason(
    tmp_path, capfd, monkeypatch, how, kind, message
):
    """The first process would wait for two minutes; the suite would end before that."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    with pytest.raises(kind, match=message):
        launched(tmp_path, fail, f"name='{how}'")
    # Torch reports it too, with traces of its own code, and keeps logs.
    printed = capfd.readouterr().err
    assert printed.count("Traceback") == (how == "another error")
    assert "torch" not in printed
    assert not [path for path in (tmp_path / "temporary").iterdir() if "pymp" not in path.name]


@pytest.mark.slow
def test_a_process_that_gets_a_signal_stops_the_others(tmp_path):
    with pytest.raises(Stopped) as ended:
        launched(tmp_path, stop)
    assert ended.value.code == 128 + signal.SIGUSR1


def one_ends(how):
    """End the worker of the second machine, or stop its launcher; the other worker waits for it."""
    with launch.joined():
        team = processes()
        if team.rank == 0:
            team.get("never set")
        if how == "error":
            raise DataError("No images here")
        if how == "death":
            os.kill(os.getpid(), signal.SIGKILL)
        # As one without power, after a first sign of life.
        time.sleep(1)
        os.kill(os.getppid(), signal.SIGSTOP)
        time.sleep(120)


def on_machine(number, port, folder, how):
    """Launch one worker, as one of two machines; leave what the launcher raises."""
    if how == "silence":
        launch.BEAT_SECONDS = 0.1
    machine = launch.Machine(number, 2, "127.0.0.1", port)
    try:
        launch.launch(one_ends, how, each=1, machine=machine)
    except SmoothCertError as error:
        (folder / f"machine{number}").write_text(f"{type(error).__name__}: {error}")


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("error", "^DataError: No images here$"),
        pytest.param(
            "death",
            r"^ProcessError: Process 1 of 2 \(pid \d+\) was killed by SIGKILL",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "silence",
            "^ProcessError: Machine 1 of 2 has given no sign of life",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_where_a_machine_fails_the_others_end_with_its_reason(tmp_path, how, message):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    first, second = (started(on_machine, number, port, tmp_path, how) for number in (0, 1))
    with ending(first), ending(second):
        first.join(PATIENCE)
        assert re.search(message, (tmp_path / "machine0").read_text())
        if how != "silence":
            second.join(PATIENCE)
            assert re.search(message, (tmp_path / "machine1").read_text())


@pytest.mark.slow
def test_ctrl_c_lets_every_process_save_once(tmp_path):
    with from_a_terminal(), pytest.raises(Stopped) as ended:
        launched(tmp_path, interrupt)
    assert ended.value.code == 128 + signal.SIGINT
    assert {path.name for path in tmp_path.glob("saved*")} == {"saved0", "saved1"}


def test_a_folder_that_another_command_has_is_refused_before_anything_is_started(tmp_path):
    with FolderLock(tmp_path), pytest.raises(RecordsError, match=f"another process .{os.getpid()}"):
        launched(tmp_path, report)


@pytest.mark.parametrize(
    ("devices", "accelerator", "count"),
    [
        *((1, "cpu", 1), (3, "cpu", 3), ("3", "gpu", 3), ([0, 2], "gpu", 2), ("0,2,", "gpu", 2)),
        *(("auto", "cpu", 1), (-1, "gpu", 4), ("-1", "auto", 4), ("auto", "auto", 4)),
    ],
)
def test_devices_are_counted_as_lightning_takes_them(monkeypatch, devices, accelerator, count):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    assert devices_of(devices, accelerator) == count


@pytest.mark.parametrize("devices", [0, -2, "some", "1.5", None, []])
def test_numbers_of_devices_that_are_none_are_refused(devices):
    with pytest.raises(InvalidArgumentError, match="Expected `devices`"):
        devices_of(devices, "cpu")


def test_slurm_says_which_machine_this_is(monkeypatch):
    """One task a machine, as in conf/hydra/launcher/slurm.yaml."""
    job = {"SLURM_NODEID": "2", "SLURM_JOB_NODELIST": "gpu[07-09],cpu3", "SLURM_JOB_ID": "1234567"}
    for name, value in job.items():
        monkeypatch.setenv(name, value)
    found = machine(3)
    assert (found.number, found.of, found.address) == (2, 3, "gpu07")
    assert 10_000 < found.port < 2**16
    # One machine needs nobody else.
    assert machine(1).address == "127.0.0.1"


def test_machines_by_hand_say_which_they_are_and_one_that_does_not_is_refused(monkeypatch):
    for name in ("SLURM_NODEID", "SLURM_JOB_NODELIST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MASTER_ADDR", "10.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "29500")
    with pytest.raises(InvalidArgumentError, match=r"Expected NODE_RANK \(0 … 1\), MASTER_ADDR"):
        machine(2)
    monkeypatch.setenv("NODE_RANK", "1")
    found = machine(2)
    assert (found.number, found.of, found.address, found.port) == (1, 2, "10.0.0.1", 29500)


def test_torchruns_processes_need_a_common_folder(monkeypatch):
    require_common_folder(["src/train.py", "sigma=0.5"])
    for name, value in (("RANK", "0"), ("LOCAL_RANK", "0"), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    with pytest.raises(SystemExit, match=r"Expected hydra\.run\.dir=<folder> with torchrun"):
        require_common_folder(["src/train.py", "sigma=0.5"])
    require_common_folder(["src/train.py", "sigma=0.5", "hydra.run.dir=a"])


def test_processes_share_the_cpus_that_may_be_used(monkeypatch):
    """Seven CPUs of a machine with 64, for three processes."""
    monkeypatch.setattr(os, "environ", {})
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(7)))
    with launch._environment(3):
        assert os.environ["OMP_NUM_THREADS"] == "2"
    assert "OMP_NUM_THREADS" not in os.environ
