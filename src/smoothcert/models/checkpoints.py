"""Weights from files, with errors that say what is wrong."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from smoothcert.errors import CheckpointError, MismatchError

PREFIX = "model."


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a Lightning checkpoint without running any code that it might hold.

    Args:
        path: the file.

    Raises:
        CheckpointError: if it is missing, truncated or no checkpoint; the file is left alone.
    """
    if not path.is_file():
        raise CheckpointError(f"No checkpoint at {path}")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises half a dozen unrelated kinds here
        raise CheckpointError(
            f"{path} is damaged or no checkpoint ({type(error).__name__}: {error}). "
            "The file was left as it is"
        ) from error
    weights = checkpoint.get("state_dict") if isinstance(checkpoint, dict) else None
    if not isinstance(weights, dict) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in weights.items()
    ):
        raise CheckpointError(
            f"{path} holds no `state_dict` of tensors by name, so it is no Lightning checkpoint"
        )
    return checkpoint


def load_weights(model: nn.Module, path: Path) -> None:
    """Load a run's weights into its model.

    Args:
        model: the network that the run trained.
        path: a checkpoint of the run.

    Raises:
        CheckpointError: if the file cannot be read, or lacks a part of the model.
        MismatchError: if a part of the model has another shape in the file.
    """
    saved = {
        name.removeprefix(PREFIX): tensor
        for name, tensor in read_checkpoint(path)["state_dict"].items()
        if name.startswith(PREFIX)
    }
    own = model.state_dict()
    different = sorted(own.keys() ^ saved.keys())
    if different:
        side = "lacks" if different[0] in own else "has, and the model lacks,"
        raise CheckpointError(
            f"{path} does not fit the model: it {side} {different[0]!r} "
            f"({len(different)} such names)"
        )
    for name, tensor in own.items():
        if tensor.shape != saved[name].shape:
            raise MismatchError(
                f"{name} has shape {tuple(saved[name].shape)} in {path} and "
                f"{tuple(tensor.shape)} in the model"
            )
    model.load_state_dict(saved)
