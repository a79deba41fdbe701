"""Weights from files, in the layouts that the field uses, with errors that say what does not fit.

| layout | from |
|---|---|
| `{state_dict: {model.1.conv1.weight, …}}` | runs of smoothcert (Lightning) |
| `{epoch, arch, state_dict: {1.conv1.weight, …}, optimizer}` | Cohen, Salman, Jeong: CIFAR-10 |
| `{…, state_dict: {1.module.conv1.weight, …}}` | the same, ImageNet |
| `{net: {conv1.weight, …}, epoch}` | MACER |
| `{model: {…}}`, `{model_state_dict: {…}}`, … | others |
| `{conv1.weight, …}` | a plain state_dict, as torchvision and timm publish |

A prefix of all names is removed; see `smoothcert.models.matching`. All of these networks begin with
normalisation, and no file records which: it is a setting of the model, see
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
"""Usual keys of weights in files; other keys are searched if none of these has weights."""
NUMBERS = "?bBhHiIlLqQefd"
"""Codes of NumPy's types that are numbers alone."""
NUMPY: Any = import_module("numpy._core.multiarray")
ALLOWED: list[Any] = [
    (argparse.Namespace, "argparse.Namespace"),
    (np.ndarray, "numpy.ndarray"),
    (np.dtype, "numpy.dtype"),
    *(
        (getattr(NUMPY, name), f"numpy.{core}.multiarray.{name}")
        # The names in NumPy 1 and 2.
        for core in ("core", "_core")
        for name in ("scalar", "_reconstruct")
    ),
    *((kind, f"numpy.dtypes.{kind.__name__}") for kind in {type(np.dtype(n)) for n in NUMBERS}),
]
"""Types that may accompany weights: settings and numbers, which load without code from the file."""
UNSAFE = re.compile(r"nsupported (?:global: )?GLOBAL (\S+)|but got <class '([\w.]+)'>")
"""Torch's messages about files whose reading would run code."""
REASON = re.compile(r"WeightsUnpickler error: (.*)")
ELSEWHERE = re.compile(r"::|://|(^|[/\\])\.\.([/\\]|$)")
"""Paths on other file systems, and paths with `..`, which may leave their folder."""


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint of any of the layouts, without running any code that it may contain.

    Args:
        path: the file.

    Returns:
        Its contents, with the weights under `state_dict`.

    Raises:
        CheckpointError: if it is missing, truncated or not a checkpoint, or names files in other
            places as its own; the file is not changed.
    """
    if not path.is_file():
        raise CheckpointError(f"No checkpoint at {path}")
    try:
        with torch.serialization.safe_globals(ALLOWED):
            contents = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises several unrelated types here
        if found := UNSAFE.search(str(error)):
            raise CheckpointError(
                f"{path} contains objects other than tensors and plain values "
                f"({found[1] or found[2]}), and reading them could run code. If you "
                "trust it, save its state_dict alone"
            ) from error
        reason = REASON.search(str(error)) or re.match("(.*)", str(error))
        raise CheckpointError(
            f"{path} is damaged or not a checkpoint ({type(error).__name__}: "
            f"{reason and reason[1]}). The file was not changed"
        ) from error
    found = dict(_state_dicts(contents))
    key = next((key for key in (*WRAPPED, "") if key in found), None)
    if key is None and len(found) > 1:
        raise CheckpointError(
            f"{path} contains several state dicts, under `{'`, `'.join(found)}`: save only the "
            "intended one"
        )
    if not found:
        raise CheckpointError(
            f"{path} contains no state dict (looked under every key and at the top level)"
        )
    rest = contents if key != "" else {}
    _check_paths(rest.get("callbacks"), path)
    return {**rest, "state_dict": found[next(iter(found)) if key is None else key]}


def load_weights(model: nn.Module, path: Path, reinitialize: Sequence[str] = ()) -> None:
    """Load weights from a file of any of the layouts.

    Args:
        model: a network with normalisation in front.
        path: the file.
        reinitialize: parts of the network that keep their current weights, for example `fc`.

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
    _check_match(match, own, path, "" if arch is None else f"; the file records arch {arch!r}")
    _log_match(match, checkpoint["state_dict"], path)
    model.load_state_dict({**own, **match.weights})


def _check_paths(callbacks: Any, path: Path) -> None:
    """Refuse states of callbacks that name files in other places.

    Lightning deletes earlier checkpoints by the names that the last one records, and would delete
    `checkpoints/../../thesis` too.
    """
    # Only the values: each key holds the settings of its callback.
    for text in _texts(list(callbacks.values()) if isinstance(callbacks, Mapping) else ()):
        if ELSEWHERE.search(text):
            raise CheckpointError(
                f"{path} names {text!r} as a checkpoint of its own, and resuming would delete "
                "that file"
            )


def _texts(values: Any) -> Iterator[str]:
    if isinstance(values, str):
        yield values
    elif isinstance(values, Mapping):
        yield from _texts([*values, *values.values()])
    elif isinstance(values, list | tuple):
        for value in values:
            yield from _texts(value)


def _check_match(match: Match, own: Mapping[str, Tensor], path: Path, arch: str) -> None:
    faults = [
        f"{side} lacks {names[0]!r} ({len(names)} such names)"
        for side, names in (("the file", match.lacking), ("the model", match.foreign))
        if names
    ]
    if faults:
        raise CheckpointError(f"{path} does not fit the model: {' and '.join(faults)}{arch}")
    for name in match.misshapen:
        full = match.front + name
        raise MismatchError(
            f"{name} has shape {tuple(match.weights[full].shape)} in {path} and "
            f"{tuple(own[full].shape)} in the model{arch}"
        )


def _log_match(match: Match, saved: Mapping[str, Tensor], path: Path) -> None:
    """Log renamed and omitted tensors, with a warning if an entire network may be omitted."""
    for file_name, model_name in match.renamed.items():
        logger.info("%s: part %r is loaded as the model's %r", path, file_name, model_name)
    if match.aside:
        large = any(saved[name].dim() > 1 for name in match.aside if name in saved)
        logger.log(
            logging.WARNING if large else logging.INFO,
            "%s: %d tensors outside %r are left out, for example %r",
            path,
            len(match.aside),
            match.prefix,
            match.aside[0],
        )


def _state_dicts(
    values: Any, keys: tuple[str, ...] = ()
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yield the state dicts in a file, each with its path of keys."""
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
