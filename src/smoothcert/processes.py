"""The processes that work on one job: this one alone, or those of torch.distributed.

What they tell each other here are a few small facts: which work is taken, what is finished. It goes
through the key-value store that every process group has, so that no process ever waits for another
one to be ready to listen.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from contextlib import suppress
from itertools import count
from typing import Any

import torch.distributed as dist
from torch.distributed import PrefixStore  # pyright: ignore[reportPrivateImportUsage]

from smoothcert.errors import ProcessError, Stopped

POLL = 0.1
"""Seconds between two looks for something that another process is to say."""
BEAT, SILENCE = 5.0, 45.0
"""Seconds between two signs of life, and seconds without one after which a process is given up."""


class Processes:
    """This process alone: what it says to others it says to itself.

    Attributes:
        rank: this process's number, from 0.
        size: how many processes there are.

    Example:
        >>> alone = Processes()
        >>> alone.add("taken"), alone.add("taken", 2), alone.read("taken")
        (1, 3, 3)
    """

    rank: int = 0
    size: int = 1

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}

    @property
    def first(self) -> bool:
        """Whether this process does what one alone has to do."""
        return self.rank == 0

    def add(self, name: str, amount: int = 1) -> int:
        """Add to a number that all processes share, 0 at first; return what it is then."""
        self._values[name] = self._values.get(name, 0) + amount
        return self._values[name]

    def publish(self, name: str, value: Any) -> None:
        """Say something (a JSON value) to all processes."""
        self._values[name] = value

    def said(self, name: str) -> bool:
        """Return whether a process has said something."""
        return name in self._values

    def read(self, name: str) -> Any:
        """Return what a process has said, waiting until it does.

        Raises:
            ProcessError: if the processes have lost contact.
        """
        return self._values[name]

    def meet(self, name: str) -> None:
        """Wait until every process has come to this place.

        Raises:
            ProcessError: if the processes have lost contact.
        """
        if self.add(f"{name}/met") == self.size:
            self.publish(f"{name}/all", True)
        self.read(f"{name}/all")

    def give_up(self, error: BaseException) -> None:
        """Tell the others that this process ends before the work is done: they need not wait.

        Args:
            error: why.
        """
        stop = error.signal if isinstance(error, Stopped) else None
        reason = str(error) or type(error).__name__
        self.publish("given up", {"rank": self.rank, "reason": reason, "signal": stop})

    def check(self) -> None:
        """Look whether all processes are still at work.

        Raises:
            ProcessError: if one has given up, with its reason.
            Stopped: if that was a signal, which may have been meant for all.
        """
        if not self.said("given up"):
            return
        told = self.read("given up")
        if told["signal"] is not None:
            raise Stopped(told["signal"])
        raise ProcessError(
            f"Process {told['rank']} of {self.size} has ended: {told['reason']}. What is finished "
            "is kept"
        )

    def gather(self, name: str, value: Any) -> list[Any]:
        """Return what every process gives (JSON values), by rank, to all of them.

        Raises:
            ProcessError: if the processes have lost contact.
        """
        self.publish(f"{name}/{self.rank}", value)
        return [self.read(f"{name}/{rank}") for rank in range(self.size)]


class Group(Processes):
    """The processes of torch.distributed's default group.

    Args:
        name: what this conversation is called. Another one under the same name would hear the
            first one's words.
        store: the group's store; the default group's own unless given.
    """

    def __init__(self, name: str, store: Any = None) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self._store = PrefixStore(f"smoothcert/{name}", store or _default_store())

    def add(self, name: str, amount: int = 1) -> int:
        """Add to a number that all processes share, 0 at first; return what it is then."""
        return self._asked("add", name, amount)

    def publish(self, name: str, value: Any) -> None:
        """Say something (a JSON value) to all processes."""
        self._asked("set", name, json.dumps(value))

    def said(self, name: str) -> bool:
        """Return whether a process has said something."""
        return self._asked("check", [name])

    def read(self, name: str) -> Any:
        """Return what a process has said, waiting until it does.

        Raises:
            ProcessError: if the processes have lost contact, or one has given up.
        """
        # The store's own waiting has a time limit, and no signal interrupts it.
        while not self.said(name):
            self.check()
            time.sleep(POLL)
        return json.loads(self._asked("get", name))

    def _asked(self, verb: str, *arguments: Any) -> Any:
        try:
            return getattr(self._store, verb)(*arguments)
        except dist.DistError as error:
            raise ProcessError(
                f"Process {self.rank} of {self.size} has lost contact with the others: one of them "
                "has ended. What is finished is kept"
            ) from error


_conversations = count()


def processes() -> Processes:
    """Return the processes that share this job, for a new conversation.

    Every process must ask as often as the others, and in the same order.

    Example:
        >>> processes().size
        1
    """
    return Group(str(next(_conversations))) if is_group() else Processes()


def is_group() -> bool:
    """Return whether several processes work together."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def _default_store() -> Any:
    return dist.distributed_c10d._get_default_store()


class Watch(threading.Thread):
    """Ends this process where another one has died, wherever this one is waiting for it.

    For processes that nobody watches together, on several machines above all. Each gives a sign of
    life every few seconds, and looks for those of the others.
    """

    def __init__(self) -> None:
        super().__init__(daemon=True, name="smoothcert-watch")
        store = _default_store()
        # One of its own, where torch can: another thread's waiting would keep this one from it.
        self._group = Group("watch", store.clone() if hasattr(store, "clone") else store)
        self._ended = threading.Event()
        self._seen: dict[int, tuple[int, int]] = dict.fromkeys(range(self._group.size), (-1, 0))

    def run(self) -> None:
        """Give and look for signs of life until `leave`."""
        while not self._ended.wait(BEAT):
            try:
                self._group.add(f"beat/{self._group.rank}")
                reason = self._loss()
            except ProcessError as error:
                reason = str(error)
            if reason and not self._ended.is_set():
                print(f"Stopped: {reason}", file=sys.stderr, flush=True)  # noqa: T201
                os._exit(1)

    def leave(self, fault: str | None = None) -> None:
        """Stop watching, and be missed no more.

        Args:
            fault: why this process ends before its work is done; the others end too then.
        """
        self._ended.set()
        name = "fault" if fault else f"left/{self._group.rank}"
        # Where the store is gone, so are those who would have read it.
        with suppress(ProcessError):
            self._group.publish(name, f"process {self._group.rank}: {fault}")

    def _loss(self) -> str | None:
        """Return why the work cannot go on; None while all is well."""
        if self._group.said("fault"):
            return self._group.read("fault")
        for rank, (beats, silent) in self._seen.items():
            present = self._group.add(f"beat/{rank}", 0)
            alive = present != beats or self._group.said(f"left/{rank}")
            # Looks, not seconds: a job may be suspended, and this process with it.
            self._seen[rank] = present, 0 if alive else silent + 1
            if self._seen[rank][1] > SILENCE / BEAT:
                return f"process {rank} of {self._group.size} has given no sign of life"
        return None
