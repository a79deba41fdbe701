"""Trained run folders whose checkpoint files are looked at."""

import json

from smoothcert import commands
from tests.helpers.support import composed, save_hydra_files

SMALL = ["trainer=cpu", "model.width=4", "objective=gaussian", "sigma=0.25", "n0=10", "n=100"]

TRAIN = [
    *(*SMALL, "callbacks.certification.max_images=4", "trainer.limit_train_batches=3"),
    "callbacks.certification.plot=null",
]
"""A picture takes as long as such a training."""

UNCERTIFIED = [*TRAIN, "callbacks.certification=null"]


def trained(folder, *overrides):
    """Train in this process, leaving Hydra's files as the command does."""
    with composed(folder, overrides) as cfg:
        commands.train(cfg)
        save_hydra_files(cfg, folder, overrides)
    return folder


def certified(own, *overrides, name="certify_checkpoint"):
    """Certify in this process and return the summary."""
    with composed(own, overrides, name) as cfg:
        commands.certify(cfg)
    return json.loads((own / "summary.json").read_text())


def settings_of(folder):
    return json.loads((folder / "certificates.settings.json").read_text())


def epochs(number):
    return f"trainer.max_epochs={number}"
