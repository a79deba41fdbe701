"""Counting votes: noisy copies of many images in full batches."""

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
        sampling: yields the number of votes it needs, receives them, returns the image's result.

    Attributes:
        left: number of votes that the sampling still needs; 0 once it has returned.
        samples: number of votes counted so far.
        seconds: the image's share of the time, in proportion to its votes.
        value: what the sampling returned; None before.
        busy: whether votes of the image are being counted.
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
        """The image's certificate, where the sampling comes from a certifier."""
        return self.value

    def receive(self, votes: NDArray[np.int64], seconds: float) -> None:
        """Add votes (C,), and send them to the sampling once it has all it needs."""
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
            # Frees the image's copy on the GPU, even if the caller keeps the result.
            del self.copies


class Request(NamedTuple):
    """A number of votes of one image.

    Attributes:
        job: the image.
        draws: number of its next noisy copies that vote.
    """

    job: Job
    draws: int


class Poll:
    """Votes that the device counts; on a GPU the constructor returns before they are counted.

    Noisy copies are drawn directly into the batch, votes are counted on the device, and one
    transfer returns the counts.

    Args:
        runner: the base classifier.
        requests: the votes to count; they share batches.
        num_classes: number of classes C.

    Raises:
        MismatchError: if the logits are not `num_classes`.
    """

    @torch.inference_mode()
    def __init__(self, runner: Runner, requests: Sequence[Request], num_classes: int) -> None:
        self.requests = requests
        self._classes = num_classes
        # The last column counts copies whose logits are not finite.
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
        """Number of votes of all requests."""
        return sum(request.draws for request in self.requests)

    def votes(self) -> NDArray[np.int64]:
        """Wait for the counts, and return them per class, shape (len(requests), C).

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
    """Yield the requests' noisy copies in one buffer; all batches but the last are full."""
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
                # The runner reduces its batch size when memory runs out.
                buffer, filled = buffer[: runner.batch_size], 0
    if filled:
        yield buffer[:filled]
