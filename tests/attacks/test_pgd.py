"""PGD's promises."""

import pytest
import torch
from torch import nn

from smoothcert.attacks import PGD, NoAttack
from smoothcert.attacks.pgd import unit
from smoothcert.errors import InvalidArgumentError
from smoothcert.models import evaluating
from smoothcert.noise import generator


def attack(pgd, network, batch, epoch=100):
    return pgd(network, batch, epoch, generator("cpu", 2))


@pytest.mark.parametrize("epsilon", [1e-3, 0.1, 1.0, 10.0])
def test_images_stay_in_the_ball_and_in_the_pixel_range(network, batch, epsilon):
    moved = attack(PGD(epsilon), network, batch).images
    distance = (moved - batch.images).flatten(1).norm(dim=1)
    assert distance.max() <= epsilon * (1 + 1e-6)
    assert moved.min() >= 0
    assert moved.max() <= 1


@pytest.mark.parametrize("noisy_pixels", [1, 2 * 4 * 36, 10_000])
def test_parts_of_a_batch_give_what_the_whole_gives(network, batch, noisy_pixels, monkeypatch):
    whole = attack(PGD(0.5), network, batch).images
    monkeypatch.setattr("smoothcert.attacks.base.CPU_NOISY_PIXELS", noisy_pixels)
    assert torch.allclose(attack(PGD(0.5), network, batch).images, whole, atol=1e-5)


def test_the_attacked_loss_rises(network, batch):
    pgd = PGD(epsilon=0.5)
    moved = attack(pgd, network, batch).images
    with torch.no_grad(), evaluating(network):
        before = pgd.loss(network, batch)
        after = pgd.loss(network, batch.with_images(moved))
    assert (after > before).all()


def test_on_a_linear_classifier_the_image_moves_along_the_weights(batch):
    """For two classes the loss rises along w₁ − w₀ under any noise."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(36, 2, bias=False))
    middle = batch.with_images(torch.full_like(batch.images, 0.5))
    labels = torch.zeros_like(batch.labels)
    moved = attack(PGD(0.1), network, type(middle)(middle.images, labels, middle.noise, 0.5)).images
    difference = (network[1].weight[1] - network[1].weight[0]).detach()
    expected = 0.1 * difference / difference.norm()
    assert (moved - 0.5).flatten(1) == pytest.approx(expected.expand(5, -1), abs=1e-5)


def test_the_model_is_left_as_it_was(network, batch):
    network[4].eval()
    network[0].bias.requires_grad_(False)
    network[0].weight.grad = torch.ones_like(network[0].weight)
    state = {name: value.clone() for name, value in network.state_dict().items()}
    attack(PGD(0.5), network, batch)
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    assert [part.training for part in network] == [True, True, True, True, False, True]
    assert [p.requires_grad for p in network.parameters()] == [True, False, True, True, True, True]
    assert torch.equal(network[0].weight.grad, torch.ones_like(network[0].weight))
    assert all(p.grad is None for p in list(network.parameters())[1:])


class Flat(nn.Module):
    """Logits that depend on nothing: every gradient is zero."""

    def forward(self, images):
        return 0 * images.flatten(1)[:, :3]


def test_a_zero_gradient_takes_a_random_direction(batch):
    moved = attack(PGD(0.1, steps=1), Flat(), batch).images
    distance = (moved - batch.images).flatten(1).norm(dim=1)
    assert (distance > 0.01).all()
    assert torch.equal(moved, attack(PGD(0.1, steps=1), Flat(), batch).images)


def test_epsilon_grows_linearly_over_the_first_epochs():
    pgd = PGD(2.0, warmup_epochs=10)
    assert [pgd.strength(epoch) for epoch in (0, 4, 9, 50)] == [0.2, 1.0, 2.0, 2.0]
    assert PGD(2.0, warmup_epochs=0).strength(0) == 2.0


def test_the_report_tells_the_strength_in_force_and_the_distance(network, batch):
    result = attack(PGD(0.5, warmup_epochs=10), network, batch, epoch=4)
    distance = (result.images - batch.images).flatten(1).norm(dim=1).mean()
    assert result.report["attack_epsilon"] == 0.25
    assert result.report["attack_distance"] == pytest.approx(distance)


def test_it_works_where_gradients_are_off(network, batch):
    with torch.no_grad():
        assert not torch.equal(attack(PGD(0.5), network, batch).images, batch.images)


@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1e6, 1e30])
def test_unit_has_length_one_at_any_scale(scale):
    vectors = scale * torch.randn(4, 1, 3, 3, generator=generator("cpu", 0))
    assert unit(vectors).flatten(1).norm(dim=1) == pytest.approx(torch.ones(4), rel=1e-5)


def test_unit_of_zero_and_of_non_finite_gradients_is_zero():
    vectors = torch.zeros(2, 1, 2, 2)
    vectors[1] = torch.tensor([[torch.nan, 1.0], [1.0, 1.0]])
    assert torch.equal(unit(vectors), torch.zeros_like(vectors))


@pytest.mark.parametrize("arguments", [{"epsilon": 0.0}, {"epsilon": 1.0, "steps": 0}])
def test_arguments_out_of_range_are_refused(arguments):
    with pytest.raises(InvalidArgumentError, match="Expected"):
        PGD(**arguments)


def test_no_attack_leaves_images_alone(network, batch):
    result = attack(NoAttack(), network, batch)
    assert torch.equal(result.images, batch.images)
    assert result.report == {}
