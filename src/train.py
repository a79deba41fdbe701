"""Train and certify: `python -m src.train experiment=digits_reg_adv`.

`python -m src.train run=<run folder>` goes on with a run that was interrupted.
"""

import sys

import hydra
from omegaconf import DictConfig

from smoothcert import runs
from smoothcert.errors import SmoothCertError


@hydra.main(config_path="../conf", config_name="train", version_base="1.3")
def train(cfg: DictConfig) -> float | None:
    """Train one run."""
    return runs.train(cfg)


if __name__ == "__main__":
    runs.refuse_secrets(sys.argv)
    runs.require_launcher(sys.argv)
    runs.require_options(sys.argv)
    try:
        runs.require_common_folder(sys.argv)
        sys.argv = runs.expand_run(runs.quote_paths(sys.argv))
    except SmoothCertError as error:
        sys.exit(str(error))
    train()
