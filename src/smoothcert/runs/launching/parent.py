"""The process that starts the others, passes signals on to them, and ends them where one dies."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from typing import Any

from smoothcert.distributed.signals import end_at_second_interrupt, stopping_signals
from smoothcert.errors import ProcessError, Stopped
from smoothcert.runs.launching.child import as_child
from smoothcert.runs.launching.work import Machine, Work

GRACE_SECONDS, KILL_SECONDS = 3.0, 15.0
"""Seconds for the others to end by themselves when a process has failed; then after SIGTERM."""
SAVING = 300.0
"""Seconds for all to save their state, once they have been told to stop."""


def run_in_children(work: Work) -> Any:
    """Start a process for each device of this machine, and wait for all of them.

    Args:
        work: what they do.

    Returns:
        What the function returned in the first process; None on other machines than the first.

    Raises:
        SmoothCertError: what a process raised, or that it died; the others have been ended then.
        Stopped: if a signal asked for the end.
    """
    context = multiprocessing.get_context("spawn")
    store = _meeting_point(work)
    if work.machine.of == 1:
        work = replace(work, machine=Machine(port=store.port))
    children: list[Any] = []
    messages: list[Connection] = []
    with _passing_signals_on(children, work.machine.number == 0) as received:
        try:
            for local_rank in range(work.each):
                message, tell = context.Pipe(duplex=False)
                messages.append(message)
                child = context.Process(target=as_child, args=(local_rank, work, tell))
                child.start()
                children.append(child)
            for number in received:
                _tell(children, number)
            _supervise(children, work, messages, received)
        except BaseException:
            _end(children)
            raise
    return _said(messages, "result")


def _meeting_point(work: Work) -> Any:
    """Return the store that all processes talk through; the first machine's parent outlives all."""
    if work.machine.number:
        return None
    from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

    host, several = work.machine.address, work.machine.of > 1
    listener = socket.create_server(("" if several else host, work.machine.port))
    return TCPStore(
        host,
        listener.getsockname()[1],
        is_master=True,
        wait_for_workers=False,
        # Nobody else's on one machine. The store closes it.
        master_listen_fd=listener.detach(),
    )


@contextmanager
def _passing_signals_on(children: list[Any], first: bool) -> Iterator[list[int]]:
    """Pass signals on to the children, and do what they ask for once these have ended by them."""
    received: list[int] = []

    def forward(number: int, _: Any) -> None:
        if number == signal.SIGINT and received:
            for child in children:
                child.kill()
        end_at_second_interrupt(number, received[0] if received else 0)
        received.append(number)
        _tell(children, number)

    in_main = threading.current_thread() is threading.main_thread()
    numbers = stopping_signals() if in_main else []
    before = {number: signal.signal(number, forward) for number in numbers}
    try:
        yield received
        return
    except Stopped as stopped:
        number = (received or [stopped.signal])[0]
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
    # This process's own handler knows what a scheduler wants.
    if callable(handler := before.get(number)):
        handler(number, None)
        if not first:
            # A scheduler's returns on other machines, so that the first one's may do its work.
            raise SystemExit(0)
    raise Stopped(number)


def _tell(children: Sequence[Any], number: int) -> None:
    # Children know no scheduler's signal.
    number = number if number == signal.SIGTERM else signal.SIGUSR1
    for child in children:
        if child.is_alive():
            with suppress(ProcessLookupError):
                os.kill(child.pid, number)


def _supervise(
    children: Sequence[Any], work: Work, messages: Sequence[Connection], received: Sequence[int]
) -> None:
    """Wait until all children have ended.

    Raises:
        SmoothCertError: what a child raised, or that it died; the others have been ended then.
        Stopped: if a signal ended them.
    """
    running = list(children)
    stopped: int | None = None
    since = time.monotonic()
    while running:
        # Where one was told to stop, the others are saving their state, or have not been told.
        ended = wait([child.sentinel for child in running], GRACE_SECONDS)
        told = stopped or (received[0] if received else None)
        since = time.monotonic() if told is None else since
        if told is not None and not ended:
            _tell(running, told)
            # Stuck where no signal is heard.
            if time.monotonic() - since > SAVING:
                _end(running)
        over = [child for child in running if not child.is_alive()]
        for child in sorted(over, key=lambda child: _stop_of(child.exitcode) is None):
            running.remove(child)
            if child.exitcode == 0:
                continue
            number = _stop_of(child.exitcode)
            # Once one has been stopped, others may only have lost contact with it.
            if number is None and stopped is None and not received:
                # One that died breaks the others' connections, which may be seen first.
                wait([other.sentinel for other in running], 1.0)
                died = [other for other in children if (other.exitcode or 0) < 0] or [child]
                _end(running)
                raise _said(messages, "error") or _death(died[0], children.index(died[0]), work)
            stopped = stopped or number or received[0]
    if stopped is not None:
        raise Stopped(stopped)


def _stop_of(code: int) -> int | None:
    """Return the signal that ended a child in good order; None for another end."""
    # Negative: before it could say anything else.
    number = -code if code < 0 else code - 128
    return number if number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT) else None


def _end(children: Sequence[Any]) -> None:
    """End children whose work cannot go on: what they have finished is on the disk."""
    for seconds, end in ((GRACE_SECONDS, "terminate"), (KILL_SECONDS, "kill")):
        deadline = time.monotonic() + seconds
        for child in children:
            child.join(max(0.0, deadline - time.monotonic()))
        for child in children:
            if child.is_alive():
                getattr(child, end)()


def _death(child: Any, local_rank: int, work: Work) -> ProcessError:
    code = child.exitcode
    how = f"ended with code {code}" if code > 0 else f"was killed by {signal.Signals(-code).name}"
    memory = ", as the system does where memory runs out" if -code == signal.SIGKILL else ""
    return ProcessError(
        f"Process {work.rank(local_rank)} of {work.size} (pid {child.pid}) {how}{memory}. The "
        "others were stopped. What is finished is kept"
    )


def _said(messages: Sequence[Connection], kind: str) -> Any:
    """Return the first message of a kind that a child has left; None without one."""
    for message in messages:
        # One that died in the middle of a word has said nothing.
        with suppress(EOFError, OSError):
            if message.poll():
                found, value = message.recv()
                if found == kind:
                    return value
    return None
