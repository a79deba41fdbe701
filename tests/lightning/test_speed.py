"""Ways to run training steps: memory format, precision and compilation change rounding alone."""

from functools import partial

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from smoothcert import commands
from smoothcert.attacks import PGD, NoAttack
from smoothcert.commands.build import (
    _compiled,
    build_data,
    build_module,
    build_trainer,
    precision_of,
)
from smoothcert.data.augmentation import CropAndFlip
from smoothcert.data.base import ImageDataModule
from smoothcert.data.datasets import InMemoryImages
from smoothcert.errors import InvalidArgumentError
from smoothcert.lightning import SmoothedTraining
from smoothcert.models import fast_resnet, load_weights, small_cnn
from smoothcert.objectives import ADRE
from tests.helpers.drawing import draw_alike
from tests.helpers.methods import QUICK, names
from tests.helpers.support import composed
from tests.helpers.training import SGD, STEP, fit, logged, weights

NATIVE = "torch.cpu._is_avx512_bf16_supported"


class Colours(ImageDataModule):
    """32 images of three channels."""

    input_shape, mean, std = (3, 8, 8), (0.5,) * 3, (0.3,) * 3

    def __init__(self):
        super().__init__(8, 0.25, seed=0, split_seed=0, num_workers=0)

    class_names = ("cat", "dog")

    def load(self, split):
        pixels = np.random.default_rng(0).integers(256, size=(32, 3, 8, 8), dtype=np.uint8)
        everything = InMemoryImages(torch.from_numpy(pixels), torch.arange(32) % 2)
        train, val = everything.subset(np.arange(24), CropAndFlip(1)), np.arange(24, 32)
        return {"train": train, "val": everything.subset(val), "test": everything.subset(val)}


class Watched(nn.Module):
    """A network that notes the memory format of what it is given."""

    def __init__(self, network):
        super().__init__()
        self.network, self.formats = network, set()

    def forward(self, images):
        self.formats.add(
            "last" if images.is_contiguous(memory_format=torch.channels_last) else "first"
        )
        return self.network(images)


def training(attack=None, **options):
    torch.manual_seed(0)
    network = Watched(fast_resnet(2, (3, 8, 8), [0.5] * 3, [0.3] * 3, width=4))
    attack = attack or NoAttack()
    # Rounding grows from step to step: at a small rate three steps are still alike.
    slowly = partial(torch.optim.SGD, lr=1e-3)
    return SmoothedTraining(network, ADRE(noise_draws=2), attack, 0.5, slowly, STEP, 2, **options)


@pytest.fixture
def same_noise(monkeypatch):
    """Give both memory formats the same values of noise."""
    monkeypatch.setattr("smoothcert.lightning.module.draw_noise", draw_alike)


@pytest.mark.usefixtures("same_noise")
@pytest.mark.parametrize("attack", [None, PGD(0.5, steps=2)])
def test_the_memory_format_changes_losses_by_rounding_alone(tmp_path, attack):
    losses = {}
    for last in (True, False):
        run = training(attack, channels_last=last)
        fit(run, tmp_path / str(last), epochs=1, data=Colours())
        losses[last] = [float(row["train/loss"]) for row in logged(tmp_path / str(last))[:3]]
        assert run.model.formats == {"last" if last else "first"}
    assert len(losses[True]) == 3
    assert losses[True] == pytest.approx(losses[False], rel=1e-3)


@pytest.mark.parametrize("last", [True, False])
def test_weights_are_in_the_requested_memory_format(tmp_path, last):
    run = training(channels_last=last)
    fit(run, tmp_path, epochs=1, batches=1, data=Colours())
    kernel = run.model.network[1].layer1[0].conv1.weight
    assert kernel.is_contiguous(memory_format=torch.channels_last) == last
    assert kernel.is_contiguous() != last


def test_a_training_is_channels_last_by_default():
    assert training().memory_format == torch.channels_last


@pytest.fixture
def eager(monkeypatch):
    """Compile without generating code, which takes a minute, and count how often."""
    calls, compiling = [], nn.Module.compile

    def compile_eagerly(network):
        calls.append(network)
        compiling(network, backend="eager")

    monkeypatch.setattr(nn.Module, "compile", compile_eagerly)
    return calls


def small(compile_model):
    torch.manual_seed(0)
    network = small_cnn(10, (1, 8, 8), [0.3], [0.4], width=4)
    parts = (ADRE(noise_draws=2), NoAttack(), 0.5, SGD, STEP, 2)
    return SmoothedTraining(network, *parts, compile_model=compile_model)


@pytest.mark.slow
def test_a_compiled_training_keeps_the_names_of_its_weights(tmp_path, eager):
    plain, compiled = small(False), small(True)
    fit(plain, tmp_path / "plain", epochs=1, batches=2)
    assert eager == []
    fit(compiled, tmp_path / "compiled", epochs=1, batches=2)
    assert eager == [compiled.model]
    assert list(compiled.state_dict()) == list(plain.state_dict())
    torch.testing.assert_close(weights(compiled), weights(plain), rtol=1e-3, atol=1e-4)
    torch.save(compiled.model.state_dict(), tmp_path / "weights.pt")
    load_weights(small_cnn(10, (1, 8, 8), [0.3], [0.4], width=4), tmp_path / "weights.pt")


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_a_run_that_is_compiled_trains_and_certifies(tmp_path):
    with composed(tmp_path, [*QUICK, "speed.compile=true"]) as cfg:
        commands.train(cfg)
    assert (tmp_path / "summary.json").is_file()


def test_only_what_is_requested_is_compiled(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert _compiled("auto", "gpu")
    assert _compiled("auto", "auto")
    assert not _compiled("auto", "cpu")
    assert not _compiled(False, "gpu")
    assert _compiled(True, "cpu")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert not _compiled("auto", "auto")


@pytest.mark.parametrize(
    ("speed", "precision", "last"),
    [("default", "bf16-mixed", True), ("default", "32-true", True), ("plain", "32-true", False)],
)
def test_each_speed_is_one_option_and_builds(tmp_path, monkeypatch, speed, precision, last):
    monkeypatch.setattr(NATIVE, lambda: precision == "bf16-mixed")
    with composed(tmp_path, [*QUICK, f"speed={speed}"]) as cfg:
        built = build_module(cfg, build_data(cfg))
        trainer = build_trainer(cfg)
    assert str(trainer.precision) == precision
    assert built.memory_format == (torch.channels_last if last else torch.contiguous_format)
    assert built.compile_model is False


def loss_of(folder):
    return [float(row["train/loss"]) for row in logged(folder) if row["train/loss"]]


def finished(folder, *overrides):
    with composed(folder, [*QUICK, *overrides]) as cfg:
        commands.train(cfg)
    return loss_of(folder)


def test_plain_and_default_train_alike_in_float32_on_grey_images(tmp_path):
    plain = finished(tmp_path / "plain", "speed=plain")
    assert len(plain) == 2
    for on_device in ("true", "false", "auto"):
        options = ["speed.precision=32-true", f"speed.data_on_device={on_device}"]
        assert finished(tmp_path / on_device, *options) == pytest.approx(plain, rel=1e-3)


@pytest.mark.parametrize("accelerator", ["cpu", "auto", "gpu"])
@pytest.mark.parametrize("native", [True, False])
def test_automatic_precision_is_the_one_that_the_cpu_multiplies(monkeypatch, accelerator, native):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(NATIVE, lambda: native)
    assert precision_of("auto", accelerator) == ("bf16-mixed" if native else "32-true")


@pytest.mark.parametrize("accelerator", ["auto", "gpu", "cuda", "cpu"])
@pytest.mark.parametrize("native", [True, False])
def test_automatic_precision_asks_the_device_that_trains(monkeypatch, accelerator, native):
    """The CPU beside the GPU says the opposite; emulated bfloat16 does not count."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr(
        "torch.cuda.is_bf16_supported",
        lambda including_emulation=True: native or including_emulation,
    )
    monkeypatch.setattr(NATIVE, lambda: not native)
    expected = native if accelerator != "cpu" else not native
    assert precision_of("auto", accelerator) == ("bf16-mixed" if expected else "32-true")


def test_a_torch_that_cannot_tell_gets_float32(monkeypatch):
    monkeypatch.delattr(NATIVE)
    assert precision_of("auto", "cpu") == "32-true"


@pytest.mark.parametrize("asked", ["16-true", "bf16-true", "bf16-mixed", "32-true", "64-true", 32])
def test_a_precision_that_is_named_is_taken(asked, monkeypatch):
    monkeypatch.setattr(NATIVE, lambda: True)
    assert precision_of(asked, "cpu") == asked


@pytest.mark.parametrize("way", ["trainer.precision={}", "speed.precision={}"])
@pytest.mark.parametrize("asked", ["bf16-true", "64-true"])
def test_a_precision_reaches_the_trainer_from_either_setting(tmp_path, way, asked):
    with composed(tmp_path, [*QUICK, way.format(asked)]) as cfg:
        assert str(build_trainer(cfg).precision) == asked


def test_every_speed_resolves(tmp_path):
    for speed in names("speed"):
        with composed(tmp_path, [f"speed={speed}"]) as cfg:
            resolved = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
        assert set(resolved["speed"]) == {
            *("precision", "channels_last", "compile", "data_on_device")
        }
        assert resolved["trainer"]["precision"] == resolved["speed"]["precision"]


def test_bfloat16_trains_nearly_as_float32(tmp_path):
    """The losses differ, or bfloat16 was not used; but by what eight bits round away."""
    half, full = (
        finished(tmp_path / precision, f"trainer.precision={precision}")
        for precision in ("bf16-mixed", "32-true")
    )
    assert half != full
    assert half == pytest.approx(full, rel=0.05)


def test_a_training_in_bfloat16_can_be_repeated_bit_for_bit(tmp_path):
    ways = [tmp_path / "a", tmp_path / "b"]
    losses = [finished(way, "trainer.precision=bf16-mixed", "attack=pgd") for way in ways]
    assert losses[0] == losses[1]


# What does not hold yet; each fails for the reason given.


def test_a_compilation_is_switched_by_yes_no_or_auto_alone():
    with pytest.raises(InvalidArgumentError, match=r"true, false or auto, got 'off'"):
        _compiled("off", "cpu")
