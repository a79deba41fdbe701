"""Where a run writes: in its own folder, whatever a configuration or a link in it says."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from smoothcert.errors import InvalidArgumentError

FOLDERS = (
    "dirpath",
    "path",
    "folder",
    "save_dir",
    "dir",
    "root_dir",
    "default_root_dir",
    "log_dir",
)
"""Settings of callbacks, loggers and trainers that name a folder to write to."""
NAMES = ("filename", "name", "version", "sub_dir")
"""Settings that name a file or a folder in such a one."""
LINKING = "wandb"
"""W&B links its folder to logs elsewhere, and gives each run a new name in it."""


def check_places(cfg: DictConfig) -> None:
    """Refuse a training that would write outside of its run folder.

    Args:
        cfg: a configuration of `conf/train.yaml`; Hydra's own says which folder is the run's.

    Raises:
        InvalidArgumentError: if a part writes elsewhere, or a link in the folder leads elsewhere.
    """
    folder = Path(HydraConfig.get().runtime.output_dir)
    check_links(folder)
    for key, value, place in [("paths.run", cfg.paths.run, cfg.paths.run), *_places(cfg, folder)]:
        if not lies_in(folder, place):
            raise InvalidArgumentError(
                f"Expected `{key}` inside the run folder {folder}, got {str(value)!r}"
            )


def check_links(run: Path, part: str = "") -> None:
    """Refuse links in a run folder that lead out of it: what is written there would go elsewhere.

    Args:
        run: the run folder, which may itself be a link.
        part: a part of the folder; all of it unless given.

    Raises:
        InvalidArgumentError: if there is one.
    """
    for path in _links(run / part):
        if not lies_in(run, path):
            raise InvalidArgumentError(
                f"Expected files in the run folder {run}, got {path}, a link to "
                f"{os.path.realpath(path)}"
            )


def _places(cfg: DictConfig, folder: Path) -> Iterator[tuple[str, Any, str]]:
    """Yield every setting that says where something is written, its value, and where that is."""
    parts = {name: resolved(cfg.get(name)) for name in ("callbacks", "logger", "trainer")}
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


def lies_in(folder: Path, path: Path | str) -> bool:
    """Return whether a path lies in a folder, or is it; links are followed.

    Args:
        folder: the folder.
        path: what may lie in it.

    Example:
        >>> lies_in(Path("/run"), "/run/a/../b"), lies_in(Path("/run"), "/run/../b")
        (True, False)
    """
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def _links(start: Path) -> Iterator[Path]:
    if start.is_symlink():
        yield start
    for place, folders, files in os.walk(start):
        yield from (path for name in (*folders, *files) if (path := Path(place, name)).is_symlink())
        if Path(place) == start:
            folders[:] = [name for name in folders if name != LINKING]
