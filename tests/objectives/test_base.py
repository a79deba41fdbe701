"""What every objective promises, and what they are built from."""

import math
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import rel_entr
from torch import nn

from smoothcert import objectives
from smoothcert.errors import InvalidArgumentError
from smoothcert.noise import generator
from smoothcert.objectives import (
    ADRE,
    CATRS,
    MACER,
    Consistency,
    Gaussian,
    LogitsObjective,
    Objective,
    SmoothMix,
    Stability,
    divergence,
)
from smoothcert.objectives.base import Weight, smoothed_accuracy
from smoothcert.warmup import Deferred, Linear
from tests.helpers.references import LABELS, half_right, loss_of, random_logits, softmax

EVERY = [
    Gaussian(4),
    ADRE(noise_draws=4),
    ADRE(noise_draws=4, floor=1e-3),
    Stability(noise_draws=4),
    MACER(noise_draws=4),
    Consistency(noise_draws=4),
    SmoothMix(noise_draws=4),
    CATRS(noise_draws=4),
]
FORWARD_PASSES = {Stability: 2, SmoothMix: 2, CATRS: 2}


def objective_of(choice):
    return pytest.mark.parametrize("objective", choice, ids=repr)


every_objective = objective_of(EVERY)
of_logits_alone = objective_of([each for each in EVERY if isinstance(each, LogitsObjective)])


def call(objective, classifier, batch):
    """The loss of a batch, with the same dropout and the same draws at every call."""
    torch.manual_seed(0)
    return objective(classifier, batch, generator("cpu", 5))


def gradients(loss, classifier):
    return torch.autograd.grad(loss.value, list(classifier.parameters()))


def test_no_objective_is_left_out_here():
    public = [getattr(objectives, name) for name in objectives.__all__]
    concrete = {
        each
        for each in public
        if isinstance(each, type)
        and issubclass(each, Objective)
        and each not in (Objective, LogitsObjective)
    }
    assert {type(each) for each in EVERY} == concrete


@every_objective
def test_the_loss_is_a_scalar_with_gradient_and_the_report_is_scalars_without(
    objective, network, batch
):
    loss = call(objective, network, batch)
    assert loss.value.shape == ()
    assert any(gradient.any() for gradient in gradients(loss, network))
    for entry in loss.report.values():
        assert not torch.as_tensor(entry).requires_grad
        assert torch.as_tensor(entry).shape == ()
        assert math.isfinite(entry)


@every_objective
def test_the_report_tells_how_often_the_mean_softmax_is_right(objective, network, batch):
    loss = call(objective, network.eval(), half_right(network, batch))
    assert loss.report["smoothed_accuracy"].item() == pytest.approx(3 / 5)


def test_one_loud_draw_does_not_outvote_two():
    """The mean softmax prefers class 1, the mean logits class 0."""
    logits = torch.tensor([[[10.0, 0.0]], [[0.0, 2.0]], [[0.0, 2.0]]])
    assert smoothed_accuracy(logits, torch.tensor([1])) == 1


@objective_of(
    [
        ADRE(0.3, noise_draws=4),
        Stability(2.0, noise_draws=4),
        MACER(12.0, beta=1.0, noise_draws=4),
        Consistency(10.0, 0.5, noise_draws=4),
        SmoothMix(5.0, noise_draws=4),
        CATRS(2.0, noise_draws=4),
    ]
)
def test_the_reported_terms_add_up_to_the_loss(objective, network, batch):
    loss = call(objective, network.eval(), half_right(network, batch))
    report = dict(loss.report)
    weight = report.pop("weight")
    first = report.get("cross_entropy", report.get("bottom_k"))
    names = ["adre", "stability", "robustness", "consistency", "mixup", "worst_case"]
    (second,) = (report[name] for name in names if name in report)
    total = first + weight * second + 0.5 * report.get("entropy", 0)
    assert second != 0
    assert loss.value.item() == pytest.approx(total.item(), rel=1e-6)


@every_objective
def test_the_same_draws_give_the_same_loss(objective, network, batch):
    first, again = call(objective, deepcopy(network), batch), call(objective, network, batch)
    assert torch.equal(first.value, again.value)


@every_objective
def test_the_classifier_keeps_its_modes_its_flags_and_its_gradients(objective, network, batch):
    network[3].eval()
    network[0].bias.requires_grad_(False)
    network[0].weight.grad = torch.ones_like(network[0].weight)
    weights = deepcopy(list(network.parameters()))
    call(objective, network, batch)
    assert [part.training for part in network] == [True, True, True, False, True, True]
    flags = [parameter.requires_grad for parameter in network.parameters()]
    assert flags == [True, False, True, True, True, True]
    assert torch.equal(network[0].weight.grad, torch.ones_like(network[0].weight))
    assert all(parameter.grad is None for parameter in list(network.parameters())[1:])
    assert all(map(torch.equal, network.parameters(), weights))


@every_objective
def test_batchnorm_sees_the_passes_of_the_loss_and_none_of_an_inner_ascent(
    objective, network, batch
):
    call(objective, network, batch)
    assert network[1].num_batches_tracked == FORWARD_PASSES.get(type(objective), 1)


@every_objective
def test_a_classifier_in_eval_mode_keeps_its_statistics(objective, network, batch):
    before = deepcopy(network.state_dict())
    call(objective, network.eval(), batch)
    assert all(map(torch.equal, network.state_dict().values(), before.values()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@every_objective
def test_loss_and_gradients_are_finite_at_logits_of_ten_thousand(objective, dtype, batch):
    classifier = nn.Sequential(nn.Flatten(), nn.Linear(36, 3)).to(dtype)
    with torch.no_grad():
        for parameter in classifier.parameters():
            parameter.normal_(0, 1e5, generator=generator("cpu", 0))
    narrow = replace(batch, images=batch.images.to(dtype), noise=batch.noise.to(dtype) / 10)
    narrow = half_right(classifier, narrow)
    assert (classifier(narrow.images).abs().amax(1) > 1e4).all()
    loss = call(objective, classifier, narrow)
    assert loss.value.isfinite()
    assert all(gradient.isfinite().all() for gradient in gradients(loss, classifier))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@of_logits_alone
def test_logits_on_which_all_draws_agree_give_finite_gradients(objective, dtype):
    logits = torch.full((8, 4, 5), -1e4, dtype=dtype)
    logits[:, torch.arange(4), LABELS] = 1e4
    logits[:, 2] = 0
    logits[:, 3] *= -1
    logits.requires_grad_()
    loss = loss_of(objective, logits)
    loss.value.backward()
    assert loss.value.isfinite()
    assert logits.grad.isfinite().all()


@of_logits_alone
@given(seed=st.integers(0, 2**31), order=st.permutations(range(5)))
def test_neither_the_names_of_classes_nor_the_order_of_draws_matter(objective, seed, order):
    logits = random_logits(seed, scale=0.5)
    relabelled = torch.tensor([order.index(label) for label in LABELS])
    expected = loss_of(objective, logits).value
    assert torch.allclose(loss_of(objective, logits[..., order], relabelled).value, expected)
    assert torch.allclose(loss_of(objective, logits.flip(0)).value, expected)


@every_objective
def test_images_may_come_in_any_order(objective, network, batch, monkeypatch):
    """But for what is drawn: every K = m and every t = ¼ here."""
    monkeypatch.setattr(
        objectives.catrs, "confident_draws", lambda logits, *_: torch.full((5,), len(logits))
    )
    monkeypatch.setattr(torch.Tensor, "uniform_", lambda self, *_, **__: self.fill_(0.25))
    order = torch.tensor([3, 0, 4, 1, 2])
    other = replace(
        batch, images=batch.images[order], labels=batch.labels[order], noise=batch.noise[:, order]
    )
    network.eval()
    value, same = (call(objective, network, each).value for each in (batch, other))
    assert value.item() == pytest.approx(same.item(), rel=1e-5)


@pytest.mark.parametrize(
    "kind",
    [ADRE, Stability, MACER, SmoothMix, CATRS, lambda w, **k: Consistency(w, w / 2, **k)],
    ids=["ADRE", "Stability", "MACER", "SmoothMix", "CATRS", "Consistency"],
)
def test_a_deferred_weight_is_zero_first_and_full_after(kind, network, batch):
    objective = kind(2.0, noise_draws=4, warmup=Deferred(3))
    for epoch, weight in ((2, 0.0), (3, 2.0)):
        now = replace(batch, epoch=epoch)
        loss, expected = (
            call(each, deepcopy(network), now) for each in (objective, kind(weight, noise_draws=4))
        )
        assert loss.report["weight"] == weight
        assert torch.equal(loss.value, expected.value)


def test_a_growing_weight_is_reported_as_it_grows(network, batch):
    objective = SmoothMix(5.0, noise_draws=4, warmup=Linear(10))
    weights = [
        call(objective, network, replace(batch, epoch=epoch)).report["weight"]
        for epoch in (0, 4, 9, 50)
    ]
    assert weights == pytest.approx([0.5, 2.5, 5.0, 5.0])


@pytest.mark.parametrize("value", [-1e-9, math.nan, math.inf])
def test_weights_out_of_range_are_refused(value):
    with pytest.raises(InvalidArgumentError, match="Expected `weight` >= 0 and finite, got "):
        Weight(value)


@pytest.mark.parametrize(
    ("objective", "text"),
    [
        (Gaussian(2), "Gaussian(noise_draws=2)"),
        (ADRE(0.1, 8, 0.01), "ADRE(noise_draws=8, weight=0.1, floor=0.01)"),
        (Stability(), "Stability(noise_draws=1, weight=2.0)"),
        (
            MACER(warmup=Deferred(200)),
            "MACER(noise_draws=16, weight=12.0·Deferred(epochs=200), beta=16.0, gamma=8.0)",
        ),
        (Consistency(), "Consistency(noise_draws=2, weight=10.0, entropy_weight=0.5)"),
        (
            SmoothMix(warmup=Linear(10)),
            "SmoothMix(noise_draws=2, weight=5.0·Linear(epochs=10), steps=4, step_size=1.0)",
        ),
        (CATRS(), "CATRS(noise_draws=4, weight=1.0, epsilon=1.0, steps=4)"),
    ],
)
def test_objectives_introduce_themselves(objective, text):
    assert repr(objective) == text


@given(st.integers(0, 2**31), st.floats(0, 20))
def test_divergence_is_scipys(seed, scale):
    logits = random_logits(seed, scale, draws=2)
    target = logits[0].log_softmax(-1)
    expected = rel_entr(softmax(logits[0].numpy()), softmax(logits[1].numpy())).sum(-1)
    values = divergence(target, logits[1]).numpy()
    assert values == pytest.approx(expected, rel=1e-8, abs=1e-12)
    assert (values >= -1e-12).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_impossible_classes_add_nothing_to_the_divergence(dtype):
    target = torch.tensor([0.25, 0.75, 0.0], dtype=dtype).log().requires_grad_()
    logits = torch.tensor([1e4, 0.0, -1e4], dtype=dtype, requires_grad=True)
    value = divergence(target, logits)
    value.backward()
    expected = 0.25 * np.log(0.25) + 0.75 * (np.log(0.75) + 1e4)
    assert value.item() == pytest.approx(expected, rel=1e-6)
    assert logits.grad.tolist() == pytest.approx([0.75, -0.75, 0.0])
    # p (log p − log q) grows by p (1 + log p − log q) with log p.
    slope = [0.25 * (1 + np.log(0.25)), 0.75 * (1 + np.log(0.75) + 1e4), 0.0]
    assert target.grad.tolist() == pytest.approx(slope, rel=1e-6)
