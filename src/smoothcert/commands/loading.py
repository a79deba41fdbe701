"""A run's smoothed classifier in Python: `smoothcert.load`."""

from pathlib import Path
from types import SimpleNamespace

from smoothcert.certify import Execution, SmoothedClassifier
from smoothcert.commands.build import (
    build_data,
    device_of,
    load_model,
    recorded_of,
    without_publisher,
)
from smoothcert.commands.commandline import read_yaml
from smoothcert.commands.security import trusted
from smoothcert.records import RunFolder

PATHS = {"data": "data", "outputs": "outputs"}
"""Replace the run's own paths, as in `conf/paths/default.yaml`."""


def load(
    run: str | Path,
    checkpoint: str = "best",
    device: str = "auto",
    execution: Execution | str | None = None,
) -> SmoothedClassifier:
    """Return the smoothed classifier of a run: its network, its normalisation and its σ.

    The folder is checked as by `python -m src.certify run=…`: its configuration can call only what
    is allowed there. No image is read, and the data need not be on this machine.

    Args:
        run: a run folder that `python -m src.train` made.
        checkpoint: `best` or `last`.
        device: `auto` (a GPU where there is one), `cpu`, `cuda` or `cuda:1`.
        execution: how the network is run; `Execution()` (float32) unless given.

    Raises:
        InvalidArgumentError: if this is no run folder, or its configuration is not allowed.
        RecordsError: if its configuration is damaged.
        CheckpointError: if the checkpoint is missing or damaged.

    Example:
        >>> load("no/run")
        Traceback (most recent call last):
        smoothcert.errors.InvalidArgumentError: Expected a run folder, got 'no/run': it has no \
.hydra/config.yaml
    """
    folder = RunFolder(run)
    folder.check_links()
    trained = trusted(read_yaml(folder, "config"), PATHS, folder.path)
    path = folder.checkpoint(checkpoint)
    data = build_data(trained)
    # Older runs recorded no names, and need their data here.
    names = recorded_of(path).get("class_names") or data.class_names
    facts = SimpleNamespace(
        num_classes=len(names), input_shape=data.input_shape, mean=data.mean, std=data.std
    )
    model = load_model(without_publisher(trained.model), facts, path).to(device_of(device))
    return SmoothedClassifier(model, trained.sigma, len(names), execution)
