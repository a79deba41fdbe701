"""Weights from files, in the layouts that the field uses, with errors that say what is wrong.

| layout | from |
|---|---|
| `{state_dict: {model.1.conv1.weight, …}}` | our own runs (Lightning) |
| `{epoch, arch, state_dict: {1.conv1.weight, …}, optimizer}` | Cohen, Salman, Jeong: CIFAR-10 |
| `{…, state_dict: {1.module.conv1.weight, …}}` | the same, ImageNet |
| `{net: {conv1.weight, …}, epoch}` | MACER |
| `{model: {…}}` | others |
| `{conv1.weight, …}` | a plain state_dict, as torchvision and timm publish |

Normalisation comes first in all of them, and no file records it: it is the model's, see
`smoothcert.models.with_normalization`.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from smoothcert.errors import CheckpointError, MismatchError
from smoothcert.models.parts import names_below

LIGHTNING = "model."
NETWORK = "1."
WRAPPERS = ("module", "_orig_mod")
"""What `DataParallel` and `torch.compile` add to the names of the parts that they wrap."""
WRAPPED = ("state_dict", "net", "model")
"""Keys under which files keep their weights."""
UNSAFE = re.compile(r"Unsupported global: GLOBAL (\S+)")
"""How torch says that a file would need code to be read."""
ELSEWHERE = re.compile(r"::|://|(^|[/\\])\.\.([/\\]|$)")
"""Paths of another file system, or that lead out of the folder that they begin with."""
UNUSED = "num_batches_tracked"
"""A counter that no forward pass in eval mode reads; files of 2018 do not have it."""


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
        contents = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises half a dozen unrelated kinds here
        if found := UNSAFE.search(str(error)):
            raise CheckpointError(
                f"{path} holds objects besides tensors and plain values ({found[1]}), and reading "
                "them could run code. Where you trust it, save its state_dict alone"
            ) from error
        raise CheckpointError(
            f"{path} is damaged or no checkpoint ({type(error).__name__}: {error}). "
            "The file was left as it is"
        ) from error
    if isinstance(contents, dict):
        _check_places(contents.get("callbacks"), path)
        for weights in (*(contents.get(key) for key in WRAPPED), contents):
            if _are_weights(weights):
                return {**(contents if weights is not contents else {}), "state_dict": weights}
    raise CheckpointError(
        f"{path} holds no tensors by name, neither under `{'`, `'.join(WRAPPED)}` nor by themselves"
    )


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
    saved = _renamed(checkpoint["state_dict"], own.keys())
    kept = names_below(model, reinitialize)
    saved = {name: tensor for name, tensor in saved.items() if name not in kept}
    arch = checkpoint.get("arch")
    says = "" if arch is None else f"; the file says that it is of arch {arch!r}"
    _check_names(own.keys() - kept, saved.keys(), path, says)
    for name, tensor in saved.items():
        if tensor.shape != own[name].shape:
            raise MismatchError(
                f"{name} has shape {tuple(tensor.shape)} in {path} and "
                f"{tuple(own[name].shape)} in the model{says}"
            )
    model.load_state_dict({**own, **saved})


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


def _check_names(own: Iterable[str], saved: Iterable[str], path: Path, says: str) -> None:
    lacking = sorted(name for name in set(own) - set(saved) if not name.endswith(UNUSED))
    foreign = sorted(set(saved) - set(own))
    faults = [
        f"{verb} {names[0]!r} ({len(names)} such names)"
        for verb, names in (("lacks", lacking), ("has, and the model lacks,", foreign))
        if names
    ]
    if faults:
        raise CheckpointError(f"{path} does not fit the model: it {' and it '.join(faults)}{says}")


def _are_weights(weights: Any) -> bool:
    return (
        isinstance(weights, dict)
        and len(weights) > 0
        and all(isinstance(n, str) and isinstance(t, Tensor) for n, t in weights.items())
    )


def _renamed(weights: dict[str, Tensor], own: Iterable[str]) -> dict[str, Tensor]:
    """Return the weights by the model's names, read in the way that fits them best."""
    own = set(own)
    candidates = [
        {name: tensor for key, tensor in weights.items() if (name := read(key)) is not None}
        for read in READINGS
    ]
    return max(candidates, key=lambda candidate: len(own & candidate.keys()))


def _without_wrappers(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def _of_lightning(name: str) -> str | None:
    # Metrics and the like stand beside the model.
    return name.removeprefix(LIGHTNING) if name.startswith(LIGHTNING) else None


def _of_wrapped_lightning(name: str) -> str | None:
    return _of_lightning(_without_wrappers(name))


def _of_network(name: str) -> str:
    return NETWORK + name


def _of_wrapped_network(name: str) -> str:
    return NETWORK + _without_wrappers(name)


READINGS: tuple[Callable[[str], str | None], ...] = (
    str,
    _of_lightning,
    _without_wrappers,
    _of_wrapped_lightning,
    _of_network,
    _of_wrapped_network,
)
"""Ways to read a file's names; of two that fit equally well, the first."""
