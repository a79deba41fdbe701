"""Training steps in two forms: the same steps, timed by turns, beside their memory."""

import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from smoothcert.attacks import PGD, NoAttack
from smoothcert.benchmarks import (
    PLAIN,
    StepTimes,
    StepVariant,
    Training,
    measure_steps,
    summarize_steps,
    training,
)
from smoothcert.benchmarks.training import PeakMemory, _OneByOne
from smoothcert.data.datasets import InMemoryImages
from smoothcert.errors import InvalidArgumentError
from smoothcert.models import fast_resnet
from smoothcert.objectives import ADRE, Gaussian
from tests.helpers.drawing import draw_alike

CPU = torch.device("cpu")
OURS = StepVariant("ours", "float32", channels_last=True, compiled=False, batched=True)
# The plain form with our loader: the same batches in another memory format.
FIRST = replace(OURS, name="plain", channels_last=False)
MB = 10**6
# Python 3.12 warns of every fork beside threads; the loader's workers are forks.
forks = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")


def images(count=32, channels=3, size=8):
    source = torch.Generator().manual_seed(0)
    shape = (count, channels, size, size)
    pixels = torch.randint(256, shape, dtype=torch.uint8, generator=source)
    return InMemoryImages(pixels, torch.arange(count) % 4)


def network(channels=3):
    torch.manual_seed(0)
    shape = (channels, 8, 8)
    return fast_resnet(4, shape, [0.5] * channels, [0.3] * channels, width=4)


def started(form, seed=0, base=None, channels=3, attack=None, objective=None, rate=1e-3):
    return Training(
        form,
        base or network(channels),
        images(channels=channels),
        objective or ADRE(noise_draws=2),
        attack or NoAttack(),
        sigma=0.5,
        batch_size=8,
        seed=seed,
        device=CPU,
        learning_rate=rate,
    )


@pytest.fixture
def same_noise(monkeypatch):
    """Give both memory formats the same values of noise."""
    monkeypatch.setattr(training, "draw_noise", draw_alike)


@pytest.mark.usefixtures("same_noise")
@pytest.mark.parametrize("attack", [None, PGD(0.5, steps=2)])
@pytest.mark.parametrize("channels", [1, 3])
def test_two_forms_take_the_same_steps_given_the_same_batches(channels, attack):
    ours, plain = (started(form, channels=channels, attack=attack) for form in (OURS, FIRST))
    # More steps than an epoch has.
    losses = [[run.step() for _ in range(6)] for run in (ours, plain)]
    assert len(set(losses[0])) == 6
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_every_form_starts_from_the_same_weights_and_leaves_them_as_they_were():
    base = network()
    before = {name: value.clone() for name, value in base.state_dict().items()}
    runs = [started(form, base=base, rate=0.1) for form in (OURS, FIRST)]
    for run in runs:
        assert all(torch.equal(v, before[name]) for name, v in run.network.state_dict().items())
    runs[0].step()
    assert not torch.equal(runs[0].network[1].fc.weight, before["1.fc.weight"])
    assert torch.equal(runs[1].network[1].fc.weight, before["1.fc.weight"])
    assert all(torch.equal(v, before[name]) for name, v in base.state_dict().items())


@pytest.mark.parametrize("form", [OURS, replace(OURS, precision="bfloat16")])
def test_a_seed_decides_on_all_steps(form):
    losses = [[run.step() for _ in range(3)] for run in map(started, [form] * 3, [0, 0, 1])]
    assert losses[0] == losses[1]
    assert losses[0] != losses[2]


@forks
def test_a_seed_decides_on_all_steps_of_the_plain_form():
    losses = []
    for seed in (0, 0, 1):
        run = started(PLAIN, seed)
        losses.append([run.step() for _ in range(5)])
        run.batches.close()
    assert losses[0] == losses[1]
    assert losses[0] != losses[2]


def test_the_form_decides_on_precision_and_memory_format():
    seen = []

    class Watching(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Conv2d(3, 4, 3)

        def forward(self, pixels):
            out = self.layer(pixels)
            last = pixels.is_contiguous(memory_format=torch.channels_last)
            seen.append((last, out.dtype))
            return out.mean((2, 3))

    for form in (FIRST, OURS, replace(OURS, precision="bfloat16")):
        run = started(form, base=Watching(), objective=Gaussian())
        run.step()
        last = run.network.layer.weight.is_contiguous(memory_format=torch.channels_last)
        assert last == form.channels_last
    assert seen == [(False, torch.float32), (True, torch.float32), (True, torch.bfloat16)]


def test_a_step_is_the_one_that_sgd_takes_on_the_loss():
    """A linear network without noise, from torch's own optimiser."""
    base = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
    run = started(FIRST, base=base, objective=Gaussian(), rate=0.5)
    run.sigma = 0.0
    reference = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
    reference.load_state_dict(base.state_dict())
    optimizer = torch.optim.SGD(reference.parameters(), 0.5, momentum=0.9, weight_decay=1e-4)
    batches = started(FIRST).batches
    for _ in range(3):
        batch = next(batches)
        loss = nn.functional.cross_entropy(reference(batch.images), batch.labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert run.step() == pytest.approx(loss.item(), rel=1e-5)
    torch.testing.assert_close(run.network[1].weight, reference[1].weight)


class Clock:
    """A clock that only steps move."""

    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        return self.now


class Timed:
    """A training whose steps take the given seconds, one after the other."""

    def __init__(self, name, clock, log, seconds):
        self.form, self.device = SimpleNamespace(name=name), CPU
        self.clock, self.log, self.seconds = clock, log, iter(seconds)

    def step(self):
        self.log.append(self.form.name)
        self.clock.now += next(self.seconds)
        return 0.0


def test_forms_take_turns_after_a_step_that_does_not_count(monkeypatch):
    clock, log = Clock(), []
    monkeypatch.setattr(training, "time", clock)
    plain = Timed("plain", clock, log, [100, 1, 1, 2, 2])
    ours = Timed("ours", clock, log, [100, 0.5, 0.5, 0.25, 0.25])
    times = measure_steps("adre", [plain, ours], batch_size=8, turns=2, steps=2)
    assert log == ["plain", "ours", *["plain"] * 2, *["ours"] * 2, *["plain"] * 2, *["ours"] * 2]
    assert times.method == "adre"
    assert times.images_per_second == {"plain": [8, 4], "ours": [16, 32]}
    assert set(times.peak_bytes) == {"plain", "ours"}


def test_ratios_are_those_of_the_turns():
    """Turn by turn 3, 4 and 1; of the medians it would be 40 / 20."""
    rates = {"plain": [10.0, 20.0, 40.0], "ours": [30.0, 80.0, 40.0]}
    rows = summarize_steps([StepTimes("adre", rates, {"plain": 5, "ours": 7})])
    assert rows == [
        {
            "method": "adre",
            "form": "plain",
            "images_per_second": [10.0, 20.0, 40.0],
            "ratio": {"median": 1, "min": 1, "max": 1},
            "peak_memory_bytes": 5,
        },
        {
            "method": "adre",
            "form": "ours",
            "images_per_second": [30.0, 80.0, 40.0],
            "ratio": {"median": 3, "min": 1, "max": 4},
            "peak_memory_bytes": 7,
        },
    ]


def test_methods_stand_in_the_order_in_which_they_were_measured():
    rates = {"ours": [3.0], "plain": [2.0]}
    measured = [StepTimes(name, rates, {"plain": 0, "ours": 0}) for name in ("b", "a")]
    rows = summarize_steps(measured)
    assert [(row["method"], row["form"]) for row in rows] == [
        *(("b", "ours"), ("b", "plain"), ("a", "ours"), ("a", "plain"))
    ]
    assert rows[0]["ratio"]["median"] == 1.5


@forks
def test_real_steps_of_both_forms_are_measured():
    runs = [started(form) for form in (PLAIN, OURS)]
    times = measure_steps("adre", runs, batch_size=8, turns=2, steps=1)
    runs[0].batches.close()
    assert {name: len(rates) for name, rates in times.images_per_second.items()} == {
        "plain": 2,
        "ours": 2,
    }
    assert all(rate > 0 for rates in times.images_per_second.values() for rate in rates)
    assert all(peak >= 0 for peak in times.peak_bytes.values())


def touched(megabytes):
    return np.ones(megabytes * MB, dtype=np.uint8)


def test_an_allocation_is_seen_at_its_size():
    with PeakMemory(CPU) as memory:
        kept = touched(100)
    assert 99 * MB < memory.bytes < 120 * MB
    assert kept.nbytes == 100 * MB


def test_the_peak_is_seen_after_it_is_gone():
    with PeakMemory(CPU) as memory:
        high = touched(100)
        time.sleep(0.05)
        del high
        low = touched(20)
    assert 99 * MB < memory.bytes < 120 * MB
    assert low.nbytes == 20 * MB


def test_what_was_there_before_does_not_count():
    before = touched(100)
    with PeakMemory(CPU) as memory:
        inside = touched(20)
    assert 19 * MB < memory.bytes < 40 * MB
    assert before.nbytes + inside.nbytes == 120 * MB


def test_memory_that_was_freed_before_and_is_used_again_counts():
    """Small pieces, which the C library would keep for the next who asks."""
    before = [bytearray(50_000) for _ in range(1200)]
    # A last piece that stays: what lies below it is not given back by itself.
    last = bytearray(50_000)
    del before
    with PeakMemory(CPU) as memory:
        inside = [bytearray(50_000) for _ in range(1200)]
    assert 55 * MB < memory.bytes < 80 * MB
    assert (len(inside), len(last)) == (1200, 50_000)


def test_an_error_inside_ends_the_watch_and_is_raised():
    memory = PeakMemory(CPU)
    with pytest.raises(ZeroDivisionError), memory:
        raise ZeroDivisionError
    assert not memory._watch.is_alive()


def constant(size=8, count=12):
    """Images of one value each, which belongs to one label."""
    values = torch.arange(1, count + 1, dtype=torch.uint8) * 20
    pixels = values.view(-1, 1, 1, 1).expand(-1, 3, size, size).contiguous()
    return InMemoryImages(pixels, torch.arange(count))


def test_single_images_are_cropped_and_mirrored_with_their_own_label():
    data = _OneByOne(constant())
    assert len(data) == 12
    for position in range(12):
        image, label = data[position]
        assert (image.shape, image.dtype, label) == ((3, 8, 8), torch.float32, position)
        # A crop of a padded constant is the constant, and black where the padding is.
        value = 20 * (position + 1) / 255
        assert image.max().item() == pytest.approx(value)
        assert ((image == 0) | (image == image.max())).all()


def test_channels_and_rows_of_single_images_are_those_of_the_image():
    pixels = torch.arange(3 * 8 * 8).to(torch.uint8).view(1, 3, 8, 8)
    data = _OneByOne(InMemoryImages(pixels, torch.zeros(1, dtype=torch.long)))
    data.transform.transforms[:2] = []
    image, _ = data[0]
    assert torch.equal((image * 255).round().to(torch.uint8), pixels[0])


def test_single_images_are_moved_as_torchvision_does_it_in_every_way():
    """A crop of an image with one bright pixel tells where it was cut, and whether mirrored."""
    pixels = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    pixels[0, :, 3, 3] = 255
    data = _OneByOne(InMemoryImages(pixels, torch.zeros(1, dtype=torch.long)))
    torch.manual_seed(0)
    places = {tuple(data[0][0][0].nonzero().flatten().tolist()) for _ in range(600)}
    # Rows 3 + 4 − [0, 8]; columns as well, and mirrored 7 − those.
    assert {place[0] for place in places if place} == set(range(8))
    assert {place[1] for place in places if place} == set(range(8))


@forks
def test_the_plain_loader_deals_every_image_with_its_label():
    batches = training._batches(PLAIN, constant(), 4, 0, CPU)
    first = [next(batches) for _ in range(3)]
    second = [next(batches) for _ in range(3)]
    batches.close()
    for epoch in (first, second):
        labels = torch.cat([batch.labels for batch in epoch])
        pixels = torch.cat([batch.images for batch in epoch])
        assert sorted(labels.tolist()) == list(range(12))
        assert pixels.shape == (12, 3, 8, 8)
        assert pixels.min() >= 0
        assert torch.allclose(pixels.amax((1, 2, 3)), 20 * (labels + 1) / 255)
    assert [b.labels.tolist() for b in first] != [b.labels.tolist() for b in second]


def test_our_loader_deals_every_image_with_its_label():
    batches = training._batches(OURS, constant(), 4, 0, CPU)
    epoch = [next(batches) for _ in range(3)]
    labels = torch.cat([batch.labels for batch in epoch])
    pixels = torch.cat([batch.images for batch in epoch])
    assert sorted(labels.tolist()) == list(range(12))
    assert torch.allclose(pixels.amax((1, 2, 3)), 20 * (labels + 1) / 255)


# What does not hold yet; each fails for the reason given.


def test_images_that_are_no_squares_keep_their_shape_in_the_plain_form():
    wide = InMemoryImages(torch.zeros(4, 3, 8, 16, dtype=torch.uint8), torch.zeros(4).long())
    assert _OneByOne(wide)[0][0].shape == (3, 8, 16)


@forks
def test_batches_larger_than_the_data_are_refused():
    parts = (nn.Sequential(nn.Flatten(), nn.LazyLinear(3)), constant(), Gaussian(), NoAttack())
    with pytest.raises(InvalidArgumentError, match="at most 12 images, got 13"):
        Training(PLAIN, *parts, 0.5, 13, 0, CPU)
