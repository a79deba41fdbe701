"""Networks of timm, without a network connection."""

import re

import pytest
import timm
import torch

from smoothcert.errors import CheckpointError, InvalidArgumentError, MismatchError
from smoothcert.models import load_weights, parts_of, timm_model

SHAPE = (3, 32, 32)
DATA = {"mean": [0.1] * 3, "std": [0.7] * 3}
VIT = {
    "name": "vit_tiny_patch16_224",
    "arguments": {"img_size": 32, "patch_size": 8, "depth": 1, "embed_dim": 12, "num_heads": 2},
}


def images():
    return torch.rand(2, *SHAPE, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("settings", [{"name": "resnet18"}, VIT], ids=["resnet18", "vit"])
def test_a_network_sees_its_own_normalisation_not_the_datas(settings):
    model = timm_model(5, SHAPE, **DATA, **settings).eval()
    config = timm.get_pretrained_cfg(settings["name"])
    assert tuple(config.mean) != tuple(DATA["mean"])
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (config.mean, config.std))
    with torch.no_grad():
        expected = model[1]((images() - mean) / std)
        assert torch.allclose(model(images()), expected, rtol=0, atol=1e-6)
    assert expected.shape == (2, 5)


def test_the_two_families_have_different_means():
    assert timm_model(5, SHAPE, **DATA, name="resnet18")[0].mean.flatten().tolist() == (
        pytest.approx([0.485, 0.456, 0.406])
    )
    assert timm_model(5, SHAPE, **DATA, **VIT)[0].mean.flatten().tolist() == [0.5] * 3


def test_more_arguments_reach_timm():
    model = timm_model(5, SHAPE, **DATA, **VIT)
    assert model[1].pos_embed.shape == (1, 1 + 16, 12)


def test_a_file_as_timm_publishes_it_is_loaded(tmp_path):
    path = tmp_path / "pytorch_model.bin"
    network = timm.create_model("resnet18", num_classes=5)
    torch.save(network.state_dict(), path)
    model = timm_model(5, SHAPE, **DATA, name="resnet18")
    load_weights(model, path)
    assert torch.equal(model[1].fc.weight, network.fc.weight)
    assert parts_of(model, ["layer4.0"]) == [model[1].layer4[0]]


@pytest.mark.parametrize(
    ("name", "near"), [("resnet81", "resnet18"), ("vit_tinny_patch16_224", "vit_tiny_patch16_224")]
)
def test_an_unknown_name_is_answered_with_similar_ones(name, near):
    with pytest.raises(InvalidArgumentError) as caught:
        timm_model(5, SHAPE, **DATA, name=name)
    said, _, similar = str(caught.value).partition("; similar: ")
    assert said.endswith(f"got {name!r}")
    assert near in similar
    assert all(timm.is_model(each) for each in similar.split(", "))


def test_a_name_like_no_other_gets_no_suggestions():
    with pytest.raises(InvalidArgumentError, match=r"got 'qqqqqq'$"):
        timm_model(5, SHAPE, **DATA, name="qqqqqq")


def test_data_of_one_channel_is_refused():
    with pytest.raises(MismatchError, match="resnet18 normalises 3 channels, and the data has 1"):
        timm_model(10, (1, 8, 8), [0.5], [0.5], name="resnet18")


def test_without_timm_there_is_the_line_that_installs_it(monkeypatch):
    monkeypatch.setattr("smoothcert.models.timm_models.find_spec", lambda name: None)
    with pytest.raises(InvalidArgumentError, match=re.escape("pip install 'smoothcert[timm]'")):
        timm_model(5, SHAPE, **DATA, name="resnet18")


def test_weights_that_cannot_be_fetched_come_with_advice(monkeypatch):
    asked = {}

    def offline(name, **settings):
        asked.update(settings)
        raise ConnectionError("no route to huggingface.co")

    monkeypatch.setattr(timm, "create_model", offline)
    advice = r"resnet18 \(ConnectionError: no route.*model\.pretrained=false model\.weights=<file>"
    with pytest.raises(CheckpointError, match=advice):
        timm_model(5, SHAPE, **DATA, name="resnet18", pretrained=True)
    assert asked == {"pretrained": True, "num_classes": 5, "in_chans": 3}
