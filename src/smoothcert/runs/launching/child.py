"""A process that does its part of the work: started by a parent, or by torchrun."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import socket
import threading
import time
import traceback
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from smoothcert.distributed.signals import IF_HANDLED, ignore_signals
from smoothcert.errors import ProcessError, SmoothCertError, Stopped
from smoothcert.records import FolderLock, working_in
from smoothcert.runs.launching.work import Work, gpus
from smoothcert.runs.shell import plain, quiet, signals_stop

LOST_CONTACT = ("Connection closed by peer", "Connection reset by peer", "has lost contact")
"""How torch, and we, say that another process has ended."""
LONGEST = 2000
"""Characters of an error that nobody expected."""
ENDING = 120.0
"""Seconds for a child to save its state when its parent has died."""


def as_child(local_rank: int, work: Work, tell: Connection) -> None:
    """Do a parent's work, and tell it what came of it.

    Args:
        local_rank: number of this process among the machine's.
        work: what to do.
        tell: takes `("result", value)` of the first process, or `("error", error)`.

    Raises:
        SystemExit: if the work failed, or a signal asked for the end.
    """
    rank = work.rank(local_rank)
    _set_environment(local_rank, work)
    # A scheduler's word, or Ctrl-C: the parent has it too, and passes on what it means.
    ignore_signals(IF_HANDLED, "SIGINT")
    _follow_parent()
    _as_hydras_job(work, rank)
    folder = Path(work.cfg.paths.run)
    try:
        with quiet(), signals_stop(), _joined(work, rank), working_in(folder):
            value = work.run()
    except Stopped:
        raise
    except (Exception, SystemExit) as error:
        if not _is_lost_contact(error):
            tell.send(("error", _told(error, rank, work)))
        raise SystemExit(1) from None
    if rank == 0:
        tell.send(("result", value))


def _is_lost_contact(error: BaseException) -> bool:
    """Return whether an error only says that another process has ended, for reasons of its own."""
    import torch.distributed as dist

    if isinstance(error, dist.DistError):
        return True
    kinds = RuntimeError, ProcessError
    return isinstance(error, kinds) and any(sign in str(error) for sign in LOST_CONTACT)


def _told(error: BaseException, rank: int, work: Work) -> SmoothCertError:
    """Return an error as the parent can raise it; one that nobody expected is shown here."""
    if isinstance(error, SystemExit):
        return ProcessError(str(error.code))
    if isinstance(known := plain(error), SmoothCertError):
        return known
    traceback.print_exc()
    said = f"{type(error).__name__}: {error}"[:LONGEST]
    return ProcessError(f"Process {rank} of {work.size} failed: {said}")


def _set_environment(local_rank: int, work: Work) -> None:
    """Say who this process is, in the words of torch and Lightning, before torch is imported."""
    # Not needed for --help.
    from joblib import cpu_count

    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cpu_count() // work.each)))
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


def run_as_rank(work: Work) -> Any:
    """Run as one of the processes that torchrun has started."""
    rank = int(os.environ["RANK"])
    if rank:
        _be_silent()
    with ExitStack() as held:
        if rank == 0:
            held.enter_context(FolderLock(Path(work.cfg.paths.run)))
        held.enter_context(_joined(None, rank))
        return work.run()


def _is_one_machine(work: Work | None) -> bool:
    if work is not None:
        return work.machine.of == 1
    return os.environ.get("LOCAL_WORLD_SIZE") == os.environ["WORLD_SIZE"]


def _listen_to_this_machine_alone() -> None:
    """Keep other machines out: who reaches the processes could end them or read what they send.

    Without it Gloo and NCCL listen on the address of the host name, or of the cluster's network.
    """
    loopback = next((name for _, name in socket.if_nameindex() if name.startswith("lo")), None)
    if loopback is not None:
        os.environ |= dict.fromkeys(("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"), loopback)


@contextmanager
def _joined(work: Work | None, rank: int) -> Iterator[None]:
    """Be one of the processes of torch.distributed; None: as the environment says."""
    import torch.distributed as dist
    from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

    from smoothcert.distributed.group import Watch, is_group, processes

    if _is_one_machine(work):
        _listen_to_this_machine_alone()
    backend = "cpu:gloo,cuda:nccl" if gpus() else "gloo"
    if work is None:
        dist.init_process_group(backend)
    else:
        store = TCPStore(work.machine.address, work.machine.port, is_master=False)
        dist.init_process_group(backend, store=store, rank=rank, world_size=work.size)
    # On one machine the parent sees at once who dies.
    watch = Watch() if is_group() and (work is None or work.machine.of > 1) else None
    fault = None
    try:
        if watch is not None:
            watch.start()
        yield
        # The first machine, whose store the others need, does not go before them.
        processes().barrier("end")
    except (Exception, KeyboardInterrupt) as error:
        fault = f"{type(error).__name__}: {error}"
        raise
    finally:
        # One that was told to stop is no fault: the others are told so, too.
        if watch is not None:
            watch.leave(fault)
    dist.destroy_process_group()
