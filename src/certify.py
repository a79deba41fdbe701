"""Certify a finished run: `python -m src.certify run=<run folder>`."""

import sys

import hydra
from omegaconf import DictConfig

from smoothcert import runs


@hydra.main(config_path="../conf", config_name="certify", version_base="1.3")
def certify(cfg: DictConfig) -> float:
    """Certify one split of one run."""
    return runs.certify(cfg)


if __name__ == "__main__":
    runs.require_run(sys.argv)
    sys.argv = runs.quote_run(sys.argv)
    certify()
