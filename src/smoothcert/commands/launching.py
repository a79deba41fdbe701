"""One command in several processes, which `launch` or torchrun has started.

There is one process per GPU, or several that share the cores of a CPU. On several machines the
command is started once on each, by SLURM or by hand, and starts its processes there.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from smoothcert.commands.error_handling import plain, quiet, signals_stop
from smoothcert.errors import InvalidArgumentError
from smoothcert.records import FolderLock, working_in

if TYPE_CHECKING:
    from smoothcert.distributed.launch import Machine

PORTS, FIRST_PORT = 10_000, 15_000
"""Jobs of a cluster use different ports, by their job IDs, as in Lightning."""


def run(
    function: Callable[[DictConfig], Any], cfg: DictConfig, each: int, machines: int = 1
) -> Any:
    """Run a function of a configuration in several processes.

    Args:
        function: a function of a module, which each process can import; it takes `cfg`.
        cfg: a configuration; `cfg.paths.run` is the folder to write.
        each: number of processes on each machine.
        machines: number of machines; the same command is started on each.

    Returns:
        What the function returned in the first process; None on other machines than the first.

    Raises:
        RecordsError: if another command is writing the folder.
        ProcessError: if a process died; the others have been stopped.
        Stopped: if a signal ended it.
    """
    from hydra.core.hydra_config import HydraConfig

    from smoothcert.distributed.launch import joined

    elsewhere = started_elsewhere()
    here = None if elsewhere else machine(machines)
    first = os.environ["RANK"] == "0" if here is None else here.number == 0
    with ExitStack() as held:
        if first:
            held.enter_context(FolderLock(Path(cfg.paths.run)))
        if here is not None and here.of * each > 1:
            return start(function, cfg, HydraConfig.get(), each, here)
        if elsewhere:
            if not first:
                _silence()
            held.enter_context(joined())
        return function(cfg)


def start(
    function: Callable[[DictConfig], Any],
    cfg: DictConfig,
    hydra: Any,
    each: int,
    machine: Machine | None = None,
) -> Any:
    """Run a function of a configuration in new processes, as a job of Hydra.

    Args:
        function: a function of a module, which each process can import; it takes `cfg`.
        cfg: a configuration; `cfg.paths.run` is the folder to write.
        hydra: Hydra's own configuration of the job.
        each: number of processes on each machine, one or more.
        machine: this machine; None: the only one.

    Returns:
        What the function returned in the first process; None on other machines than the first.

    Raises:
        ProcessError: if a process died; the others have been stopped.
        Stopped: if a signal ended it.
    """
    from smoothcert.distributed.launch import launch

    # Plain values: the classes that a launcher of Hydra defines cannot be pickled.
    values: Any = OmegaConf.to_container(cfg)
    values["hydra"] = OmegaConf.to_container(hydra)
    return launch(
        _as_hydra_job, function, cfg, OmegaConf.create(values), each=each, machine=machine
    )


def _as_hydra_job(function: Callable[[DictConfig], Any], cfg: DictConfig, hydra: DictConfig) -> Any:
    """Run a function as a job of Hydra: with its resolvers, its configuration and its log."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.core.utils import configure_log, setup_globals

    from smoothcert.distributed.launch import joined

    setup_globals()
    instance: Any = HydraConfig.instance()
    instance.cfg = hydra
    if os.environ["RANK"] != "0":
        _silence()
    elif not OmegaConf.is_missing(hydra.hydra.job, "name"):
        configure_log(hydra.hydra.job_logging, hydra.hydra.verbose)
    try:
        with quiet(), signals_stop(), joined(), working_in(Path(cfg.paths.run)):
            return function(cfg)
    except Exception as error:
        if (known := plain(error)) is None:
            raise
        raise known from None


def _silence() -> None:
    """Leave messages and progress bars to the first process."""
    os.environ["TQDM_DISABLE"] = "1"
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")


def started_elsewhere() -> bool:
    """Return whether torchrun, or a launcher with the same variables, has started this process."""
    return all(name in os.environ for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR"))


def require_common_folder(arguments: Sequence[str]) -> None:
    """Refuse a training by torchrun whose processes would each choose a folder of their own.

    Args:
        arguments: the command line.

    Raises:
        SystemExit: if it names no folder.
    """
    named = any(each.startswith(("hydra.run.dir=", "run=", "--")) for each in arguments[1:])
    if started_elsewhere() and not named:
        raise SystemExit(
            "Expected hydra.run.dir=<folder> with torchrun: a folder for all processes"
        )


def machine(machines: int) -> Machine:
    """Return which of several machines this one is, from SLURM's variables or torch's.

    Args:
        machines: number of machines.

    Raises:
        InvalidArgumentError: if there are several, and no variable numbers this one.

    Example:
        >>> machine(1).number
        0
    """
    from smoothcert.distributed.launch import Machine

    if machines == 1:
        return Machine()
    variables = os.environ
    if "SLURM_NODEID" in variables and "SLURM_JOB_NODELIST" in variables:
        from lightning_fabric.plugins.environments.slurm import SLURMEnvironment

        address = SLURMEnvironment.resolve_root_node_address(variables["SLURM_JOB_NODELIST"])
        port = FIRST_PORT + int(variables.get("SLURM_JOB_ID", "0")) % PORTS
        return Machine(int(variables["SLURM_NODEID"]), machines, address, port)
    try:
        number, port = int(variables["NODE_RANK"]), int(variables["MASTER_PORT"])
        return Machine(number, machines, variables["MASTER_ADDR"], port)
    except (KeyError, ValueError) as error:
        raise InvalidArgumentError(
            f"Expected NODE_RANK (0 … {machines - 1}), MASTER_ADDR and MASTER_PORT in the "
            f"environment with {machines} machines, outside SLURM"
        ) from error


def devices_of(devices: Any, accelerator: str) -> int:
    """Return the number of processes on a machine.

    Args:
        devices: as in Lightning: a number, a list, `auto` or -1.
        accelerator: as in Lightning.

    Raises:
        InvalidArgumentError: if `devices` is none of these.

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
