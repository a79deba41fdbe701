"""Names of a file's weights: any prefix is taken off, and nothing is guessed."""

import itertools

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from smoothcert.errors import CheckpointError, MismatchError
from smoothcert.models import CifarResNet, cifar_resnet, load_weights, match_names, normalized

MEAN, STD = [0.5] * 3, [0.2] * 3


def network(seed, classes=10):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return CifarResNet(8, classes, width=4)


def loaded(path, content, classes=10):
    """What a model holds after loading a file, by the names of the bare network."""
    torch.save(content, path)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(9)
        model = cifar_resnet(classes, (3, 32, 32), MEAN, STD, depth=8, width=4)
    load_weights(model, path)
    return model[1].state_dict()


def same(found, expected):
    return all(torch.equal(found[name], tensor) for name, tensor in expected.items())


@pytest.fixture
def path(tmp_path):
    return tmp_path / "x.pth"


def under(prefix, weights):
    return {prefix + name: tensor for name, tensor in weights.items()}


PARTS = ["net", "model", "_orig_mod", "module", "1", "my_encoder"]
CHAINS = [".".join(chain) for count in (1, 2, 3) for chain in itertools.permutations(PARTS, count)]


@pytest.mark.parametrize("chain", CHAINS[::5])
def test_any_chain_of_prefixes_is_taken_off(path, chain):
    weights = network(1).state_dict()
    assert same(loaded(path, {"state_dict": under(f"{chain}.", weights)}), weights)


WRAPPED = {
    "AveragedModel": lambda net: AveragedModel(net),
    "AveragedModel of a Sequential": lambda net: AveragedModel(normalized(net, MEAN, STD)),
    "DataParallel": lambda net: nn.DataParallel(net),
    "torch.compile": lambda net: torch.compile(net),
    "torch.compile of DataParallel": lambda net: torch.compile(nn.DataParallel(net)),
    "a part of it wrapped": lambda net: setattr(net, "layer1", nn.DataParallel(net.layer1)) or net,
    "a module list": lambda net: nn.ModuleList([nn.ReLU(), net]),
}


@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)
def test_what_torch_itself_wraps_comes_back(path, wrap):
    weights = {name: tensor.clone() for name, tensor in network(1).state_dict().items()}
    assert same(loaded(path, wrap(network(1)).state_dict()), weights)


@pytest.mark.parametrize(
    "nest",
    [
        lambda weights: {"state_dict": {"net": weights}},
        lambda weights: {"model": {"state_dict": weights, "name": "resnet"}, "epoch": 3},
        lambda weights: {
            "model_state_dict": weights,
            # Adam's state of one parameter is tensors by name, too.
            "optimizer_state_dict": {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": []},
        },
    ],
)
def test_weights_are_found_under_any_keys(path, nest):
    weights = network(1).state_dict()
    assert same(loaded(path, nest(weights)), weights)


def test_two_state_dicts_under_unknown_keys_are_named(path):
    content = {"generator": network(1).state_dict(), "ema": {"shadow": network(2).state_dict()}}
    with pytest.raises(
        CheckpointError, match=r"several state dicts, under `generator`, `ema\.shad"
    ):
        loaded(path, content)


def test_two_different_networks_that_fit_are_named_and_neither_is_taken(path):
    content = under("model.", network(1).state_dict()) | under("ema.", network(2).state_dict())
    with pytest.raises(MismatchError, match=r"two that fit, under 'ema\.' and 'model\.'") as caught:
        loaded(path, {"state_dict": content})
    assert str(path) in str(caught.value)


def test_the_same_network_twice_is_one(path):
    weights = network(1).state_dict()
    assert same(loaded(path, under("model.", weights) | under("attacker.model.", weights)), weights)


@pytest.mark.parametrize(
    ("other", "level"), [(torch.tensor(7), "INFO"), (torch.ones(3, 3), "WARNING")]
)
def test_what_is_left_out_is_logged(path, caplog, other, level):
    caplog.set_level("INFO")
    content = under("classifier.", network(1).state_dict()) | {"denoiser.0.weight": other}
    loaded(path, content)
    [record] = caplog.records
    assert record.levelname == level
    assert "1 tensors outside 'classifier.' are left out, for example 'denoiser" in caplog.text


def renamed(weights, words):
    return {
        ".".join(words.get(part, part) for part in name.split(".")): tensor
        for name, tensor in weights.items()
    }


@pytest.mark.parametrize(
    "words", [{"fc": "linear"}, {"fc": "classifier", "downsample": "shortcut", "bn1": "norm1"}]
)
def test_parts_of_other_names_with_the_same_shapes_in_the_same_order_are_the_same(
    path, caplog, words
):
    caplog.set_level("INFO")
    weights = network(1).state_dict()
    assert same(loaded(path, under("module.", renamed(weights, words))), weights)
    assert all(f"part {new!r} is loaded as the model's {old!r}" in caplog.text
               for old, new in words.items())  # fmt: skip


def test_parts_are_not_the_same_where_a_shape_differs_or_a_name_means_two(path):
    weights = network(1).state_dict()
    wider = renamed(weights, {"fc": "linear"}) | {"linear.weight": torch.ones(10, 17)}
    with pytest.raises(CheckpointError, match=r"lacks 'fc\.bias' .* lacks 'linear\.bias'"):
        loaded(path, wider)
    # One word for two parts of the network.
    twice = {
        name.replace("fc.", "head.").replace("layer3.0.conv1", "layer3.0.head"): tensor
        for name, tensor in weights.items()
    }
    with pytest.raises(CheckpointError, match="does not fit the model"):
        loaded(path, twice)


def test_names_are_shown_without_what_the_user_never_wrote(path):
    weights = network(1).state_dict()
    content = under("module.1._orig_mod.", weights)
    del content["module.1._orig_mod.fc.bias"]
    content["module.1._orig_mod.head.scale"] = torch.ones(3, 2)
    with pytest.raises(CheckpointError) as caught:
        loaded(path, {"state_dict": content})
    assert str(caught.value) == (
        f"{path} does not fit the model: the file lacks 'fc.bias' (1 such names) and the "
        "model lacks 'head.scale' (1 such names)"
    )


def test_a_shape_is_named_without_prefixes(path):
    content = under("module.1.", network(1, classes=100).state_dict())
    with pytest.raises(
        MismatchError, match=r"^fc\.weight has shape \(100, 16\) in .* \(10, 16\) in"
    ):
        loaded(path, content)


def test_of_two_prefixes_the_one_whose_shapes_fit_is_taken():
    own = normalized(network(0), MEAN, STD).state_dict()
    teacher, student = network(1, classes=100).state_dict(), network(2).state_dict()
    match = match_names(own, under("teacher.", teacher) | under("student.", student))
    assert (match.fits, match.prefix) == (True, "student.")
    assert same({f"1.{name}": tensor for name, tensor in student.items()}, match.weights)


def test_a_fresh_part_need_not_fit_in_any_way():
    own = network(0).state_dict()
    fresh = {"fc.weight", "fc.bias"}
    for saved in (network(1, classes=100).state_dict(), renamed(own, {"fc": "linear"})):
        match = match_names(own, under("module.", saved), fresh)
        assert match.fits
        assert match.weights.keys() == own.keys() - fresh
