"""Many images in flight: each forward pass is full, whatever each image still wants."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from smoothcert.certify.execution import Runner
from smoothcert.certify.voting import Job, Poll, Request
from smoothcert.types import Example

ROUND_BATCHES = 8
"""Batches between two transfers of counts: few enough to answer soon, many enough that the last
one, which may be part empty, does not matter."""
PLACES_PER_IMAGE = 4
"""At most one image in flight for so many places of a batch; an early look takes about 7."""
FEWEST_IN_FLIGHT = 8
TIMED_BATCHES = 16
"""Batches that are timed before compiling is considered."""


@dataclass(frozen=True)
class Plan:
    """How long a stream of images is, when it ends, and how many of them run at once.

    Attributes:
        expected: about how many votes all images take, to judge whether compiling pays; None:
            not known, and nothing is compiled on the way.
        deadline: end when `time.perf_counter()` has passed it, images in flight dropped.
        in_flight: returns how many images may be in flight at present; None: as many as fill
            batches.
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
    """Run images to their end; the oldest in flight are served first.

    A GPU counts one round's votes while the bounds of the round before are computed.

    Args:
        runner: the base classifier.
        examples: the images, drawn from as there is room for them.
        start: makes an image's job.
        num_classes: number of classes.
        plan: when to end, and how many images may be in flight.

    Yields:
        Each job once it is finished.
    """
    source, flight, timing = iter(examples), [], _Timing(runner, plan.expected)
    polls: deque[Poll] = deque()
    # On a CPU nothing goes on in the background.
    ahead = 2 if runner.device.type == "cuda" else 1
    while plan.deadline is None or time.perf_counter() < plan.deadline:
        _take_off(runner, source, start, flight, plan)
        requests = _share_out(ROUND_BATCHES * runner.batch_size, flight)
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


def _take_off(
    runner: Runner,
    source: Iterator[Example],
    start: Callable[[Example], Job],
    flight: list[Job],
    plan: Plan,
) -> None:
    """Start images until a round of batches is filled, or as many as allowed are in flight."""
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


def _share_out(places: int, flight: list[Job]) -> list[Request]:
    """Give a round's places to the oldest images, as many as each still wants."""
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
