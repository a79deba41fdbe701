"""Votes of a poll are those of a plain loop over the images' noisy copies."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from smoothcert.certify import Execution
from smoothcert.certify.execution import Runner
from smoothcert.certify.voting import Job, Poll, Request
from smoothcert.errors import MismatchError, NonFiniteError
from smoothcert.noise import GaussianCopies, generator
from smoothcert.types import Example
from tests.helpers.driving import Watched

CPU = torch.device("cpu")
IMAGES = torch.rand(6, 1, 6, 6, generator=generator("cpu", 0))


def copies_of(index):
    return GaussianCopies(IMAGES[index % len(IMAGES)], 0.5, seed=3, index=index)


def request(copies, draws, index):
    def sampling():
        yield draws

    return Request(Job(Example(IMAGES[0], None, index), copies, sampling()), draws)


def requests(draws):
    return [request(copies_of(index), count, index) for index, count in enumerate(draws)]


def runner_of(network, batch_size):
    return Runner(network, Execution(batch_size=batch_size), (1, 6, 6), CPU)


def plain_votes(network, draws, classes=3):
    """One forward pass an image, counted by NumPy."""
    rows = []
    for index, count in enumerate(draws):
        noisy = torch.empty(count, 1, 6, 6)
        copies_of(index).fill(noisy)
        with torch.no_grad():
            rows.append(np.bincount(network(noisy).argmax(1), minlength=classes))
    return np.stack(rows)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(1, 80), min_size=1, max_size=8), st.sampled_from([1, 7, 64]))
def test_votes_are_those_of_a_plain_loop_over_images(network, draws, batch_size):
    poll = Poll(runner_of(network, batch_size), requests(draws), num_classes=3)
    assert poll.draws == sum(draws)
    assert (poll.votes() == plain_votes(network.eval(), draws)).all()


def test_a_second_poll_counts_the_copies_that_come_next(network):
    copies, runner = copies_of(4), runner_of(network, 16)
    parts = [Poll(runner, [request(copies, n, 4)], 3).votes() for n in (5, 40, 1)]
    whole = Poll(runner, [request(copies_of(4), 46, 4)], 3).votes()
    assert (sum(parts) == whole).all()


def test_batches_are_full_but_for_the_last(network):
    watched = Watched(network)
    Poll(runner_of(watched, 16), requests([5, 30, 1, 4]), 3)
    assert [len(images) for images in watched.seen] == [16, 16, 8]


def test_votes_can_be_read_again(network):
    poll = Poll(runner_of(network, 16), requests([5, 6]), 3)
    assert (poll.votes() == poll.votes()).all()
    assert poll.votes().dtype == np.int64


class Spoiled(nn.Module):
    """Gives a bad logit to noisy copies of image 2, which is the only dark one."""

    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, images):
        assert len(images) > 0
        logits = torch.zeros(len(images), 3)
        logits[images.mean((1, 2, 3)) < -2, 1] = self.value
        return logits


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_logits_that_are_not_finite_name_their_image(value):
    asked = requests([5, 6, 7, 8])
    asked[2] = request(GaussianCopies(IMAGES[0] - 10, 0.5, 3, 2), 7, 1234)
    poll = Poll(runner_of(Spoiled(value), 16), asked, 3)
    with pytest.raises(NonFiniteError, match="NaN or infinite logits at image 1234"):
        poll.votes()


@pytest.mark.parametrize("classes", [2, 4])
def test_another_number_of_logits_names_both_numbers(network, classes):
    with pytest.raises(MismatchError, match=rf"Expected logits of shape \(N, {classes}\).*, 3\)"):
        Poll(runner_of(network, 16), requests([5]), classes)


def test_logits_of_another_dimension_are_refused():
    with pytest.raises(MismatchError, match=r"got \(5, 1, 6, 6\)"):
        Poll(runner_of(nn.Identity(), 16), requests([5]), 6)


def test_votes_are_exact_where_one_class_gets_many():
    """Counts of a class are added up in integers: 2²⁴ + 1 would be lost in float32."""

    class First(nn.Module):
        def forward(self, images):
            return torch.eye(2)[:1].expand(len(images), 2)

    poll = Poll(runner_of(First(), 64), requests([70_001, 3]), 2)
    assert poll.votes().tolist() == [[70_001, 0], [3, 0]]
