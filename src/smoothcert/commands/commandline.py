"""Overrides, ranges of settings, the resolvers of `conf/`, and the files of `.hydra`."""

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
from hydra.core.override_parser.types import Override, Quote, QuotedString
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
"""NumPy requires smaller seeds."""
LONGEST_FOLDER_NAME = 200


def for_sigma(sigma: float, table: Mapping[float, Any]) -> Any:
    """Return a table's value at the published σ that is nearest to the given one.

    Configurations call it as `${for_sigma:${sigma},{0.25:…,0.5:…,1.0:…}}`: papers tune their
    settings for a few values of σ only.

    Args:
        sigma: standard deviation of the noise.
        table: values by σ.

    Example:
        >>> for_sigma(0.12, {0.25: "a", 0.5: "b", 1.0: "c"})
        'a'
    """
    return table[min(table, key=lambda published: abs(published - sigma))]


def folder_name(number: int, overrides: str) -> str:
    """Return a folder name for a job of a sweep: its number and its overrides.

    Args:
        number: number of the job.
        overrides: Hydra's `override_dirname`, without those that all jobs share.

    Example:
        >>> folder_name(2, "data.root=/a/b,sigma=0.5")
        '2_data.root-_a_b_sigma-0.5'
        >>> folder_name(0, "")
        '0'
    """
    return f"{number}{suffix(overrides)}"[:LONGEST_FOLDER_NAME]


def suffix(overrides: str) -> str:
    """Return overrides as the end of a folder name; an empty text without overrides.

    Args:
        overrides: Hydra's `override_dirname`.

    Example:
        >>> suffix("certifier=cohen,n=1000"), suffix("shard=1/4"), suffix("")
        ('_certifier-cohen_n-1000', '_shard-1-of-4', '')
    """
    return f"_{_plain(overrides)}"[:LONGEST_FOLDER_NAME] if overrides else ""


def _plain(text: str) -> str:
    """Replace all characters for which Hydra or a shell needs quotes."""
    text = re.sub(r"\b(shard=\d+)/(\d+)", r"\1-of-\2", text)
    # Each character by one: the names of n=1 and n=-1 differ in length.
    return re.sub(r"[^\w.+-]", "-", re.sub("[,/]", "_", text), flags=re.ASCII)


def epochs_within(passes: int, each: int) -> int:
    """Return the number of epochs for a budget of passes, at least one.

    Args:
        passes: passes of each image through the network over the training.
        each: passes of each image in a step.

    Example:
        >>> epochs_within(12, 5)
        2
    """
    return max(1, passes // each)


def path_name(path: str) -> str:
    """Return a path as the name of a folder.

    Args:
        path: any path; only the end of a long one is kept.

    Example:
        >>> path_name("models/noise_0.25/checkpoint.pth.tar")
        'models_noise_0.25_checkpoint.pth.tar'
    """
    return _plain(path.strip("/."))[-LONGEST_FOLDER_NAME:]


def sweep_or(mode: object, folder: str, name: str) -> str:
    """Return the name of a run's sweep, or of its experiment for a single run.

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
    """Return the number of steps between two updates of a progress bar.

    Args:
        terminal: steps, if the output is a terminal.
        file: steps, if it is something else, such as a log file.
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
for _resolver in (
    bar_every,
    epochs_within,
    folder_name,
    for_sigma,
    options,
    path_name,
    suffix,
    sweep_or,
):
    OmegaConf.register_new_resolver(_resolver.__name__, _resolver, replace=True)


def check(cfg: DictConfig) -> None:
    """Refuse settings out of range, before anything is loaded.

    Args:
        cfg: a configuration with `sigma`, `alpha` and `seed`.

    Raises:
        InvalidArgumentError: if a setting of the command itself is out of range.

    Example:
        >>> check(OmegaConf.create({"sigma": 0.25, "alpha": 0.001, "seed": 0}))
    """
    for name in ("sigma", "alpha", "seed"):
        RANGES[name](name, cfg[name])
    if cfg.seed >= SEEDS:
        raise InvalidArgumentError(f"Expected `seed` below {SEEDS}, got {cfg.seed}")
    check_given(cfg)


def check_given(cfg: DictConfig) -> None:
    """Refuse settings out of range, in a configuration whose null settings come from a run.

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


def checked_radii(values: Any) -> list[float]:
    """Return the radii of a configuration.

    Args:
        values: the setting.

    Raises:
        InvalidArgumentError: if it is not an increasing list of numbers >= 0.

    Example:
        >>> checked_radii([0, 0.5])
        [0.0, 0.5]
    """
    try:
        radii = [] if isinstance(values, str) else [float(radius) for radius in values]
    except (TypeError, ValueError):
        radii = []
    rising = all(low < high for low, high in pairwise(radii))
    if not radii or not rising or not all(0 <= radius < math.inf for radius in radii):
        raise InvalidArgumentError(
            f"Expected `radii` an increasing list of numbers >= 0, such as [0,0.5,1], got {values}"
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
"""Checks of the settings of the commands themselves, which raise `InvalidArgumentError`."""


def quoted(key: str, value: str) -> str:
    """Return an override for Hydra, with quotes around the value where Hydra needs them.

    Args:
        key: the setting.
        value: its value, a text.

    Example:
        >>> quoted("run", "outputs/sweeps/0_sigma-0.5"), quoted("run", "0_sigma=0.5,seed=1")
        ('run=outputs/sweeps/0_sigma-0.5', "run='0_sigma=0.5,seed=1'")
    """
    override = parsed(f"{key}={value}")
    if override is not None and override.value() == value:
        return f"{key}={value}"
    return f"{key}={QuotedString(value, Quote.single).with_quotes()}"


def parsed(override: str) -> Override | None:
    """Return an override as parsed by Hydra; None if Hydra cannot parse it.

    Args:
        override: such as `sigma=0.5`.

    Example:
        >>> parsed("title=CIFAR-10 (JPEG copy)") is None
        True
    """
    try:
        return OverridesParser.create().parse_override(override)
    except HydraException:
        return None


def typed(key: str, value: str) -> str:
    """Return an override to type into a shell.

    Args:
        key: the setting.
        value: its value, a text.

    Example:
        >>> print(typed("run", "outputs/a=b"), typed("runs", "outputs/**"))
        "run='outputs/a=b'" 'runs=outputs/**'
    """
    override = quoted(key, value)
    if "'" in override and not set('"$`\\!') & set(override):
        return f'"{override}"'
    return shlex.quote(override)


def names_checkpoint(arguments: Sequence[str]) -> bool:
    """Return whether a command line names a checkpoint file, not a run.

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
        InvalidArgumentError: if the file is missing.
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
    # Not resolved: the values that they interpolate are Hydra's.
    overrides: Any = OmegaConf.to_container(listed)
    return [str(override) for override in overrides]


def choices_of(run: RunFolder) -> dict[str, str]:
    """Return the option that a run uses of each group of `conf/`.

    Args:
        run: the run folder.

    Raises:
        InvalidArgumentError: if it is no run folder.
        RecordsError: if the file is damaged.
    """
    # Not resolved: nothing in this file has been checked.
    saved: Any = OmegaConf.to_container(read_yaml(run, "hydra"))
    try:
        choices = dict(saved["hydra"]["runtime"]["choices"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise RecordsError(f"{run.configuration('hydra')} is damaged: {error}") from error
    if any("${" in str(each) for pair in choices.items() for each in pair):
        raise RecordsError(f"{run.configuration('hydra')} is damaged: expected plain choices")
    return choices
