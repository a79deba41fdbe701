"""Options of `conf/model` that fit the weights in a file."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from smoothcert.models import match_names, read_checkpoint
from smoothcert.models.matching import UNUSED
from smoothcert.models.resnet_cifar import DEFAULT_SHORTCUT, SHORTCUTS

WIDTHS = ("width", "factor")
"""Settings proportional to the number of inputs of the last layer."""
BLOCK = 6
"""Smallest step of a `depth`, in layers."""


def shortcut_of(path: Path, config: DictConfig, shape: tuple[int, ...]) -> str | None:
    """Return the `shortcut` of the network in a checkpoint; None: the default.

    Args:
        path: a checkpoint.
        config: settings of a network that has a `shortcut`.
        shape: shape of an image.
    """
    weights = read_checkpoint(path)["state_dict"]

    def faults(shortcut: str) -> int:
        match = match_names(_outline(_changed(config, shortcut=shortcut), shape, 10), weights)
        return len(match.lacking) + len(match.foreign)

    return "A" if faults("A") < faults("B") else None


def fitting_model(path: Path, shape: tuple[int, ...]) -> tuple[str, int] | None:
    """Return the overrides for the network in a checkpoint, and its number of classes.

    Args:
        path: a checkpoint.
        shape: shape of an image.

    Returns:
        For example `("model=resnet20 model.depth=32", 100)`; None if it fits none.
    """
    weights = read_checkpoint(path)["state_dict"]
    outputs = [len(tensor) for tensor in weights.values() if tensor.dim() == 2]
    choices = HydraConfig.get().runtime.choices if HydraConfig.initialized() else {}
    chosen = f"model={choices.get('model')}"
    found: list[list[str]] = []
    for file in _options() if outputs else ():
        option = OmegaConf.load(file)
        assert isinstance(option, DictConfig), "an option is settings by name"
        # Not networks of other libraries.
        if OmegaConf.is_missing(option, "_target_") or "pretrained" in option:
            continue
        with suppress(InstantiationException):  # The network takes no images of this shape.
            for settings in _variants(option, weights, shape, outputs[-1]):
                outline = _outline(_changed(option, **settings), shape, outputs[-1])
                if match_names(outline, weights).fits:
                    changed = {n: v for n, v in settings.items() if v != option[n]}
                    if changed.get("shortcut") == DEFAULT_SHORTCUT:
                        del changed["shortcut"]
                    overrides = [f"model.{name}={value}" for name, value in changed.items()]
                    found.append([f"model={file.stem}", *overrides])
    if not found:
        return None
    best = min(found, key=lambda each: (len(each), each[0] != chosen))
    return " ".join(best), outputs[-1]


def _options() -> list[Path]:
    """Return the files of `conf/model` in the folder of this command's configuration."""
    if not HydraConfig.initialized():
        return []
    sources = HydraConfig.get().runtime.config_sources
    folders = [Path(source.path) / "model" for source in sources if source.schema == "file"]
    return sorted(path for folder in folders for path in folder.glob("*.yaml"))


def _changed(config: DictConfig, **settings: Any) -> DictConfig:
    return OmegaConf.merge(config, settings)  # pyright: ignore[reportReturnType]


def _outline(config: DictConfig, shape: tuple[int, ...], num_classes: int) -> dict[str, Tensor]:
    """Return the `state_dict` of a network of `conf/model`, without memory for its values."""
    constants = [0.5] * shape[0]
    with torch.device("meta"):
        facts = {"num_classes": num_classes, "input_shape": shape}
        network = instantiate(config, **facts, mean=constants, std=constants, _convert_="all")
    return network.state_dict()


def _variants(
    option: DictConfig, weights: Mapping[str, Tensor], shape: tuple[int, ...], num_classes: int
) -> Iterator[dict[str, Any]]:
    """Yield settings by which an option may get the number of tensors and the widths of a file."""
    for shortcut in SHORTCUTS if "shortcut" in option else (None,):
        settings: dict[str, Any] = {} if shortcut is None else {"shortcut": shortcut}
        outline = _outline(_changed(option, **settings), shape, num_classes)
        match = match_names(outline, weights)
        inputs = [
            [tensor.shape[1] for tensor in each.values() if tensor.dim() == 2][-1]
            for each in (outline, weights)
        ]
        for name in WIDTHS:
            if name in option:
                settings[name] = max(1, option[name] * inputs[1] // inputs[0])
        if "depth" in option:
            deeper = _outline(_changed(option, depth=option.depth + BLOCK), shape, num_classes)
            size, found = _count(outline), _count([*match.weights, *match.foreign])
            blocks = (found - size) // (_count(deeper) - size)
            settings["depth"] = max(option.depth % BLOCK + BLOCK, option.depth + BLOCK * blocks)
        yield settings


def _count(names: Iterable[str]) -> int:
    return sum(not name.endswith(UNUSED) for name in names)
