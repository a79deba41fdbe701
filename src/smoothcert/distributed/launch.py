"""Start the processes of a job on torch.distributed.elastic, and return what rank 0 returns.

On each machine a launcher starts the workers and waits for them:

| what happens | what the launcher does | how it ends |
|---|---|---|
| all workers return | waits for the other machines | value of rank 0 returned |
| it receives a signal | forwards it, waits while the workers save | `Stopped`, or a handler |
| it receives Ctrl-C again | kills the workers | killed by SIGINT |
| a worker is stopped by a signal | ends its other workers | `Stopped` |
| a worker raises | ends its other workers | the error |
| a worker dies | ends its other workers | `ProcessError` with rank, process ID and signal |
| one of these, on another machine | ends its workers | as the launcher there |
| it is killed | – | the workers save and end by themselves |

Why a job ends is recorded in the store of the first machine's launcher. The first reason is kept.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import signal
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from joblib import cpu_count
from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.elastic.rendezvous import (
    RendezvousHandler,
    RendezvousInfo,
    RendezvousParameters,
    RendezvousStoreInfo,
    rendezvous_handler_registry,
)
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from smoothcert import errors
from smoothcert.distributed.group import POLL_SECONDS, processes
from smoothcert.distributed.signals import (
    IF_HANDLED,
    end_at_second_interrupt,
    ignore_signals,
    stopping_signals,
)
from smoothcert.errors import ProcessError, SmoothCertError, Stopped

SAVE_SECONDS = 300
"""Seconds for the workers to save their state after a signal, or after the end of the launcher."""
GRACE_SECONDS, KILL_SECONDS = 3.0, 15.0
"""Seconds for a worker to end by itself after another one has failed, then after SIGTERM."""
CONNECT_SECONDS = 900
"""Seconds to wait for the first machine."""
MAX_CHARACTERS = 2000
"""Longest message of an unexpected error."""
LOST_CONTACT = (
    *("Connection closed by peer", "Connection reset by peer"),
    *("has lost contact", "has ended: "),
)
"""Messages of torch, then of `group`, when another process has ended."""
BACKEND = "smoothcert"
REASON, BEATS = "smoothcert/reason", "smoothcert/beats"
BEAT_SECONDS, SILENT_CHECKS = 5.0, 9
"""Seconds between two signs of life of a machine, and checks without one until it is lost."""


@dataclass(frozen=True)
class Machine:
    """One of the machines that share a job.

    Attributes:
        number: which one, from 0.
        of: number of machines.
        address: of the first machine.
        port: of the store on the first machine; 0: any free port.
    """

    number: int = 0
    of: int = 1
    address: str = "127.0.0.1"
    port: int = 0


def launch(
    function: Callable[..., Any], *arguments: Any, each: int, machine: Machine | None = None
) -> Any:
    """Run a function in several processes; it connects them by `joined`.

    Args:
        function: a function of a module, which each process can import.
        arguments: its arguments; they are pickled.
        each: number of processes on each machine.
        machine: this machine; None: the only one.

    Returns:
        What the function returned in rank 0; None on other machines than the first.

    Raises:
        SmoothCertError: the error of a process; `ProcessError` for errors of other classes, and if
            a process died. All other processes have ended.
        Stopped: if a signal ended it.
    """
    machine = machine or Machine()
    store = _store(machine)
    machine = replace(machine, port=store.port)
    others = set(multiprocessing.active_children())
    config = LaunchConfig(
        min_nodes=machine.of,
        max_nodes=machine.of,
        nproc_per_node=each,
        run_id=BACKEND,
        rdzv_backend=BACKEND,
        rdzv_configs={"machine": machine, "store": store, "others": others},
        max_restarts=0,
        monitor_interval=POLL_SECONDS,
        # No folder for logs.
        logs_specs=DefaultLogsSpecs(log_dir=os.devnull),
        # `_forwarding_signals` handles the others: with torch's handler, a second signal would
        # interrupt the saving, and a scheduler's signal would not be translated.
        signals_to_handle="SIGQUIT",
        shutdown_timeout=SAVE_SECONDS,
    )
    with _forwarding_signals(each, others, machine.number == 0), _environment(each), _quiet():
        try:
            return elastic_launch(config, _work)(function, arguments).get(0)
        except ChildFailedError as error:
            reason = _keep_reason(store, _reason_of(*error.get_first_failure(), each * machine.of))
        except _EndedError:
            reason = _read_reason(store)
        finally:
            _end(others)
        if machine.of > 1:
            # The other machines read the reason before the store ends with this process.
            time.sleep(GRACE_SECONDS)
        if reason["signal"]:
            raise Stopped(reason["signal"])
        raise getattr(errors, reason["error"], ProcessError)(reason["message"])


@contextmanager
def joined() -> Iterator[None]:
    """Join the processes of torch.distributed, by the variables of the environment.

    Raises:
        ProcessError: at the end, if another process has ended early.
    """
    if os.environ.get("LOCAL_WORLD_SIZE") == os.environ["WORLD_SIZE"]:
        _listen_on_loopback()
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield
        # The other processes need the store of the first machine until they end.
        processes().barrier("end")
    except (Exception, KeyboardInterrupt) as error:
        with suppress(ProcessError):
            processes().abort(error)
        raise
    dist.destroy_process_group()


class _EndedError(Exception):
    """The job has ended on another machine, or in a worker that is about to end."""


class _Rendezvous(RendezvousHandler):
    """Machines with known numbers. The launcher of the first one serves the store.

    Torch's static rendezvous listens on all addresses, and does not notice failed workers of
    another machine.
    """

    def __init__(self, parameters: RendezvousParameters) -> None:
        names = "machine", "store", "others"
        self._machine, self._store, self._others = (parameters.config[name] for name in names)
        self._next_beat = time.monotonic()
        self._beats = [0] * self._machine.of
        self._silent = [0] * self._machine.of

    @property
    def use_agent_store(self) -> bool:
        return True

    def get_backend(self) -> str:
        return BACKEND

    def get_run_id(self) -> str:
        return BACKEND

    def next_rendezvous(self) -> RendezvousInfo:
        machine = self._machine
        address = RendezvousStoreInfo(machine.address, machine.port)
        return RendezvousInfo(self._store, machine.number, machine.of, address)

    def num_nodes_waiting(self) -> int:
        """Check for a reason to end; the agent calls this every `POLL_SECONDS`."""
        if (reason := _read_reason(self._store) or self._silence()) is None:
            return 0
        if reason["signal"]:
            raise SignalException("stopped on another machine", signal.Signals(reason["signal"]))
        # Torch would wait for `SAVE_SECONDS`.
        _end(self._others)
        raise _EndedError

    def _silence(self) -> dict[str, Any] | None:
        """Give a sign of life; return the reason to end if another machine gives none."""
        own, machines = self._machine.number, self._machine.of
        if machines == 1 or time.monotonic() < self._next_beat:
            return None
        self._next_beat = time.monotonic() + BEAT_SECONDS
        with suppress(dist.DistError):
            self._store.add(f"{BEATS}/{own}", 1)
            for number, before in enumerate(self._beats):
                self._beats[number] = self._store.add(f"{BEATS}/{number}", 0)
                # Checks, not seconds: a job may be suspended, this process included.
                silent = self._beats[number] == before > 0
                self._silent[number] = self._silent[number] + 1 if silent else 0
                if self._silent[number] > SILENT_CHECKS:
                    return _keep_reason(
                        self._store,
                        _reason(
                            f"Machine {number} of {machines} has given no sign of life for "
                            f"{SILENT_CHECKS * BEAT_SECONDS:.0f} s. Finished work is kept"
                        ),
                    )
        return None

    def is_closed(self) -> bool:
        return False

    def set_closed(self) -> None:
        """Do nothing: no machine joins later."""

    def shutdown(self) -> bool:
        return True


rendezvous_handler_registry.register(BACKEND, _Rendezvous)


def _store(machine: Machine) -> TCPStore:
    """Return the store of the job. The launcher of the first machine serves it, and ends last."""
    host, port = machine.address, machine.port
    if machine.number:
        try:
            return TCPStore(host, port, is_master=False, timeout=timedelta(seconds=CONNECT_SECONDS))
        except dist.DistError as error:
            raise ProcessError(
                f"Expected the first machine at {host}:{port} within {CONNECT_SECONDS} s: start "
                "the same command there with NODE_RANK=0"
            ) from error
    # No other machine connects to a job of one machine.
    listener = socket.create_server(("" if machine.of > 1 else host, port))
    return TCPStore(
        host,
        listener.getsockname()[1],
        is_master=True,
        wait_for_workers=False,
        # The store closes it.
        master_listen_fd=listener.detach(),
    )


def _keep_reason(store: TCPStore, reason: dict[str, Any]) -> dict[str, Any]:
    """Record why the job ends, unless there is an earlier reason; return the one that is kept."""
    with suppress(dist.DistError):
        return json.loads(store.compare_set(REASON, "", json.dumps(reason)))
    return reason


def _read_reason(store: TCPStore) -> Any:
    try:
        return json.loads(store.get(REASON)) if store.check([REASON]) else None
    except dist.DistError:
        return _reason("The first machine has ended. Finished work is kept")


def _reason(message: str, error: str = "ProcessError", number: int | None = None) -> dict[str, Any]:
    return {"message": message, "error": error, "signal": number}


def _reason_of(rank: int, failure: ProcessFailure, size: int) -> dict[str, Any]:
    """Return why the job ends, from the exit code of a worker."""
    code = failure.exitcode
    # Negative: before the worker could handle the signal.
    number = -code if code < 0 else code - 128
    if number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        return _reason("", number=number)
    how = f"ended with code {code}" if code > 0 else f"was killed by {failure.signal_name()}"
    memory = ", perhaps because memory ran out" if -code == signal.SIGKILL else ""
    return _reason(
        f"Process {rank} of {size} (pid {failure.pid}) {how}{memory}. The others were stopped. "
        "Finished work is kept"
    )


def _children(others: set[Any]) -> set[Any]:
    return set(multiprocessing.active_children()) - others


def _end(others: set[Any]) -> None:
    """End remaining workers: their finished work is on the disk."""
    for seconds, verb in ((GRACE_SECONDS, "terminate"), (KILL_SECONDS, "kill")):
        deadline = time.monotonic() + seconds
        for child in _children(others):
            child.join(max(0.0, deadline - time.monotonic()))
        for child in _children(others):
            getattr(child, verb)()


@contextmanager
def _forwarding_signals(each: int, others: set[Any], first: bool) -> Iterator[None]:
    """Forward signals to the workers; after their end, call the handler that was there before."""
    received: list[int] = []

    def receive(number: int, _: Any) -> None:
        if received and number == signal.SIGINT:
            for child in _children(others):
                child.kill()
        elif not received and len(_children(others)) < each:
            # Not all workers have started: try again later.
            threading.Timer(POLL_SECONDS, os.kill, (os.getpid(), number)).start()
            return
        end_at_second_interrupt(number, received[0] if received else 0)
        if not received:
            received.append(number)
            # Workers ignore SIGUSR2 and SIGINT, which a scheduler or a terminal sends to all.
            forwarded = signal.SIGTERM if number == signal.SIGTERM else signal.SIGUSR1
            raise SignalException("stopped", forwarded)

    in_main = threading.current_thread() is threading.main_thread()
    numbers = stopping_signals() if in_main else []
    before = {number: signal.getsignal(number) for number in (*numbers, signal.SIGQUIT)}
    for number in numbers:
        signal.signal(number, receive)
    try:
        yield
        return
    except (SignalException, Stopped) as stopped:
        own = stopped.signal if isinstance(stopped, Stopped) else stopped.sigval
        number = (received or [int(own)])[0]
    finally:
        for earlier, handler in before.items() if in_main else ():
            signal.signal(earlier, handler)
    # In a command, that of `signals_stop`, which may call a scheduler's.
    if callable(handler := before.get(number)):
        handler(number, None)
        if not first:
            # It returned; the handler of the first machine requeues the job.
            raise SystemExit(0)
    raise Stopped(number)


@contextmanager
def _environment(each: int) -> Iterator[None]:
    """Set the variables that workers read when they import torch."""
    before = dict(os.environ)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cpu_count() // each)))
    # Every machine has the same number of workers: the agents need not exchange it.
    os.environ["TORCH_ELASTIC_WORKER_IDENTICAL"] = "1"
    try:
        yield
    finally:
        for name in set(os.environ) - set(before):
            del os.environ[name]
        os.environ.update(before)


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide torch's own reports of a failure, which contain traces of its code."""
    loggers = [
        logging.getLogger(name) for name in ("torch.distributed", "torch.multiprocessing.spawn")
    ]
    before = [(logger.propagate, logger.handlers) for logger in loggers]
    for logger in loggers:
        logger.propagate, logger.handlers = False, [logging.NullHandler()]
    try:
        yield
    finally:
        for logger, (propagate, handlers) in zip(loggers, before, strict=True):
            logger.propagate, logger.handlers = propagate, handlers


def _work(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """Run the function in a worker; record the reason of a failure.

    Raises:
        SystemExit: if it failed, or a signal ended it.
    """
    # The launcher receives a scheduler's signal and Ctrl-C, too, and forwards them.
    ignore_signals(IF_HANDLED, "SIGINT")
    _follow_launcher()
    try:
        value = function(*arguments)
    except Stopped:
        raise
    except (Exception, SystemExit) as error:
        if _is_lost_contact(error):
            # The launcher reports the process that died, and ends this one.
            time.sleep(GRACE_SECONDS)
        reason = _reason_from(error)
        with suppress(dist.DistError):
            _keep_reason(
                TCPStore(
                    os.environ["MASTER_ADDR"],
                    int(os.environ["MASTER_PORT"]),
                    is_master=False,
                    timeout=timedelta(seconds=KILL_SECONDS),
                ),
                reason,
            )
        raise SystemExit(1) from None
    return value if os.environ["RANK"] == "0" else None


def _is_lost_contact(error: BaseException) -> bool:
    """Return whether an error is only the consequence of the end of another process."""
    kinds = RuntimeError, ProcessError
    signs = any(sign in str(error) for sign in LOST_CONTACT)
    return isinstance(error, dist.DistError) or (isinstance(error, kinds) and signs)


def _reason_from(error: BaseException) -> dict[str, Any]:
    """Return an error as a reason for the launcher; print the trace of an unexpected one."""
    if isinstance(error, SystemExit):
        return _reason(str(error.code))
    if isinstance(error, SmoothCertError):
        return _reason(str(error), type(error).__name__)
    traceback.print_exc()
    message = f"{type(error).__name__}: {error}"[:MAX_CHARACTERS]
    return _reason(f"Process {os.environ['RANK']} of {os.environ['WORLD_SIZE']} failed: {message}")


def _follow_launcher() -> None:
    """End this worker when the launcher ends, even by SIGKILL: it would keep its GPU."""
    launcher = multiprocessing.parent_process()

    def follow() -> None:
        if launcher is not None:
            launcher.join()
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(SAVE_SECONDS)
            os._exit(1)

    threading.Thread(target=follow, daemon=True, name="smoothcert-launcher").start()


def _listen_on_loopback() -> None:
    """Make the processes unreachable from other machines, which could end them or read their data.

    By default Gloo and NCCL listen on the address of the host name, or of the cluster's network.
    """
    loopback = next((name for _, name in socket.if_nameindex() if name.startswith("lo")), None)
    if loopback is not None:
        os.environ |= dict.fromkeys(("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"), loopback)
