"""What every gradient attack promises, whichever pieces it is made of."""

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest, norm
from torch import nn

from smoothcert.attacks import DDN, PGD, GradientAttack
from smoothcert.attacks.base import unit
from smoothcert.errors import InvalidArgumentError
from smoothcert.models import evaluating
from smoothcert.noise import draw_noise, generator, noisy_logits
from smoothcert.types import NoisyBatch
from smoothcert.warmup import Deferred, Linear

KINDS = {
    "pgd": partial(PGD),
    "pgd-random-start": partial(PGD, random_start=True),
    "pgd-one-step": partial(PGD, steps=1),
    "pgd-fewer-draws": partial(PGD, noise_draws=2),
    "pgd-more-draws": partial(PGD, noise_draws=7),
    "pgd-fresh-draws": partial(PGD, reuse_noise=False),
    "ddn": partial(DDN),
    "ddn-small-start": partial(DDN, initial_radius=0.05, gamma=0.5),
    "ddn-more-draws": partial(DDN, noise_draws=7, gamma=0.2),
    "ddn-fresh-draws": partial(DDN, reuse_noise=False, noise_draws=2),
}
RANDOM = {name for name in KINDS if name.endswith(("random-start", "more-draws", "fresh-draws"))}
every_kind = pytest.mark.parametrize("kind", KINDS)
seeds = st.integers(0, 2**31)


def random_batch(seed, shape=(5, 1, 6, 6), draws=4, sigma=0.5, classes=3):
    source = generator("cpu", seed)
    images = torch.rand(shape, generator=source)
    labels = torch.randint(classes, shape[:1], generator=source)
    return NoisyBatch(images, labels, draw_noise(images, sigma, draws, source), sigma)


def random_network(seed, shape=(1, 6, 6), scale=3.0):
    """A random network of two layers, without BatchNorm: its eval mode is its training mode."""
    source = generator("cpu", seed)
    hidden = nn.Linear(shape[0] * shape[1] * shape[2], 8)
    head = nn.Linear(8, 3)
    with torch.no_grad():
        for layer in (hidden, head):
            layer.weight.normal_(0, scale / layer.in_features**0.5, generator=source)
            layer.bias.normal_(0, 1, generator=source)
    return nn.Sequential(nn.Flatten(), hidden, nn.Tanh(), head)


def run(attack, network, batch, seed=2):
    return attack(network, batch, generator("cpu", seed))


def distances(moved, batch):
    return (moved.double() - batch.images.double()).flatten(1).norm(dim=1)


def assert_within(moved, batch, epsilon):
    assert distances(moved, batch).max() <= epsilon * (1 + 1e-6)
    assert moved.min() >= 0
    assert moved.max() <= 1


def mean_loss(attack, network, batch):
    with torch.no_grad(), evaluating(network):
        return attack.loss(noisy_logits(network, batch), batch.labels).mean()


class Recorder(nn.Module):
    """Keeps what a classifier is shown."""

    def __init__(self, network):
        super().__init__()
        self.network = network
        self.inputs = []

    def forward(self, images):
        self.inputs.append(images.detach().clone())
        return self.network(images)


class Failing(nn.Module):
    """Breaks down on the forward pass of the given number."""

    def __init__(self, network, number):
        super().__init__()
        self.network = network
        self.left = number

    def forward(self, images):
        self.left -= 1
        if self.left < 0:
            raise ArithmeticError("broken")
        return self.network(images)


@every_kind
@settings(max_examples=40)
@given(
    seed=seeds,
    exponent=st.floats(-8, 4),
    shape=st.sampled_from([(2, 1, 6, 6), (2, 3, 32, 32), (1, 1, 1, 1)]),
    levels=st.sampled_from([1, 2, 255, None]),
)
def test_images_stay_in_the_ball_and_in_the_pixel_range(kind, seed, exponent, shape, levels):
    batch = random_batch(seed, shape)
    if levels:
        batch = batch.with_images((batch.images * levels).round() / levels)
    moved = run(KINDS[kind](10**exponent), random_network(seed, shape[1:]), batch, seed).images
    assert_within(moved, batch, 10**exponent)


@every_kind
@given(seed=seeds)
@settings(max_examples=20)
def test_the_attacked_loss_ends_no_lower_than_it_started(kind, seed):
    attack, network = KINDS[kind](0.5), random_network(seed)
    batch, source = random_batch(seed, (16, 1, 6, 6)), generator("cpu", 2)
    seen = NoisyBatch(batch.images, batch.labels, attack.draws(batch, source), batch.sigma)
    start = seen.with_images(attack.start(seen, 0.5, source).images)
    moved = seen.with_images(run(attack, network, batch).images)
    assert mean_loss(attack, network, moved) > mean_loss(attack, network, start)


@pytest.fixture(scope="module")
def trained():
    """A network that tells two bars from each other under noise, and images of both."""
    source = generator("cpu", 3)
    labels = torch.arange(64) % 2
    images = 0.2 + 0.1 * torch.rand(64, 1, 6, 6, generator=source)
    images[labels == 0, :, :, 2] += 0.4
    images[labels == 1, :, 3] += 0.4
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.BatchNorm1d(8), nn.ReLU())
    network.append(nn.Linear(8, 2)).double()
    batch = NoisyBatch(images, labels, draw_noise(images, 0.1, 4, source), 0.1)
    optimizer = torch.optim.Adam(network.parameters(), 0.05)
    # In float64: rounding, which differs between machines, would give another network on each.
    for _ in range(60):
        optimizer.zero_grad()
        logits = network((images + draw_noise(images, 0.1, 1, source)[0]).double())
        nn.functional.cross_entropy(logits, labels).backward()
        optimizer.step()
    network.float()
    return network, batch


@every_kind
def test_a_trained_network_is_fooled(kind, trained):
    network, batch = trained
    attack = KINDS[kind](1.5)
    moved = batch.with_images(run(attack, network, batch).images)
    with torch.no_grad(), evaluating(network):
        before = noisy_logits(network, batch).softmax(-1).mean(0).argmax(1) == batch.labels
        after = noisy_logits(network, moved).softmax(-1).mean(0).argmax(1) == batch.labels
    assert before.all()
    assert after.float().mean() < 0.25


class Undefined(nn.Module):
    """Multiplies the logits of bright images by something."""

    def __init__(self, network, factor):
        super().__init__()
        self.network = network
        self.factor = factor

    def forward(self, images):
        bright = images.mean((1, 2, 3)) > 0.75
        return self.network(images) * torch.where(bright, self.factor, 1.0)[:, None]


@every_kind
@pytest.mark.parametrize("factor", [0.0, torch.nan, torch.inf])
def test_an_image_without_a_gradient_stays_an_image_and_spoils_no_other(kind, factor):
    """Bright images get zero, NaN or infinite gradients, the others their own."""
    network, dull = random_network(0), random_batch(1, sigma=0.0)
    images = dull.images / 2
    images[::2] += 0.5
    batch = dull.with_images(images)
    moved = run(KINDS[kind](0.1), Undefined(network, factor), batch).images
    assert moved.isfinite().all()
    assert_within(moved, batch, 0.1)
    expected = run(KINDS[kind](0.1), network, batch).images
    assert torch.equal(moved[1::2], expected[1::2])


class Flat(nn.Module):
    """Logits that depend on nothing: every gradient is zero, every answer is class 0."""

    def forward(self, images):
        return 0 * images.flatten(1)[:, :3]


@every_kind
def test_a_zero_gradient_takes_a_random_direction(kind):
    batch = random_batch(0)
    batch.labels.zero_()
    moved = run(KINDS[kind](0.1), Flat(), batch).images
    assert (distances(moved, batch) > 0.01).all()
    assert not torch.equal(moved, run(KINDS[kind](0.1), Flat(), batch, seed=3).images)


def whole_state(network):
    tensors = {name: value.clone() for name, value in network.state_dict().items()}
    modes = [part.training for part in network.modules()]
    wanted = [parameter.requires_grad for parameter in network.parameters()]
    gradients = [None if p.grad is None else p.grad.tolist() for p in network.parameters()]
    return tensors, (modes, wanted, gradients)


@every_kind
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("breaks", [True, False])
def test_the_model_is_left_as_it_was(kind, network, batch, training, breaks):
    network.train(training)
    network[4].train(not training)
    network[0].bias.requires_grad_(False)
    network[0].weight.grad = torch.ones_like(network[0].weight)
    tensors, others = whole_state(network)
    attack = KINDS[kind](0.5)
    if breaks:
        with pytest.raises(ArithmeticError, match="broken"):
            run(attack, Failing(network, attack.steps - 1), batch)
    else:
        run(attack, network, batch)
    tensors_after, others_after = whole_state(network)
    assert all(torch.equal(value, tensors[name]) for name, value in tensors_after.items())
    assert others_after == others


class Witness(nn.Module):
    """Notes whether its parts were in training mode, or its weights wanted gradients."""

    def __init__(self, network):
        super().__init__()
        self.network = network
        self.seen = set()

    def forward(self, images):
        self.seen |= {part.training for part in self.modules()}
        self.seen |= {parameter.requires_grad for parameter in self.parameters()}
        return self.network(images)


@every_kind
def test_the_model_is_frozen_and_in_eval_mode_meanwhile(kind, network, batch):
    witness = Witness(network)
    run(KINDS[kind](0.5), witness, batch)
    assert witness.seen == {False}


@every_kind
def test_the_batch_is_left_as_it_was(kind, network, batch):
    copies = [value.clone() for value in (batch.images, batch.labels, batch.noise)]
    run(KINDS[kind](0.5), network, batch)
    assert torch.equal(batch.images, copies[0])
    assert torch.equal(batch.labels, copies[1])
    assert torch.equal(batch.noise, copies[2])


@every_kind
def test_it_works_where_gradients_are_off(kind, network, batch):
    expected = run(KINDS[kind](0.5), network, batch).images
    with torch.no_grad():
        moved = run(KINDS[kind](0.5), network, batch).images
        assert not torch.is_grad_enabled()
    assert torch.equal(moved, expected)
    assert not expected.requires_grad


@every_kind
@pytest.mark.parametrize("images_at_a_time", [0, 1, 2, 4])
def test_parts_of_a_batch_give_what_the_whole_gives(
    kind, network, batch, images_at_a_time, monkeypatch
):
    attack = KINDS[kind](0.5)
    whole = run(attack, network, batch).images
    draws = attack.noise_draws or len(batch.noise)
    monkeypatch.setattr("smoothcert.attacks.base.CPU_NOISY_PIXELS", images_at_a_time * draws * 36)
    recorder = Recorder(network)
    moved = run(attack, recorder, batch).images
    assert max(map(len, recorder.inputs)) == max(1, images_at_a_time) * draws
    assert_within(moved, batch, 0.5)
    if kind != "pgd-random-start":
        assert torch.allclose(moved, whole, atol=1e-5)


@every_kind
def test_the_generator_decides_everything(kind, network, batch):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    moved = run(KINDS[kind](0.5), network, batch).images
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    assert torch.equal(run(KINDS[kind](0.5), network, batch).images, moved)
    same = torch.equal(run(KINDS[kind](0.5), network, batch, seed=3).images, moved)
    assert same == (kind not in RANDOM)


@given(st.sampled_from([PGD, DDN]), st.integers(1, 5), st.none() | st.integers(1, 9), st.booleans())
def test_the_draws_are_the_losss_own_and_fresh_ones_beyond_them(kind, given_draws, wanted, reuse):
    batch = random_batch(0, draws=given_draws)
    draws = kind(1.0, noise_draws=wanted, reuse_noise=reuse).draws(batch, generator("cpu", 4))
    wanted = wanted or given_draws
    shared = min(wanted, given_draws) if reuse else 0
    assert len(draws) == wanted
    assert torch.equal(draws[:shared], batch.noise[:shared])
    fresh = draw_noise(batch.images, batch.sigma, wanted - shared, generator("cpu", 4))
    assert torch.equal(draws[shared:], fresh)


def test_fresh_draws_have_the_law_of_the_losss_and_nothing_to_do_with_them():
    batch = random_batch(0, (20, 3, 8, 8), sigma=0.25)
    fresh = PGD(1.0, reuse_noise=False).draws(batch, generator("cpu", 4))
    assert kstest(fresh.flatten().numpy(), norm(scale=0.25).cdf).pvalue > 0.01
    both = torch.stack([fresh.flatten(), batch.noise.flatten()])
    assert abs(both.corrcoef()[0, 1]) < 4 / batch.noise.numel() ** 0.5


@every_kind
def test_the_same_draws_are_seen_at_every_step(kind, network, batch):
    attack, recorder = KINDS[kind](0.5), Recorder(network)
    run(attack, recorder, batch)
    draws = attack.draws(batch, generator("cpu", 2))
    images = [seen.unflatten(0, draws.shape[:2]) - draws for seen in recorder.inputs]
    assert len(images) == attack.steps
    assert all(torch.allclose(each, each[:1].expand_as(each), atol=1e-5) for each in images)


@every_kind
def test_before_a_deferred_start_no_image_moves_and_no_forward_pass_runs(kind, network, batch):
    attack = KINDS[kind](0.5, warmup=Deferred(epochs=3))
    source = generator("cpu", 2)
    for epoch in range(3):
        early = NoisyBatch(batch.images, batch.labels, batch.noise, batch.sigma, epoch)
        result = attack(Failing(network, 0), early, source)
        assert torch.equal(result.images, batch.images)
        assert result.report == {"attack_epsilon": 0, "attack_distance": 0}
    begun = NoisyBatch(batch.images, batch.labels, batch.noise, batch.sigma, 3)
    expected = run(KINDS[kind](0.5), network, batch)
    assert torch.equal(attack(network, begun, source).images, expected.images)


@every_kind
@pytest.mark.parametrize(("epoch", "epsilon"), [(0, 0.1), (4, 0.5), (9, 1.0), (50, 1.0)])
def test_a_warmup_scales_the_radius(kind, network, batch, epoch, epsilon):
    later = NoisyBatch(batch.images, batch.labels, batch.noise, batch.sigma, epoch)
    result = run(KINDS[kind](1.0, warmup=Linear(epochs=10)), network, later)
    assert torch.equal(result.images, run(KINDS[kind](epsilon), network, batch).images)
    assert result.report["attack_epsilon"] == pytest.approx(epsilon)


@every_kind
def test_the_report_tells_the_radius_in_force_and_the_mean_distance(kind, network, batch):
    result = run(KINDS[kind](0.25), network, batch)
    assert result.report.keys() == {"attack_epsilon", "attack_distance"}
    assert result.report["attack_epsilon"] == 0.25
    expected = float(distances(result.images, batch).mean())
    assert float(result.report["attack_distance"]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind", [PGD, DDN])
@pytest.mark.parametrize(
    "arguments",
    [
        {"epsilon": 0.0},
        {"epsilon": -1.0},
        {"epsilon": torch.inf},
        {"epsilon": torch.nan},
        {"steps": 0},
        {"steps": 2.5},
        {"noise_draws": 0},
    ],
)
def test_arguments_out_of_range_are_refused(kind, arguments):
    with pytest.raises(InvalidArgumentError, match=f"Expected `{next(iter(arguments))}`"):
        kind(**({"epsilon": 1.0} | arguments))


def test_an_attack_introduces_itself():
    shown = repr(DDN(0.5, gamma=0.1, warmup=Linear(epochs=3)))
    assert shown.startswith("DDN(")
    assert "epsilon=0.5" in shown
    assert "gamma=0.1" in shown
    assert "warmup=Linear(epochs=3)" in shown


class FromBlack(PGD):
    """Starts from black images."""

    def start(self, batch, epsilon, source):
        state = super().start(batch, epsilon, source)
        state.images = torch.zeros_like(batch.images)
        return state


class Defending(PGD):
    """Lowers the loss."""

    def loss(self, logits, labels):
        return -super().loss(logits, labels)


class SignSteps(PGD):
    """Moves every pixel by the same."""

    def step(self, state, gradient, logits):
        return state.images + 0.001 * gradient.sign()


class FirstRow(PGD):
    """Moves only the first row."""

    def project(self, state, images):
        images = super().project(state, images)
        return torch.cat([images[:, :, :1], state.batch.images[:, :, 1:]], dim=2)


class Halfway(PGD):
    """Returns the middle between the original and the last images."""

    def end(self, state):
        return (state.batch.images + state.images) / 2


def test_another_start_is_where_the_classifier_is_evaluated_first(network, batch):
    recorder = Recorder(network)
    run(FromBlack(0.5), recorder, batch)
    assert torch.equal(recorder.inputs[0], batch.noise.flatten(0, 1))


def test_another_loss_is_raised_instead(network, batch):
    attack = Defending(0.5)
    moved = batch.with_images(run(attack, network, batch).images)
    assert mean_loss(PGD(0.5), network, moved) < mean_loss(PGD(0.5), network, batch)


def test_another_step_is_taken_instead(network, batch):
    inner = batch.with_images(batch.images / 2 + 0.25)
    move = run(SignSteps(10.0, steps=1), network, inner).images - inner.images
    assert move.abs().flatten() == pytest.approx(torch.full((180,), 0.001), abs=1e-6)


def test_another_projection_keeps_its_own_region(network, batch):
    move = run(FirstRow(0.5), network, batch).images - batch.images
    assert move[:, :, :1].abs().amax((1, 2, 3)).min() > 0
    assert torch.equal(move[:, :, 1:], torch.zeros_like(move[:, :, 1:]))


def test_another_end_returns_other_images(network, batch):
    last = run(PGD(0.5), network, batch).images
    assert torch.equal(run(Halfway(0.5), network, batch).images, (batch.images + last) / 2)


class Counting(GradientAttack):
    """Notes the steps' numbers, the labels and the radius that it is given."""

    def __init__(self, steps):
        super().__init__(steps)
        self.seen = []

    def loss(self, logits, targets):
        assert targets.shape == (5, 3)
        return (logits.mean(0) * targets).sum(1)

    def step(self, state, gradient, logits):
        assert logits.shape == (4, 5, 3)
        self.seen.append((state.number, state.epsilon, state.radius.tolist()))
        return super().step(state, gradient, logits)


def test_the_bare_loop_attacks_whatever_a_loss_compares_with(network, batch):
    """As an objective uses it: a loss on soft targets, a radius for the call."""
    targets = torch.eye(3)[batch.labels]
    soft = NoisyBatch(batch.images, targets, batch.noise, batch.sigma)
    attack = Counting(steps=3)
    moved = attack.ascend(network, soft, 0.25, generator("cpu", 2))
    assert attack.seen == [(number, 0.25, [0.25] * 5) for number in range(3)]
    assert_within(moved, batch, 0.25)


@given(seed=seeds, exponent=st.floats(-37, 37))
def test_unit_keeps_the_direction_and_has_length_one_at_any_scale(seed, exponent):
    vectors = torch.randn(4, 1, 3, 3, generator=generator("cpu", seed)) * 10**exponent
    exact = vectors.double()
    expected = exact / exact.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    assert torch.allclose(unit(vectors).double(), expected, atol=1e-6)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_unit_of_zero_and_of_non_finite_gradients_is_zero(value):
    vectors = torch.zeros(2, 1, 2, 2)
    vectors[1] = torch.tensor([[value, 1.0], [1.0, 1.0]])
    assert torch.equal(unit(vectors), torch.zeros_like(vectors))
