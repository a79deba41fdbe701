"""Weights from files, in the layouts that the field uses, with errors that say what is wrong.

| layout | from |
|---|---|
| `{state_dict: {model.1.conv1.weight, …}}` | our own runs (Lightning) |
| `{epoch, arch, state_dict: {1.conv1.weight, …}, optimizer}` | Cohen, Salman, Jeong: CIFAR-10 |
| `{…, state_dict: {1.module.conv1.weight, …}}` | the same, ImageNet |
| `{net: {conv1.weight, …}, epoch}` | MACER |
| `{model: {…}}`, `{model_state_dict: {…}}`, … | others |
| `{conv1.weight, …}` | a plain state_dict, as torchvision and timm publish |

Whatever stands in front of all names is taken off; see `smoothcert.models.matching`.
Normalisation comes first in all of them, and no file records it: it is the model's, see
`smoothcert.models.with_normalization`.
"""

import argparse
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from smoothcert.errors import CheckpointError, MismatchError
from smoothcert.models.matching import Match, match_names
from smoothcert.models.submodules import names_below

logger = logging.getLogger(__name__)

WRAPPED = ("state_dict", "net", "model")
"""Keys under which files keep their weights; others are looked for where none of these has any."""
NUMBERS = "?bBhHiIlLqQefd"
"""Codes of NumPy's types that are numbers alone."""
NUMPY: Any = import_module("numpy._core.multiarray")
ALLOWED: list[Any] = [
    (argparse.Namespace, "argparse.Namespace"),
    (np.ndarray, "numpy.ndarray"),
    (np.dtype, "numpy.dtype"),
    *(
        (getattr(NUMPY, name), f"numpy.{core}.multiarray.{name}")
        # As NumPy 1 and 2 call it.
        for core in ("core", "_core")
        for name in ("scalar", "_reconstruct")
    ),
    *((kind, f"numpy.dtypes.{kind.__name__}") for kind in {type(np.dtype(n)) for n in NUMBERS}),
]
"""What files keep next to weights and none of whose code is the file's: settings and numbers."""
UNSAFE = re.compile(r"nsupported (?:global: )?GLOBAL (\S+)|but got <class '([\w.]+)'>")
"""How torch says that a file would need code to be read."""
REASON = re.compile(r"WeightsUnpickler error: (.*)")
ELSEWHERE = re.compile(r"::|://|(^|[/\\])\.\.([/\\]|$)")
"""Paths of another file system, or that lead out of the folder that they begin with."""


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint of any of the layouts, without running any code that it might hold.

    Args:
        path: the file.

    Returns:
        Its contents, with the weights under `state_dict`.

    Raises:
        CheckpointError: if it is missing, truncated or no checkpoint, or if files that it calls its
            own lie elsewhere; the file is left alone.
    """
    if not path.is_file():
        raise CheckpointError(f"No checkpoint at {path}")
    try:
        with torch.serialization.safe_globals(ALLOWED):
            contents = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises half a dozen unrelated kinds here
        if found := UNSAFE.search(str(error)):
            raise CheckpointError(
                f"{path} holds objects besides tensors and plain values ({found[1] or found[2]}), "
                "and reading them could run code. Where you trust it, save its state_dict alone"
            ) from error
        reason = REASON.search(str(error)) or re.match("(.*)", str(error))
        raise CheckpointError(
            f"{path} is damaged or no checkpoint ({type(error).__name__}: {reason and reason[1]}). "
            "The file was left as it is"
        ) from error
    found = dict(_state_dicts(contents))
    key = next((key for key in (*WRAPPED, "") if key in found), None)
    if key is None and len(found) > 1:
        raise CheckpointError(
            f"{path} contains several state dicts, under `{'`, `'.join(found)}`: save the one that "
            "is meant alone"
        )
    if not found:
        raise CheckpointError(
            f"{path} contains no state dict: no tensors by name, under any key or by themselves"
        )
    others = contents if key != "" else {}
    _check_places(others.get("callbacks"), path)
    return {**others, "state_dict": found[next(iter(found)) if key is None else key]}


def load_weights(model: nn.Module, path: Path, reinitialize: Sequence[str] = ()) -> None:
    """Load weights from a file of any of the layouts.

    Args:
        model: a network with normalisation in front.
        path: the file.
        reinitialize: parts of the network that keep their present weights, for example `fc`.

    Raises:
        CheckpointError: if the file cannot be read, or lacks a part of the model.
        MismatchError: if a part of the model has another shape in the file.
        InvalidArgumentError: if the model has no part of a name in `reinitialize`.

    Example:
        >>> import tempfile
        >>> network = nn.Sequential(nn.Identity(), nn.Linear(2, 2))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "checkpoint.pth.tar"
        ...     torch.save({"arch": "linear", "state_dict": network[1].state_dict()}, path)
        ...     load_weights(network, path)
    """
    own = model.state_dict()
    checkpoint = read_checkpoint(path)
    try:
        match = match_names(own, checkpoint["state_dict"], names_below(model, reinitialize))
    except MismatchError as error:
        raise MismatchError(f"{path}: {error}") from error
    arch = checkpoint.get("arch")
    _check_match(
        match, own, path, "" if arch is None else f"; the file says that it is of arch {arch!r}"
    )
    _say_how(match, checkpoint["state_dict"], path)
    model.load_state_dict({**own, **match.weights})


def _check_places(callbacks: Any, path: Path) -> None:
    """Refuse states of callbacks that name files elsewhere.

    Lightning removes the checkpoints that it wrote before, as the last one names them, and takes
    `checkpoints/../../thesis` for one of them.
    """
    # Callbacks themselves are named by their settings.
    for text in _texts(list(callbacks.values()) if isinstance(callbacks, Mapping) else ()):
        if ELSEWHERE.search(text):
            raise CheckpointError(
                f"{path} names {text!r} as a checkpoint of its own, and going on would remove that"
            )


def _texts(values: Any) -> Iterator[str]:
    if isinstance(values, str):
        yield values
    elif isinstance(values, Mapping):
        yield from _texts([*values, *values.values()])
    elif isinstance(values, list | tuple):
        for value in values:
            yield from _texts(value)


def _check_match(match: Match, own: Mapping[str, Tensor], path: Path, says: str) -> None:
    faults = [
        f"{verb} {names[0]!r} ({len(names)} such names)"
        for verb, names in (("lacks", match.lacking), ("has, and the model lacks,", match.foreign))
        if names
    ]
    if faults:
        raise CheckpointError(f"{path} does not fit the model: it {' and it '.join(faults)}{says}")
    for name in match.misshapen:
        full = match.front + name
        raise MismatchError(
            f"{name} has shape {tuple(match.weights[full].shape)} in {path} and "
            f"{tuple(own[full].shape)} in the model{says}"
        )


def _say_how(match: Match, saved: Mapping[str, Tensor], path: Path) -> None:
    """Say what is not read as it stands; a whole network that is left out may be a mistake."""
    for theirs, ours in match.renamed.items():
        logger.info("%s: its part %r is taken for the model's %r", path, theirs, ours)
    if match.aside:
        large = any(saved[name].dim() > 1 for name in match.aside if name in saved)
        logger.log(
            logging.WARNING if large else logging.INFO,
            "%s: tensors that are not under %r are left out, %d of them, for example %r",
            path,
            match.prefix,
            len(match.aside),
            match.aside[0],
        )


def _state_dicts(
    values: Any, keys: tuple[str, ...] = ()
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yield what is a state dict in a file, by the keys that lead there."""
    if _are_weights(values):
        yield ".".join(keys), values
    elif isinstance(values, dict):
        for key, value in values.items():
            if isinstance(key, str):
                yield from _state_dicts(value, (*keys, key))


def _are_weights(weights: Any) -> bool:
    return (
        isinstance(weights, dict)
        and len(weights) > 0
        and all(isinstance(n, str) and isinstance(t, Tensor) for n, t in weights.items())
    )
