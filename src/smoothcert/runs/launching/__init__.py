"""Several processes for one command: started and watched here, or started by torchrun.

A GPU has a process of its own, and so has each share of a CPU's cores. On several machines the
command is started once on each (by SLURM, or by hand), and starts its processes there. The parent
holds the run folder and waits; it imports no more than it needs for that.
"""

import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from smoothcert.records import FolderLock
from smoothcert.runs.launching.child import run_as_rank
from smoothcert.runs.launching.parent import run_in_children
from smoothcert.runs.launching.work import Machine, Work, devices_of, machine

__all__ = ["devices_of", "machine", "require_common_folder", "run", "started_elsewhere"]


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

    hydra = _plain(HydraConfig.get(), cfg)
    if started_elsewhere():
        return run_as_rank(Work(function, cfg, hydra, Machine(), 1))
    work = Work(function, cfg, hydra, machine(machines), each)
    with ExitStack() as held:
        if work.machine.number == 0:
            held.enter_context(FolderLock(Path(cfg.paths.run)))
        return work.run() if work.size == 1 else run_in_children(work)


def _plain(hydra: Any, cfg: DictConfig) -> DictConfig:
    """Return Hydra's configuration without its classes, beside what it refers to.

    A launcher's are defined anew in each process, and so cannot be sent to another one.
    """
    others: Any = OmegaConf.to_container(cfg)
    return OmegaConf.create({**others, "hydra": OmegaConf.to_container(hydra)})


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
    named = any(each.startswith(("hydra.run.dir=", "run=", "--")) for each in arguments[1:])
    if started_elsewhere() and not named:
        raise SystemExit(
            "Expected hydra.run.dir=<folder> with torchrun: a folder for all processes"
        )
