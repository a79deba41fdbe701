"""Measure certification on this machine: `python -m src.benchmark [model=…] [task=…]`."""

import sys

import hydra
from omegaconf import DictConfig

from smoothcert import runs


@hydra.main(config_path="../conf", config_name="benchmark", version_base="1.3")
def benchmark(cfg: DictConfig) -> None:
    """Run one measurement."""
    runs.benchmark(cfg)


if __name__ == "__main__":
    runs.check_command_line(sys.argv)
    benchmark()
