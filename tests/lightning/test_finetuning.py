"""Frozen parts and averaged weights, each against an independent account of the training."""

from functools import partial

import pytest
import pytorch_lightning as pl
import torch

from smoothcert.attacks import PGD
from smoothcert.errors import InvalidArgumentError
from smoothcert.lightning import EMA, FreezeParts, SmoothedTraining
from smoothcert.objectives import Gaussian
from tests.helpers.training import SGD, fit, module, weights

DECAYING = partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=0.1)
ADAMW = partial(torch.optim.AdamW, lr=0.01, weight_decay=0.5)


def state(training):
    return {name: tensor.clone() for name, tensor in training.model[1].state_dict().items()}


def changed(before, after):
    return {name for name in before if not torch.equal(before[name], after[name])}


def below(part, names):
    return {name for name in names if name.startswith(f"{part}.")}


class Snapshots(pl.Callback):
    """Keeps all weights at the end of every epoch, and after every step."""

    def __init__(self):
        self.epochs, self.steps = [], []

    def on_train_batch_end(self, trainer, pl_module, *args):
        self.steps.append(state(pl_module))

    def on_train_epoch_end(self, trainer, pl_module):
        self.epochs.append(state(pl_module))


@pytest.mark.parametrize("optimizer", [SGD, DECAYING, ADAMW], ids=["sgd", "decay", "adamw"])
@pytest.mark.parametrize("attack", [None, PGD(0.5, steps=1)], ids=["none", "pgd"])
def test_a_frozen_part_is_the_same_to_the_last_bit_and_the_others_are_not(
    tmp_path, optimizer, attack
):
    training = module(attack=attack, optimizer=optimizer)
    before = state(training)
    fit(training, tmp_path, callbacks=[FreezeParts(["features"])])
    assert changed(before, state(training)) == {"fc.weight", "fc.bias"}


def test_statistics_of_a_frozen_batchnorm_stay_and_a_free_ones_move(tmp_path):
    training = module(Gaussian())
    before = state(training)
    fit(training, tmp_path, callbacks=[FreezeParts(["features.1", "fc"])])
    after = changed(before, state(training))
    assert below("features.1", after) | below("fc", after) == set()
    assert {"features.0.weight", "features.4.running_mean", "features.4.weight"} <= after


def test_nothing_is_frozen_without_parts(tmp_path):
    free, listed = module(), module()
    fit(free, tmp_path / "a")
    fit(listed, tmp_path / "b", callbacks=[FreezeParts()])
    assert torch.equal(weights(free), weights(listed))


def test_epochs_without_parts_are_refused():
    with pytest.raises(InvalidArgumentError, match=r"Expected model\.freeze=.* with model"):
        FreezeParts(epochs=1)


def test_a_part_is_set_free_after_its_epochs(tmp_path):
    training, snapshots = module(), Snapshots()
    before = state(training)
    freeze = FreezeParts(["features"], epochs=2)
    fit(training, tmp_path, epochs=3, callbacks=[freeze, snapshots])
    assert below("features", changed(before, snapshots.epochs[1])) == set()
    free = below("features", changed(snapshots.epochs[1], snapshots.epochs[2]))
    assert {"features.0.weight", "features.1.running_mean"} <= free
    assert all(parameter.requires_grad for parameter in training.parameters())


@pytest.mark.parametrize("ended", [1, 2])
def test_a_resumed_training_freezes_and_frees_as_an_uninterrupted_one(tmp_path, ended):
    def run(folder, epochs, ckpt_path=None):
        training = module(optimizer=ADAMW)
        keep = pl.callbacks.ModelCheckpoint(folder, "last", save_on_train_epoch_end=True)
        callbacks = [FreezeParts(["features"], epochs=2), keep]
        fit(training, folder, epochs, callbacks=callbacks, ckpt_path=ckpt_path)
        return training

    whole = run(tmp_path / "whole", 4)
    run(tmp_path / "parts", ended)
    resumed = run(tmp_path / "parts", 4, tmp_path / "parts" / "last.ckpt")
    assert torch.equal(weights(resumed), weights(whole))


def test_an_unknown_part_is_named_before_any_training(tmp_path):
    training = module()
    before = state(training)
    with pytest.raises(InvalidArgumentError, match="network, features, fc; got 'layer1'"):
        fit(training, tmp_path, callbacks=[FreezeParts(["layer1"])])
    assert changed(before, state(training)) == set()


@pytest.mark.parametrize("epochs", [0, -1, 1.5])
def test_epochs_are_a_whole_number_from_one(epochs):
    with pytest.raises(InvalidArgumentError, match=rf"`epochs` a whole number >= 1, got {epochs}"):
        FreezeParts(["fc"], epochs)


def recursion(steps, decay):
    """The average after each step, in float64: a ← d·a + (1 − d)·w, a₁ = w₁, d less at first."""
    average = {name: tensor.double() for name, tensor in steps[0].items()}
    for number, weights_now in enumerate(steps[1:], start=1):
        kept = min(decay, (1 + number) / (10 + number))
        for name, tensor in weights_now.items():
            average[name] = kept * average[name] + (1 - kept) * tensor.double()
    return average


def agrees(found, expected):
    return all(
        torch.allclose(found[name].double(), expected[name], rtol=1e-5, atol=1e-6)
        for name in expected
        if not name.endswith("num_batches_tracked")
    )


@pytest.mark.parametrize("decay", [0.5, 0.9])
def test_the_weights_at_the_end_are_the_average(tmp_path, decay):
    training, snapshots = module(), Snapshots()
    fit(training, tmp_path, callbacks=[snapshots, EMA(decay=decay)])
    assert len(snapshots.steps) == 6
    assert agrees(state(training), recursion(snapshots.steps, decay))
    last = {name: tensor.double() for name, tensor in snapshots.steps[-1].items()}
    assert not agrees(state(training), last)


class Validated(pl.Callback):
    """Keeps the weights that validation sees."""

    def __init__(self):
        self.seen = []

    def on_validation_batch_start(self, trainer, pl_module, *args):
        self.seen.append(state(pl_module))


def test_validation_sees_the_average_and_training_continues_without_it(tmp_path):
    plain, averaged = module(), module()
    snapshots, alone, validated = Snapshots(), Snapshots(), Validated()
    fit(averaged, tmp_path / "a", callbacks=[snapshots, validated, EMA(decay=0.8)])
    fit(plain, tmp_path / "b", callbacks=[alone])
    for number, seen in enumerate(validated.seen):
        assert agrees(seen, recursion(snapshots.steps[: 3 * (number + 1)], 0.8))
    assert len(validated.seen) == 2
    pairs = zip(alone.steps, snapshots.steps, strict=True)
    assert all(changed(ours, theirs) == set() for ours, theirs in pairs)


def test_a_given_checkpoint_is_validated_as_it_is(tmp_path):
    """Lightning's own callback puts its average in the place of the weights that it is given."""
    training, validated = module(), Validated()
    trainer = fit(training, tmp_path, callbacks=[validated, EMA(decay=0.8)])
    given = module(seed=7)
    validated.seen.clear()
    trainer.validate(given, datamodule=trainer.datamodule, verbose=False)
    assert changed(validated.seen[0], state(module(seed=7))) == set()
    assert changed(state(given), state(module(seed=7))) == set()


class Seen(pl.Callback):
    """Keeps the weights at the end of each validation epoch, and saves a checkpoint there."""

    def __init__(self, folder):
        self.folder, self.weights = folder, []

    def on_validation_epoch_end(self, trainer, pl_module):
        self.weights.append(state(pl_module))
        trainer.save_checkpoint(self.folder / f"{len(self.weights)}.ckpt")


LOSS = {"monitor": "val/cross_entropy"}


@pytest.mark.parametrize(
    ("saving", "first"),
    [
        ({}, False),
        ({**LOSS, "save_top_k": -1}, True),
        ({**LOSS, "save_on_train_epoch_end": False, "save_top_k": 2}, False),
        ({"save_last": True, "monitor": "val/smoothed_accuracy", "mode": "max"}, True),
    ],
)
def test_what_is_validated_seen_and_stored_is_one_network(tmp_path, saving, first):
    """Whatever a checkpoint is told, and in whatever order the callbacks come."""
    training, validated, seen = module(), Validated(), Seen(tmp_path)
    keep = pl.callbacks.ModelCheckpoint(tmp_path / "kept", "{epoch}", **saving)
    order = [seen, EMA(decay=0.8)] if first else [EMA(decay=0.8), seen]
    fit(training, tmp_path, epochs=3, callbacks=[keep, validated, *order])
    of_validation = validated.seen
    assert len(of_validation) == len(seen.weights) == 3
    for number, weights_then in enumerate(of_validation):
        assert changed(weights_then, seen.weights[number]) == set()
        saved = torch.load(tmp_path / f"{number + 1}.ckpt")
        assert same_as(weights_then, saved["state_dict"])
        assert not same_as(weights_then, saved["current_model_state"])
    kept = list((tmp_path / "kept").glob("*.ckpt"))
    assert kept
    for path in kept:
        saved = torch.load(path)
        assert same_as(of_validation[saved["epoch"]], saved["state_dict"])


def same_as(weights_then, saved):
    return all(torch.equal(saved[f"model.1.{name}"], each) for name, each in weights_then.items())


def test_a_checkpoint_of_weights_alone_is_refused_before_training(tmp_path):
    """Lightning asks no callback what goes into it: it would hold the weights in training."""
    training = module()
    before = state(training)
    keep = pl.callbacks.ModelCheckpoint(tmp_path, save_weights_only=True)
    with pytest.raises(InvalidArgumentError, match="Expected save_weights_only=false"):
        fit(training, tmp_path, callbacks=[EMA(), keep])
    assert changed(before, state(training)) == set()
    assert list(tmp_path.glob("*.ckpt")) == []


def ema_run(folder, epochs, ckpt_path=None):
    training = module(attack=PGD(0.5, steps=1))
    keep = pl.callbacks.ModelCheckpoint(folder, "last", save_on_train_epoch_end=True)
    fit(training, folder, epochs, callbacks=[EMA(decay=0.9), keep], ckpt_path=ckpt_path)
    return training


def test_a_resumed_average_is_that_of_an_uninterrupted_training(tmp_path):
    whole = ema_run(tmp_path / "whole", 3)
    ema_run(tmp_path / "parts", 1)
    resumed = ema_run(tmp_path / "parts", 3, tmp_path / "parts" / "last.ckpt")
    assert torch.equal(weights(resumed), weights(whole))
    files = [torch.load(tmp_path / name / "last.ckpt") for name in ("whole", "parts")]
    for key in ("state_dict", "current_model_state"):
        assert changed(files[0][key], files[1][key]) == set()
    differing = changed(files[0]["state_dict"], files[0]["current_model_state"])
    assert "model.1.fc.weight" in differing


def test_the_average_of_a_frozen_part_is_that_part(tmp_path):
    training = module()
    before = state(training)
    fit(training, tmp_path, epochs=4, callbacks=[FreezeParts(["features"]), EMA(decay=0.9)])
    assert changed(before, state(training)) == {"fc.weight", "fc.bias"}


def test_the_average_is_seen_through_the_same_normalisation(tmp_path):
    training = module()
    fit(training, tmp_path, epochs=2, callbacks=[Awkward(), EMA(decay=0.9)])
    assert training.model[0].mean.tolist() == Awkward.MEAN.tolist()


class Awkward(pl.Callback):
    """Normalises by a mean whose average with itself is not itself in float32."""

    MEAN = torch.tensor([[[0.4465]]])

    def setup(self, trainer, pl_module: SmoothedTraining, stage):
        pl_module.model[0].mean.copy_(self.MEAN)
