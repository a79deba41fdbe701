"""Files in every published layout give the logits of the network that was saved."""

import re
from collections import OrderedDict
from functools import partial

import pytest
import torch
from torch import nn
from torchvision.models import resnet50 as torchvision_resnet50

from smoothcert.errors import CheckpointError, InvalidArgumentError, MismatchError
from smoothcert.models import (
    CifarResNet,
    cifar_resnet,
    load_weights,
    resnet50,
    small_cnn,
    wide_resnet,
    with_normalization,
)
from tests.helpers.pickles import Trap

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
SHAPE = (3, 32, 32)
COUNTER = "num_batches_tracked"


def images():
    return torch.rand(2, *SHAPE, generator=torch.Generator().manual_seed(5))


def by_hand(pixels):
    return (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def trained(make, seed=1):
    """A network whose every parameter and statistic differs from a fresh one's."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = make().eval()
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.0)
                nn.init.normal_(module.bias, 0, 0.1)
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
                module.num_batches_tracked.fill_(7)
    return network


def logits(network, pixels):
    with torch.no_grad():
        return network.eval()(pixels)


def published(prefix, arch="some_arch"):
    def content(network):
        # Steps of length 0 fill the optimizer's state and leave the weights.
        momentum = torch.optim.SGD(network.parameters(), lr=0.0, momentum=0.9)
        network(images()).sum().backward()
        momentum.step()
        weights = OrderedDict((prefix + k, v) for k, v in network.state_dict().items())
        state = momentum.state_dict()
        return {"epoch": 90, "arch": arch, "state_dict": weights, "optimizer": state}

    return content


def lightning(prefix):
    def content(network):
        weights = {prefix + k: v for k, v in network.state_dict().items()}
        beside = {"objective.scale": torch.ones(1)}
        return {"state_dict": weights | beside, "epoch": 3, "pytorch-lightning_version": "2.6"}

    return content


def bare(prefix):
    return lambda network: OrderedDict((prefix + k, v) for k, v in network.state_dict().items())


def without_counters(layout):
    def content(network):
        written = layout(network)
        weights = written["state_dict"]
        written["state_dict"] = {k: v for k, v in weights.items() if not k.endswith(COUNTER)}
        return written

    return content


LAYOUTS = {
    "cohen_cifar": published("1."),
    "cohen_imagenet": published("1.module."),
    "data_parallel": published("module.1."),
    "data_parallel_twice": published("module.1.module."),
    "of_2018": without_counters(published("1.module.")),
    "compiled": published("_orig_mod.1."),
    "compiled_network": published("1._orig_mod."),
    "compiled_data_parallel": published("module._orig_mod.1."),
    "macer": lambda network: {"net": network.state_dict(), "epoch": 440},
    "macer_data_parallel": lambda network: {"net": bare("module.")(network), "epoch": 440},
    "bare": bare(""),
    "bare_data_parallel": bare("module."),
    "bare_compiled": bare("_orig_mod."),
    "bare_behind_normalisation": bare("1."),
    "ours": lightning("model.1."),
    "ours_compiled": lightning("model._orig_mod.1."),
    "ours_compiled_network": lightning("model.1._orig_mod."),
}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "checkpoint.pth.tar"


def come_back(network, ours, content, path, **options):
    """Write a network's weights, load them into another, and compare their logits."""
    written = content(network)
    torch.save(written, path, **options)
    expected = logits(network, by_hand(images()))
    fresh = logits(ours, images())
    load_weights(ours, path)
    assert not torch.allclose(fresh, expected, rtol=0, atol=1e-3)
    assert torch.allclose(logits(ours, images()), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("name", LAYOUTS)
def test_a_cifar_network_comes_back_from_each_layout(path, name, legacy):
    network = trained(lambda: CifarResNet(20, 10, width=4))
    ours = cifar_resnet(10, SHAPE, MEAN, STD, depth=20, width=4)
    zipped = {"_use_new_zipfile_serialization": not legacy}
    come_back(network, ours, LAYOUTS[name], path, **zipped)


def test_the_published_resnet110_comes_back(path):
    network = trained(lambda: CifarResNet(110, 10))
    ours = cifar_resnet(10, SHAPE, MEAN, STD, depth=110)
    content = without_counters(published("1.", "cifar_resnet110"))
    come_back(network, ours, content, path, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize("name", ["of_2018", "bare"])
def test_torchvisions_resnet50_comes_back(path, name):
    network = trained(lambda: torchvision_resnet50(num_classes=7))
    come_back(network, resnet50(7, SHAPE, MEAN, STD), LAYOUTS[name], path)


def test_a_file_without_counters_leaves_the_models_own(path):
    network = trained(lambda: CifarResNet(8, 10, width=4))
    torch.save(without_counters(published("1."))(network), path)
    ours = small()
    load_weights(ours, path)
    counters = {int(v) for k, v in ours.state_dict().items() if k.endswith(COUNTER)}
    assert counters == {0}


@pytest.mark.parametrize(
    ("kind", "formula"),
    [
        ("standard", by_hand),
        ("center", lambda pixels: pixels - torch.tensor(MEAN).view(3, 1, 1)),
        ("none", lambda pixels: pixels),
    ],
)
def test_a_file_is_seen_through_each_normalisation(path, kind, formula):
    network = trained(lambda: CifarResNet(8, 10, width=4))
    torch.save(LAYOUTS["macer"](network), path)
    ours = with_normalization(small(), kind)
    load_weights(ours, path)
    expected = logits(network, formula(images()))
    assert torch.allclose(logits(ours, images()), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("key", ["optimizer", "net", "arch", "epoch"])
def test_code_in_a_file_of_good_weights_is_never_run(path, tmp_path, key, legacy):
    model, before = small(), logits(small(), images())
    content = LAYOUTS["cohen_cifar"](CifarResNet(8, 10, width=4))
    trap = content | {key: Trap(tmp_path / "touched")}
    torch.save(trap, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(CheckpointError, match=re.escape(str(path))):
        load_weights(model, path)
    assert not (tmp_path / "touched").exists()
    assert torch.equal(logits(model, images()), before)


def small(classes=10, seed=0, **settings):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        settings = {"depth": 8, "width": 4} | settings
        return cifar_resnet(classes, SHAPE, MEAN, STD, **settings)


def refused(model, path, content, *expected, error=CheckpointError):
    """A file is refused by an error that names everything expected; the model is as before."""
    torch.save(content, path)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(error) as caught:
        load_weights(model, path)
    message = str(caught.value)
    assert [words for words in (str(path), *expected) if words not in message] == []
    after = model.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


def test_a_resnet20_is_no_resnet110(path):
    content = published("1.", "cifar_resnet20")(CifarResNet(20, 10))
    refused(
        cifar_resnet(10, SHAPE, MEAN, STD, depth=110),
        path,
        content,
        "lacks 'layer1.10.bn1.bias'",
        "arch 'cifar_resnet20'",
    )


def test_a_resnet110_is_no_resnet20(path):
    content = published("1.", "cifar_resnet110")(CifarResNet(26, 10))
    expected = "the model lacks 'layer1.3.bn1.bias'", "arch 'cifar_resnet110'"
    refused(small(depth=20, width=16), path, content, *expected)


def test_a_wide_resnet_is_no_resnet(path):
    wide = wide_resnet(10, SHAPE, MEAN, STD, depth=10, factor=1)
    content = published("1.", "wrn_28_10")(wide[1])
    expected = "lacks 'bn1.bias'", "the model lacks 'bn.bias'", "arch 'wrn_28_10'"
    refused(small(), path, content, *expected)


@pytest.mark.parametrize("prefix", ["1.", "1.module.", "module.1."])
def test_a_missing_and_a_foreign_key_are_both_named(path, prefix):
    content = published(prefix, "cifar_resnet8")(CifarResNet(8, 10, width=4))
    del content["state_dict"][f"{prefix}bn1.running_var"]
    content["state_dict"][f"{prefix}head.bias"] = torch.ones(1)
    expected = "lacks 'bn1.running_var' (1", "'head.bias' (1", "'cifar_resnet8'"
    refused(small(), path, content, *expected)


def test_another_number_of_classes_is_refused_whole(path):
    content = published("1.")(CifarResNet(8, 100, width=4))
    expected = "fc.", "(100", "(10"
    refused(small(), path, content, *expected, error=MismatchError)


@pytest.mark.parametrize("classes", [10, 100])
@pytest.mark.parametrize("name", ["cohen_imagenet", "macer", "ours_compiled"])
def test_a_part_that_is_begun_afresh_keeps_its_own_weights_and_the_rest_is_loaded(
    path, classes, name
):
    network = trained(lambda: CifarResNet(8, classes, width=4))
    torch.save(LAYOUTS[name](network), path)
    ours, fresh = small(), small()
    load_weights(ours, path, reinitialize=["fc"])
    assert torch.equal(ours[1].fc.weight, fresh[1].fc.weight)
    assert torch.equal(ours[1].fc.bias, fresh[1].fc.bias)
    features, theirs = ours[1].state_dict(), network.state_dict()
    others = [key for key in theirs if not key.startswith("fc.")]
    assert len(others) == len(theirs) - 2
    assert all(torch.equal(features[key], theirs[key]) for key in others)


def test_a_file_need_not_have_a_part_that_is_begun_afresh(path):
    weights = trained(partial(CifarResNet, 8, 10, width=4)).state_dict()
    torch.save({k: v for k, v in weights.items() if not k.startswith(("fc.", "layer3."))}, path)
    ours = small()
    load_weights(ours, path, reinitialize=["fc", "layer3"])
    assert torch.equal(ours[1].conv1.weight, weights["conv1.weight"])


@pytest.mark.parametrize("part", ["head", "1.fc", "fc.weight", ""])
def test_an_unknown_part_is_refused_with_the_parts_that_there_are(path, part):
    torch.save(LAYOUTS["cohen_cifar"](CifarResNet(8, 10, width=4)), path)
    known = r"conv1, bn1, layer1, layer2, layer3, fc; got " + re.escape(repr(part))
    with pytest.raises(InvalidArgumentError, match=known):
        load_weights(small(), path, reinitialize=[part])


@pytest.mark.parametrize(
    "content",
    [{}, [], {"state_dict": {}}, {"net": {}, "epoch": 1}, {"epoch": 3}, {"state_dict": [1]}],
)
def test_a_file_without_tensors_by_name_says_so(path, content):
    torch.save(content, path)
    with pytest.raises(CheckpointError, match="contains no state dict") as caught:
        load_weights(small(), path)
    assert str(path) in str(caught.value)


def test_an_own_part_named_module_is_no_wrapper(path):
    network = nn.Sequential(OrderedDict(module=nn.Linear(2, 2)))
    twin = nn.Sequential(OrderedDict(module=nn.Linear(2, 2)))
    torch.save(network.state_dict(), path)
    load_weights(twin, path)
    assert torch.equal(network.module.weight, twin.module.weight)


def test_the_small_network_comes_back_with_one_channel(path):
    network, twin = (small_cnn(3, (1, 8, 8), [0.3], [0.4], width=2) for _ in range(2))
    torch.save({"net": network[1].state_dict(), "epoch": 1}, path)
    load_weights(twin, path)
    pixels = images()[:, :1, :8, :8]
    assert torch.equal(logits(twin, pixels), logits(network, pixels))
