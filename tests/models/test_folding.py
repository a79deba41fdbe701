"""Folded BatchNorm: the same function and gradient, and nothing else changed."""

import gc
import weakref

import pytest
import torch
from torch import Tensor, nn

from smoothcert.models import cifar_resnet, evaluating, folded, folding, wide_resnet
from smoothcert.models.small_cnn import SmallCNN


def randomized(network: nn.Module) -> nn.Module:
    """Give BatchNorm statistics and weights that a fresh network does not have."""
    source = torch.Generator().manual_seed(0)
    for part in network.modules():
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
            assert part.running_mean is not None
            assert part.running_var is not None
            for values in (part.running_var, part.weight):
                values.data.uniform_(0.5, 2.0, generator=source)
            for values in (part.running_mean, part.bias):
                values.data.normal_(generator=source)
    return network.double().eval()


def norms(network: nn.Module) -> int:
    return sum(isinstance(part, nn.BatchNorm2d) for part in network.modules())


NETWORKS = {
    "resnet": lambda: cifar_resnet(10, (3, 32, 32), [0.5] * 3, [0.2] * 3, depth=8),
    "wide": lambda: wide_resnet(10, (3, 32, 32), [0.5] * 3, [0.2] * 3, depth=10, factor=1),
    "small": lambda: SmallCNN(10, 3),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_logits_and_gradients_are_the_networks(name: str) -> None:
    network = randomized(NETWORKS[name]())
    images = torch.rand(3, 3, 32, 32, dtype=torch.float64, requires_grad=True)
    other = folded(network)
    assert other is not network
    assert norms(other) < norms(network)
    expected, got = network(images), other(images)
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)
    weights = torch.randn_like(expected)
    gradients = [torch.autograd.grad((x * weights).sum(), images)[0] for x in (expected, got)]
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("convolution", "norm", "dimensions"),
    [(nn.Conv1d, nn.BatchNorm1d, 1), (nn.Conv3d, nn.BatchNorm3d, 3)],
)
def test_signals_and_volumes_are_folded_too(
    convolution: type[nn.Conv1d | nn.Conv3d],
    norm: type[nn.BatchNorm1d | nn.BatchNorm3d],
    dimensions: int,
) -> None:
    network = randomized(nn.Sequential(convolution(2, 4, 3), norm(4), nn.ReLU()))
    inputs = torch.rand(3, 2, *[6] * dimensions, dtype=torch.float64)
    assert len(list(folded(network).children())) == 2
    torch.testing.assert_close(folded(network)(inputs), network(inputs), rtol=1e-9, atol=1e-9)


def test_it_follows_the_weights_and_leaves_them_alone() -> None:
    network = randomized(NETWORKS["resnet"]())
    before = {name: value.clone() for name, value in network.state_dict().items()}
    images = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    folded(network)
    assert list(before) == list(network.state_dict())
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name])
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1.5)
    assert folded(network) is not network
    torch.testing.assert_close(folded(network)(images), network(images))


def test_a_network_without_batch_norm_is_left_as_it_is() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 2)).eval()
    assert folded(network) is network


class Branches(nn.Sequential):
    """Decides by its input, which cannot be traced."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images if images.mean() > 0 else -images)


class Peeks(nn.Module):
    """Uses what stands between the convolution and its BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 1)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, images: Tensor) -> Tensor:
        between = self.convolution(images)
        return (self.norm(between) + between).mean((2, 3))


class Twice(nn.Module):
    """Calls one convolution twice."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 3, 1)
        self.norm = nn.BatchNorm2d(3)

    def forward(self, images: Tensor) -> Tensor:
        return self.norm(self.convolution(self.convolution(images))).mean((2, 3))


def layers() -> list[nn.Module]:
    return [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten()]


@pytest.mark.parametrize("make", [lambda: Branches(*layers()), Peeks, Twice])
def test_what_cannot_be_folded_is_left_as_it_is(
    make: type[nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folding, "PURE", (*folding.PURE, "tests"))
    network = make().eval()
    assert folded(network) is network


def test_networks_of_others_are_left_as_they_are() -> None:
    class Mine(nn.Sequential):
        pass

    network = Mine(*layers()).eval()
    assert folded(network) is network


def test_a_network_that_is_listened_to_is_left_as_it_is() -> None:
    network = nn.Sequential(*layers()).eval()
    handle = network[0].register_forward_hook(lambda *_: None)
    assert folded(network) is network
    handle.remove()
    assert folded(network) is not network


def test_a_replaced_layer_counts() -> None:
    network, images = nn.Sequential(*layers()).eval(), torch.rand(2, 3, 8, 8)
    folded(network)
    network[0] = nn.Conv2d(3, 4, 3).eval()
    torch.testing.assert_close(folded(network)(images), network(images))


def test_networks_are_not_kept_alive() -> None:
    network = nn.Sequential(*layers()).eval()
    folded(network)
    reference = weakref.ref(network)
    del network
    gc.collect()
    assert reference() is None


def test_modes_inside_and_after() -> None:
    network = nn.Sequential(*layers())
    with evaluating(network):
        assert folded(network) is not network
    assert all(part.training for part in network.modules())


class Shifted(nn.Sequential):
    """Reads a tensor of its own beside its layers."""

    def __init__(self) -> None:
        super().__init__(*layers())
        self.register_buffer("shift", torch.ones(1))

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        return super().forward(input + self.shift)


def test_a_replaced_tensor_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folding, "PURE", (*folding.PURE, "tests"))
    network, images = Shifted().eval(), torch.rand(2, 3, 8, 8)
    assert folded(network) is not network
    network.shift = torch.zeros(1)
    torch.testing.assert_close(folded(network)(images), network(images))
    torch.testing.assert_close(folded(network.double())(images.double()), network(images.double()))


def test_a_network_whose_gradients_are_listened_to_is_left_as_it_is() -> None:
    network = nn.Sequential(*layers()).eval()
    handle = network.register_full_backward_hook(lambda *_: None)
    assert folded(network) is network
    handle.remove()


def test_a_network_that_trains_is_left_as_it_is() -> None:
    network = nn.Sequential(*layers()).eval()
    assert folded(network) is not network
    network[1].train()
    assert folded(network) is network


def test_what_cannot_be_traced_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folding, "PURE", (*folding.PURE, "tests"))
    tried = []
    monkeypatch.setattr(folding.fx, "symbolic_trace", lambda network: tried.append(1) or 1 / 0)
    network = Peeks().eval()
    for _ in range(3):
        assert folded(network) is network
    assert tried == [1]
