"""Several processes for one command: started and watched here, or started by torchrun.

A GPU has a process of its own, and so has each share of a CPU's cores. On several machines the
command is started once on each (by SLURM, or by hand), and starts its processes there. The parent
holds the run folder and waits; it imports no more than it needs for that.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from importlib import import_module
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from smoothcert.errors import InvalidArgumentError, ProcessError, SmoothCertError, Stopped
from smoothcert.records import FolderLock, working_in
from smoothcert.runs.shell import plain, quiet, signals_stop, stopping_signals

TOGETHER, LAST = 5.0, 20.0
"""Seconds for the others to end by themselves when a process has failed; then after SIGTERM."""
LOST_CONTACT = ("Connection closed by peer", "Connection reset by peer", "has lost contact")
"""How torch, and we, say that another process has ended."""
ENDING = 120.0
"""Seconds for a child to save its state when its parent has died."""
PORTS, FIRST_PORT = 10_000, 15_000
"""Jobs of a cluster take different ports by their numbers, as Lightning's do."""


@dataclass(frozen=True)
class Machine:
    """One of the machines that share a command.

    Attributes:
        number: which one, from 0.
        of: how many there are.
        address: of the first machine.
        port: on which the first machine's processes meet the others; 0: any.
    """

    number: int = 0
    of: int = 1
    address: str = "127.0.0.1"
    port: int = 0


@dataclass(frozen=True)
class Work:
    """What every process is to do.

    Attributes:
        function: where it is, as `module:function`; it takes the configuration.
        cfg: the configuration.
        hydra: Hydra's own part of it.
        machine: this machine.
        each: processes on each machine.
    """

    function: str
    cfg: DictConfig
    hydra: DictConfig
    machine: Machine
    each: int

    @property
    def size(self) -> int:
        """Number of processes on all machines."""
        return self.machine.of * self.each

    def rank(self, local_rank: int) -> int:
        """Return the number, among all, of one of this machine's processes."""
        return self.machine.number * self.each + local_rank

    def run(self) -> Any:
        """Do it, in this process."""
        module, _, name = self.function.partition(":")
        return getattr(import_module(module), name)(self.cfg)


def run(function: str, cfg: DictConfig, each: int, machines: int = 1) -> Any:
    """Run a function of a configuration in as many processes as are asked for.

    Args:
        function: where it is, as `module:function`.
        cfg: its configuration; `cfg.paths.run` is the folder that is written.
        each: processes on this machine, and on each other one.
        machines: machines, on each of which the same command is started.

    Returns:
        What the function returned in the first process; None on other machines than the first.

    Raises:
        RecordsError: if another command is writing the folder.
        ProcessError: if a process died; the others are stopped then.
        Stopped: if a signal asked for the end.
    """
    from hydra.core.hydra_config import HydraConfig

    hydra: Any = HydraConfig.instance().cfg
    if started_elsewhere():
        return _run_as_rank(Work(function, cfg, hydra, Machine(), 1))
    work = Work(function, cfg, hydra, machine(machines), each)
    with ExitStack() as held:
        if work.machine.number == 0:
            held.enter_context(FolderLock(Path(cfg.paths.run)))
        return work.run() if work.size == 1 else _run_in_children(work)


def started_elsewhere() -> bool:
    """Return whether torchrun, or something that speaks like it, has started this process."""
    return all(name in os.environ for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR"))


def require_common_folder(arguments: Sequence[str]) -> None:
    """Refuse a training by torchrun whose processes would each choose a folder of their own.

    Args:
        arguments: the command line.

    Raises:
        SystemExit: with what was expected.
    """
    named = any(each.startswith(("hydra.run.dir=", "run=", "-")) for each in arguments[1:])
    if started_elsewhere() and not named:
        raise SystemExit(
            "Expected hydra.run.dir=<folder> with torchrun: a folder for all processes"
        )


def machine(machines: int) -> Machine:
    """Return which of several machines this one is, from SLURM's variables or torch's.

    Args:
        machines: how many there are.

    Raises:
        InvalidArgumentError: if there are several, and nothing says which one this is.

    Example:
        >>> machine(1).number
        0
    """
    if machines == 1:
        return Machine()
    given = os.environ
    if "SLURM_NODEID" in given and "SLURM_JOB_NODELIST" in given:
        from lightning_fabric.plugins.environments.slurm import SLURMEnvironment

        address = SLURMEnvironment.resolve_root_node_address(given["SLURM_JOB_NODELIST"])
        port = FIRST_PORT + int(given.get("SLURM_JOB_ID", "0")) % PORTS
        return Machine(int(given["SLURM_NODEID"]), machines, address, port)
    try:
        number, port = int(given["NODE_RANK"]), int(given["MASTER_PORT"])
        return Machine(number, machines, given["MASTER_ADDR"], port)
    except (KeyError, ValueError) as error:
        raise InvalidArgumentError(
            f"Expected NODE_RANK (0 … {machines - 1}), MASTER_ADDR and MASTER_PORT in the "
            f"environment with {machines} machines, outside SLURM"
        ) from error


def devices_of(devices: Any, accelerator: str) -> int:
    """Return how many processes a machine is to have.

    Args:
        devices: as Lightning takes it: a number, a list, `auto` or -1.
        accelerator: as Lightning takes it.

    Raises:
        InvalidArgumentError: if it is none of these.

    Example:
        >>> devices_of(2, "cpu"), devices_of([0, 3], "gpu"), devices_of("auto", "cpu")
        (2, 2, 1)
    """
    if not isinstance(devices, str | int):
        return len(devices)
    if devices in ("auto", "-1", -1):
        return max(1, _gpus()) if accelerator in ("auto", "gpu", "cuda") else 1
    if isinstance(devices, str) and "," in devices:
        return len([each for each in devices.split(",") if each.strip()])
    if not str(devices).isdecimal() or int(devices) < 1:
        raise InvalidArgumentError(f"Expected `devices` a number >= 1 or auto, got {devices!r}")
    return int(devices)


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()


# The parent.


def _run_in_children(work: Work) -> Any:
    context = multiprocessing.get_context("spawn")
    messages = context.SimpleQueue()
    store = _meeting_point(work)
    if work.machine.of == 1:
        work = replace(work, machine=Machine(port=store.port))
    children: list[Any] = []
    with _passing_signals_on(children) as received:
        try:
            for local_rank in range(work.each):
                child = context.Process(target=_child, args=(local_rank, work, messages))
                child.start()
                children.append(child)
            for number in received:
                _tell(children, number)
            _supervise(children, work, messages)
        except BaseException:
            _end(children)
            raise
    return _said(messages, "result")


def _meeting_point(work: Work) -> Any:
    """Return the store that all processes talk through; the first machine's parent outlives all."""
    if work.machine.number:
        return None
    from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

    host = work.machine.address
    return TCPStore(host, work.machine.port, is_master=True, wait_for_workers=False)


@contextmanager
def _passing_signals_on(children: list[Any]) -> Iterator[list[int]]:
    """Pass signals on to the children, and do what they ask for once these have ended by them."""
    received: list[int] = []

    def forward(number: int, _: Any) -> None:
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
    raise Stopped(number)


def _tell(children: Sequence[Any], number: int) -> None:
    # Children know no scheduler's signal.
    number = number if number == signal.SIGTERM else signal.SIGUSR1
    for child in children:
        if child.is_alive():
            os.kill(child.pid, number)


def _supervise(children: Sequence[Any], work: Work, messages: Any) -> None:
    """Wait until all children have ended.

    Raises:
        SmoothCertError: what a child raised, or that it died; the others have been ended then.
        Stopped: if a signal ended them.
    """
    running = list(children)
    stopped: int | None = None
    while running:
        # Where one was told to stop, the others are saving their state, or have not been told.
        ended = wait([child.sentinel for child in running], None if stopped is None else TOGETHER)
        if stopped is not None and not ended:
            _tell(running, stopped)
        for child in [child for child in running if not child.is_alive()]:
            running.remove(child)
            if child.exitcode == 0:
                continue
            number = _stop_of(child.exitcode)
            if number is None:
                # One that died breaks the others' connections, which may be seen first.
                wait([other.sentinel for other in running], 1.0)
                died = [other for other in children if (other.exitcode or 0) < 0] or [child]
                _end(running)
                raise _said(messages, "error") or _death(died[0], children.index(died[0]), work)
            stopped = stopped or number
    if stopped is not None:
        raise Stopped(stopped)


def _stop_of(code: int) -> int | None:
    """Return the signal that ended a child in good order; None for another end."""
    # Negative: before it could say anything else.
    number = -code if code < 0 else code - 128
    return number if number in (signal.SIGTERM, signal.SIGUSR1) else None


def _end(children: Sequence[Any]) -> None:
    """End children whose work cannot go on: what they have finished is on the disk."""
    for seconds, end in ((TOGETHER, "terminate"), (LAST, "kill")):
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


def _said(messages: Any, kind: str) -> Any:
    """Return the first message of a kind that a child has left; None without one."""
    while not messages.empty():
        found, value = messages.get()
        if found == kind:
            return value
    return None


# A child.


def _child(local_rank: int, work: Work, messages: Any) -> None:
    rank = work.rank(local_rank)
    _set_environment(local_rank, work)
    _follow_parent()
    _as_hydras_job(work, rank)
    try:
        with quiet(), signals_stop(), working_in(Path(work.cfg.paths.run)), _joined(work, rank):
            value = work.run()
    except Stopped:
        raise
    except (Exception, SystemExit) as error:
        if not _is_lost_contact(error):
            messages.put(("error", _told(error, rank, work)))
        raise SystemExit(1) from None
    if rank == 0:
        messages.put(("result", value))


def _is_lost_contact(error: BaseException) -> bool:
    """Return whether an error only says that another process has ended, for reasons of its own."""
    import torch.distributed as dist

    told = str(error)
    return isinstance(error, dist.DistError) or any(sign in told for sign in LOST_CONTACT)


def _told(error: BaseException, rank: int, work: Work) -> SmoothCertError:
    """Return an error as the parent can raise it; one that nobody expected is shown here."""
    if isinstance(error, SystemExit):
        return ProcessError(str(error.code))
    if isinstance(known := plain(error), SmoothCertError):
        return known
    traceback.print_exc()
    return ProcessError(f"Process {rank} of {work.size} failed: {type(error).__name__}: {error}")


def _set_environment(local_rank: int, work: Work) -> None:
    """Say who this process is, in the words of torch and Lightning, before torch is imported."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (cores or 1) // work.each)))
    os.environ |= {
        "MASTER_ADDR": work.machine.address,
        "MASTER_PORT": str(work.machine.port),
        "RANK": str(work.rank(local_rank)),
        "LOCAL_RANK": str(local_rank),
        "LOCAL_WORLD_SIZE": str(work.each),
        "WORLD_SIZE": str(work.size),
        "NODE_RANK": str(work.machine.number),
    }


def _be_silent() -> None:
    """Leave it to the first process to say what all of them do."""
    os.environ["TQDM_DISABLE"] = "1"
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")


def _follow_parent() -> None:
    """End with the parent, whatever kills it: nobody else would end this process."""
    parent = multiprocessing.parent_process()

    def follow() -> None:
        if parent is not None:
            parent.join()
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(ENDING)
            os._exit(1)

    threading.Thread(target=follow, daemon=True, name="smoothcert-parent").start()


def _as_hydras_job(work: Work, rank: int) -> None:
    """Be what Hydra makes of its own process: resolvers, its configuration, the job's log."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.core.utils import configure_log, setup_globals

    setup_globals()
    instance: Any = HydraConfig.instance()
    instance.cfg = work.hydra
    if rank:
        _be_silent()
    elif not OmegaConf.is_missing(work.hydra.hydra.job, "name"):
        configure_log(work.hydra.hydra.job_logging, work.hydra.hydra.verbose)


def _run_as_rank(work: Work) -> Any:
    """Run as one of the processes that torchrun has started."""
    rank = int(os.environ["RANK"])
    if rank:
        _be_silent()
    with ExitStack() as held:
        if rank == 0:
            held.enter_context(FolderLock(Path(work.cfg.paths.run)))
        held.enter_context(_joined(None, rank))
        return work.run()


@contextmanager
def _joined(work: Work | None, rank: int) -> Iterator[None]:
    """Be one of the processes of torch.distributed; None: as the environment says."""
    import torch.distributed as dist
    from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

    from smoothcert.processes import Watch, is_group

    backend = "cpu:gloo,cuda:nccl" if _gpus() else "gloo"
    if work is None:
        dist.init_process_group(backend)
    else:
        store = TCPStore(work.machine.address, work.machine.port, is_master=False)
        dist.init_process_group(backend, store=store, rank=rank, world_size=work.size)
    # On one machine the parent sees at once who dies.
    watch = Watch() if is_group() and (work is None or work.machine.of > 1) else None
    fault = "it was stopped"
    try:
        if watch is not None:
            watch.start()
        yield
        fault = None
    except Exception as error:
        fault = f"{type(error).__name__}: {error}"
        raise
    finally:
        if watch is not None:
            watch.leave(fault)
    dist.destroy_process_group()
