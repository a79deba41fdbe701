"""Certify a finished run, `python -m src.certify run=<run folder>`, or a checkpoint file.

`python -m src.certify ckpt=<file> model=resnet110 sigma=0.25` takes weights of any of the layouts
that the field publishes; no training run is needed.
"""

import sys

import hydra
from omegaconf import DictConfig

from smoothcert import commands

CONFIG = "certify_checkpoint" if commands.names_checkpoint(sys.argv) else "certify"


@hydra.main(config_path="../conf", config_name=CONFIG, version_base="1.3")
def certify(cfg: DictConfig) -> float:
    """Certify one split, of one run's data or of a data set."""
    return commands.certify(cfg)


if __name__ == "__main__":
    commands.check_command_line(sys.argv)
    certify()
