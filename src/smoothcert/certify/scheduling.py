"""Many images in flight: each forward pass is full, whatever each image still wants."""

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from smoothcert.certify.execution import Runner
from smoothcert.certify.voting import Poll, Request
from smoothcert.noise import NoisyCopies

ROUND_BATCHES = 8
"""Batches between two transfers of counts: few enough to answer soon, many enough that the last
one, which may be part empty, does not matter."""
PLACES_PER_IMAGE = 4
"""At most one image in flight for so many places of a batch; an early look takes about 7."""
FEWEST_IN_FLIGHT = 8
TIMED_BATCHES = 16
"""Batches that are timed before compiling is considered."""


@dataclass(frozen=True)
class Example:
    """An image to certify.

    Attributes:
        image: pixels in [0, 1], shape (C, H, W).
        index: its index in its data set, which selects its noise.
        label: the true class, where it is known.
    """

    image: Tensor
    index: int
    label: int | None = None


class Job:
    """An image in flight.

    Args:
        example: the image.
        copies: its noisy copies.
        sampling: yields how many votes it wants, is sent them, returns the image's result.

    Attributes:
        left: votes that the sampling waits for.
        samples: votes counted so far.
        seconds: the image's share, by votes, of the time spent.
        value: what the sampling returned; None before.
        busy: whether votes are being counted.
    """

    def __init__(
        self, example: Example, copies: NoisyCopies, sampling: Generator[int, Any, Any]
    ) -> None:
        self.example = example
        self.copies = copies
        self.samples = 0
        self.seconds = 0.0
        self.value: Any = None
        self.busy = False
        self._sampling = sampling
        self._votes: Any = 0
        self.left = next(sampling)

    @property
    def finished(self) -> bool:
        """Whether nothing more is wanted."""
        return self.left == 0

    def receive(self, votes: np.ndarray, seconds: float) -> None:
        """Take votes, shape (C,), and pass them on once all that were wanted are there."""
        self.busy = False
        self.samples += int(votes.sum())
        self.seconds += seconds
        self.left -= int(votes.sum())
        self._votes = self._votes + votes
        if self.left:
            return
        votes, self._votes = self._votes, 0
        try:
            self.left = self._sampling.send(votes)
        except StopIteration as stop:
            self.value = stop.value


def run_jobs(
    runner: Runner,
    examples: Iterable[Example],
    start: Callable[[Example], Job],
    num_classes: int,
    expected_votes: int | None = None,
    deadline: float | None = None,
    in_flight: Callable[[], int] | None = None,
) -> Iterator[Job]:
    """Run images to their end; the oldest in flight are served first.

    On a GPU the next votes are being counted while the last ones are judged.

    Args:
        runner: the base classifier.
        examples: the images, drawn from as there is room for them.
        start: makes an image's job.
        num_classes: number of classes.
        expected_votes: about how many votes all of them take, to judge whether compiling pays.
        deadline: end when `time.perf_counter()` has passed it, images in flight dropped.
        in_flight: says how many images may be in flight at present; None: as many as fill batches.

    Yields:
        Each job once it is finished.
    """
    source, flight, timing = iter(examples), [], _Timing(runner, expected_votes)
    polls: deque[tuple[list[Job], Poll]] = deque()
    # On a CPU nothing goes on in the background.
    ahead = 2 if runner.device.type == "cuda" else 1
    while deadline is None or time.perf_counter() < deadline:
        most = None if in_flight is None else in_flight()
        _take_off(runner, source, start, flight, most)
        jobs, requests = _share_out(ROUND_BATCHES * runner.batch_size, flight)
        if jobs:
            polls.append((jobs, Poll(runner, requests, num_classes)))
        if not polls:
            return
        if jobs and len(polls) < ahead:
            continue
        jobs, poll = polls.popleft()
        votes = poll.votes()
        seconds = timing.each(poll.draws)
        for job, row in zip(jobs, votes, strict=True):
            job.receive(row, seconds * int(row.sum()))
            if job.finished:
                flight.remove(job)
                yield job


def _take_off(
    runner: Runner,
    source: Iterator[Example],
    start: Callable[[Example], Job],
    flight: list[Job],
    most: int | None,
) -> None:
    """Start images until a round of batches is filled, or so many are in flight."""
    fitting = max(FEWEST_IN_FLIGHT, runner.batch_size // PLACES_PER_IMAGE)
    most = fitting if most is None else min(fitting, most)
    wanted = sum(job.left for job in flight if not job.busy)
    while len(flight) < most and wanted < ROUND_BATCHES * runner.batch_size:
        example = next(source, None)
        if example is None:
            return
        job = start(example)
        flight.append(job)
        wanted += job.left


def _share_out(places: int, flight: list[Job]) -> tuple[list[Job], list[Request]]:
    """Give a round's places to the oldest images, as many as each still wants."""
    jobs, requests = [], []
    for job in flight:
        if job.busy or not places:
            continue
        draws = min(job.left, places)
        places -= draws
        job.busy = True
        jobs.append(job)
        requests.append(Request(job.copies, draws, job.example.index))
    return jobs, requests


class _Timing:
    """Seconds per vote, and whether the votes to come are worth compiling the network for."""

    def __init__(self, runner: Runner, expected_votes: int | None) -> None:
        self._runner = runner
        self._expected = expected_votes
        self._votes = 0
        self._started = self._last = time.perf_counter()

    def each(self, votes: int) -> float:
        """Return the seconds that each of the last votes took."""
        now = time.perf_counter()
        seconds, self._last = (now - self._last) / votes, now
        self._votes += votes
        if self._expected is not None and self._votes >= TIMED_BATCHES * self._runner.batch_size:
            each = (now - self._started) / self._votes
            if self._runner.repays_compiling(each * (self._expected - self._votes)):
                self._runner.compile()
                self._last = time.perf_counter()
            self._expected = None
        return seconds
