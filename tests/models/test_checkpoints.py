"""Checkpoints: what is read, what is refused, and that nothing in a file is ever run."""

import argparse
import io
import os
import pathlib
import pickle
import re
import zipfile

import numpy as np
import pytest
import torch
from torch import nn

from smoothcert.errors import CheckpointError, MismatchError
from smoothcert.models import load_weights, read_checkpoint, small_cnn
from tests.helpers.pickles import Trap


def network(seed=0, classes=3):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return small_cnn(classes, (1, 8, 8), [0.3], [0.4], width=2)


def as_saved(model):
    return {f"model.{name}": tensor for name, tensor in model.state_dict().items()}


def same(model, other):
    pairs = zip(model.state_dict().items(), other.state_dict().items(), strict=True)
    return all(name == twin and torch.equal(a, b) for (name, a), (twin, b) in pairs)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "last.ckpt"


@pytest.fixture
def save(path):
    def write(weights, **rest):
        torch.save({"state_dict": weights, "epoch": 3, **rest}, path)
        return path

    return write


def zipped(content):
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def test_weights_come_back_as_they_were_saved(save):
    saved, loaded = network(seed=0), network(seed=1)
    assert not same(saved, loaded)
    load_weights(loaded, save(as_saved(saved)))
    assert same(saved, loaded)


def test_everything_else_in_the_file_is_read_and_is_no_weight(save):
    weights = as_saved(network()) | {"metric.total": torch.ones(2)}
    path = save(weights, hyper_parameters={"sigma": 0.25, "classes": ["a", "b"]})
    assert read_checkpoint(path)["hyper_parameters"] == {"sigma": 0.25, "classes": ["a", "b"]}
    load_weights(network(), path)


def test_a_missing_file_is_named(path, tmp_path):
    for missing in (path, tmp_path):
        with pytest.raises(CheckpointError, match=f"No checkpoint at {re.escape(str(missing))}$"):
            read_checkpoint(missing)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_named_and_left_as_it_is(save, share):
    path = save(as_saved(network()))
    content = path.read_bytes()[: int(path.stat().st_size * share)]
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=f"{re.escape(str(path))} is damaged"):
        load_weights(network(), path)
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    "content",
    [b"idx\tlabel\n", pickle.dumps({1, 2}), zipped([1, 2]), zipped({"epoch": 3}), zipped(3)],
    ids=["text", "pickle of a set", "list", "no state_dict", "number"],
)
def test_another_kind_of_file_is_refused_by_name(path, content):
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=re.escape(str(path))):
        read_checkpoint(path)


def test_another_shape_is_an_error_that_names_both(save):
    model = network(classes=3)
    with pytest.raises(MismatchError, match=r"^fc\.\w+ has shape .* in .* in the model") as caught:
        load_weights(model, save(as_saved(network(classes=5))))
    message = str(caught.value)
    assert "(5, 16)" in message
    assert "(3, 16)" in message
    assert same(model, network(classes=3))


def test_a_missing_part_is_named(save):
    weights = as_saved(network())
    del weights["model.1.fc.bias"]
    with pytest.raises(CheckpointError, match=r"lacks 'fc\.bias' \(1 such"):
        load_weights(network(), save(weights))


def test_a_part_that_the_model_does_not_have_is_named(save):
    weights = as_saved(network()) | {"model.1.head.weight": torch.ones(1)}
    with pytest.raises(CheckpointError, match=r"the model lacks 'head\.weight' \(1 such"):
        load_weights(network(), save(weights))


def test_a_file_without_our_names_is_refused(save):
    with pytest.raises(CheckpointError, match="does not fit the model"):
        load_weights(nn.Linear(2, 2), save({"weight": torch.ones(2, 2)}))


def test_a_model_is_unchanged_by_a_file_that_does_not_fit(save):
    model, weights = network(seed=0), as_saved(network(seed=1))
    del weights["model.1.fc.bias"]
    with pytest.raises(CheckpointError):
        load_weights(model, save(weights))
    assert same(model, network(seed=0))


@pytest.mark.parametrize("write", [pickle.dumps, zipped], ids=["pickle", "torch.save"])
@pytest.mark.parametrize("key", ["state_dict", "hyper_parameters"])
def test_code_in_a_file_is_refused_without_running_it(path, tmp_path, write, key):
    touched = tmp_path / "touched"
    path.write_bytes(write({"state_dict": {}, key: Trap(touched)}))
    with pytest.raises(CheckpointError, match=re.escape(str(path))):
        read_checkpoint(path)
    assert not touched.exists()


def test_the_trap_is_a_real_one(tmp_path):
    pickle.loads(pickle.dumps(Trap(tmp_path / "touched")))
    assert (tmp_path / "touched").exists()


BESIDE = {
    "namespace": argparse.Namespace(lr=0.1, inner=argparse.Namespace(steps=[1, 2])),
    "numpy float": np.float64(91.7),
    "numpy float32": np.float32(0.5),
    "numpy int": np.int64(3),
    "numpy bool": np.bool_(True),
    "numpy array": np.arange(6.0).reshape(2, 3),
}


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("kind", BESIDE)
def test_settings_and_numbers_next_to_the_weights_are_read(path, kind, legacy):
    content = {"state_dict": as_saved(network(seed=0)), "beside": BESIDE[kind]}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    loaded = network(seed=1)
    load_weights(loaded, path)
    assert same(loaded, network(seed=0))
    found = read_checkpoint(path)["beside"]
    assert type(found) is type(BESIDE[kind])
    assert np.array_equal(found, BESIDE[kind])
    # Only while the file is read.
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)


@pytest.mark.parametrize("core", ["core", "_core"])
def test_numbers_of_either_numpy_are_read(path, core):
    """Files say where in NumPy a function lies, and NumPy 2 moved it."""
    content = pickle.dumps({"state_dict": as_saved(network()), "best": np.float64(91.7)}, 2)
    names = [f"numpy.{each}.multiarray".encode() for each in ("_core", "core")]
    torch.save({"state_dict": as_saved(network()), "best": np.float64(91.7)}, path)
    source, target = path.read_bytes(), path.with_suffix(".other")
    assert any(name in content for name in names)
    with zipfile.ZipFile(io.BytesIO(source)) as old, zipfile.ZipFile(target, "w") as new:
        for entry in old.infolist():
            data = old.read(entry)
            for name in names:
                data = data.replace(b"c" + name + b"\n", f"cnumpy.{core}.multiarray\n".encode())
            new.writestr(entry.filename, data)
    assert f"numpy.{core}.multiarray".encode() in target.read_bytes()
    assert read_checkpoint(target)["best"] == 91.7


class Settings:
    """A class of somebody's own."""


@pytest.mark.parametrize(
    ("other", "name"),
    [
        (Settings(), "tests.models.test_checkpoints.Settings"),
        (pathlib.PurePosixPath("a"), "pathlib.PurePosixPath"),
        (np.array([1, "a", None], dtype=object), "numpy.dtypes.ObjectDType"),
        (np.zeros(2, dtype=[("a", "f8")]), "numpy.dtypes.VoidDType"),
        (nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
        (eval, "eval"),
        (os.system, "posix.system"),
    ],
)
def test_every_other_object_is_refused_by_its_name_in_one_line(path, other, name):
    torch.save({"state_dict": as_saved(network()), "beside": other}, path)
    with pytest.raises(
        CheckpointError, match=rf"plain values \({re.escape(name)}\), and"
    ) as caught:
        load_weights(network(), path)
    assert "\n" not in str(caught.value)


def test_a_settings_object_of_code_is_no_way_in(path, tmp_path):
    touched = tmp_path / "touched"
    torch.save({"state_dict": as_saved(network()), "x": argparse.Namespace(a=Trap(touched))}, path)
    with pytest.raises(CheckpointError, match=r"\(\w+\.call\)"):
        read_checkpoint(path)
    assert not touched.exists()
