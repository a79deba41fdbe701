"""Where a run writes: in its own folder, whatever a configuration or a link in it says."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from smoothcert.errors import InvalidArgumentError
from smoothcert.records import check_links, lies_in

FOLDERS = (
    "dirpath",
    "path",
    "folder",
    "save_dir",
    "dir",
    "root_dir",
    "default_root_dir",
    "log_dir",
    *("artifact_location", "exclude_batches_path", "nvme_path", "offline_directory"),
)
"""Settings of callbacks, loggers and trainers that name a folder to write to."""
WRITING = ("callbacks", "logger", "trainer")
"""Parts that write, in places that their settings name."""
WRITERS = ("pytorch_lightning", "lightning_fabric", "smoothcert.lightning", "smoothcert.report")
"""Beginnings of what may be called in these parts alone."""
NAMES = ("filename", "name", "version", "sub_dir")
"""Settings that name a file or a folder in such a one."""


def check_places(cfg: DictConfig) -> None:
    """Refuse a training that would write outside of its run folder.

    Args:
        cfg: a configuration of `conf/train.yaml`; Hydra's own says which folder is the run's.

    Raises:
        InvalidArgumentError: if a part writes elsewhere.
        RecordsError: if a link in the folder leads elsewhere.
    """
    folder = Path(HydraConfig.get().runtime.output_dir)
    check_links(folder)
    for key, value, place in [("paths.run", cfg.paths.run, cfg.paths.run), *_places(cfg, folder)]:
        if not lies_in(folder, place):
            raise InvalidArgumentError(
                f"Expected `{key}` inside the run folder {folder}, got {str(value)!r}"
            )
    _check_writers(cfg)


def _check_writers(cfg: DictConfig) -> None:
    """Refuse what writes in parts whose settings are not looked at, such as the model's."""
    others = {str(name): resolved(part) for name, part in cfg.items() if name not in WRITING}
    for names, value in leaves(others):
        if names[-1] == "_target_" and str(value).startswith(WRITERS):
            raise InvalidArgumentError(
                f"Expected {value} in {', '.join(WRITING)}, got it in `{'.'.join(names[:-1])}`"
            )


def _places(cfg: DictConfig, folder: Path) -> Iterator[tuple[str, Any, str]]:
    """Yield every setting that says where something is written, its value, and where that is."""
    parts = {name: resolved(cfg.get(name)) for name in WRITING}
    for names, value in leaves(parts):
        if names[-1] in FOLDERS and value is not None:
            yield ".".join(names), value, os.path.expanduser(str(value))  # noqa: PTH111
        elif names[-1] == "default_root_dir":
            # Without a folder of its own the trainer writes where it is started.
            yield ".".join(names), value, "."
        elif names[-1] in NAMES and value is not None:
            yield ".".join(names), value, str(folder / str(value))


def leaves(values: Any, names: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield every value that holds no others, with the names that lead to it.

    Args:
        values: mappings and lists in each other.
        names: what leads to them.

    Example:
        >>> list(leaves({"a": {"b": 1}, "c": [2]}))
        [(('a', 'b'), 1), (('c', '0'), 2)]
    """
    if isinstance(values, Mapping) and values:
        for name, value in values.items():
            yield from leaves(value, (*names, str(name)))
    elif isinstance(values, list | tuple) and values:
        for place, value in enumerate(values):
            yield from leaves(value, (*names, str(place)))
    else:
        yield names, values


def resolved(value: Any) -> Any:
    """Return a part of a configuration with all interpolations resolved.

    Args:
        value: a part, or a plain value.

    Example:
        >>> resolved(OmegaConf.create({"a": 1, "b": "${a}"}))
        {'a': 1, 'b': 1}
    """
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
