"""One command in several processes: started here by `launch`, or by torchrun.

Each GPU has a process, and so has each share of a CPU's cores. On several machines the command is
started once on each (by SLURM, or by hand), and starts its processes there.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from smoothcert.commands.error_handling import plain, quiet, signals_stop
from smoothcert.errors import InvalidArgumentError
from smoothcert.records import FolderLock, working_in

if TYPE_CHECKING:
    from smoothcert.distributed.launch import Machine

PORTS, FIRST_PORT = 10_000, 15_000
"""Jobs of a cluster take different ports by their numbers, as Lightning's do."""


def run(function: str, cfg: DictConfig, each: int, machines: int = 1) -> Any:
    """Run a function of a configuration in as many processes as requested.

    Args:
        function: where it is, as `module:function`; it takes the configuration.
        cfg: its configuration; `cfg.paths.run` is the folder that is written.
        each: processes on each machine.
        machines: machines, on each of which the same command is started.

    Returns:
        What the function returned in the first process; None on other machines than the first.

    Raises:
        RecordsError: if another command is writing the folder.
        ProcessError: if a process died; the others are stopped then.
        Stopped: if a signal asked for the end.
    """
    from hydra.core.hydra_config import HydraConfig

    from smoothcert.distributed.launch import joined, launch

    elsewhere = started_elsewhere()
    here = None if elsewhere else machine(machines)
    first = os.environ["RANK"] == "0" if here is None else here.number == 0
    with ExitStack() as held:
        if first:
            held.enter_context(FolderLock(Path(cfg.paths.run)))
        if here is not None and here.of * each > 1:
            hydra = _plain(HydraConfig.get(), cfg)
            return launch(_as_hydras_job, function, cfg, hydra, each=each, machine=here)
        if elsewhere:
            if not first:
                _be_silent()
            held.enter_context(joined())
        return _call(function, cfg)


def _as_hydras_job(function: str, cfg: DictConfig, hydra: DictConfig) -> Any:
    """Be what Hydra makes of its own process: resolvers, its configuration, the job's log."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.core.utils import configure_log, setup_globals

    from smoothcert.distributed.launch import joined

    setup_globals()
    instance: Any = HydraConfig.instance()
    instance.cfg = hydra
    if os.environ["RANK"] != "0":
        _be_silent()
    elif not OmegaConf.is_missing(hydra.hydra.job, "name"):
        configure_log(hydra.hydra.job_logging, hydra.hydra.verbose)
    try:
        with quiet(), signals_stop(), joined(), working_in(Path(cfg.paths.run)):
            return _call(function, cfg)
    except Exception as error:
        if (known := plain(error)) is None:
            raise
        raise known from None


def _call(function: str, cfg: DictConfig) -> Any:
    module, _, name = function.partition(":")
    return getattr(import_module(module), name)(cfg)


def _be_silent() -> None:
    """Leave the messages to the first process."""
    os.environ["TQDM_DISABLE"] = "1"
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")


def _plain(hydra: Any, cfg: DictConfig) -> DictConfig:
    """Return Hydra's configuration without its classes, next to what it refers to.

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
    from smoothcert.distributed.launch import Machine

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
    if isinstance(devices, Sequence) and not isinstance(devices, str) and devices:
        return len(devices)
    if devices in ("auto", "-1", -1):
        import torch

        several = accelerator in ("auto", "gpu", "cuda")
        return max(1, torch.cuda.device_count()) if several else 1
    if isinstance(devices, str) and "," in devices:
        return len([each for each in devices.split(",") if each.strip()])
    count = str(devices)
    if not count.isdecimal() or int(count) < 1:
        raise InvalidArgumentError(f"Expected `devices` a number >= 1 or auto, got {devices!r}")
    return int(count)
