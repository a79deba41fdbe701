"""Counting votes: many images' noisy copies packed into full batches."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from smoothcert.certify.execution import Runner
from smoothcert.errors import MismatchError, NonFiniteError
from smoothcert.noise import NoisyCopies


@dataclass(frozen=True)
class Request:
    """How many votes of one image are wanted.

    Attributes:
        copies: the image's noisy copies, the next ones first.
        draws: how many of them are to vote.
        index: the image's index, for messages.
    """

    copies: NoisyCopies
    draws: int
    index: int


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
                raise NonFiniteError(
                    f"The classifier gave NaN or infinite logits at image {request.index}"
                )
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
            request.copies.fill(buffer[filled : filled + part])
            filled, left = filled + part, left - part
            if filled == len(buffer):
                yield buffer
                # Smaller from now on where memory ran out.
                buffer, filled = buffer[: runner.batch_size], 0
    if filled:
        yield buffer[:filled]
