"""Composing configurations in tests as the commands do."""

from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import open_dict

from smoothcert import runs  # registers the resolvers

ROOT = Path(__file__).parents[1]
CONF = ROOT / "conf"
TINY = ["trainer=cpu", "n0=10", "n=100", "callbacks.certification.max_images=4"]

assert callable(runs.for_sigma)


@contextmanager
def composed(folder, overrides, name="train"):
    """Yield a configuration whose run folder is the given one, with Hydra's own values set."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        everything = compose(
            name,
            [*overrides, f"hydra.run.dir='{folder}'", "hydra.job.num=0"],
            return_hydra_config=True,
        )
        everything.hydra.runtime.output_dir = str(folder)
        HydraConfig.instance().set_config(everything)
        # Of a copy, as Hydra does: its own values refer to each other.
        cfg = deepcopy(everything)
        with open_dict(cfg):
            del cfg["hydra"]
        try:
            yield cfg
        finally:
            HydraConfig.instance().cfg = None
