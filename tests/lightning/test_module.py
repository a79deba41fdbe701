"""The LightningModule on the digits."""

from functools import partial

import pytest
import pytorch_lightning as pl
import torch

from smoothcert.attacks import PGD
from smoothcert.data import DigitsDataModule
from smoothcert.errors import NonFiniteError
from smoothcert.objectives import ADRE, Gaussian
from smoothcert.warmup import Linear
from tests.helpers.training import fit, logged, module, weights


def test_everything_that_attack_and_objective_report_is_logged(tmp_path):
    fit(module(attack=PGD(0.5, steps=2)), tmp_path)
    names = {name for row in logged(tmp_path) for name, value in row.items() if value}
    assert {
        "train/loss",
        "train/cross_entropy",
        "train/adre",
        "train/smoothed_accuracy",
        "train/attack_epsilon",
        "train/attack_distance",
        "train/learning_rate",
        "train/images_per_second",
        "val/cross_entropy",
        "val/smoothed_accuracy",
    } <= names


def test_the_schedule_is_stepped_once_an_epoch_and_the_attack_grows(tmp_path):
    fit(module(attack=PGD(1.0, steps=1, warmup=Linear(10))), tmp_path, epochs=2, batches=2)
    rows = [row for row in logged(tmp_path) if row["train/loss"]]
    rates = [float(row["train/learning_rate"]) for row in rows]
    assert rates == pytest.approx([0.1, 0.1, 0.05, 0.05])
    strengths = [float(row["train/attack_epsilon"]) for row in rows]
    assert strengths == pytest.approx([0.1, 0.1, 0.2, 0.2])


def test_the_logged_loss_is_made_of_the_logged_terms(tmp_path):
    fit(module(ADRE(0.3, noise_draws=2)), tmp_path)
    for row in logged(tmp_path):
        if row["train/loss"]:
            terms = float(row["train/cross_entropy"]) + 0.3 * float(row["train/adre"])
            assert float(row["train/loss"]) == pytest.approx(terms, rel=1e-5)


@pytest.mark.parametrize("attack", [None, PGD(0.5, steps=2)])
@pytest.mark.parametrize("objective", [None, Gaussian()])
def test_the_same_seed_gives_the_same_weights_and_another_seed_others(tmp_path, objective, attack):
    runs = [module(objective, attack, seed) for seed in (0, 0, 1)]
    for number, run in enumerate(runs):
        fit(run, tmp_path / str(number), epochs=1)
    assert torch.equal(weights(runs[0]), weights(runs[1]))
    assert not torch.equal(weights(runs[0]), weights(runs[2]))


def test_a_resumed_training_ends_with_the_weights_of_an_uninterrupted_one(tmp_path):
    def checkpoint(folder):
        return pl.callbacks.ModelCheckpoint(folder, "last", save_on_train_epoch_end=True)

    whole = module(attack=PGD(0.5, steps=2))
    fit(whole, tmp_path / "whole", epochs=3)
    fit(
        module(attack=PGD(0.5, steps=2)),
        tmp_path / "half",
        1,
        callbacks=[checkpoint(tmp_path / "half")],
    )
    resumed = module(attack=PGD(0.5, steps=2))
    fit(
        resumed,
        tmp_path / "half",
        epochs=3,
        callbacks=[checkpoint(tmp_path / "half")],
        ckpt_path=tmp_path / "half" / "last.ckpt",
    )
    assert torch.equal(weights(resumed), weights(whole))


def test_training_learns(tmp_path):
    trainer = fit(module(), tmp_path, epochs=8, batches=1.0)
    assert trainer.callback_metrics["val/smoothed_accuracy"] > 0.3


def test_a_diverged_training_stops_with_advice(tmp_path):
    training = module(optimizer=partial(torch.optim.SGD, lr=1e30))
    with pytest.raises(NonFiniteError, match=r"diverged. Lower optimizer\.lr"):
        fit(training, tmp_path, epochs=3)


def test_pixels_outside_the_range_name_the_image(tmp_path):
    data = DigitsDataModule(crop_padding=0)
    data.setup()
    data.images("train").images.mul_(16)
    with pytest.raises(NonFiniteError, match=r"Expected pixels in \[0, 1\] at image \d+, got"):
        fit(module(), tmp_path, data=data)
