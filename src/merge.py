"""Merge the shards of a certification: `python -m src.merge runs='<run>/certify/test_shard-*'`."""

import sys

import hydra
from omegaconf import DictConfig

from smoothcert import commands


@hydra.main(config_path="../conf", config_name="merge", version_base="1.3")
def merge(cfg: DictConfig) -> float:
    """Merge the shards of one certification."""
    return commands.merge(cfg)


if __name__ == "__main__":
    commands.check_command_line(sys.argv)
    merge()
