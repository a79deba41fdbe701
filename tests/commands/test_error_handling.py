"""What the user of a command sees where processes that load images fail: one plain line."""

import os
import re
import signal
import subprocess
import sys

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info
from torchmetrics import MeanMetric

from smoothcert.commands import command
from smoothcert.commands.error_handling import quiet
from smoothcert.data.datasets import FileImages, to_unit
from smoothcert.data.sampling import BatchKey
from smoothcert.errors import DataError, Stopped
from tests.helpers.support import composed

# Python 3.12 warns of every fork beside threads; the loader's workers are forks.
FORKS = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
# As torch words them.
KILLED = "DataLoader worker (pid 7) is killed by signal: Killed. "
SEGMENTATION = "DataLoader worker (pid 7) is killed by signal: Segmentation fault. "
EXITED = "DataLoader worker (pid(s) 7) exited unexpectedly"
BUS = (
    "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that dataloader's "
    "workers are out of shared memory. Please try to raise your shared memory limit."
)
FULL = (
    "Caught RuntimeError in DataLoader worker process 0.\nOriginal Traceback (most recent call "
    "last):\n  …\nRuntimeError: unable to allocate shared memory(shm) for file </torch_7_1_0>: No "
    "space left on device (28)\n"
)
CODE = "DataLoader worker (pid 7) exited unexpectedly with exit code 3. Details are lost due to …"


class Dying(Dataset):
    """Its second item is the end of the process that loads it, as for lack of memory."""

    def __len__(self):
        return 4

    def __getitem__(self, number):
        assert get_worker_info() is not None, "the test itself would die"
        if number == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return torch.zeros(2)


class Training(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)

    def training_step(self, batch, number):
        return self.layer(batch).sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(loader):
    quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)
    trainer = pl.Trainer(
        accelerator="cpu", devices=1, max_epochs=1, enable_checkpointing=False, **quiet
    )
    trainer.fit(Training(), loader)


def raising(*messages):
    """Raise errors of torch, each from the one before."""
    before = None
    for message in messages:
        error = RuntimeError(message)
        error.__cause__ = before
        before = error
    raise error


def answer(work, *arguments):
    """Return what a command that fails at some work prints at its end."""
    with pytest.raises(SystemExit) as caught, command(""):
        work(*arguments)
    # Text, and not a number: the exit code is 1.
    assert isinstance(caught.value.code, str)
    return caught.value.code


@FORKS
def test_a_killed_loading_process_ends_a_training_in_one_plain_line():
    said = answer(fit, DataLoader(Dying(), batch_size=None, num_workers=1))
    # Its signal is not told where torch finds it dead before the system says how it died.
    start = r"DataError: A process that loads images died( \(signal: Killed\))?, often for lack of"
    assert re.match(f"{start} memory", said)
    assert "data.num_workers" in said
    assert "\n" not in said


@FORKS
@pytest.mark.parametrize("content", [b"", b"no image at all", b"\xff\xd8\xff"])
def test_a_corrupt_image_in_a_loading_process_is_named_in_one_plain_line(content, tmp_path):
    (tmp_path / "bad.jpg").write_bytes(content)
    images = FileImages([tmp_path / "bad.jpg"], torch.zeros(1, dtype=torch.int64), to_unit)
    loader = DataLoader(images, sampler=[BatchKey([0], 0)], batch_size=None, num_workers=1)
    batches = iter(loader)
    said = answer(next, batches)
    # Read to its end, its process is gone at once.
    assert list(batches) == []
    assert said.startswith(f"DataError: {tmp_path / 'bad.jpg'} is not a readable image: ")
    assert said.endswith("Fix it, or leave such files out with data.corrupt=skip")
    assert "\n" not in said


@pytest.mark.parametrize(
    ("messages", "end"),
    [
        ([KILLED], " (signal: Killed)"),
        ([KILLED, EXITED], " (signal: Killed)"),
        ([SEGMENTATION], " (signal: Segmentation fault)"),
        ([CODE], " (exit code 3)"),
        ([EXITED], ""),
    ],
)
def test_the_end_of_a_loading_process_is_reported_as_far_as_it_is_known(messages, end):
    expected = (
        f"DataError: A process that loads images died{end}, often for lack of memory: lower "
        "data.num_workers. Finished work is kept"
    )
    assert answer(raising, *messages) == expected


@pytest.mark.parametrize("messages", [[BUS], [BUS, EXITED], [FULL]])
def test_full_shared_memory_is_told_from_other_memory(messages):
    said = answer(raising, *messages)
    assert said.startswith("DataError: Shared memory (/dev/shm), ")
    assert "--shm-size" in said
    assert "data.num_workers" in said
    assert "\n" not in said


@pytest.mark.parametrize(
    "message",
    [
        "CUDA error: out of shared memory",
        "Caught RuntimeError in DataLoader worker process 0.\nOriginal …\nRuntimeError: shapes",
        "mat1 and mat2 shapes cannot be multiplied",
    ],
)
def test_other_errors_keep_their_trace(message):
    with pytest.raises(RuntimeError, match=re.escape(message)), command(""):
        raise RuntimeError(message)


def test_the_message_names_the_run_that_can_be_resumed(tmp_path):
    with composed(tmp_path, []):
        assert answer(raising, KILLED).endswith("No checkpoint is written yet: start again")
        last = tmp_path / "checkpoints" / "last.ckpt"
        last.parent.mkdir()
        last.touch()
        said = answer(raising, KILLED)
    assert f"Resume with the same settings: run={tmp_path}. " in said
    assert said.endswith(f"ckpt_path={last}")


def test_in_a_sweep_the_error_ends_its_own_job_alone(tmp_path):
    with (
        composed(tmp_path, ["hydra.mode=MULTIRUN"]),
        pytest.raises(DataError, match="A process that loads images died"),
        command(""),
    ):
        raise RuntimeError(KILLED)


def test_a_run_folder_that_was_removed_is_named(tmp_path):
    with composed(tmp_path / "run", []):
        said = answer(raising, f"Parent directory {tmp_path}/run/checkpoints does not exist.")
    assert said.startswith(f"RecordsError: {tmp_path}/run was removed during the run")


def test_a_file_that_is_a_folder_is_named_in_one_line(tmp_path):
    assert answer(tmp_path.read_bytes) == f"DataError: {tmp_path}: Is a directory"


SAVING = """
import os, signal
from smoothcert.commands.error_handling import signals_stop
signal.signal(signal.SIGINT, signal.SIG_DFL)
with signals_stop():
    try:
        os.kill(os.getpid(), signal.SIGINT)
    finally:
        os.kill(os.getpid(), signal.{second})
        print("saved")
"""


@pytest.mark.parametrize(
    ("second", "code", "printed"), [("SIGINT", -2, ""), ("SIGTERM", 130, "saved\n")]
)
def test_a_second_ctrl_c_ends_at_once_and_other_signals_let_it_save(second, code, printed):
    program = [sys.executable, "-c", SAVING.format(second=second)]
    ended = subprocess.run(program, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (code, printed, "")


def test_ctrl_c_stays_ignored_where_a_shell_has_put_a_command_in_the_background():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with command(""):
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_command_that_a_signal_stops_keeps_the_signals_exit_code():
    """A scheduler's signal goes to the loading processes too, and torch reports their end."""

    def stopped():
        try:
            raise Stopped(signal.SIGTERM)
        finally:
            raising("DataLoader worker (pid 7) is killed by signal: Terminated. ")

    with pytest.raises(Stopped) as caught, command(""):
        stopped()
    assert caught.value.code == 128 + signal.SIGTERM


def test_a_process_without_validation_images_warns_of_nothing():
    """Warnings are errors in this suite: without `quiet`, torchmetrics has one."""
    with pytest.warns(UserWarning, match="was called before"):
        MeanMetric().compute()
    with quiet():
        MeanMetric().compute()
