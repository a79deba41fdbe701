"""Composing configurations in tests as the commands do."""

from contextlib import contextmanager
from copy import deepcopy
from functools import cache
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import OmegaConf, open_dict

from smoothcert import commands  # registers the resolvers
from smoothcert.commands.guard import Guard

ROOT = Path(__file__).parents[2]
CONF = ROOT / "conf"
TINY = ["trainer=cpu", "n0=10", "n=100", "callbacks.certification.max_images=4"]

assert callable(commands.for_sigma)


@cache
def composition(name, overrides):
    """Return a configuration with Hydra's own values; the same one is composed once."""
    return compose(name, [*overrides, "hydra.job.num=0"], return_hydra_config=True)


@contextmanager
def composed(folder, overrides, name="train"):
    """Yield a configuration whose run folder is the given one, with Hydra's own values set."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        everything = deepcopy(composition(name, tuple(overrides)))
        everything.hydra.run.dir = everything.hydra.runtime.output_dir = str(folder)
        HydraConfig.instance().set_config(everything)
        # Of a copy, as Hydra does: its own values refer to each other.
        cfg = deepcopy(everything)
        with open_dict(cfg):
            del cfg["hydra"]
        try:
            yield cfg
        finally:
            HydraConfig.instance().cfg = None


def save_hydra_files(cfg, folder, overrides=()):
    """Leave a composed configuration in a run folder as Hydra does."""
    (folder / ".hydra").mkdir(parents=True, exist_ok=True)
    OmegaConf.save(cfg, folder / ".hydra" / "config.yaml")
    OmegaConf.save({"hydra": HydraConfig.get()}, folder / ".hydra" / "hydra.yaml")
    OmegaConf.save(list(overrides), folder / ".hydra" / "overrides.yaml")


def guarded(command, *overrides, multirun=False):
    """Do what Hydra does with a command line before it writes anything, and return its config."""
    GlobalHydra.instance().clear()
    ckpt = command == "certify" and any(each.startswith("ckpt=") for each in overrides)
    mode = RunMode.MULTIRUN if multirun else RunMode.RUN
    with initialize_config_dir(str(CONF), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        name = "certify_checkpoint" if ckpt else command
        config = loader.load_configuration(name, list(overrides), mode)
        try:
            guard = Guard(config.hydra.callbacks.guard.command)
            (guard.on_multirun_start if multirun else guard.on_run_start)(config)
        finally:
            HydraConfig.instance().cfg = None
    return config
