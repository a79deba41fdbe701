"""Trainings of several processes: the same images, other noise, one network."""

import csv
import os
import signal

import pytest
import torch
import torch.distributed as dist
from torch import nn

from smoothcert.commands import error_handling, training
from smoothcert.distributed.group import is_group
from smoothcert.errors import InvalidArgumentError, Stopped
from smoothcert.lightning import SmoothedTraining
from smoothcert.records import read_certificates
from tests.helpers.resuming import last_of, metrics_of, states_of
from tests.helpers.support import TINY, composed
from tests.helpers.together import together

QUICK = [
    *("experiment=digits_gaussian", *TINY, "objective.noise_draws=1", "trainer.devices=2"),
    *("trainer.max_epochs=2", "trainer.limit_train_batches=4", "trainer.log_every_n_steps=1"),
    "callbacks.certification.plot=null",
]
LINEAR = ["model._target_=tests.lightning.test_distributed.Linear", "trainer.precision=32-true"]


class Linear(nn.Sequential):
    """A network without statistics, whose gradient on a batch is the mean of its halves'."""

    def __init__(self, num_classes, input_shape, mean, std, width):
        super().__init__(nn.Flatten(), nn.Linear(64, num_classes))


def trained(folder, *overrides, signals=None, noise=None):
    """Train, in each of the processes; return the weights, and sums of the noise of its steps.

    Args:
        folder: the run folder.
        overrides: of the configuration.
        signals: rank, epoch and batch at which a process gets SIGUSR1.
        noise: whether to return what noise there was.
    """
    step, sums = SmoothedTraining.training_step, []
    rank = dist.get_rank() if is_group() else 0

    def watched(self, batch, batch_idx):
        if signals == (rank, self.current_epoch, batch_idx):
            os.kill(os.getpid(), signal.SIGUSR1)
        return step(self, batch, batch_idx)

    def drawn(self, model, batch, source):
        sums.append((sorted(batch.labels.tolist()), float(batch.noise.sum())))
        return attack(self, model, batch, source)

    from smoothcert.attacks import NoAttack

    attack = NoAttack.__call__
    SmoothedTraining.training_step, NoAttack.__call__ = watched, drawn
    try:
        with (
            composed(folder, [*QUICK, *overrides]) as cfg,
            error_handling.quiet(),
            error_handling.signals_stop(),
        ):
            training.train(cfg)
    except Stopped as stopped:
        return stopped.code, sums
    finally:
        SmoothedTraining.training_step, NoAttack.__call__ = step, attack
    return [tensor.tolist() for tensor in last_of(folder)["state_dict"].values()], sums


def validated(folder):
    with (folder / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["val/cross_entropy"]]
    return [
        [float(row[name]) for name in ("val/cross_entropy", "val/smoothed_accuracy")]
        for row in rows
    ]


def test_validation_sees_each_image_once_whatever_the_number_of_processes(tmp_path):
    """181 images, so that one process has a batch more than the two others."""
    overrides = [*LINEAR, "optimizer.lr=0", "data.batch_size=60", "data.val_fraction=0.1007"]
    overrides.append("callbacks.certification=null")
    trained(tmp_path / "1", *overrides)
    together(3, tmp_path, trained, tmp_path / "3", *overrides)
    assert validated(tmp_path / "3") == [
        pytest.approx(figures, rel=1e-6) for figures in validated(tmp_path / "1")
    ]


def test_steps_are_those_of_one_process_where_noise_does_not_matter(tmp_path):
    options = [*LINEAR, "sigma=1e-6", "data.crop_padding=0", "callbacks.certification=null"]
    alone, steps = trained(tmp_path / "1", *options)
    (first, halves), (second, others) = together(2, tmp_path, trained, tmp_path / "2", *options)
    assert first == second
    for together_value, alone_value in zip(first, alone, strict=True):
        assert torch.allclose(torch.tensor(together_value), torch.tensor(alone_value), atol=1e-5)
    # The same images in each step, half of them here and half of them there.
    for (labels, _), (left, _), (right, _) in zip(steps, halves, others, strict=True):
        assert sorted(left + right) == labels
        assert len(left) == len(right)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The folder of a training by two processes, and what each of them returned."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    return folder / "run", together(2, folder, trained, folder / "run")


def test_processes_draw_noise_of_their_own_and_end_with_one_network(uninterrupted):
    folder, ((weights, steps), (other_weights, other_steps)) = uninterrupted
    sums = [noise for _, noise in steps + other_steps]
    assert len(set(sums)) == len(sums) == 2 * 8
    # Statistics of BatchNorm included; and they certify it together.
    assert weights == other_weights
    rows = read_certificates(folder / "certificates.tsv")
    assert [row.idx for row in rows] == sorted(row.idx for row in rows)
    assert len(rows) == 4


def test_a_signal_to_any_process_ends_all_after_the_same_step_and_they_resume(
    uninterrupted, tmp_path
):
    """They then draw the noise that they would have drawn, and end with the same network."""
    folder, answers = uninterrupted
    stop = together(2, tmp_path, stopped, tmp_path / "parts", (1, 1, 1))
    assert [code for code, _ in stop] == [128 + signal.SIGUSR1] * 2
    assert last_of(tmp_path / "parts")["global_step"] == 4 + 2
    resumed = together(2, tmp_path, trained, tmp_path / "parts")
    for (weights, steps), (other_weights, other_steps) in zip(resumed, answers, strict=True):
        assert weights == other_weights
        assert steps == other_steps[-len(steps) :]
    saved = [states_of(last_of(place)) for place in (tmp_path / "parts", folder)]
    assert all(torch.equal(*pair) for pair in zip(*saved, strict=True))
    assert metrics_of(tmp_path / "parts") == metrics_of(folder)


def stopped(folder, signals):
    return trained(folder, signals=signals)


def test_a_batch_that_cannot_be_shared_is_refused(tmp_path):
    with pytest.raises(InvalidArgumentError, match=r"a multiple of the 2 processes.*got 63"):
        together(2, tmp_path, trained, tmp_path / "run", "data.batch_size=63")
