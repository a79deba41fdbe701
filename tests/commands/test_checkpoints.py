"""Commands that take a checkpoint file: certified as it is, trained on from, or refused."""

import json
import re
import shutil
from shutil import rmtree

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from PIL import Image
from torch import nn

import smoothcert
from smoothcert import commands
from smoothcert.certify import weights_digest
from smoothcert.commands.commandline import quoted, typed
from smoothcert.data import (
    CIFAR10DataModule,
    DigitsDataModule,
    cifar10,
    datasets,
    decoding,
    image_folder,
)
from smoothcert.lightning import SmoothedTraining
from smoothcert.models import CifarResNet, Normalize, SmallCNN
from smoothcert.records import CertificateFile, read_certificates
from tests.helpers.checkpoint_files import (
    TRAIN,
    UNCERTIFIED,
    certified,
    epochs,
    settings_of,
    trained,
)
from tests.helpers.resuming import last_of
from tests.helpers.row_files import in_order
from tests.helpers.support import CONF, composed, guarded

FILE = ["data=digits", "model=small_cnn", "model.width=4", "sigma=0.25", "n0=10", "n=100"]
CERTIFY = [*FILE, "max_images=6"]


def rows_of(folder):
    return in_order(folder / "certificates.tsv")


def bytes_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def network_of(folder, name="best.ckpt"):
    """The bare network's weights of a run."""
    saved = torch.load(folder / "checkpoints" / name)["state_dict"]
    return {key.removeprefix("model.1."): value for key, value in saved.items()}


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


LAYOUTS = {
    "cohen": lambda w: {
        "epoch": 90,
        "arch": "small_cnn",
        "state_dict": {f"1.{k}": v for k, v in w.items()},
        "optimizer": {},
    },
    "parallel": lambda w: {"state_dict": {f"1.module.{k}": v for k, v in w.items()}},
    "lightning": lambda w: {"state_dict": {f"model.1.{k}": v for k, v in w.items()}},
}
"""Three of those in `tests/models/test_published_layouts.py`."""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A small trained run, which tests read and do not change."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    return trained(folder, *TRAIN, "trainer.limit_train_batches=1.0", "trainer.max_epochs=8")


@pytest.fixture(scope="module")
def file(run, tmp_path_factory):
    """The run's weights as the field publishes such."""
    path = tmp_path_factory.mktemp("published") / "checkpoint.pth.tar"
    torch.save(LAYOUTS["cohen"](network_of(run)), path)
    return path


@pytest.fixture(scope="module")
def certified_file(file, tmp_path_factory):
    """The folder of a certification of the file, which tests read and do not change."""
    folder = tmp_path_factory.mktemp("certified")
    certified(folder, f"ckpt={file}", *CERTIFY)
    return folder


# Certifying a file.


def test_a_file_is_certified_without_any_training(file, tmp_path, capsys):
    summary = certified(tmp_path, f"ckpt={file}", *CERTIFY)
    expected = {
        "model": "small_cnn",
        "data": "digits",
        "normalization": "standard",
        "ckpt": str(file),
        "sigma": 0.25,
        "n0": 10,
        "n": 100,
        "alpha": 0.001,
        "seed": 0,
        "split": "test",
        "images": 6,
        "objective": None,
        "attack": None,
        "certifier": "sequential",
    }
    assert {name: summary[name] for name in expected} == expected
    rows = read_certificates(tmp_path / "certificates.tsv")
    assert summary["acr"] == pytest.approx(sum(r.radius * r.correct for r in rows) / 6)
    assert summary["acr"] > 0
    assert "small_cnn of checkpoint.pth.tar on digits, σ = 0.25" in capsys.readouterr().out


@pytest.mark.parametrize("certifier", ["sequential", "tight"])
def test_a_runs_best_checkpoint_gives_the_runs_certificates(run, tmp_path, certifier):
    options = [f"certifier={certifier}", "max_images=6", "skip=2"]
    of_run = certified(tmp_path / "run", f"run={run}", *options, name="certify")
    ckpt = f"ckpt={run}/checkpoints/best.ckpt"
    of_file = certified(tmp_path / "file", ckpt, *FILE, *options)
    assert rows_of(tmp_path / "run") == rows_of(tmp_path / "file")
    assert settings_of(tmp_path / "run") == settings_of(tmp_path / "file")
    assert of_run["acr"] == of_file["acr"] > 0


@pytest.mark.parametrize("layout", ["parallel", "lightning"])
def test_each_layout_gives_the_same_certificates(run, certified_file, tmp_path, layout):
    path = tmp_path / "weights.pth"
    torch.save(LAYOUTS[layout](network_of(run)), path)
    certified(tmp_path / "own", f"ckpt={path}", *CERTIFY)
    assert rows_of(tmp_path / "own") == rows_of(certified_file)


@pytest.mark.parametrize(
    ("kind", "mean", "std"),
    [("standard", 0.3053, 0.376), ("center", 0.3053, 1.0), ("none", 0.0, 1.0)],
)
def test_the_certified_classifier_sees_what_normalization_says(
    run, file, tmp_path, kind, mean, std
):
    options = [f"model.normalization={kind}", *CERTIFY]
    assert certified(tmp_path, f"ckpt={file}", *options)["normalization"] == kind
    network = SmallCNN(10, 1, 4)
    network.load_state_dict(network_of(run))
    by_hand = nn.Sequential(Normalize([mean], [std]), network)
    assert settings_of(tmp_path)["weights"] == weights_digest(by_hand)


def test_the_same_command_again_keeps_every_row(file, certified_file):
    first = json.loads((certified_file / "summary.json").read_text())
    before = (certified_file / "certificates.tsv").read_bytes()
    assert certified(certified_file, f"ckpt={file}", *CERTIFY) == first
    assert (certified_file / "certificates.tsv").read_bytes() == before


def test_an_interrupted_certification_ends_with_the_same_rows(
    file, certified_file, tmp_path, monkeypatch
):
    append, options = CertificateFile.append, [f"ckpt={file}", *CERTIFY, "execution.batch_size=16"]

    def killed(self, row):
        append(self, row)
        if len(self.rows) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(CertificateFile, "append", killed)
        with pytest.raises(KeyboardInterrupt):
            certified(tmp_path / "parts", *options)
    survivors = (tmp_path / "parts" / "certificates.tsv").read_bytes()
    assert survivors.count(b"\n") == 3
    certified(tmp_path / "parts", *options)
    lines = (tmp_path / "parts" / "certificates.tsv").read_bytes().splitlines()
    assert set(survivors.splitlines()) <= set(lines)
    assert rows_of(tmp_path / "parts") == rows_of(certified_file)


def refused(own, message, *overrides):
    """A command ends with one message, and what is in its folder stays as it is."""
    before = bytes_of(own)
    with pytest.raises(SystemExit, match=message) as caught:
        certified(own, *overrides)
    assert "\n" not in str(caught.value)
    assert bytes_of(own) == before


def test_rows_of_other_weights_are_never_mixed_with_these(run, certified_file, tmp_path):
    """A file that has hardly changed is noticed."""
    path, weights = tmp_path / "weights.pth", network_of(run)
    weights["fc.bias"][0] += 1e-3
    torch.save(weights, path)
    refused(certified_file, "another configuration", f"ckpt={path}", *CERTIFY)


@pytest.mark.parametrize(
    "other", ["model.normalization=center", "sigma=0.5", "seed=1", "n=200", "execution=fast"]
)
def test_rows_under_another_setting_are_never_mixed_with_these(file, certified_file, other):
    refused(certified_file, "another configuration", f"ckpt={file}", *CERTIFY, other)


def folder_of(*arguments):
    """The folder that Hydra gives a command."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("certify_checkpoint", list(arguments), return_hydra_config=True)
        HydraConfig.instance().set_config(cfg)
        try:
            return cfg.hydra.run.dir
        finally:
            HydraConfig.instance().cfg = None


def test_each_file_and_each_setting_has_a_folder_of_its_own():
    ckpt = "ckpt='models/a=1, b/x.pth'"
    one = folder_of(ckpt, *CERTIFY)
    assert one.startswith("outputs/certify/models_a-1_-b_x.pth/test_data-digits_")
    others = [
        folder_of("ckpt=models/y.pth", *CERTIFY),
        folder_of(ckpt, *CERTIFY, "model.normalization=none"),
        folder_of(ckpt, *CERTIFY, "sigma=0.5"),
        folder_of(ckpt, *CERTIFY, "split=val"),
        folder_of(ckpt, *CERTIFY, "execution=fast"),
        folder_of(ckpt, *CERTIFY, "model.width=5"),
    ]
    assert len({one, *others}) == 7
    assert folder_of(ckpt, *CERTIFY, "device=cpu", "max_hours=1") == one


def test_votes_in_bfloat16_are_certified(file, tmp_path):
    summary = certified(tmp_path, f"ckpt={file}", *CERTIFY, "execution=fast")
    assert (summary["precision"], summary["images"]) == ("bfloat16", 6)
    assert settings_of(tmp_path)["precision"] == "bfloat16"


def class_folders(root, side=32):
    """Images of two classes, dark and bright, for training and for testing."""
    for split, each in (("train", 4), ("test", 2)):
        for number, name in enumerate(("dark", "pale")):
            (root / split / name).mkdir(parents=True)
            for position in range(each):
                pixel = (200 * number + 5 * position, 9, 9)
                image = Image.new("RGB", (side, side), pixel)
                image.save(root / split / name / f"{position}.png")
    return f"data.root={root}"


def folders_file(path):
    torch.manual_seed(0)
    weights = {f"1.module.{k}": v for k, v in CifarResNet(8, 2, width=4).state_dict().items()}
    torch.save({"epoch": 1, "arch": "cifar_resnet8", "state_dict": weights}, path)
    return f"ckpt={path}"


OF_FOLDERS = ["model=resnet20", "model.depth=8", "model.width=4", "sigma=0.25", "n0=10", "n=100"]


@pytest.mark.parametrize("data", [[], ["data=image_folder", "data.image_size=32"]])
def test_class_folders_are_certified(tmp_path, data):
    root = class_folders(tmp_path / "images")
    ckpt = folders_file(tmp_path / "checkpoint.pth.tar")
    summary = certified(tmp_path / "own", ckpt, *data, root, *OF_FOLDERS)
    assert (summary["images"], summary["split"]) == (4, "test")
    assert summary["data"] == ("image_folder" if data else "cifar10")
    labels = [row.label for row in read_certificates(tmp_path / "own" / "certificates.tsv")]
    assert sorted(labels) == [0, 0, 1, 1]


@pytest.mark.parametrize("data", [[], ["data=image_folder", "data.image_size=32"]])
def test_test_images_alone_are_certified(tmp_path, data):
    root, ckpt = class_folders(tmp_path / "images"), folders_file(tmp_path / "checkpoint.pth.tar")
    options = [ckpt, *data, root, *OF_FOLDERS]
    certified(tmp_path / "whole", *options)
    rmtree(tmp_path / "images" / "train")
    certified(tmp_path / "alone", *options)
    assert rows_of(tmp_path / "alone") == rows_of(tmp_path / "whole")
    assert settings_of(tmp_path / "alone") == settings_of(tmp_path / "whole")
    refused(tmp_path / "alone", "No training images in .*split=test", *options, "split=val")


@pytest.mark.parametrize("data", ["cifar10", "image_folder"])
def test_a_run_opens_the_images_that_it_needs_and_no_others(tmp_path, monkeypatch, data):
    options = [f"data={data}", class_folders(tmp_path / "images"), "data.val_fraction=0.25"]
    options += ["data.batch_size=2", *(["data.image_size=32"] if data == "image_folder" else [])]
    opened, open_image = [], decoding.Image.open
    monkeypatch.setattr(
        decoding.Image, "open", lambda path: opened.append(path) or open_image(path)
    )

    def splits():
        found = {path.parents[1].name for path in opened}
        opened.clear()
        return found

    training = ["trainer=cpu", "objective=gaussian", "trainer.max_epochs=1"]
    folder = trained(tmp_path / "run", *options, *training, *OF_FOLDERS)
    assert splits() == {"train"}
    certified(tmp_path / "whole", f"run={folder}", name="certify")
    assert splits() == {"test"}
    rmtree(tmp_path / "images" / "train")
    certified(tmp_path / "alone", f"run={folder}", name="certify")
    assert rows_of(tmp_path / "alone") == rows_of(tmp_path / "whole")
    # A class without test images keeps its number.
    rmtree(tmp_path / "images" / "test" / "dark")
    certified(tmp_path / "pale", f"run={folder}", name="certify")
    assert [row.label for row in rows_of(tmp_path / "pale")] == [1, 1]
    (tmp_path / "images" / "test" / "pale").rename(tmp_path / "images" / "test" / "grey")
    with pytest.raises(SystemExit, match="has a class 'grey' where the run was trained"):
        certified(tmp_path / "grey", f"run={folder}", name="certify")


def test_rows_of_other_images_are_never_mixed_with_these(tmp_path):
    root, ckpt = class_folders(tmp_path / "a"), folders_file(tmp_path / "x.pth")
    options = [ckpt, root, *OF_FOLDERS, "data.cache=false"]
    certified(tmp_path / "own", *options)
    for path in (tmp_path / "a" / "test").rglob("*.png"):
        Image.new("RGB", (32, 32), (0, 255, 0)).save(path)
    refused(tmp_path / "own", "another configuration", *options)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["sigma=null"], r"^InvalidArgumentError: Expected sigma=<σ .* does not record it$"),
        (["sigma=0"], "Expected `sigma` > 0 and finite, got 0"),
        (["alpha=1"], r"Expected `alpha` in \(0, 1\), got 1"),
        (["ckpt=no/such.pth"], "^CheckpointError: No checkpoint at no/such.pth$"),
        (["model.width=5"], r"^MismatchError: \S+ has shape .* in \S+checkpoint.pth.tar and"),
        (
            ["model=resnet20", "~model.width"],
            r"lacks 'bn1\.bias' .* arch 'small_cnn'\. It fits model=small_cnn model\.width=4$",
        ),
        (["model.normalization=centre"], "one of standard, center, none, imagenet, got 'centre'"),
        (["data.test_fraction=1.5"], r"test_fraction\) in \[0, 1\), got 1\.5$"),
        (["split=dev"], "one of train, val, test, got 'dev'"),
    ],
)
def test_bad_input_is_one_message_and_nothing_is_written(file, tmp_path, overrides, message):
    refused(tmp_path, message, f"ckpt={file}", *CERTIFY, *overrides)


def test_a_damaged_file_is_named_and_left_as_it_is(file, tmp_path):
    path = tmp_path / "short.pth"
    path.write_bytes(file.read_bytes()[:3000])
    with pytest.raises(SystemExit, match=f"{re.escape(str(path))} is damaged"):
        certified(tmp_path / "own", f"ckpt={path}", *CERTIFY)
    assert path.read_bytes() == file.read_bytes()[:3000]


def test_classes_of_other_names_than_the_checkpoints_own_are_refused(tmp_path):
    image = ["data=image_folder", "data.image_size=8", f"data.root={tmp_path}/a"]
    class_folders(tmp_path / "a", side=8)
    class_folders(tmp_path / "b", side=8)
    for split in ("train", "test"):
        (tmp_path / "b" / split / "pale").rename(tmp_path / "b" / split / "bright")
    run = trained(tmp_path / "run", *UNCERTIFIED, *image, "trainer.max_epochs=1")
    ckpt = [f"ckpt={run}/checkpoints/last.ckpt", *FILE, *image]
    certified(tmp_path / "own", *ckpt)
    with pytest.raises(SystemExit, match="class 'bright' where the run was trained with 'dark'"):
        certified(tmp_path / "other", *ckpt, f"data.root={tmp_path}/b")


@pytest.mark.parametrize("other", ["model.normalization=none", "sigma=0.5"])
def test_the_settings_in_a_checkpoint_are_compared_with_the_command(run, tmp_path, caplog, other):
    ckpt = f"ckpt={run}/checkpoints/best.ckpt"
    try:
        certified(tmp_path, ckpt, *CERTIFY, other)
        message = caplog.text
    except SystemExit as refusal:
        message = str(refusal)
    assert re.search("trained (at|with|otherwise)", message)


def test_a_path_of_any_characters_can_be_typed(file, tmp_path):
    path = tmp_path / "noise=0.25, lr=1 (it's)" / "check point.pth.tar"
    path.parent.mkdir()
    path.write_bytes(file.read_bytes())
    with pytest.raises(SystemExit) as caught:
        commands.check_command_line(["src/certify.py", f"ckpt={path}", *CERTIFY])
    assert str(caught.value).endswith(typed("ckpt", str(path)))
    summary = certified(tmp_path / "own", quoted("ckpt", str(path)), *CERTIFY)
    assert summary["ckpt"] == str(path)


def test_a_missing_model_is_answered_with_those_that_exist(file):
    with pytest.raises(HydraException, match=r"(?s)must specify 'model'.*resnet110\s+resnet20\s"):
        guarded("certify", f"ckpt={file}", "sigma=0.25", "data=digits")


@pytest.mark.parametrize("multirun", [False, True])
@pytest.mark.parametrize("others", [[], ["n=100"]])
def test_a_run_and_a_file_together_are_refused(others, multirun):
    arguments = ["run=somewhere", "ckpt=x.pth", "model=resnet20", *others]
    with pytest.raises(SystemExit, match=r"^Expected run=… or ckpt=…, got both"):
        guarded("certify", *arguments, multirun=multirun)


# What does not fit is refused before any image is read; what fits is found in the file.


@pytest.fixture
def no_image(monkeypatch):
    """Any attempt to decode an image fails the test."""

    def decode(*_, **__):
        raise AssertionError("an image was decoded")

    for place in (decoding, cifar10, image_folder, datasets):
        for name in ("decode_all", "decode", "decode_image"):
            if hasattr(place, name):
                monkeypatch.setattr(place, name, decode)


OF_IMAGES = (["data=cifar10"], ["data=image_folder", "data.image_size=32"])


@pytest.mark.parametrize("data", OF_IMAGES)
def test_a_file_that_does_not_fit_is_refused_before_any_image_is_read(no_image, tmp_path, data):
    options = [class_folders(tmp_path / "images"), *data, *OF_FOLDERS]
    ckpt = folders_file(tmp_path / "x.pth")
    message = r"lacks 'layer1\.1\..* It fits model=resnet20 model\.width=4 model\.d"
    with pytest.raises(SystemExit, match=message):
        certified(tmp_path / "own", ckpt, *options, "model.depth=14")
    with pytest.raises(SystemExit, match=r"No checkpoint at no\.pth"):
        certified(tmp_path / "own", "ckpt=no.pth", *options)


@pytest.mark.parametrize("data", OF_IMAGES)
def test_no_training_reads_an_image_before_it_refuses_a_file(no_image, tmp_path, data):
    options = [class_folders(tmp_path / "images"), *data, *OF_FOLDERS, "trainer=cpu"]
    folders_file(tmp_path / "x.pth")
    message = r"has shape .* in .* in the model.* It fits model=resnet20 model\.wi"
    file = f"model.weights={tmp_path}/x.pth"
    with pytest.raises(SystemExit, match=message):
        trained(tmp_path / "own", *options, "model.width=5", file)
    with pytest.raises(SystemExit, match=r"No checkpoint at .*no\.pth"):
        trained(tmp_path / "own", *options, f"model.weights={tmp_path}/no.pth")


@pytest.mark.parametrize("data", OF_IMAGES)
def test_another_number_of_classes_is_refused_before_any_image_is_read(no_image, tmp_path, data):
    root, path = class_folders(tmp_path / "images"), tmp_path / "x.pth"
    torch.save(CifarResNet(8, 7, width=4).state_dict(), path)
    message = r"fc\.\w+ has shape \(7.* model\. It fits model=resnet20 .*, for 7 classes$"
    with pytest.raises(SystemExit, match=message):
        certified(tmp_path / "own", f"ckpt={path}", *data, root, *OF_FOLDERS)


def test_torchvisions_classes_are_known_before_a_download(tmp_path, monkeypatch):
    torch.save(CifarResNet(8, 7, width=4).state_dict(), tmp_path / "x.pth")
    monkeypatch.setattr(cifar10, "CIFAR10", None)
    options = [f"ckpt={tmp_path}/x.pth", "data.download=true", f"data.root={tmp_path}", *OF_FOLDERS]
    with pytest.raises(SystemExit, match=r"has shape \(7"):
        certified(tmp_path / "own", *options)


def option_a(path):
    """A file as the most downloaded weights of CIFAR-10 are."""
    torch.manual_seed(0)
    network = CifarResNet(8, 2, width=4, shortcut="A")
    weights = network.state_dict()
    saved = {f"module.{name.replace('fc.', 'linear.')}": each for name, each in weights.items()}
    torch.save({"state_dict": saved, "best_prec1": 91.7}, path)
    return network


@pytest.mark.parametrize("options", [[], ["model.shortcut=A"]])
def test_shortcuts_without_parameters_are_found_in_the_file(tmp_path, options):
    root, network = class_folders(tmp_path / "images"), option_a(tmp_path / "x.th")
    certified(tmp_path / "own", f"ckpt={tmp_path}/x.th", root, *OF_FOLDERS, *options)
    by_hand = nn.Sequential(Normalize(CIFAR10DataModule.mean, CIFAR10DataModule.std), network)
    assert settings_of(tmp_path / "own")["weights"] == weights_digest(by_hand)


def test_a_requested_shortcut_is_not_replaced(tmp_path):
    root = class_folders(tmp_path / "images")
    option_a(tmp_path / "x.th")
    options = [f"ckpt={tmp_path}/x.th", root, *OF_FOLDERS, "model.shortcut=B"]
    with pytest.raises(SystemExit, match=r"lacks .* It fits model=resnet20 model\.shortcut=A "):
        certified(tmp_path / "own", *options)


def test_a_run_that_begins_with_such_a_file_is_resumed_certified_and_loaded_as_such(tmp_path):
    root = class_folders(tmp_path / "images")
    option_a(tmp_path / "x.th")
    options = ["data=cifar10", root, "data.val_fraction=0.25", "data.batch_size=2", "trainer=cpu"]
    options += ["objective=gaussian", *OF_FOLDERS]
    options += [f"model.weights={tmp_path}/x.th", "callbacks.certification=null"]
    folder = trained(tmp_path / "run", *options, epochs(1))
    (tmp_path / "x.th").unlink()
    trained(folder, *options, epochs(2))
    assert last_of(folder)["epoch"] == 1
    assert last_of(folder)["configuration"]["model"]["shortcut"] == "A"
    certified(tmp_path / "own", f"run={folder}", name="certify")
    assert "ZeroPadding" in str(smoothcert.load(folder, device="cpu").classifier)


def test_runs_without_such_a_file_record_no_shortcut(run):
    assert "shortcut" not in last_of(run)["configuration"]["model"]


# Training on from a file.


STILL = ["optimizer.lr=0.0", "optimizer.momentum=0.0", epochs(1)]
"""Training that leaves the weights, if not the statistics, as they are."""


def weights_alone(state):
    return {k: v for k, v in state.items() if "running" not in k and "num_" not in k}


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    """The weights that a training without a file begins with."""
    return network_of(trained(tmp_path_factory.mktemp("fresh") / "run", *UNCERTIFIED, *STILL))


def test_training_begins_with_the_weights_of_a_file(run, fresh, tmp_path):
    path = tmp_path / "noise=0.25, x.pth"
    torch.save(LAYOUTS["parallel"](network_of(run)), path)
    folder = trained(tmp_path / "run", *UNCERTIFIED, *STILL, f"model.weights='{path}'")
    expected = weights_alone(network_of(run))
    assert same(weights_alone(network_of(folder)), expected)
    assert not same(weights_alone(fresh), expected)


def test_another_number_of_classes_begins_with_a_fresh_last_layer(run, fresh, tmp_path):
    torch.manual_seed(3)
    weights = network_of(run)
    weights |= {"fc.weight": torch.randn(100, 32), "fc.bias": torch.randn(100)}
    torch.save(weights, tmp_path / "x.pth")
    options = [*UNCERTIFIED, *STILL, f"model.weights={tmp_path}/x.pth"]
    with pytest.raises(SystemExit, match=r"fc\.\w+ has shape \(100.* in the model"):
        trained(tmp_path / "a", *options)
    assert not (tmp_path / "a" / "checkpoints").exists()
    folder = trained(tmp_path / "b", *options, "model.reinitialize=[fc]")
    begun = network_of(folder)
    assert torch.equal(begun["fc.weight"], fresh["fc.weight"])
    assert torch.equal(begun["features.0.weight"], weights["features.0.weight"])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.reinitialize=[head]"], "network, features, fc; got 'head'"),
        (["model.freeze=[head]"], "network, features, fc; got 'head'"),
        (["model.freeze=[fc]", "model.freeze_epochs=0"], "`epochs` a whole number >= 1, got 0"),
        (["model.weights=no/such.pth"], "^CheckpointError: No checkpoint at no/such.pth$"),
        (["ckpt_path=no/such.ckpt"], "^CheckpointError: No checkpoint at no/such.ckpt$"),
        (["model.normalization=raw"], "one of standard, center, none, imagenet, got 'raw'"),
    ],
)
def test_bad_settings_are_named_before_any_training(file, tmp_path, overrides, message):
    with pytest.raises(SystemExit, match=message):
        trained(tmp_path, *UNCERTIFIED, f"model.weights={file}", *overrides)
    assert not (tmp_path / "checkpoints").exists()


def test_a_frozen_part_of_a_file_is_in_the_runs_checkpoint_to_the_last_bit(run, file, tmp_path):
    options = [f"model.weights={file}", "model.freeze=[features]", epochs(2)]
    folder = trained(tmp_path / "run", *UNCERTIFIED, *options)
    before, after = network_of(run), network_of(folder)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"fc.weight", "fc.bias"}


def test_a_frozen_part_is_trained_after_its_epochs_and_a_resumed_run_keeps_to_that(file, tmp_path):
    options = [*UNCERTIFIED, f"model.weights={file}", "model.freeze=[features]", epochs(3)]
    options += ["model.freeze_epochs=2"]
    whole = trained(tmp_path / "whole", *options)
    interrupted(tmp_path / "parts", 1, *options)
    assert same(network_of(whole), network_of(trained(tmp_path / "parts", *options)))
    frozen = trained(tmp_path / "frozen", *options[:-1])
    assert not same(network_of(whole), network_of(frozen))


def interrupted(folder, finished, *overrides):
    """Train, killed in the epoch after so many finished ones."""
    step = SmoothedTraining.training_step

    def killed(self, *arguments):
        if self.current_epoch == finished:
            raise KilledError
        return step(self, *arguments)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(SmoothedTraining, "training_step", killed)
        with pytest.raises(KilledError):
            trained(folder, *overrides)
    assert last_of(folder)["epoch"] == finished - 1


class KilledError(Exception):
    """The end of a process."""


# Continuing another run.

MOVED = pytest.mark.filterwarnings("ignore:The dirpath has changed")
"""Lightning's, of checkpoints that are another run's."""


def test_a_training_from_a_checkpoint_ends_as_an_uninterrupted_one(tmp_path):
    """With AdamW; the test after this one has SGD."""
    options = [*UNCERTIFIED, "optimizer=adamw", "optimizer.lr=0.01", "scheduler.step_size=1"]
    whole = last_of(trained(tmp_path / "whole", *options, epochs(3)))
    first = trained(tmp_path / "first", *options, epochs(1))
    start = f"ckpt_path={first}/checkpoints/last.ckpt"
    second = last_of(trained(tmp_path / "second", *options, epochs(3), start))
    assert same(second["state_dict"], whole["state_dict"])
    for name in ("epoch", "global_step", "lr_schedulers"):
        assert second[name] == whole[name]
    states = [each["optimizer_states"][0] for each in (second, whole)]
    assert states[0]["param_groups"] == states[1]["param_groups"]
    buffers = [
        torch.cat([t.flatten() for s in each["state"].values() for t in s.values()])
        for each in states
    ]
    assert torch.equal(*buffers)
    # A run of its own, which starts afresh nowhere and leaves the other as it was.
    assert last_of(first)["epoch"] == 0


def test_a_run_that_went_on_resumes_from_its_own_checkpoint(tmp_path):
    first = trained(tmp_path / "first", *UNCERTIFIED, epochs(1))
    options = [*UNCERTIFIED, epochs(4), f"ckpt_path={first}/checkpoints/last.ckpt"]
    whole = trained(tmp_path / "whole", *options)
    interrupted(tmp_path / "parts", 2, *options)
    assert same(network_of(trained(tmp_path / "parts", *options)), network_of(whole))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([epochs(9), "optimizer=adamw"], "continues with its own optimizer: optimizer was {.*SGD"),
        ([epochs(9), "optimizer.lr=0.5"], r"its own optimizer: .*Keep them, or .*model\.weights="),
        (
            [epochs(9), "scheduler=cosine"],
            "continues with its own scheduler: scheduler was {.*Step",
        ),
        ([epochs(8)], "`trainer.max_epochs` above the 8 epochs that .*best.ckpt has finished, g"),
        ([epochs(2)], "`trainer.max_epochs` above the 8 epochs that .* got 2"),
        ([epochs(9), "model.width=5"], r"has shape .* in \S*best.ckpt and"),
    ],
)
def test_a_state_that_does_not_fit_is_refused(run, tmp_path, overrides, message):
    going = f"ckpt_path={run}/checkpoints/best.ckpt"
    with pytest.raises(SystemExit, match=message):
        trained(tmp_path, *UNCERTIFIED, *overrides, going)
    assert not (tmp_path / "checkpoints").exists()


def test_weights_alone_are_refused_with_the_setting_that_takes_them(file, tmp_path):
    advice = f"contains weights alone, .*: model.weights={re.escape(str(file))}$"
    with pytest.raises(SystemExit, match=advice):
        trained(tmp_path, *UNCERTIFIED, f"ckpt_path={file}")


def test_other_differences_are_named_in_a_warning(run, tmp_path, caplog):
    going = [epochs(9), f"ckpt_path={run}/checkpoints/last.ckpt"]
    trained(tmp_path / "same", *UNCERTIFIED, *going)
    assert "different settings" not in caplog.text
    trained(tmp_path / "other", *UNCERTIFIED, *going, "sigma=0.5")
    assert "with different settings: sigma was 0.25 and is now 0.5" in caplog.text


def test_a_resumed_run_needs_more_than_weights(tmp_path):
    folder = trained(tmp_path, *UNCERTIFIED, epochs(1))
    last = folder / "checkpoints" / "last.ckpt"
    torch.save({"state_dict": last_of(folder)["state_dict"]}, last)
    with pytest.raises(SystemExit, match=r"last\.ckpt contains weights alone, .*: model\.weights="):
        trained(tmp_path, *UNCERTIFIED, epochs(1))


@pytest.mark.parametrize("scheduler", ["cosine", "one_cycle"])
def test_a_longer_training_resumes_where_the_longer_schedule_is_by_then(
    tmp_path, caplog, scheduler
):
    """A cosine that has ended would stay at zero, and a cycle refuse any further step."""
    make, per = SCHEDULES[scheduler]
    options = [*UNCERTIFIED, f"scheduler={scheduler}", "trainer.log_every_n_steps=1"]
    first = trained(tmp_path / "first", *options, epochs(2))
    going = [epochs(4), f"ckpt_path={first}/checkpoints/last.ckpt"]
    second = trained(tmp_path / "second", *options, *going)
    assert rates_of(second) == pytest.approx(torchs(make, 12, per)[6:], rel=1e-5)
    assert re.search(r"has a different length now \(\w+ 2 to 4\).*model\.weights=", caplog.text)
    # It ends as a run of its own does that was interrupted.
    interrupted(tmp_path / "parts", 3, *options, *going)
    parts = trained(tmp_path / "parts", *options, *going)
    assert rates_of(parts) == rates_of(second)
    assert same(network_of(parts), network_of(second))


def test_a_schedule_begins_anew_from_weights(tmp_path):
    make, per = SCHEDULES["cosine"]
    options = [*UNCERTIFIED, "scheduler=cosine", "trainer.log_every_n_steps=1", epochs(4)]
    first = trained(tmp_path / "first", *options)
    second = trained(tmp_path / "second", *options, f"model.weights={first}/checkpoints/last.ckpt")
    assert rates_of(second) == pytest.approx(torchs(make, 12, per), rel=1e-5)


# Averaged weights.

EMA = ["callbacks=ema", "callbacks.ema.decay=0.8"]
EVERY = ["callbacks.certification.every_n_epochs=1", "callbacks.best.monitor=certify/acr"]


def test_the_average_is_kept_certified_and_certified_again(tmp_path):
    folder = trained(tmp_path / "run", *TRAIN, *EMA, epochs(2))
    kept = last_of(folder)
    assert not same(kept["state_dict"], kept["current_model_state"])
    assert same(network_of(folder, "best.ckpt"), network_of(folder, "last.ckpt"))
    network = SmallCNN(10, 1, 4)
    network.load_state_dict(network_of(folder))
    data = DigitsDataModule()
    average = nn.Sequential(Normalize(data.mean, data.std), network)
    assert settings_of(folder)["weights"] == weights_digest(average)
    ckpt = f"ckpt={folder}/checkpoints/best.ckpt"
    again = ["split=val", "certifier=tight", "max_images=4"]
    certified(tmp_path / "own", ckpt, *FILE, *again)
    assert rows_of(tmp_path / "own") == rows_of(folder)


def test_the_chosen_epochs_average_is_certified_not_the_lasts(tmp_path):
    worse = [
        "optimizer.lr=3",
        "callbacks.best.mode=min",
        "callbacks.best.monitor=val/cross_entropy",
    ]
    folder = trained(tmp_path, *TRAIN, *EMA, *worse, epochs(4))
    best = torch.load(folder / "checkpoints" / "best.ckpt")
    assert best["epoch"] < 3
    network = SmallCNN(10, 1, 4)
    network.load_state_dict(network_of(folder))
    data = DigitsDataModule()
    average = nn.Sequential(Normalize(data.mean, data.std), network)
    assert settings_of(folder)["weights"] == weights_digest(average)
    assert not same(network_of(folder, "last.ckpt"), network_of(folder))


OWN = "pytorch_lightning.callbacks.ModelCheckpoint"


BY_STEPS = f"+callbacks.own={{_target_: {OWN}, filename: '{{step}}', every_n_train_steps: 2}}"


@pytest.mark.parametrize(
    ("average", "saving"),
    [
        ([], [BY_STEPS]),
        (EMA, [BY_STEPS]),
        (EMA, ["+callbacks.best.save_on_train_epoch_end=false"]),
        (EMA, ["+callbacks.best.every_n_epochs=2", "trainer.check_val_every_n_epoch=2"]),
    ],
)
def test_the_epoch_with_the_best_certificates_is_stored_and_certified(tmp_path, average, saving):
    folder = trained(tmp_path, *TRAIN, *average, *EVERY, *saving, epochs(4))
    acr = {
        path.stem.split("_")[-1]: sum(row.radius * row.correct for row in read_certificates(path))
        for path in folder.glob("certificates/epoch_*.tsv")
    }
    certified_weights = settings_of(folder)["weights"]
    assert acr[certified_weights[:8]] == max(acr.values())
    network = SmallCNN(10, 1, 4)
    network.load_state_dict(network_of(folder))
    data = DigitsDataModule()
    assert certified_weights == weights_digest(
        nn.Sequential(Normalize(data.mean, data.std), network)
    )


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([*EMA, "+callbacks.best.save_weights_only=true"], "Expected save_weights_only=false of e"),
        (
            [*EMA, "callbacks.ema._target_=pytorch_lightning.callbacks.WeightAveraging"],
            "decay|Expected callbacks.ema a smoothcert",
        ),
        (
            ["+callbacks.own={_target_: pytorch_lightning.callbacks.EMAWeightAveraging}"],
            "Expected callbacks.own a smoothcert.lightning.EMA, got EMAWeightAveraging",
        ),
        (
            [*EVERY, "+callbacks.best.every_n_train_steps=2"],
            "Expected no .*steps with monitor=cert",
        ),
        (
            [
                "callbacks.best.monitor=val/cross_entropy",
                "+callbacks.best.train_time_interval={_target_: datetime.timedelta, seconds: 1}",
            ],
            "Expected no callbacks.best.train_time_interval with monitor=val/cross_entropy",
        ),
        (
            [
                *EVERY,
                "+callbacks.best.save_on_train_epoch_end=true",
                "trainer.check_val_every_n_epoch=2",
            ],
            "Expected no callbacks.best.save_on_train_epoch_end with monitor=certify/acr",
        ),
        ([*EVERY, "callbacks.best.save_top_k=2"], r"Expected callbacks\.best\.save_top_k=1, got 2"),
        (["callbacks.best.save_top_k=-1"], r"callbacks\.best\.save_top_k=1, got -1"),
        (["+callbacks.best.save_last=link"], r"callbacks\.best\.save_last=False, got link"),
        (["+callbacks.best.save_on_exception=true"], "save_on_exception=False, got True"),
        (["callbacks.best.filename=other"], r"callbacks\.best\.filename=best, got other"),
        (
            ["callbacks.best.dirpath=${paths.run}/own"],
            r"callbacks\.best\.dirpath=\S+checkpoints, g",
        ),
        (["+callbacks.last.save_weights_only=true"], "last.save_weights_only=False, got True"),
        (
            [
                f"+callbacks.own={{_target_: {OWN}, filename: own, save_top_k: 2, mode: max, "
                "monitor: val/smoothed_accuracy, enable_version_counter: false}"
            ],
            r"callbacks\.own\.save_top_k=1, got 2",
        ),
        (
            [*EVERY, "callbacks.certification.every_n_epochs=5"],
            "trainer.max_epochs of at least 5 with callbacks.best.monitor=certify/acr",
        ),
    ],
)
def test_a_checkpoint_of_other_weights_than_were_chosen_is_refused(tmp_path, overrides, message):
    with pytest.raises(SystemExit, match=message):
        trained(tmp_path, *TRAIN, *overrides, epochs(4))
    assert not (tmp_path / "checkpoints").exists()


def test_a_resumed_average_is_that_of_an_uninterrupted_run(tmp_path):
    options = [*TRAIN, *EMA, epochs(3)]
    whole = trained(tmp_path / "whole", *options)
    interrupted(tmp_path / "parts", 2, *options)
    parts = trained(tmp_path / "parts", *options)
    for key in ("state_dict", "current_model_state"):
        assert same(last_of(parts)[key], last_of(whole)[key])
    assert rows_of(parts) == rows_of(whole)
    assert settings_of(parts) == settings_of(whole)


def test_the_average_is_certified_behind_the_normalisation_of_its_checkpoint(tmp_path):
    options = [*OF_FOLDERS, class_folders(tmp_path / "images"), "data.val_fraction=0.25"]
    kind = ["data=cifar10", "data.batch_size=2", "trainer=cpu", "objective=gaussian"]
    folder = trained(tmp_path / "run", *kind, *options, *EMA, "callbacks.ema.decay=0.9", epochs(8))
    again = ["data=cifar10", "split=val", "certifier=tight"]
    certified(tmp_path / "own", f"ckpt={folder}/checkpoints/best.ckpt", *options, *again)
    assert settings_of(tmp_path / "own")["weights"] == settings_of(folder)["weights"]


# Schedules.


def rates_of(folder):
    lines = (folder / "metrics.csv").read_text().splitlines()
    names = lines[0].split(",")
    column = names.index("train/learning_rate")
    return [float(line.split(",")[column]) for line in lines[1:] if line.split(",")[column]]


def torchs(make, steps, per):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    scheduler, rates = make(optimizer), []
    for step in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if (step + 1) % per == 0 and step + 1 < steps:
            scheduler.step()
    return rates


schedulers = torch.optim.lr_scheduler
SCHEDULES = {
    "one_cycle": (lambda o: schedulers.OneCycleLR(o, 0.1, 12, cycle_momentum=False), 1),
    "one_cycle scheduler.anneal_strategy=linear": (
        lambda o: schedulers.OneCycleLR(o, 0.1, 12, anneal_strategy="linear", cycle_momentum=False),
        1,
    ),
    "cosine": (lambda o: schedulers.CosineAnnealingLR(o, 4), 3),
    "step scheduler.step_size=2": (lambda o: schedulers.StepLR(o, 2, 0.1), 3),
    "milestones scheduler.milestones=[1,3]": (lambda o: schedulers.MultiStepLR(o, [1, 3], 0.1), 3),
    "constant": (lambda o: schedulers.ConstantLR(o, 1.0), 3),
}
"""Torch's own, and how many steps apart it is stepped: three make an epoch."""


@pytest.mark.parametrize("scheduler", SCHEDULES)
def test_the_learning_rates_are_those_of_torchs_schedule(tmp_path, scheduler):
    make, per = SCHEDULES[scheduler]
    options = f"scheduler={scheduler}".split()
    every = ["trainer.log_every_n_steps=1", epochs(4)]
    folder = trained(tmp_path, *UNCERTIFIED, *options, *every)
    found = rates_of(folder)
    assert found == pytest.approx(torchs(make, 12, per), rel=1e-5)
    if "one_cycle" in scheduler:
        assert found[0] < 0.09 < max(found)
        assert found[-1] < 1e-3


# Refusals.


def contents(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def replaced(folder, name, change):
    path = folder / "checkpoints" / name
    saved = torch.load(path)
    change(saved)
    torch.save(saved, path)


@pytest.mark.parametrize(
    ("overrides", "change", "message"),
    [
        (["sigma=0.5"], None, "contains a run of a different configuration"),
        ([], lambda f: (f / "checkpoints" / "last.ckpt").write_bytes(b"PK\3\4"), "is damaged"),
        (
            [],
            lambda f: replaced(f, "last.ckpt", lambda s: s["state_dict"].popitem()),
            r"last\.ckpt does not fit the model",
        ),
        (
            [],
            lambda f: replaced(
                f, "best.ckpt", lambda s: s["state_dict"]["model.1.fc.bias"].add_(1)
            ),
            "another configuration",
        ),
        ([], lambda f: replaced(f, "last.ckpt", lambda s: s.pop("optimizer_states")), "alone"),
        ([], lambda f: (f / "certificates.tsv").write_text("idx\tother\n1\t2\n"), "certificates"),
        (["callbacks.best.monitor=val/acc"], None, r"callbacks\.best\.monitor one of"),
        (["optimizer.lr=-1"], None, "a different configuration"),
        (["n=0"], None, "Expected `n`"),
    ],
)
def test_a_refusal_leaves_every_byte_of_a_finished_run(
    run, tmp_path, overrides, change, message, monkeypatch
):
    shutil.copytree(run, tmp_path / "run")
    if change is not None:
        change(tmp_path / "run")
    before = contents(tmp_path / "run")
    options = [
        *TRAIN,
        "trainer.limit_train_batches=1.0",
        "trainer.max_epochs=8",
        "logger=tensorboard",
    ]
    with (
        composed(tmp_path / "run", [*options, *overrides]) as cfg,
        pytest.raises(SystemExit, match=message),
    ):
        commands.train(cfg)
    after = contents(tmp_path / "run")
    # TensorBoard's is begun by a training that passes all checks that need no network.
    assert {path for path in after if "tensorboard" not in str(path)} == before.keys()
    assert {path: after[path] for path in before} == before


# Networks of timm.

VIT = "{img_size: 32, patch_size: 8, depth: 1, embed_dim: 12, num_heads: 2}"
TIMM = {
    "resnet18": ["model.name=resnet18"],
    "vit": ["model.name=vit_tiny_patch16_224", f"+model.arguments={VIT}"],
}


@pytest.mark.parametrize("name", ["vit", pytest.param("resnet18", marks=pytest.mark.slow)])
def test_a_network_of_timm_is_trained_and_certified_and_certified_again(tmp_path, name):
    data = ["data=image_folder", "data.image_size=32", class_folders(tmp_path / "images")]
    network = ["model=timm", *TIMM[name]]
    short = ["trainer=cpu", "data.batch_size=4", "n0=5", "n=20", "data.val_fraction=0.5", epochs(2)]
    folder = trained(tmp_path / "run", *data, *network, *short, "optimizer.lr=0.01")
    assert last_of(folder)["global_step"] == 2
    options = [
        "split=val",
        "certifier=tight",
        "sigma=0.25",
        "n0=5",
        "n=20",
        "data.val_fraction=0.5",
    ]
    ckpt = f"ckpt={folder}/checkpoints/best.ckpt"
    certified(tmp_path / "own", ckpt, *data, *network, *options)
    assert rows_of(tmp_path / "own") == rows_of(folder)
    assert settings_of(tmp_path / "own")["weights"] == settings_of(folder)["weights"]


def test_an_unknown_network_of_timm_is_answered_with_similar_ones(tmp_path):
    data = ["data=image_folder", "data.image_size=32", class_folders(tmp_path / "images")]
    with pytest.raises(SystemExit, match=r"got 'resnet81'; similar: .*resnet"):
        trained(tmp_path / "run", *data, "model=timm", "model.name=resnet81", "trainer=cpu")


def test_a_network_of_timm_takes_no_grey_images(tmp_path):
    with pytest.raises(SystemExit, match="resnet18 normalises 3 channels, and the data has 1"):
        trained(tmp_path, "model=timm", "model.name=resnet18", "trainer=cpu")
