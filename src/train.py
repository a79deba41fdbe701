"""Train and certify: `python -m src.train experiment=digits_reg_adv`.

`python -m src.train run=<run folder>` resumes a run that was interrupted.
"""

import sys

import hydra
from omegaconf import DictConfig

from smoothcert import commands


@hydra.main(config_path="../conf", config_name="train", version_base="1.3")
def train(cfg: DictConfig) -> float | None:
    """Train one run."""
    return commands.train(cfg)


if __name__ == "__main__":
    commands.check_command_line(sys.argv)
    train()
