"""Counting votes: many images' noisy copies packed into full batches."""

from collections.abc import Generator, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from smoothcert.certify.execution import Runner
from smoothcert.errors import MismatchError, NonFiniteError
from smoothcert.noise import NoisyCopies
from smoothcert.types import Example


class Job:
    """An image in flight.

    Args:
        example: the image.
        copies: its noisy copies.
        sampling: yields how many votes it wants, is sent them, returns the image's result.

    Attributes:
        left: votes that the sampling waits for; 0 once it has returned.
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
    def certificate(self) -> Any:
        """What is proved of the image, where the sampling is a certifier's."""
        return self.value

    def receive(self, votes: NDArray[np.int64], seconds: float) -> None:
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
            # A result that is kept must not hold the image's copy on the GPU.
            del self.copies


class Request(NamedTuple):
    """How many votes of one image are wanted.

    Attributes:
        job: the image.
        draws: how many of its next noisy copies are to vote.
    """

    job: Job
    draws: int


class Poll:
    """Votes that have been asked for; on a GPU they are still being counted when this exists.

    Copies are written into the batch where they are drawn, votes are counted on the device, and
    the counts come back in one transfer.

    Args:
        runner: the base classifier.
        requests: what to count; batches are shared by all of them.
        num_classes: number of classes C.

    Raises:
        MismatchError: if the logits are not `num_classes`.
    """

    @torch.inference_mode()
    def __init__(self, runner: Runner, requests: Sequence[Request], num_classes: int) -> None:
        self.requests = requests
        self._classes = num_classes
        # One more column counts the copies whose logits are not finite.
        self._counts = torch.zeros(
            len(requests) * (num_classes + 1), dtype=torch.int64, device=runner.device
        )
        draws = torch.tensor([request.draws for request in requests])
        rows = torch.arange(len(requests)).repeat_interleave(draws).to(runner.device)
        done = 0
        for noisy in _batches(runner, requests):
            self._count(runner(noisy), rows[done : done + len(noisy)])
            done += len(noisy)

    @property
    def draws(self) -> int:
        """How many votes there are."""
        return sum(request.draws for request in self.requests)

    def votes(self) -> NDArray[np.int64]:
        """Wait for the counts, and return them by class, shape (len(requests), C).

        Raises:
            NonFiniteError: for NaN or infinite logits; the message names the image's index.
        """
        votes = self._counts.view(len(self.requests), -1).cpu().numpy()
        for request, bad in zip(self.requests, votes[:, self._classes], strict=True):
            if bad:
                index = request.job.example.index
                raise NonFiniteError(f"The classifier gave NaN or infinite logits at image {index}")
        return votes[:, : self._classes]

    def _count(self, logits: Tensor, rows: Tensor) -> None:
        if logits.dim() != 2 or logits.shape[1] != self._classes:
            raise MismatchError(
                f"Expected logits of shape (N, {self._classes}) for {self._classes} classes, "
                f"got {tuple(logits.shape)}"
            )
        votes = torch.where(logits.isfinite().all(1), logits.argmax(1), self._classes)
        places = votes.add_(rows, alpha=self._classes + 1)
        self._counts.scatter_add_(0, places, torch.ones_like(places))


def _batches(runner: Runner, requests: Sequence[Request]) -> Iterator[Tensor]:
    """Yield the requests' noisy copies in full batches, the last one apart, in one buffer."""
    shape = (runner.batch_size, *runner.shape)
    buffer = torch.empty(shape, dtype=torch.float32, device=runner.device)
    filled = 0
    for request in requests:
        left = request.draws
        while left:
            part = min(left, len(buffer) - filled)
            request.job.copies.fill(buffer[filled : filled + part])
            filled, left = filled + part, left - part
            if filled == len(buffer):
                yield buffer
                # Smaller from now on where memory ran out.
                buffer, filled = buffer[: runner.batch_size], 0
    if filled:
        yield buffer[:filled]
