"""What a command line may say, before Hydra reads it, and the resolvers of `conf/`."""

import math
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from io import StringIO
from itertools import pairwise
from pathlib import Path
from textwrap import fill
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from smoothcert.errors import (
    InvalidArgumentError,
    RecordsError,
    require_count,
    require_positive,
    require_probability,
)
from smoothcert.records import check_links, read_bounded
from smoothcert.runs.secrets import environment
from smoothcert.runs.trust import LARGEST_YAML, check_overrides, check_yaml

HELP_WIDTH = 80
SEEDS = 2**32
"""NumPy takes smaller ones."""
LONGEST_FOLDER_NAME = 200
MULTIRUN = {"-m", "--multirun"}
LAUNCHERS = ("hydra/launcher=slurm", "hydra/launcher=submitit")
"""Launchers that an extra of ours installs."""
PATHS = ("run=", "runs=", "ckpt=", "ckpt_path=", "model.weights=", "out=", "group_by=", "title=")
"""Settings whose values are taken as they are: folders of a sweep have commas in their names, lists
too, and titles have parentheses."""


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
        '2_data.root=_a_b,sigma=0.5'
        >>> folder_name(0, "")
        '0'
    """
    return f"{number}{suffix(overrides)}"[:LONGEST_FOLDER_NAME]


def suffix(overrides: str) -> str:
    """Return overrides as the end of a folder name, empty where there are none.

    Args:
        overrides: Hydra's `override_dirname`.

    Example:
        >>> suffix("certifier=cohen,n=1000"), suffix("")
        ('_certifier=cohen,n=1000', '')
    """
    return f"_{overrides}".replace("/", "_")[:LONGEST_FOLDER_NAME] if overrides else ""


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
    return path.strip("/.").replace("/", "_")[-LONGEST_FOLDER_NAME:]


def sweep_or(mode: object, folder: str, name: str) -> str:
    """Return the name of the sweep that a run is a job of, or of its experiment.

    Args:
        mode: Hydra's mode.
        folder: the run folder.
        name: name of the experiment.

    Example:
        >>> sweep_or("RunMode.MULTIRUN", "outputs/sweeps/2026-01-31/0_sigma=0.5", "cifar_reg")
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
    **dict.fromkeys(("seed", "start", "curve_steps"), partial(require_count, minimum=0)),
    "num_classes": partial(require_count, minimum=2),
    **dict.fromkeys(
        (
            *("n0", "n", "skip", "max_images", "num_nodes", "passes", "validation_draws"),
            *("images", "repeats", "reference_batches", "art_samples"),
            *("noise_draws", "batch_size", "turns", "steps"),
        ),
        require_count,
    ),
}
"""What commands' own settings have to be."""


def quoted(key: str, value: str) -> str:
    """Return an override whose value Hydra takes as it is, with its commas and equals signs.

    Args:
        key: what to override.
        value: the value; a trailing slash is dropped.

    Example:
        >>> quoted("run", "outputs/sweeps/0_sigma=0.5,seed=1/")
        "run='outputs/sweeps/0_sigma=0.5,seed=1'"
    """
    escaped = value.strip("'\"").rstrip("/").replace("'", "\\'")
    return f"{key}='{escaped}'"


def quote_paths(arguments: Sequence[str]) -> list[str]:
    """Quote the values of settings that are paths; see `PATHS`.

    Args:
        arguments: the command line. In a multirun commas separate runs, so nothing is quoted.

    Example:
        >>> quote_paths(["src/certify.py", "run=a,b", "n=100"])
        ['src/certify.py', "run='a,b'", 'n=100']
    """
    if MULTIRUN & set(arguments):
        return list(arguments)
    return [
        quoted(*argument.split("=", 1)) if _is_path(argument) else argument
        for argument in arguments
    ]


def _is_path(argument: str) -> bool:
    # A list is Hydra's to read.
    return argument.startswith(PATHS) and not argument.partition("=")[2].startswith("[")


def require_run(arguments: Sequence[str]) -> None:
    """Refuse a command line that names nothing to certify, before Hydra makes folders of its own.

    Args:
        arguments: the command line; it names a run folder, or a checkpoint by `ckpt=`.

    Raises:
        SystemExit: with what was expected.

    Example:
        >>> require_run(["src/certify.py", "--help"])
    """
    if any(argument.startswith("-") and argument not in MULTIRUN for argument in arguments[1:]):
        return
    runs = [argument.removeprefix("run=") for argument in arguments if argument.startswith("run=")]
    if names_checkpoint(arguments):
        if runs:
            raise SystemExit("Expected run=… or ckpt=…, got both: a run has its own weights")
        return
    if not runs:
        raise SystemExit(
            "Expected run=<run folder>, a folder that `python -m src.train` made, or ckpt=<file> "
            "model=<its network> sigma=<σ>"
        )
    folder = Path(runs[0].strip("'\""))
    if not MULTIRUN & set(arguments) and not (folder / ".hydra" / "config.yaml").is_file():
        raise SystemExit(
            f"Expected a run folder, got {str(folder)!r}: it has no .hydra/config.yaml"
        )
    try:
        # Those of a multirun are looked at one by one.
        check_links(folder)
    except RecordsError as error:
        raise SystemExit(str(error)) from error


def require_options(arguments: Sequence[str]) -> None:
    """Refuse null as the option of a group, which Hydra answers with a trace.

    Args:
        arguments: the command line.

    Raises:
        SystemExit: with the override that leaves the group out.

    Example:
        >>> require_options(["src/train.py", "logger=csv"])
    """
    groups = Path(arguments[0]).resolve().parents[1] / "conf"
    for key, _, value in (argument.partition("=") for argument in arguments[1:]):
        if value == "null" and key.isidentifier() and (groups / key).is_dir():
            options = ", ".join(sorted(path.stem for path in (groups / key).glob("*.yaml")))
            raise SystemExit(f"Expected {key}= one of {options}, got null. To do without: '~{key}'")


def require_launcher(arguments: Sequence[str]) -> None:
    """Refuse a launcher of submitit's that is not installed; Hydra would list what else there is.

    Args:
        arguments: the command line.

    Raises:
        SystemExit: with what to install.

    Example:
        >>> require_launcher(["src/train.py", "-m", "sigma=0.25,0.5"])
    """
    asked = [each for each in arguments if each.startswith(LAUNCHERS)]
    if asked and find_spec("submitit") is None:
        raise SystemExit(f"Expected submitit for {asked[0]}: pip install 'smoothcert[slurm]'")


def require_runs(arguments: Sequence[str]) -> None:
    """Refuse a command line that names nothing to report on.

    Args:
        arguments: the command line.

    Raises:
        SystemExit: with what was expected.

    Example:
        >>> require_runs(["src/report.py", "runs=outputs/sweeps/**"])
    """
    asked = any(argument.startswith(("runs=", "-")) for argument in arguments[1:])
    if not asked:
        raise SystemExit("Expected runs='<folders>', for example runs='outputs/sweeps/**'")


def names_checkpoint(arguments: Sequence[str]) -> bool:
    """Return whether a command line is about a checkpoint file, not about a run.

    Args:
        arguments: the command line.

    Example:
        >>> names_checkpoint(["src/certify.py", "ckpt=checkpoint.pth.tar", "model=resnet110"])
        True
    """
    return any(argument.startswith("ckpt=") for argument in arguments)


def expand_run(arguments: Sequence[str]) -> list[str]:
    """Replace `run=<folder>` by the overrides that the run was started with, and its folder.

    Hydra writes its own files before any code of ours runs, so whatever would mix two
    configurations in one folder is refused here.

    Args:
        arguments: the command line.

    Raises:
        InvalidArgumentError: if the folder is no run folder, other overrides come with it, or its
            own are not to be trusted.
        RecordsError: if a link leads out of the folder, or `hydra.run.dir` names the folder of a
            run with other overrides.

    Example:
        >>> expand_run(["src/train.py", "sigma=0.5"])
        ['src/train.py', 'sigma=0.5']
    """
    program, *others = arguments
    runs = [argument for argument in others if argument.startswith("run=")]
    if runs:
        folder = Path(runs[0].removeprefix("run=").strip("'\""))
        check_links(folder)
        overrides = _overrides(folder)
        check_overrides(overrides, folder)
        if len(others) > 1:
            given = [argument for argument in others if argument not in runs]
            raise InvalidArgumentError(
                f"{runs[0]} resumes a run exactly as it was started, so nothing else may be set; "
                f"got {' '.join(given)}. To train on from its last epoch, in a folder of its own: "
                f"{_continuation(folder, overrides, given)}"
            )
        # Its configuration is there, and stays to the byte.
        kept = [quoted("hydra.run.dir", str(folder)), "hydra.output_subdir=null"]
        return [program, *overrides, *kept]
    for argument in others:
        if argument.startswith("hydra.run.dir="):
            _check_folder(Path(argument.removeprefix("hydra.run.dir=").strip("'\"")), others)
    return list(arguments)


def _continuation(folder: Path, overrides: Sequence[str], given: Sequence[str]) -> str:
    """Return the command that trains on from a run's last checkpoint with other settings."""
    keys = {argument.lstrip("+~").partition("=")[0] for argument in (*given, "ckpt_path")}
    kept = [each for each in overrides if each.lstrip("+~").partition("=")[0] not in keys]
    checkpoint = f"ckpt_path={folder / 'checkpoints' / 'last.ckpt'}"
    return shlex.join(["python", "-m", "src.train", *kept, *given, checkpoint])


def read_yaml(run: Path, name: str) -> Any:
    """Return a file of a run's `.hydra` folder.

    Args:
        run: the run folder.
        name: the file's name.

    Raises:
        InvalidArgumentError: if it is not there.
        RecordsError: if it is damaged.
    """
    path = run / ".hydra" / name
    if not path.is_file():
        raise InvalidArgumentError(
            f"Expected a run folder, got {str(run)!r}: it has no .hydra/{name}"
        )
    try:
        text = read_bounded(path, LARGEST_YAML).decode()
        check_yaml(text)
        return OmegaConf.load(StringIO(text))
    except (OSError, ValueError, RecursionError, YAMLError, OmegaConfBaseException) as error:
        raise RecordsError(f"{path} is damaged: {error}") from error


def _check_folder(folder: Path, arguments: Sequence[str]) -> None:
    if not (folder / ".hydra" / "overrides.yaml").is_file():
        return
    check_links(folder)
    ours = [a for a in arguments if "=" in a and not a.startswith(("hydra.", "-"))]
    if sorted(ours) != sorted(_overrides(folder)):
        raise RecordsError(
            f"{folder} holds a run that was started with {' '.join(_overrides(folder))!r}. Go on "
            f"with it by run={folder}, or choose another folder; nothing was overwritten"
        )


def _overrides(folder: Path) -> list[str]:
    listed = read_yaml(folder, "overrides.yaml")
    if not isinstance(listed, ListConfig):
        raise RecordsError(f"{folder / '.hydra' / 'overrides.yaml'} is damaged: expected a list")
    # As they stand: what they interpolate is Hydra's to find.
    overrides: Any = OmegaConf.to_container(listed)
    return [str(override) for override in overrides]
