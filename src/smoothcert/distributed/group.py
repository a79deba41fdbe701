"""The processes that work on one job: this one alone, or those of torch.distributed.

They share small values, such as which images are taken and which are finished, through the
key-value store of the process group. Methods have the names of torch.distributed. No method is a
collective operation on tensors: no process waits for one that computes.
"""

from __future__ import annotations

import json
import time
from itertools import count
from typing import Any

import torch.distributed as dist
from torch.distributed import PrefixStore  # pyright: ignore[reportPrivateImportUsage]

from smoothcert.errors import ProcessError, Stopped

POLL_SECONDS = 0.1
"""Seconds between two checks for a value that another process sets."""
ABORTED = "aborted"


class Processes:
    """This process alone, with values that it sets and gets itself.

    Attributes:
        rank: this process's number, from 0.
        size: number of processes.

    Example:
        >>> alone = Processes()
        >>> alone.add("taken"), alone.add("taken", 2), alone.get("taken")
        (1, 3, 3)
    """

    rank: int = 0
    size: int = 1

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}

    @property
    def first(self) -> bool:
        """Whether this is rank 0, for work that only one process may do."""
        return self.rank == 0

    def add(self, name: str, amount: int = 1) -> int:
        """Add to a counter that all processes share, initially 0; return the sum."""
        self._values[name] = self._values.get(name, 0) + amount
        return self._values[name]

    def set(self, name: str, value: Any) -> None:
        """Set a value (JSON) for all processes."""
        self._values[name] = value

    def has(self, name: str) -> bool:
        """Return whether a process has set a value."""
        return name in self._values

    def get(self, name: str) -> Any:
        """Return a value, waiting until a process sets it.

        Raises:
            ProcessError: if the connection is lost, or a process has aborted.
        """
        return self._values[name]

    def barrier(self, name: str) -> None:
        """Wait until every process has called this.

        Raises:
            ProcessError: if the connection is lost, or a process has aborted.
        """
        if self.add(f"{name}/entered") == self.size:
            self.set(f"{name}/complete", True)
        self.get(f"{name}/complete")

    def all_gather_object(self, name: str, value: Any) -> list[Any]:
        """Return the values (JSON) of all processes, by rank.

        Raises:
            ProcessError: if the connection is lost, or a process has aborted.
        """
        self.set(f"{name}/{self.rank}", value)
        return [self.get(f"{name}/{rank}") for rank in range(self.size)]

    def abort(self, error: BaseException) -> None:
        """End early: no other process waits for this one any longer.

        Args:
            error: the reason. The first of several reasons is kept.
        """
        number = error.signal if isinstance(error, Stopped) else None
        reason = str(error) or type(error).__name__
        self._abort({"rank": self.rank, "reason": reason, "signal": number})

    def check_aborted(self) -> None:
        """Check that no process has aborted.

        Raises:
            ProcessError: if one has, with its reason.
            Stopped: if the reason was a signal.
        """
        if (aborted := self._aborted()) is None:
            return
        if aborted["signal"] is not None:
            raise Stopped(aborted["signal"])
        raise ProcessError(
            f"Process {aborted['rank']} of {self.size} has ended: {aborted['reason']}. "
            "Finished work is kept"
        )

    def _abort(self, reason: dict[str, Any]) -> None:
        self._values.setdefault(ABORTED, reason)

    def _aborted(self) -> dict[str, Any] | None:
        return self._values.get(ABORTED)


class Group(Processes):
    """The processes of torch.distributed's default group.

    Args:
        name: prefix of the counters and values; groups of different names share only `abort`.
    """

    def __init__(self, name: str) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self._all = PrefixStore("smoothcert", dist.distributed_c10d._get_default_store())
        self._named = PrefixStore(name, self._all)

    def add(self, name: str, amount: int = 1) -> int:
        """Add to a counter that all processes share, initially 0; return the sum."""
        return self._call(self._named, "add", name, amount)

    def set(self, name: str, value: Any) -> None:
        """Set a value (JSON) for all processes."""
        self._call(self._named, "set", name, json.dumps(value))

    def has(self, name: str) -> bool:
        """Return whether a process has set a value."""
        return self._call(self._named, "check", [name])

    def get(self, name: str) -> Any:
        """Return a value, waiting until a process sets it.

        Raises:
            ProcessError: if the connection is lost, or a process has aborted.
        """
        # The store's `wait` has a time limit, and signals do not interrupt it.
        while not self.has(name):
            self.check_aborted()
            time.sleep(POLL_SECONDS)
        return json.loads(self._call(self._named, "get", name))

    def _abort(self, reason: dict[str, Any]) -> None:
        self._call(self._all, "compare_set", ABORTED, "", json.dumps(reason))

    def _aborted(self) -> dict[str, Any] | None:
        if not self._call(self._all, "check", [ABORTED]):
            return None
        return json.loads(self._call(self._all, "get", ABORTED))

    def _call(self, store: Any, verb: str, *arguments: Any) -> Any:
        try:
            return getattr(store, verb)(*arguments)
        except dist.DistError as error:
            raise ProcessError(
                f"Process {self.rank} of {self.size} has lost contact with the others: one of them "
                "has ended. Finished work is kept"
            ) from error


_groups = count()


def processes() -> Processes:
    """Return the processes of this job, with new counters and values for each call.

    Every process must make the same calls in the same order.

    Example:
        >>> processes().size
        1
    """
    return Group(str(next(_groups))) if is_group() else Processes()


def is_group() -> bool:
    """Return whether several processes work together."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
