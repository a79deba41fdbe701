"""Measure certification on this machine: `python -m src.benchmark [model=…] [task=…]`."""

import sys

import hydra
from omegaconf import DictConfig

from smoothcert import commands


@hydra.main(config_path="../conf", config_name="benchmark", version_base="1.3")
def benchmark(cfg: DictConfig) -> None:
    """Run one measurement."""
    commands.benchmark(cfg)


if __name__ == "__main__":
    commands.check_command_line(sys.argv)
    benchmark()
