"""Models of the user's own, and runs that come back in Python by `smoothcert.load`."""

import json
import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import smoothcert
from smoothcert import TightCertifier
from smoothcert.certify import weights_digest
from smoothcert.commands.build import build_model
from smoothcert.data import DigitsDataModule
from smoothcert.errors import CheckpointError, InvalidArgumentError
from smoothcert.models import Normalize
from smoothcert.records import read_certificates
from tests.helpers.checkpoint_files import TRAIN, certified, epochs, settings_of, trained
from tests.helpers.pages import blocks
from tests.helpers.resuming import last_of
from tests.helpers.support import composed

OWN = """
from torch import nn
from smoothcert.models import normalized

SEEN = {}

def network(num_classes=10):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))

def classes_alone(num_classes):
    return network(num_classes)

def nothing():
    return network()

def shape_and_setting(num_classes, input_shape, scale=1):
    SEEN.update(input_shape=tuple(input_shape), scale=scale)
    return network(num_classes)

def normalises_itself(num_classes, mean, std):
    return normalized(network(num_classes), mean, std)

def passes_on(**settings):
    SEEN.update(settings)
    return network(**settings)

class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.network = network()

    def forward(self, images):
        return self.network(images), images

def no_module():
    return 3
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A module of the user's own on Python's path."""
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "own_network.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path / "own")
    yield
    sys.modules.pop("own_network", None)


def built(tmp_path, *overrides):
    digits = DigitsDataModule()
    digits.setup()
    with composed(tmp_path, ["model=custom", *overrides]) as cfg:
        return build_model(cfg.model, digits)


@pytest.mark.parametrize(
    "target", ["classes_alone", "nothing", "shape_and_setting", "normalises_itself", "passes_on"]
)
def test_a_target_gets_what_it_takes_and_sees_normalised_images(own, tmp_path, target):
    model = built(tmp_path, f"model._target_=own_network.{target}")
    assert [type(part) for part in model] == [Normalize, nn.Sequential]
    assert model[0].mean.item() == pytest.approx(DigitsDataModule.mean[0])
    seen = sys.modules["own_network"].SEEN
    if target == "shape_and_setting":
        assert seen == {"input_shape": (1, 8, 8), "scale": 1}
    if target == "passes_on":
        assert seen == {"num_classes": 10}


def test_a_targets_own_settings_are_the_command_lines(own, tmp_path):
    built(tmp_path, "model._target_=own_network.shape_and_setting", "+model.scale=3")
    assert sys.modules["own_network"].SEEN["scale"] == 3


def test_torchvisions_builders_are_targets(tmp_path):
    facts = SimpleNamespace(num_classes=7, input_shape=(3, 32, 32), mean=[0.5] * 3, std=[0.2] * 3)
    target = "model._target_=torchvision.models.resnet18"
    with composed(tmp_path, ["model=custom", target]) as cfg:
        model = build_model(cfg.model, facts)
    assert isinstance(model[0], Normalize)
    assert model[1].fc.out_features == 7


@pytest.mark.parametrize("kind", ["standard", "center", "none"])
def test_a_network_that_normalises_nothing_is_given_each_normalisation(own, tmp_path, kind):
    target = "model._target_=own_network.classes_alone"
    model = built(tmp_path, target, f"model.normalization={kind}")
    mean = 0.0 if kind == "none" else DigitsDataModule.mean[0]
    assert model[0].mean.item() == pytest.approx(mean)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model._target_=own_network.Pair"], r"Expected logits of shape \(N, 10\) .*got tuple: r"),
        (["model._target_=own_network.no_module"], "Expected a torch.nn.Module from .*, got int"),
        (
            [],
            r"^InvalidArgumentError: Expected model\._target_=<module>\.<class> with model=custom",
        ),
    ],
)
def test_what_is_no_network_is_named(own, tmp_path, overrides, message):
    with pytest.raises(SystemExit, match=message):
        trained(tmp_path / "run", "trainer=cpu", "model=custom", *overrides)


def test_the_readmes_own_model_trains_and_its_weights_are_certified(tmp_path, monkeypatch):
    codes = [block.values[0] for block in blocks("python")]
    [code] = [code for code in codes if code.startswith("# my_model.py")]
    (tmp_path / "my_model.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    quick = ["trainer=cpu", "objective=gaussian", "n0=10", "n=100", epochs(1)]
    quick += ["callbacks.certification.max_images=4", "trainer.limit_train_batches=3"]
    mine = ["model=custom", "model._target_=my_model.MyNet", "+model.width=4"]
    try:
        folder = trained(tmp_path / "run", *quick, *mine)
        summary = json.loads((folder / "summary.json").read_text())
        assert summary["model"] == "my_model.MyNet"
        weights = {
            name.removeprefix("model.1."): tensor
            for name, tensor in last_of(folder)["state_dict"].items()
        }
        torch.save({"state_dict": weights}, tmp_path / "weights.pth")
        options = ["data=digits", "sigma=0.25", "n0=10", "n=100", "max_images=3"]
        of_file = certified(tmp_path / "own", f"ckpt={tmp_path}/weights.pth", *options, *mine)
        assert of_file["model"] == "my_model.MyNet"
        loaded = smoothcert.load(folder, "last", device="cpu")
        assert settings_of(tmp_path / "own")["weights"] == weights_digest(loaded.classifier)
    finally:
        sys.modules.pop("my_model", None)


# smoothcert.load


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A small trained run, which tests read and do not change."""
    folder = tmp_path_factory.mktemp("loaded") / "run"
    return trained(folder, *TRAIN, "model.normalization=center", epochs(2))


def test_a_loaded_run_gives_the_runs_own_certificates(run):
    smoothed = smoothcert.load(run, device="cpu")
    assert (smoothed.sigma, smoothed.num_classes) == (0.25, 10)
    assert settings_of(run)["weights"] == weights_digest(smoothed.classifier)
    data = DigitsDataModule()
    places = {int(index): place for place, index in enumerate(data.images("val").indices)}
    for row in read_certificates(run / "certificates.tsv"):
        image, _, index = data.images("val").example(places[row.idx])
        [proof] = smoothed.certify(image, TightCertifier(n0=10, n=100), indices=[index])
        assert (proof.label, proof.n_a) == (row.predict, row.n_a)
        assert proof.radius == pytest.approx(row.radius, abs=1e-5)


def test_the_checkpoint_and_the_precision_are_chosen(run):
    last = smoothcert.load(str(run), "last", "cpu", "bfloat16")
    saved = last_of(run)["state_dict"]
    assert torch.equal(last.classifier[1].fc.weight, saved["model.1.fc.weight"])
    assert last.execution.precision == "bfloat16"


def test_a_run_is_loaded_where_its_images_are_not(run, tmp_path, monkeypatch):
    monkeypatch.setattr(DigitsDataModule, "load", None)
    monkeypatch.chdir(tmp_path)
    assert smoothcert.load(run, device="cpu").num_classes == 10


def test_what_is_no_run_is_named(run, tmp_path):
    with pytest.raises(InvalidArgumentError, match="Expected a run folder, got"):
        smoothcert.load(tmp_path)
    with pytest.raises(CheckpointError, match=r"No checkpoint at .*third\.ckpt$"):
        smoothcert.load(run, "third")


def test_a_folder_that_would_run_code_is_refused_as_by_the_command(run, tmp_path):
    other = tmp_path / "run" / ".hydra"
    other.mkdir(parents=True)
    text = (run / ".hydra" / "config.yaml").read_text()
    (other / "config.yaml").write_text(text.replace("smoothcert.models.small_cnn", "os.system"))
    with pytest.raises(InvalidArgumentError, match=r"calls 'os\.system' as 'model', which is not"):
        smoothcert.load(tmp_path / "run")
