"""Certification inside training."""

import warnings
from dataclasses import replace

import pytest
import pytorch_lightning as pl
import torch

from smoothcert.attacks import PGD
from smoothcert.certify import TightCertifier
from smoothcert.data import DigitsDataModule
from smoothcert.errors import InvalidArgumentError, MismatchError, SmoothCertWarning
from smoothcert.lightning import CertificationCallback
from smoothcert.records import read_certificates
from smoothcert.stats import average_certified_radius, certified_accuracy
from tests.helpers.training import fit, logged, module, weights

QUICK = TightCertifier(n0=20, n=300)


@pytest.fixture(autouse=True)
def _few_samples_are_meant():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SmoothCertWarning)
        yield


def certification(folder, **arguments):
    return CertificationCallback(QUICK, 0.5, folder, **{"max_images": 6, **arguments})


def validate(training, callback, folder):
    trainer = fit(training, folder, epochs=1, callbacks=[callback])
    trainer.validate(training, datamodule=trainer.datamodule, verbose=False)
    return trainer


def test_validate_certifies_and_logs_the_figures_of_the_rows(tmp_path):
    callback = certification(tmp_path, radii=[0.0, 0.25])
    trainer = validate(module(), callback, tmp_path)
    rows = read_certificates(tmp_path / "certificates.tsv")
    assert len(rows) == 6
    radius, correct = [row.radius for row in rows], [row.correct for row in rows]
    metrics = trainer.callback_metrics
    assert metrics["certify/acr"] == pytest.approx(average_certified_radius(radius, correct))
    for r in (0.0, 0.25):
        share = float(certified_accuracy(radius, correct, r))
        assert metrics[f"certify/accuracy_at_{r:g}"].item() == pytest.approx(share)
    assert metrics["certify/abstention_rate"] == sum(row.predict < 0 for row in rows) / 6
    assert any(row["certify/acr"] for row in logged(tmp_path))


def test_rows_are_held_out_images_under_their_own_indices(tmp_path):
    validate(module(), certification(tmp_path, skip=3), tmp_path)
    digits = DigitsDataModule()
    indices = digits.images("val").indices[::30]
    labels = digits.images("val").labels[::30]
    rows = read_certificates(tmp_path / "certificates.tsv")
    assert [row.idx for row in rows] == indices.tolist()
    assert [row.label for row in rows] == labels.tolist()


@pytest.mark.parametrize("attack", [None, PGD(0.5, steps=2)])
def test_training_is_the_same_with_and_without_certification(tmp_path, attack):
    plain, certified = module(attack=attack), module(attack=attack)
    fit(plain, tmp_path / "plain")
    before = torch.get_rng_state()
    fit(certified, tmp_path / "certified", callbacks=[certification(tmp_path, every_n_epochs=1)])
    assert torch.equal(weights(plain), weights(certified))
    assert certified.model.training
    torch.set_rng_state(before)


def test_global_random_streams_continue_as_if_nothing_had_been_certified(tmp_path):
    class Noisy(CertificationCallback):
        """A certification whose parts draw from the global stream."""

        def _certify(self, *arguments):
            torch.rand(3)
            return super()._certify(*arguments)

    draws = []
    for callbacks in ([], [Noisy(QUICK, 0.5, tmp_path, every_n_epochs=1, max_images=2)]):
        training = module()
        torch.manual_seed(7)
        fit(training, tmp_path, callbacks=callbacks)
        draws.append(torch.rand(3))
    assert torch.equal(*draws)


def test_every_nth_epoch_has_a_file_of_its_own_and_the_run_none_before_validate(tmp_path):
    fit(module(), tmp_path, epochs=5, callbacks=[certification(tmp_path, every_n_epochs=2)])
    names = sorted(path.name[:10] for path in (tmp_path / "certificates").glob("*.tsv"))
    assert names == ["epoch_0001", "epoch_0003"]
    assert not (tmp_path / "certificates.tsv").exists()


def test_checkpoints_follow_acr_and_epochs_without_certificates_do_not_count(tmp_path):
    acrs = iter([0.1, 0.3, 0.2])

    class Scripted(CertificationCallback):
        """Reports ACRs from a list."""

        def _figures(self, certified):
            return {"acr": next(acrs)}

    best = pl.callbacks.ModelCheckpoint(
        tmp_path, "best-{epoch}", monitor="certify/acr", mode="max", auto_insert_metric_name=False
    )
    callback = Scripted(QUICK, 0.5, tmp_path, every_n_epochs=2, max_images=1)
    fit(module(), tmp_path, epochs=6, callbacks=[callback, best])
    assert best.best_model_score == pytest.approx(0.3)
    assert best.best_model_path.endswith("best-3.ckpt")


def test_a_picture_is_drawn_and_given_the_rows(tmp_path):
    seen = []
    validate(module(), certification(tmp_path, plot=lambda *given: seen.append(given)), tmp_path)
    [(rows, settings, path)] = seen
    assert path == tmp_path / "certified_accuracy.png"
    assert (len(rows), settings["sigma"], settings["split"]) == (6, 0.5, "val")


def test_an_interrupted_certification_is_continued(tmp_path):
    training = module()
    trainer = validate(training, certification(tmp_path), tmp_path)
    path = tmp_path / "certificates.tsv"
    whole = read_certificates(path)
    path.write_bytes(path.read_bytes()[:-90])
    kept = len(read_certificates(path))
    trainer.validate(training, datamodule=trainer.datamodule, verbose=False)
    rows = read_certificates(path)
    assert kept < 6
    assert rows[:kept] == whole[:kept]
    assert [replace(row, time=0.0) for row in rows] == [replace(row, time=0.0) for row in whole]


def test_test_images_may_not_choose_a_checkpoint(tmp_path):
    with pytest.raises(InvalidArgumentError, match="test images must not choose a checkpoint"):
        certification(tmp_path, split="test", every_n_epochs=1)


def test_an_unknown_split_is_refused(tmp_path):
    with pytest.raises(InvalidArgumentError, match="one of train, val, test, got 'dev'"):
        certification(tmp_path, split="dev")


def test_loaders_without_a_data_module_are_refused(tmp_path):
    digits = DigitsDataModule()
    digits.setup()
    trainer = pl.Trainer(accelerator="cpu", logger=False, callbacks=[certification(tmp_path)])
    with pytest.raises(MismatchError, match="got NoneType"):
        trainer.validate(module(), dataloaders=digits.val_dataloader(), verbose=False)


@pytest.mark.parametrize(("n", "radius"), [(100, "0.750"), (5, "0.000")])
def test_too_few_samples_warn_of_the_largest_radius(tmp_path, n, radius):
    callback = CertificationCallback(replace(QUICK, n=n), 0.5, tmp_path)
    with pytest.warns(SmoothCertWarning, match=rf"n={n} .* no radius above {radius}"):
        callback.setup(pl.Trainer(logger=False), module(), "validate")


def test_epochs_are_chosen_by_other_noise_than_the_final_certificates(tmp_path):
    callback = certification(tmp_path, every_n_epochs=1)
    validate(module(), callback, tmp_path)
    [epoch] = (tmp_path / "certificates").glob("*.tsv")
    votes = [
        [(row.n_a, row.n_b) for row in read_certificates(path)]
        for path in (epoch, tmp_path / "certificates.tsv")
    ]
    assert votes[0] != votes[1]
