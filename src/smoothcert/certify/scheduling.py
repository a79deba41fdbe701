"""Batches shared by many images, so that each forward pass is full."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from smoothcert.certify.execution import Runner
from smoothcert.certify.voting import Job, Poll, Request
from smoothcert.types import Example

ROUND_BATCHES = 8
"""Batches between two transfers of counts: few enough for frequent results, many enough that a
partly filled last batch costs little."""
PLACES_PER_IMAGE = 4
"""Places of a batch per image in flight, at least; an early look takes about 7."""
FEWEST_IN_FLIGHT = 8
TIMED_BATCHES = 16
"""Number of timed batches before compiling is considered."""


@dataclass(frozen=True)
class Plan:
    """Length and end of a stream of images, and how many of them run at once.

    Attributes:
        expected: estimated number of votes of all images, to judge whether compiling pays; None:
            unknown, and the network is not compiled during the stream.
        deadline: value of `time.perf_counter()` at which to stop and drop images in flight; None:
            no limit.
        in_flight: returns how many images may be in flight now; None: as many as fill the batches.
    """

    expected: int | None = None
    deadline: float | None = None
    in_flight: Callable[[], int] | None = None


def run_jobs(
    runner: Runner,
    examples: Iterable[Example],
    start: Callable[[Example], Job],
    num_classes: int,
    plan: Plan,
) -> Iterator[Job]:
    """Run images until each is finished; the oldest in flight come first.

    A GPU counts the votes of one round while the CPU computes the bounds of the previous round.

    Args:
        runner: the base classifier.
        examples: the images; each is read when there is room for it.
        start: returns the job of an image.
        num_classes: number of classes.
        plan: when to end, and how many images may be in flight.

    Yields:
        Each job once it is finished.
    """
    source, flight, timing = iter(examples), [], _Timing(runner, plan.expected)
    polls: deque[Poll] = deque()
    # A CPU computes nothing in the background.
    ahead = 2 if runner.device.type == "cuda" else 1
    while plan.deadline is None or time.perf_counter() < plan.deadline:
        _start_images(runner, source, start, flight, plan)
        requests = _requests(ROUND_BATCHES * runner.batch_size, flight)
        if requests:
            polls.append(Poll(runner, requests, num_classes))
        if not polls:
            return
        if requests and len(polls) < ahead:
            continue
        poll = polls.popleft()
        votes = poll.votes()
        seconds = timing.each(poll.draws)
        for (job, draws), row in zip(poll.requests, votes, strict=True):
            job.receive(row, seconds * draws)
            if not job.left:
                flight.remove(job)
                yield job


def _start_images(
    runner: Runner,
    source: Iterator[Example],
    start: Callable[[Example], Job],
    flight: list[Job],
    plan: Plan,
) -> None:
    """Start images until they fill a round of batches or the limit is reached."""
    most = max(FEWEST_IN_FLIGHT, runner.batch_size // PLACES_PER_IMAGE)
    if plan.in_flight is not None:
        most = min(most, plan.in_flight())
    wanted = sum(job.left for job in flight if not job.busy)
    while len(flight) < most and wanted < ROUND_BATCHES * runner.batch_size:
        example = next(source, None)
        if example is None:
            return
        job = start(example)
        flight.append(job)
        wanted += job.left


def _requests(places: int, flight: list[Job]) -> list[Request]:
    """Give the places of a round to the oldest images, as many as each needs."""
    requests = []
    for job in flight:
        if job.busy or not places:
            continue
        draws = min(job.left, places)
        places -= draws
        job.busy = True
        requests.append(Request(job, draws))
    return requests


class _Timing:
    """Seconds per vote, and the decision whether compiling pays for the remaining votes."""

    def __init__(self, runner: Runner, expected_votes: int | None) -> None:
        self._runner = runner
        self._expected = expected_votes
        self._votes = 0
        self._started = self._last = time.perf_counter()

    def each(self, votes: int) -> float:
        """Return the seconds per vote since the last call."""
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
