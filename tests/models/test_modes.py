"""Modes are contexts that leave every part exactly as they found it."""

import pytest
import torch
from torch import nn

from smoothcert.models import evaluating, frozen


@pytest.fixture
def network():
    """A network with parts in both modes and with one parameter frozen beforehand."""
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout(), nn.Flatten())
    network[2].eval()
    network[0].bias.requires_grad_(False)
    return network


def modes(network):
    return [part.training for part in network.modules()]


def flags(network):
    return [parameter.requires_grad for parameter in network.parameters()]


def images():
    return torch.rand(3, 1, 5, 5, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("context", "state"), [(evaluating, modes), (frozen, flags)])
def test_the_context_switches_all_off_and_restores_each(context, state, network):
    before = state(network)
    assert len(set(before)) == 2
    with context(network) as inside:
        assert inside is network
        assert not any(state(network))
    assert state(network) == before


@pytest.mark.parametrize(("context", "state"), [(evaluating, modes), (frozen, flags)])
def test_the_context_restores_after_an_exception_and_lets_it_through(context, state, network):
    before = state(network)
    with pytest.raises(ZeroDivisionError), context(network):
        raise ZeroDivisionError
    assert state(network) == before


@pytest.mark.parametrize(("context", "state"), [(evaluating, modes), (frozen, flags)])
def test_contexts_nest(context, state, network):
    before = state(network)
    with context(network):
        with context(network):
            pass
        assert not any(state(network))
    assert state(network) == before


def test_changes_inside_the_context_do_not_outlive_it(network):
    before = modes(network)
    with evaluating(network):
        network.train()
    assert modes(network) == before


def test_evaluating_reads_batch_statistics_and_leaves_them_alone(network):
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with evaluating(network):
        alone, together = network(images()[:1]), network(images())[:1]
    assert torch.allclose(alone, together, atol=1e-6)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    network(images())
    assert not torch.equal(before["1.running_mean"], network[1].running_mean)


def test_frozen_lets_gradients_through_to_the_input_alone(network):
    pixels = images().requires_grad_()
    with frozen(network):
        network(pixels).square().sum().backward()
    assert pixels.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in network.parameters())


def test_frozen_keeps_gradients_that_were_there(network):
    network(images()).square().sum().backward()
    before = network[0].weight.grad.clone()
    with frozen(network):
        network(images().requires_grad_()).sum().backward()
    assert torch.equal(network[0].weight.grad, before)
