"""Overrides as Hydra and a shell take them, ranges of settings, and the resolvers of `conf/`."""

import math
import re
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from io import StringIO
from itertools import pairwise
from pathlib import Path
from textwrap import fill
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from smoothcert.commands.security import LARGEST_YAML, check_yaml, environment
from smoothcert.errors import (
    InvalidArgumentError,
    RecordsError,
    require_count,
    require_positive,
    require_probability,
)
from smoothcert.records import RunFolder, read_bounded

HELP_WIDTH = 80
SEEDS = 2**32
"""NumPy takes smaller ones."""
LONGEST_FOLDER_NAME = 200


def for_sigma(sigma: float, table: Mapping[float, Any]) -> Any:
    """Return a table's value at the published σ that is nearest to the given one.

    Configurations call it as `${for_sigma:${sigma},{0.25:…,0.5:…,1.0:…}}`: papers tune a few
    values of σ, and a sweep asks for others too.

    Args:
        sigma: standard deviation of the noise.
        table: values by σ.

    Example:
        >>> for_sigma(0.12, {0.25: "a", 0.5: "b", 1.0: "c"})
        'a'
    """
    return table[min(table, key=lambda published: abs(published - sigma))]


def folder_name(number: int, overrides: str) -> str:
    """Return a folder name for a job of a sweep: its number and what it overrides.

    Args:
        number: number of the job.
        overrides: Hydra's `override_dirname`, without what all jobs share.

    Example:
        >>> folder_name(2, "data.root=/a/b,sigma=0.5")
        '2_data.root-_a_b_sigma-0.5'
        >>> folder_name(0, "")
        '0'
    """
    return f"{number}{suffix(overrides)}"[:LONGEST_FOLDER_NAME]


def suffix(overrides: str) -> str:
    """Return overrides as the end of a folder name, empty where there are none.

    Args:
        overrides: Hydra's `override_dirname`.

    Example:
        >>> suffix("certifier=cohen,n=1000"), suffix("shard=1/4"), suffix("")
        ('_certifier-cohen_n-1000', '_shard-1-of-4', '')
    """
    return f"_{_plain(overrides)}"[:LONGEST_FOLDER_NAME] if overrides else ""


def _plain(text: str) -> str:
    """Return a text with the characters alone that Hydra and shells take without quotes."""
    text = re.sub(r"\b(shard=\d+)/(\d+)", r"\1-of-\2", text)
    # Character by character: names of n=1 and n=-1 differ by their length.
    return re.sub(r"[^\w.+-]", "-", re.sub("[,/]", "_", text), flags=re.ASCII)


def epochs_within(passes: int, each: int) -> int:
    """Return how many epochs a number of passes allows, at least one.

    Args:
        passes: passes of each image over the whole training.
        each: passes of each image in a step.

    Example:
        >>> epochs_within(12, 5)
        2
    """
    return max(1, passes // each)


def path_name(path: str) -> str:
    """Return a path as the name of a folder.

    Args:
        path: any path; of a long one the end is kept.

    Example:
        >>> path_name("models/noise_0.25/checkpoint.pth.tar")
        'models_noise_0.25_checkpoint.pth.tar'
    """
    return _plain(path.strip("/."))[-LONGEST_FOLDER_NAME:]


def sweep_or(mode: object, folder: str, name: str) -> str:
    """Return the name of the sweep that a run is a job of, or of its experiment.

    Args:
        mode: Hydra's mode.
        folder: the run folder.
        name: name of the experiment.

    Example:
        >>> sweep_or("RunMode.MULTIRUN", "outputs/sweeps/2026-01-31/0_sigma-0.5", "cifar_reg")
        '2026-01-31'
        >>> sweep_or(None, "outputs/cifar_reg/2026-01-31", "cifar_reg")
        'cifar_reg'
    """
    return Path(folder).parent.name if str(mode).endswith("MULTIRUN") else name


def bar_every(terminal: int, file: int) -> int:
    """Return how many steps a progress bar moves at: a log file gets fewer lines than a terminal.

    Args:
        terminal: steps, where a person looks on.
        file: steps, where the output goes elsewhere.
    """
    return terminal if sys.stdout.isatty() else file


def options(*groups: str) -> str:
    """Return the options of configuration groups, as `--help` shows them.

    Args:
        groups: their names, in order.
    """
    loader = GlobalHydra.instance().config_loader()
    listed = [f"{group:<21} {', '.join(loader.get_group_options(group))}" for group in groups]
    return "\n".join(
        fill(line, HELP_WIDTH, initial_indent="  ", subsequent_indent=" " * 24) for line in listed
    )


OmegaConf.register_new_resolver("oc.env", environment, replace=True)
OmegaConf.register_new_resolver("options", options, replace=True)
OmegaConf.register_new_resolver("for_sigma", for_sigma, replace=True)
OmegaConf.register_new_resolver("epochs_within", epochs_within, replace=True)
OmegaConf.register_new_resolver("bar_every", bar_every, replace=True)
OmegaConf.register_new_resolver("path_name", path_name, replace=True)
OmegaConf.register_new_resolver("suffix", suffix, replace=True)
OmegaConf.register_new_resolver("folder_name", folder_name, replace=True)
OmegaConf.register_new_resolver("sweep_or", sweep_or, replace=True)


def check(cfg: DictConfig) -> None:
    """Refuse what no part could use, before anything is loaded.

    Args:
        cfg: a configuration with `sigma`, `alpha` and `seed`.

    Raises:
        InvalidArgumentError: if one of its own settings is out of range.

    Example:
        >>> check(OmegaConf.create({"sigma": 0.25, "alpha": 0.001, "seed": 0}))
    """
    require_positive("sigma", cfg.sigma)
    require_probability("alpha", cfg.alpha)
    require_count("seed", cfg.seed, minimum=0)
    if cfg.seed >= SEEDS:
        raise InvalidArgumentError(f"Expected `seed` below {SEEDS}, got {cfg.seed}")
    check_given(cfg)


def check_given(cfg: DictConfig) -> None:
    """Refuse settings out of range, of a configuration in which null leaves them to a run.

    Args:
        cfg: a configuration of any command.

    Raises:
        InvalidArgumentError: if a setting is out of range.

    Example:
        >>> check_given(OmegaConf.create({"sigma": None, "skip": 20}))
    """
    given = {name: cfg[name] for name in RANGES.keys() & cfg.keys() if cfg[name] is not None}
    for name in sorted(given):
        RANGES[name](name, given[name])
    if cfg.get("radii") is not None:
        checked_radii(cfg.radii)


def checked_radii(asked: Any) -> list[float]:
    """Return the radii of a configuration.

    Raises:
        InvalidArgumentError: if they are no list of numbers >= 0 that increase.

    Example:
        >>> checked_radii([0, 0.5])
        [0.0, 0.5]
    """
    try:
        radii = [] if isinstance(asked, str) else [float(radius) for radius in asked]
    except (TypeError, ValueError):
        radii = []
    rising = all(low < high for low, high in pairwise(radii))
    if not radii or not rising or not all(0 <= radius < math.inf for radius in radii):
        raise InvalidArgumentError(
            f"Expected `radii` a list of numbers >= 0 that increase, such as [0,0.5,1], got {asked}"
        )
    return radii


RANGES: dict[str, Callable[[str, Any], None]] = {
    **dict.fromkeys(("sigma", "max_hours"), require_positive),
    "alpha": require_probability,
    **dict.fromkeys(("seed", "start"), partial(require_count, minimum=0)),
    "num_classes": partial(require_count, minimum=2),
    **dict.fromkeys(
        (
            *("n0", "n", "skip", "max_images", "num_nodes", "passes", "validation_draws"),
            *("images", "repeats", "reference_batches", "art_samples"),
        ),
        require_count,
    ),
}
"""What commands' own settings have to be."""


def quoted(key: str, value: str) -> str:
    """Return an override as Hydra takes it, its value in quotes where they are needed.

    Args:
        key: what to override.
        value: the value, a text.

    Example:
        >>> quoted("run", "outputs/sweeps/0_sigma-0.5"), quoted("run", "0_sigma=0.5,seed=1")
        ('run=outputs/sweeps/0_sigma-0.5', "run='0_sigma=0.5,seed=1'")
    """
    try:
        if OverridesParser.create().parse_override(f"{key}={value}").value() == value:
            return f"{key}={value}"
    except HydraException:
        pass
    return f"{key}={QuotedString(value, Quote.single).with_quotes()}"


def typed(key: str, value: str) -> str:
    """Return an override as it is typed into a shell.

    Args:
        key: what to override.
        value: the value, a text.

    Example:
        >>> print(typed("run", "outputs/a=b"), typed("runs", "outputs/**"))
        "run='outputs/a=b'" 'runs=outputs/**'
    """
    override = quoted(key, value)
    if "'" in override and not set('"$`\\!') & set(override):
        return f'"{override}"'
    return shlex.quote(override)


def names_checkpoint(arguments: Sequence[str]) -> bool:
    """Return whether a command line is about a checkpoint file, not about a run.

    Args:
        arguments: the command line.

    Example:
        >>> names_checkpoint(["src/certify.py", "ckpt=checkpoint.pth.tar", "model=resnet110"])
        True
    """
    return any(argument.startswith("ckpt=") for argument in arguments)


def read_yaml(run: RunFolder, name: str) -> Any:
    """Return a file that Hydra wrote into a run folder.

    Args:
        run: the run folder.
        name: `config`, `overrides` or `hydra`.

    Raises:
        InvalidArgumentError: if it is not there.
        RecordsError: if it is damaged.
    """
    path = run.configuration(name)
    if not path.is_file():
        raise InvalidArgumentError(
            f"Expected a run folder, got {str(run)!r}: it has no {path.relative_to(run.path)}"
        )
    try:
        text = read_bounded(path, LARGEST_YAML).decode()
        check_yaml(text)
        return OmegaConf.load(StringIO(text))
    except (OSError, ValueError, RecursionError, YAMLError, OmegaConfBaseException) as error:
        raise RecordsError(f"{path} is damaged: {error}") from error


def overrides_of(run: RunFolder) -> list[str]:
    """Return the overrides that a run was started with.

    Args:
        run: the run folder.

    Raises:
        InvalidArgumentError: if it is no run folder.
        RecordsError: if the file is damaged.
    """
    listed = read_yaml(run, "overrides")
    if not isinstance(listed, ListConfig):
        raise RecordsError(f"{run.configuration('overrides')} is damaged: expected a list")
    # As they stand: what they interpolate is Hydra's to find.
    overrides: Any = OmegaConf.to_container(listed)
    return [str(override) for override in overrides]
