"""What is to be done, and by how many processes on which machines."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from omegaconf import DictConfig

from smoothcert.errors import InvalidArgumentError

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
    if isinstance(devices, Sequence) and not isinstance(devices, str) and devices:
        return len(devices)
    if devices in ("auto", "-1", -1):
        return max(1, gpus()) if accelerator in ("auto", "gpu", "cuda") else 1
    if isinstance(devices, str) and "," in devices:
        return len([each for each in devices.split(",") if each.strip()])
    count = str(devices)
    if not count.isdecimal() or int(count) < 1:
        raise InvalidArgumentError(f"Expected `devices` a number >= 1 or auto, got {devices!r}")
    return int(count)


def gpus() -> int:
    """Return how many GPUs this machine has."""
    import torch

    return torch.cuda.device_count()
