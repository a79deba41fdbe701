"""Runs that are told to end, and what they end with when they go on."""

import os
import signal
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from smoothcert import commands
from smoothcert.lightning import SaveOnSignal, SmoothedTraining
from smoothcert.records import CertificateFile
from tests.helpers.commands import class_folders, from_a_terminal
from tests.helpers.resuming import last_of, metrics_of, states_of
from tests.helpers.row_files import in_order
from tests.helpers.support import TINY, composed

QUICK = ["experiment=digits_gaussian", *TINY, "trainer.max_epochs=3", "objective.noise_draws=1"]
SHORT = [
    *(*QUICK, "trainer.limit_train_batches=6", "trainer.log_every_n_steps=1"),
    "callbacks.certification.plot=null",
]
EMA = ["callbacks=ema", "callbacks.ema.decay=0.9"]
ONE_CYCLE = ["scheduler=one_cycle"]
ACCUMULATING = ["trainer.accumulate_grad_batches=2", "data.batch_size=32"]


class Dropping(nn.Sequential):
    """A network that draws from the global random stream while it is trained."""

    def __init__(self, num_classes, input_shape, mean, std, width):
        super().__init__(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, num_classes))


def trained(folder, *overrides):
    with composed(folder, [*SHORT, *overrides]) as cfg:
        commands.train(cfg)
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A training that nothing has stopped."""
    return trained(tmp_path_factory.mktemp("whole") / "run")


def stopped(monkeypatch, folder, *overrides, number=signal.SIGTERM, batch, epoch=1):
    """Train, with a signal in the middle of a step; return the exit code."""
    step = SmoothedTraining.training_step

    def with_signal(self, images, batch_idx):
        if (self.current_epoch, batch_idx) == (epoch, batch):
            os.kill(os.getpid(), number)
        return step(self, images, batch_idx)

    with monkeypatch.context() as patched, from_a_terminal():
        patched.setattr(SmoothedTraining, "training_step", with_signal)
        with pytest.raises(SystemExit) as ended:
            trained(folder, *overrides)
    return ended.value.code


def check_equal(parts, whole):
    for resumed, expected in zip(states_of(last_of(parts)), states_of(last_of(whole)), strict=True):
        assert torch.equal(resumed, expected)
    assert last_of(parts)["lr_schedulers"] == last_of(whole)["lr_schedulers"]
    assert metrics_of(parts) == metrics_of(whole)
    assert in_order(parts / "certificates.tsv") == in_order(whole / "certificates.tsv")


@pytest.mark.parametrize(
    ("overrides", "batch"),
    [
        ([*EMA, *ONE_CYCLE], 2),
        (["model._target_=tests.lightning.test_preemption.Dropping"], 0),
        ([*ACCUMULATING, "scheduler=cosine"], 2),
        ([], 5),
        (["model.freeze=[features]"], 1),
    ],
    ids=[
        *("average and schedule", "dropout", "accumulated gradients", "last step of an epoch"),
        "frozen part",
    ],
)
def test_a_stopped_training_resumes_in_the_middle_of_its_epoch(
    tmp_path, monkeypatch, overrides, batch
):
    whole = trained(tmp_path / "whole", *overrides)
    parts = tmp_path / "parts"
    assert stopped(monkeypatch, parts, *overrides, batch=batch) == 128 + signal.SIGTERM
    saved = last_of(parts)
    # After that step, or where its gradients have been used.
    size = 2 if overrides[: len(ACCUMULATING)] == ACCUMULATING else 1
    assert saved["global_step"] == (6 + batch) // size + 1
    assert not (parts / "certificates.tsv").exists()
    trained(parts, *overrides)
    check_equal(parts, whole)


def test_a_training_may_be_stopped_again_and_again(whole, tmp_path, monkeypatch):
    parts = tmp_path / "parts"
    for number, epoch, batch in (
        (signal.SIGUSR1, 0, 3),
        (signal.SIGTERM, 0, 4),
        (signal.SIGINT, 1, 1),
        (signal.SIGUSR1, 2, 0),
    ):
        code = stopped(monkeypatch, parts, number=number, batch=batch, epoch=epoch)
        assert code == 128 + number
    trained(parts)
    check_equal(parts, whole)


def test_what_was_logged_before_the_first_checkpoint_is_logged_once(whole, tmp_path, monkeypatch):
    """A training that dies in its first epoch leaves rows and no state."""
    parts = tmp_path / "parts"
    step = SmoothedTraining.training_step

    def dying(self, images, batch_idx):
        if batch_idx == 4:
            raise KeyboardInterrupt
        return step(self, images, batch_idx)

    with monkeypatch.context() as patched:
        patched.setattr(SmoothedTraining, "training_step", dying)
        with pytest.raises(SystemExit):
            trained(parts)
    assert len(metrics_of(parts)) == 4
    assert not (parts / "checkpoints" / "last.ckpt").exists()
    trained(parts)
    check_equal(parts, whole)


def test_workers_begin_at_the_right_batch_of_the_right_epoch(tmp_path, monkeypatch):
    """They ask for batches ahead of those that are trained on."""
    data = [*class_folders(tmp_path / "images", ("ant", "bee")), "data.in_memory=false"]
    options = [*data, "data.batch_size=2", "data.num_workers=1", "model=small_cnn"]
    whole, parts = trained(tmp_path / "whole", *options), tmp_path / "parts"
    stopped(monkeypatch, parts, *options, batch=1)
    trained(parts, *options)
    check_equal(parts, whole)


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGINT])
def test_a_signal_while_it_certifies_ends_at_once_with_the_rows_that_are_there(
    whole, tmp_path, monkeypatch, caplog, number
):
    append, parts, appended = CertificateFile.append, tmp_path / "parts", []

    def with_signal(self, row):
        append(self, row)
        appended.append(row)
        if len(appended) == 2:
            os.kill(os.getpid(), number)

    with monkeypatch.context() as patched, from_a_terminal():
        patched.setattr(CertificateFile, "append", with_signal)
        with pytest.raises(SystemExit) as ended:
            trained(parts)
    assert ended.value.code == 128 + number
    assert len((parts / "certificates.tsv").read_text().splitlines()) == 3
    message = (
        f"Stopped by {number.name}. Finished work is kept. Resume with: python -m src.train run="
    )
    assert f"{message}{parts}" in caplog.text
    trained(parts)
    check_equal(parts, whole)


def test_a_schedulers_own_handler_decides_what_comes_after_saving(whole, tmp_path, monkeypatch):
    """As submitit's does, which may return: the training then continues."""
    called = []
    before = signal.signal(signal.SIGUSR2, lambda *_: called.append(last_of(tmp_path / "run")))
    step = SmoothedTraining.training_step

    def with_signal(self, images, batch_idx):
        if (self.current_epoch, batch_idx) == (1, 3):
            os.kill(os.getpid(), signal.SIGUSR2)
        return step(self, images, batch_idx)

    try:
        with monkeypatch.context() as patched:
            patched.setattr(SmoothedTraining, "training_step", with_signal)
            trained(tmp_path / "run")
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert [checkpoint["global_step"] for checkpoint in called] == [10]
    check_equal(tmp_path / "run", whole)


def test_handlers_are_those_of_before_once_a_command_has_ended(tmp_path):
    numbers = signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2
    before = [signal.getsignal(number) for number in numbers]
    trained(tmp_path / "run")
    assert [signal.getsignal(number) for number in numbers] == before


def test_it_is_called_after_callbacks_that_change_the_state():
    """A step's own average belongs to the state after the step."""

    class Averaging(pl.Callback):
        """Any callback that a user adds."""

    trainer = pl.Trainer(callbacks=[SaveOnSignal(Path("last.ckpt")), Averaging()], logger=False)
    kinds = [type(callback) for callback in trainer.callbacks]
    assert kinds.index(SaveOnSignal) > kinds.index(Averaging)
