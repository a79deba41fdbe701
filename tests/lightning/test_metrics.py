"""Metrics against `smoothcert.stats.curves`, whatever the batches and the processes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from smoothcert.lightning.metrics import AbstentionRate, AverageCertifiedRadius, CertifiedAccuracy
from smoothcert.stats import abstention_rate, average_certified_radius, certified_accuracy

RADII = [0.0, 0.25, 0.5, 1.0]
# Radii of the list itself are drawn too: an image counts at exactly its own radius.
IMAGE = st.tuples(st.sampled_from(RADII) | st.floats(0, 2), st.booleans(), st.integers(-1, 3))
BATCH = st.lists(IMAGE, max_size=6)
BATCHES = st.lists(BATCH, min_size=1, max_size=5).filter(any)


def metrics():
    return AverageCertifiedRadius(), CertifiedAccuracy(RADII), AbstentionRate()


def add(to, batch):
    acr, accuracy, abstained = to
    radius = torch.tensor([image[0] for image in batch], dtype=torch.float64)
    correct = torch.tensor([image[1] for image in batch], dtype=torch.bool)
    acr.update(radius, correct)
    accuracy.update(radius, correct)
    abstained.update(torch.tensor([image[2] for image in batch], dtype=torch.int64))


def one_process_for_each(batches):
    processes = []
    for batch in batches:
        processes.append(metrics())
        add(processes[-1], batch)
    return processes


def expected(batches):
    radius, correct, predict = zip(*(image for batch in batches for image in batch), strict=True)
    return (
        average_certified_radius(radius, correct),
        certified_accuracy(radius, correct, RADII).tolist(),
        abstention_rate(predict),
    )


def assert_equal(figures, batches):
    for figure, value in zip(figures, expected(batches), strict=True):
        assert figure.tolist() == pytest.approx(value, abs=1e-12)


def under_ddp(processes):
    """Return what the first process computes when it gathers the states of them all."""

    def all_gather(tensor, group=None):
        [name] = [n for n, state in first.metric_state.items() if state is tensor]
        return [process.metric_state[name] for process in processes]

    first = processes[0]
    first.dist_sync_fn, first.distributed_available_fn = all_gather, lambda: True
    return first.compute()


@given(BATCHES)
@settings(deadline=None)
def test_any_split_into_batches_gives_the_figures_of_all_images(batches):
    ours = metrics()
    for batch in batches:
        add(ours, batch)
    assert_equal([metric.compute() for metric in ours], batches)


@given(BATCHES)
@settings(deadline=None)
def test_merged_processes_with_unequal_shares_give_the_figures_of_all_images(batches):
    first, *others = one_process_for_each(batches)
    for other in others:
        for metric, incoming in zip(first, other, strict=True):
            metric.merge_state(incoming)
    assert_equal([metric.compute() for metric in first], batches)


@given(BATCHES)
@settings(deadline=None)
def test_a_gather_over_processes_gives_the_figures_of_all_images(batches):
    same_metric = zip(*one_process_for_each(batches), strict=True)
    assert_equal([under_ddp(processes) for processes in same_metric], batches)


@given(st.lists(IMAGE, min_size=1, max_size=6), st.lists(IMAGE, min_size=1, max_size=6))
@settings(deadline=None)
def test_calling_a_metric_returns_the_batch_and_keeps_the_total(first, second):
    acr = AverageCertifiedRadius()
    for batch in (first, second):
        radius, correct, _ = (torch.tensor(column) for column in zip(*batch, strict=True))
        assert acr(radius.double(), correct).item() == pytest.approx(expected([batch])[0])
    assert acr.compute().item() == pytest.approx(expected([first, second])[0])


@given(st.lists(IMAGE, min_size=1, max_size=6), st.sampled_from(RADII))
@settings(deadline=None)
def test_a_single_radius_is_one_figure(images, r):
    radius, correct, _ = zip(*images, strict=True)
    metric = CertifiedAccuracy([r])
    metric.update(torch.tensor(radius, dtype=torch.float64), torch.tensor(correct))
    [figure] = metric.compute().reshape(-1).tolist()
    assert figure == pytest.approx(certified_accuracy(radius, correct, r).item())


def test_reset_forgets_what_was_seen():
    ours = metrics()
    add(ours, [(2.0, True, 1)])
    for metric in ours:
        metric.reset()
    add(ours, [(0.25, False, -1)])
    assert_equal([metric.compute() for metric in ours], [[(0.25, False, -1)]])


def test_the_abstaining_images_of_many_are_counted_exactly():
    metric = AbstentionRate()
    batch = torch.tensor([-1] + [5] * 999)
    for _ in range(200):
        metric.update(batch)
    assert metric.compute().item() == 0.001
