"""Compare runs: `python -m src.report runs='outputs/sweeps/*/*' ['group_by=[objective,model]']`."""

import sys

import hydra
from omegaconf import DictConfig

from smoothcert import commands


@hydra.main(config_path="../conf", config_name="report", version_base="1.3")
def report(cfg: DictConfig) -> None:
    """Write one report."""
    commands.report(cfg)


if __name__ == "__main__":
    commands.check_command_line(sys.argv)
    report()
