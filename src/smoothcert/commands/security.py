"""What a run folder and a command line may make this machine do; each rule names its attack.

People share run folders. The configuration in such a folder names classes that a command would
call, and paths and links that it would write to. Nothing in it is used before it is checked here.
The command line is stored with the run, so it may contain no secret.
"""

import os
import re
import sys
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from inspect import isclass, isfunction, ismodule
from pathlib import Path
from typing import Any

import yaml
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from omegaconf.resolvers import oc

from smoothcert.errors import InvalidArgumentError, RecordsError
from smoothcert.records import RunFolder, check_links, lies_in

# What a configuration calls.

TARGET = "_target_"
REQUIRED = "???"
"""Placeholder of a required value."""


@dataclass(frozen=True)
class Allowed:
    """What may be called in one place of the configuration.

    Attributes:
        classes: beginnings of full names of classes.
        functions: the same of functions.
    """

    classes: Sequence[str] = ()
    functions: Sequence[str] = ()


def _of_lightning(*parts: str) -> list[str]:
    # Attack: Lightning's command line, which calls what its arguments name.
    return [f"{top}.{part}" for top in ("pytorch_lightning", "lightning_fabric") for part in parts]


NETWORKS = ["torch.nn", "torchvision.models", "timm.models", "timm.layers", "smoothcert.models"]
BUILDERS = ["torchvision.models", "timm.models", "smoothcert.models"]
"""Packages whose functions return networks."""
OF_A_LOSS = [f"smoothcert.{part}" for part in ("objectives", "attacks", "warmup")]
CERTIFYING, LEARNING = ["smoothcert.certify"], ["torch.optim", "timm.optim"]
CALLBACKS = ["pytorch_lightning.callbacks"]
# Attack: `os.system`, or an allowed class in a place where its arguments are not checked.
PLACES: Mapping[str, Allowed] = {
    "data": Allowed(["smoothcert.data"]),
    **dict.fromkeys(("data.**", "model", "model.**"), Allowed(NETWORKS, BUILDERS)),
    "objective": Allowed(["smoothcert.objectives"]),
    "attack": Allowed(["smoothcert.attacks"]),
    **dict.fromkeys(("objective.**", "attack.**"), Allowed([*OF_A_LOSS, *NETWORKS], BUILDERS)),
    **dict.fromkeys(
        ("certifier", "certifier.**", "execution", "execution.**"), Allowed(CERTIFYING)
    ),
    **dict.fromkeys(("optimizer", "optimizer.**", "scheduler", "scheduler.**"), Allowed(LEARNING)),
    "trainer": Allowed(["pytorch_lightning.trainer"]),
    "trainer.**": Allowed(
        [
            *_of_lightning("accelerators", "plugins", "profilers", "strategies"),
            "smoothcert.lightning",
        ]
    ),
    # `check_places` checks where these write. Nothing else that writes is allowed.
    "callbacks.*": Allowed([*CALLBACKS, "smoothcert.lightning"]),
    "callbacks.*.plot": Allowed([], ["smoothcert.report.figures.plot_certified_accuracy"]),
    "callbacks.*.**": Allowed([*CALLBACKS, *CERTIFYING, *NETWORKS, *LEARNING], BUILDERS),
    "logger.*": Allowed(
        [*_of_lightning("loggers"), "smoothcert.lightning.loggers"],
        ["smoothcert.lightning.loggers.wandb_logger"],
    ),
    "logger.*.**": Allowed(),
}
"""Places of the configuration that may call something, and what they may call of libraries. Modules
of the user may be called in all of them. `*` is one name, `**` one or more. The first match counts.

Functions of private modules may not be called: those of timm load files, and older versions of timm
run code in them."""
LIBRARIES = {"smoothcert", "torch", "torchvision", "timm", "pytorch_lightning", "lightning_fabric"}
"""Packages whose modules are not the user's."""
OWN = (
    "what a module of your own defines, outside of site-packages, of the run folder and of "
    "packages that contain it"
)
REFUSED = {
    # Attack: files and servers by position, without a name to check.
    "_args_": "arguments by position",
    # Attack: a pickle, which timm loads and thereby runs.
    **dict.fromkeys(("checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay"), "files"),
    # Attack: a file that timm downloads over one of the user's.
    "cache_dir": "folders",
    # Attack: a server that receives the API key with a request.
    **dict.fromkeys(("base_url", "tracking_uri"), "servers"),
}
"""Settings that no run folder may make, with what they would name."""
# Attack: call `subprocess.Popen` as if it were in a module of the user.
NOT_OWN = {"src", "tests", *sys.stdlib_module_names}
"""Packages of this repository, and the standard library."""
PACKAGE = Path(__file__).parents[1]

# Attack: read a password from the environment into summaries and logs.
VARIABLES = ("SMOOTHCERT_DATA", "SCRATCH", "SLURM_TMPDIR", "TMPDIR", "SLURM_JOB_NUM_NODES")
"""Variables of the environment that a run folder may read."""
REFERENCE = re.compile(r"\$\{([\w.]+)\}")
"""An interpolation of another value."""
VARIABLE = re.compile(r"\$\{oc\.env:(\w+)(,[^${}]*)?\}")
"""An interpolation of a variable of the environment, with or without a default."""
RESOLVER = re.compile(
    r"\$\{(for_sigma|epochs_within|bar_every|path_name|suffix|sweep_or|hydra):"
    # As in `conf/trainer/slurm.yaml`.
    r"|\$\{oc\.decode:\$\{oc\.env:SLURM_JOB_NUM_NODES,1\}\}"
)
"""Resolvers of `conf/` that return plain values."""
# Attack: a file of a few lines that fills the memory, or keeps the parser busy.
LARGEST_YAML, MOST_NODES, DEEPEST = 64 * 2**10, 10_000, 50
"""Largest size of a file of `.hydra` in bytes, number of its values, and depth of nesting; those of
a run are about 4,000, 300 and 4."""
# Attack: lines that interpolate each other, nine times in each of thirty steps.
LARGEST_EXPANSION = 100_000
"""Characters of a configuration with all interpolations resolved."""
NO_VALUES = "it computes values, and a run folder may only refer to other values"
FOR_CERTIFICATION = ("name", "sigma", "seed", "data", "model", "certifier")
"""Parts of the configuration of a training that certification uses."""


def check_targets(values: Any, source: Path, run: Path, all_used: bool = True) -> None:
    """Refuse a configuration from a run folder that calls something that is not allowed.

    Args:
        values: plain values; interpolations are not resolved.
        source: their file.
        run: the run folder.
        all_used: whether this command uses all of them; otherwise they may name modules that are
            not installed.

    Raises:
        InvalidArgumentError: if there is such a call.

    Example:
        >>> optimizer = {"optimizer": {"_target_": "torch.optim.SGD"}}
        >>> check_targets(optimizer, Path("config.yaml"), Path("run"))
    """
    for names, value in leaves(values):
        refused = _refused(names)
        if refused is not None:
            raise InvalidArgumentError(
                f"{source} sets {'.'.join(names)}, and a run folder may name no {refused}"
            )
        if names and names[-1] == TARGET and value != REQUIRED:
            _check_target(names[:-1], value, source, run, all_used)


def _refused(names: Sequence[str]) -> str | None:
    """Return what a setting would name although it must not; None if it is allowed."""
    if TARGET in names[:-1]:
        return "targets in parts"
    # Attack: a server, to which several of W&B's hundred settings can lead.
    if names[:1] == ("logger",) and "settings" in names:
        return "servers"
    return next((REFUSED[name] for name in names if name in REFUSED), None)


def _check_target(
    place: Sequence[str], target: Any, source: Path, run: Path, is_used: bool
) -> None:
    allowed = next(
        (each for pattern, each in PLACES.items() if _is_at(place, pattern.split("."))), None
    )
    if allowed is not None and _is_missing(target):
        if is_used:
            raise InvalidArgumentError(
                f"{source} calls {target!r}, and no such module is found: add its folder to "
                "PYTHONPATH"
            )
    elif allowed is None or not _is_trusted(target, allowed, run):
        if allowed is None:
            expected = "Nothing is allowed there: no part of a run is built from it"
        else:
            names = list(dict.fromkeys([*allowed.classes, *allowed.functions]))
            expected = f"Allowed there are {', '.join([*names, OWN])}"
        raise InvalidArgumentError(
            f"{source} calls {target!r} as {'.'.join(place)!r}, which is not allowed: a run folder "
            f"from elsewhere could run its code or overwrite files by it. {expected}"
        )


def _is_at(place: Sequence[str], pattern: Sequence[str]) -> bool:
    if pattern[-1] == "**":
        pattern = pattern[:-1]
        if len(place) <= len(pattern):
            return False
        place = place[: len(pattern)]
    return len(place) == len(pattern) and all(
        wanted in ("*", name) for name, wanted in zip(place, pattern, strict=True)
    )


def check_yaml(text: str) -> None:
    """Refuse YAML that would keep this machine busy; Hydra writes no anchors and aliases.

    Args:
        text: the contents of a file of a run's `.hydra` folder.

    Raises:
        ValueError: if it contains aliases, or more or deeper values than any run's.
        yaml.YAMLError: if it is not YAML.

    Example:
        >>> check_yaml("model: {width: 32}")
    """
    depth = nodes = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            raise ValueError(f"expected no aliases, got *{event.anchor}")
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        nodes += isinstance(event, yaml.NodeEvent)
        if depth > DEEPEST or nodes > MOST_NODES:
            raise ValueError(
                f"expected at most {MOST_NODES:,} values, nested at most {DEEPEST} deep, got more"
            )


def trusted(
    config: Any, paths: Any, run: Path, parts: Sequence[str] | None = FOR_CERTIFICATION
) -> DictConfig:
    """Return parts of a run's configuration as plain values, after all checks.

    Args:
        config: the contents of the folder's `config.yaml`.
        paths: paths on this machine, which replace the run's own.
        run: the run folder.
        parts: names of the parts that are needed; None: all.

    Raises:
        InvalidArgumentError: if something in it is not allowed.
        RecordsError: if it is damaged.
    """
    source = RunFolder(run).configuration("config")
    if not isinstance(config, DictConfig):
        raise RecordsError(f"{source} is damaged: expected settings by name")
    plain: Any = OmegaConf.to_container(config)
    # Attack: set variables of the environment, and classes, by Hydra's own settings.
    if "hydra" in plain:
        raise InvalidArgumentError(f"{source} sets hydra, and a run folder may not")
    # Attack: leave a target in a part that only a later command uses.
    check_targets(plain, source, run, all_used=False)
    before = plain.get("paths")
    config.paths = {**(before if isinstance(before, dict) else {}), **resolved(paths)}
    parts = list(plain) if parts is None else parts
    _Expansion(OmegaConf.to_container(config), source).check(parts)
    try:
        values = {name: resolved(config[name]) for name in parts}
    except (OmegaConfBaseException, KeyError, TypeError, RecursionError) as error:
        raise RecordsError(f"{source} is damaged: {error}") from error
    # Attack: a target that only interpolation produces.
    check_targets(values, source, run)
    for names, value in leaves(values):
        # Attack: an escaped interpolation, which would be resolved when it is read again.
        if "${" in str(value):
            raise InvalidArgumentError(f"{source} sets {'.'.join(names)} to {value!r}")
    return OmegaConf.create(values)


class _Expansion:
    """The size of a configuration with all interpolations resolved, found without resolving them.

    Args:
        values: the configuration as plain values, with its interpolations.
        source: its file.
    """

    def __init__(self, values: Any, source: Path) -> None:
        self._values = values
        self._source = source
        self._sizes: dict[tuple[str, ...], int] = {}

    def check(self, names: Sequence[str]) -> None:
        """Refuse parts that get too large, or that interpolate more than values of the run.

        Args:
            names: names of the parts.

        Raises:
            InvalidArgumentError: if there is one.
        """
        try:
            for name in names:
                self._size((name,))
        except RecursionError:
            raise InvalidArgumentError(f"{self._source} interpolates without end") from None

    def _size(self, names: tuple[str, ...]) -> int:
        if names not in self._sizes:
            self._sizes[names] = 0  # OmegaConf refuses a cycle.
            size = 0
            for inner, leaf in leaves(*self._found(names)):
                size += 1 + len(str(leaf)) + sum(map(self._size, self._references(inner, leaf)))
                if size > LARGEST_EXPANSION:
                    raise InvalidArgumentError(
                        f"{self._source} sets {'.'.join(names)} to more than {LARGEST_EXPANSION:,} "
                        "characters by interpolation"
                    )
            self._sizes[names] = size
        return self._sizes[names]

    def _found(self, names: tuple[str, ...]) -> tuple[Any, tuple[str, ...]]:
        """Return the value at some names, or the leaf on the way there, and the names of either."""
        value = self._values
        for count, name in enumerate(names):
            if isinstance(value, Mapping):
                value = next((each for key, each in value.items() if str(key) == name), None)
            elif isinstance(value, list) and name.isdecimal() and int(name) < len(value):
                value = value[int(name)]
            else:
                return value, names[:count]
        return value, names

    def _references(self, names: Sequence[str], leaf: Any) -> list[tuple[str, ...]]:
        """Return the full names of the values that a text interpolates."""
        text, found = str(leaf), []
        for start in re.finditer(r"\$\{", text):
            if reference := REFERENCE.match(text, start.start()):
                path = reference[1].lstrip(".")
                up = len(reference[1]) - len(path)
                found.append((*(names[:-up] if up else ()), *path.split(".")))
                continue
            variable = VARIABLE.match(text, start.start())
            if variable and variable[1] not in VARIABLES:
                wrong = (
                    f"it reads {variable[1]} from the environment, and a run folder may read only "
                    f"{', '.join(VARIABLES)}. Write the value itself there"
                )
            # Attack: compose a target from parts of texts, which no check of texts sees.
            elif not variable and not RESOLVER.match(text, start.start()):
                wrong = NO_VALUES
            else:
                continue
            raise InvalidArgumentError(
                f"{self._source} sets {'.'.join(names)} to {leaf!r}: {wrong}"
            )
        return found


def _is_trusted(target: Any, allowed: Allowed, run: Path) -> bool:
    """Return whether a name may be called; one that may not is not even imported."""
    parts = target.split(".") if isinstance(target, str) else []
    if len(parts) < 2 or not all(part.isidentifier() and part[0] != "_" for part in parts):
        return False
    # Attack: a module whose import alone does harm.
    if parts[0] not in LIBRARIES:
        importable = _is_own(target, run)
    else:
        is_short = len(parts) == 2 or parts[0] == PACKAGE.name
        importable = is_short or _begins(target, [*allowed.classes, *allowed.functions])
    if not importable:
        return False
    found = _located(parts)
    # Attack: a method, which is called on objects that a configuration makes.
    if not (isclass(found) or isfunction(found)) or found.__qualname__ != found.__name__:
        return False
    # Attack: a name that leads through an allowed module to something it has imported.
    module = found.__module__
    if module.partition(".")[0] not in LIBRARIES:
        return _is_own(module, run)
    full = f"{module}.{found.__name__}"
    if isclass(found):
        return _begins(full, allowed.classes)
    return _begins(full, allowed.functions) and "._" not in full


def _is_missing(target: Any) -> bool:
    """Return whether a name begins with a module that is not installed."""
    top = target.partition(".")[0] if isinstance(target, str) else ""
    return top.isidentifier() and top not in sys.modules and find_spec(top) is None


def _begins(name: str, places: Sequence[str]) -> bool:
    return any(f"{name}.".startswith(f"{place}.") for place in places)


def _located(parts: Sequence[str]) -> Any:
    """Return the object that Hydra finds by a name; None if there is none.

    Raises:
        InvalidArgumentError: if a module cannot be imported.
    """
    found = _imported(parts[0])
    for count, part in enumerate(parts[1:], start=2):
        if hasattr(found, part):
            found = getattr(found, part)
        else:
            found = _imported(".".join(parts[:count])) if ismodule(found) else None
    return found


def _imported(name: str) -> Any:
    try:
        return import_module(name)
    except Exception as error:  # A module's own code may raise anything.
        if isinstance(error, ModuleNotFoundError) and error.name == name:
            return None
        raise InvalidArgumentError(f"{name} cannot be imported: {error!r}") from error


def _is_own(name: str, run: Path) -> bool:
    """Return whether a name is in a module of the user; nothing is imported to find out."""
    parts = name.split(".")
    if parts[0] in NOT_OWN:
        return False
    try:
        spec = find_spec(parts[0])
    except ValueError:  # A module without a file, such as `__main__`.
        return False
    for count in range(1, len(parts) + 1):
        if spec is None:
            # The rest of the name is inside a module.
            return count > 1
        if not _is_of_the_user(spec, run):
            return False
        inner = spec.submodule_search_locations
        if inner is None or count == len(parts):
            return True
        # By its last name: for a full one, `find_spec` imports the packages.
        spec = PathFinder.find_spec(parts[count], list(inner))
    return True


def _is_of_the_user(spec: ModuleSpec, run: Path) -> bool:
    # Folders of modules, with or without an __init__.py; built-in modules have none.
    folders = [Path(place) for place in spec.submodule_search_locations or ()]
    files = [Path(spec.origin)] if spec.has_location and spec.origin is not None else []
    # Attack: a package that came with the run folder, in `outputs`.
    if any(_contains(folder, run) for folder in folders):
        return False
    kinds = ("stdlib", "platstdlib", "purelib", "platlib")
    installed = [
        *(Path(sysconfig.get_path(kind)) for kind in kinds),
        *(Path(place) for place in sys.path if Path(place).name.endswith("-packages")),
    ]
    places = [*folders, *files]
    return bool(places) and not any(
        _contains(other, place) for place in places for other in (run, PACKAGE, *installed)
    )


def _contains(folder: Path, path: Path) -> bool:
    """Return whether a path is in a folder, by their names or with links resolved."""
    return any(
        Path(where).is_relative_to(place)
        for place in {os.path.abspath(folder), os.path.realpath(folder)}  # noqa: PTH100
        for where in {
            os.path.abspath(path),  # noqa: PTH100
            os.path.realpath(path),
            # The link itself, in a folder that has links on its way.
            os.path.join(os.path.realpath(path.absolute().parent), path.name),  # noqa: PTH118
        }
    )


# Where a training writes.

# Attack: a callback, logger or trainer that overwrites files outside of the run folder.
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
"""Parts that write, to folders that their settings name."""
# Attack: a writer as a part of the model, where settings of folders are not checked.
WRITERS = ("pytorch_lightning", "lightning_fabric", "smoothcert.lightning", "smoothcert.report")
"""Beginnings of names that only these parts may call."""
# Attack: a name such as `../../x`, which leaves its folder.
NAMES = ("filename", "name", "version", "sub_dir")
"""Settings that name a file or a folder in one of `FOLDERS`."""


def check_places(cfg: DictConfig) -> None:
    """Refuse a training that would write outside of its run folder.

    Args:
        cfg: a configuration of `conf/train.yaml`; Hydra's own configuration has the run folder.

    Raises:
        InvalidArgumentError: if a part writes elsewhere.
        RecordsError: if a link leads out of the folder.
    """
    folder = Path(HydraConfig.get().runtime.output_dir)
    check_links(folder)
    for key, value, place in [("paths.run", cfg.paths.run, cfg.paths.run), *_places(cfg, folder)]:
        if not lies_in(folder, place):
            raise InvalidArgumentError(
                f"Expected `{key}` inside the run folder {folder}, got {str(value)!r}"
            )
    others = {str(name): resolved(part) for name, part in cfg.items() if name not in WRITING}
    for names, value in leaves(others):
        if names[-1] == TARGET and str(value).startswith(WRITERS):
            raise InvalidArgumentError(
                f"Expected {value} in {', '.join(WRITING)}, got it in `{'.'.join(names[:-1])}`"
            )


def _places(cfg: DictConfig, folder: Path) -> Iterator[tuple[str, Any, str]]:
    """Yield every setting that names a place to write to, its value, and the place."""
    parts = {name: resolved(cfg.get(name)) for name in WRITING}
    for names, value in leaves(parts):
        if names[-1] in FOLDERS and value is not None:
            yield ".".join(names), value, os.path.expanduser(str(value))  # noqa: PTH111
        elif names[-1] == "default_root_dir":
            # Without it the trainer writes to the working folder.
            yield ".".join(names), value, "."
        elif names[-1] in NAMES and value is not None:
            yield ".".join(names), value, str(folder / str(value))


def leaves(values: Any, names: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield every value that contains no others, with the names that lead to it.

    Args:
        values: nested mappings and lists.
        names: names that lead to them.

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


# Secrets.

# Attack: read the API key from a published run folder, or from a log.
SECRET = re.compile(
    r"(^|_)(api_?keys?|access_?key|private_?key|client_?secret|secret(_?key)?|passw(or)?d|"
    r"passphrase|credentials?|token)$",
    re.IGNORECASE,
)
"""Names of settings with secrets. `tokens` are a transformer's."""
SECRET_VARIABLE = re.compile(rf"{SECRET.pattern}|_(key|pass|pat|auth)$", re.IGNORECASE)
"""Names of variables of the environment with secrets."""
NO_SECRET = re.compile(r"(null|none|true|false|\?{3})?", re.IGNORECASE)
"""Values that are no secrets, as in `class_token=true`."""
SHORTEST_SECRET = 12
"""Characters of a variable's value to be searched for; a shorter one may occur by chance."""
INNER = re.compile(r"[{,]\s*([\w-]+)\s*:\s*([^,{}\[\]]*)")
"""Names and values inside a value."""
READ_VARIABLES = re.compile(r"oc\.env\s*:\s*['\"]?([^'\",}\s]+)")
"""Variables of the environment that a value interpolates."""


def environment(name: str, *default: Any) -> str | None:
    """Return a variable of the environment, for `${oc.env:…}` in configurations; refuse secrets.

    Args:
        name: the variable.
        default: the value where it is not set.

    Raises:
        InvalidArgumentError: if it is a secret: configurations are stored and logged.

    Example:
        >>> environment("SMOOTHCERT_DATA", "data")
        'data'
    """
    if SECRET_VARIABLE.search(name):
        raise InvalidArgumentError(f"Expected no secret in a configuration, got ${{oc.env:{name}}}")
    return oc.env(name, *default)


def refuse_secrets(arguments: Sequence[str]) -> None:
    """Refuse a command line with a secret: Hydra and W&B would store it with the run.

    Args:
        arguments: the command line.

    Raises:
        SystemExit: with where to put the secret, which is not repeated.

    Example:
        >>> refuse_secrets(["src/train.py", "sigma=0.5", "model.arguments.class_token=true"])
    """
    for argument in arguments[1:]:
        found = next(_secrets_in(argument), None)
        if found is not None:
            raise SystemExit(
                f"Expected no secret on the command line, got one by {found}: it would be stored "
                "in the run folder. Set it in the environment, for example WANDB_API_KEY, or use "
                "`wandb login`"
            )


def _secrets_in(argument: str) -> Iterator[str]:
    """Yield the names of what contains a secret in an argument."""
    key, _, value = argument.partition("=")
    pattern = SECRET_VARIABLE if "env_set" in key else SECRET
    pairs = [(key.lstrip("+~"), value), *INNER.findall(value)]
    for name, text in pairs:
        last = re.split(r"[./@:]", name)[-1].replace("-", "_")
        if pattern.search(last) and not NO_SECRET.fullmatch(text.strip("'\" ")):
            yield name
    yield from (
        f"oc.env:{name}" for name in READ_VARIABLES.findall(value) if SECRET_VARIABLE.search(name)
    )
    yield from (
        f"the value of {name}"
        for name, secret in os.environ.items()
        if SECRET_VARIABLE.search(name) and len(secret) >= SHORTEST_SECRET and secret in argument
    )
