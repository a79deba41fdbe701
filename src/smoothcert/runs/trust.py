"""What a run folder, which people pass on to each other, may make this machine do.

Its configuration names classes, and whatever is named there would be called; its paths and links
would be written to. Nothing in a folder is followed before it has been looked at here.
"""

import os
import re
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from inspect import isclass, isfunction, ismodule
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from smoothcert.errors import InvalidArgumentError, RecordsError
from smoothcert.runs.places import leaves, resolved

TARGET = "_target_"
REQUIRED = "???"
"""What stands for a value that is still to be given."""


@dataclass(frozen=True)
class Allowed:
    """What may be called in a place of the configuration, by beginnings of full names."""

    classes: Sequence[str] = ()
    functions: Sequence[str] = ()


def _of_lightning(*parts: str) -> list[str]:
    # Not its command line, which calls what its arguments name.
    return [f"{top}.{part}" for top in ("pytorch_lightning", "lightning_fabric") for part in parts]


NETWORKS = Allowed(
    ["torch.nn", "torchvision.models", "timm.models", "timm.layers", "smoothcert.models"],
    ["torchvision.models", "timm.models", "smoothcert.models"],
)
OF_A_LOSS = Allowed([f"smoothcert.{part}" for part in ("objectives", "attacks", "warmup")])
CERTIFYING = Allowed(["smoothcert.certify"])
LEARNING = Allowed(["torch.optim", "timm.optim"])
PLACES: Mapping[str, Sequence[Allowed]] = {
    "data": [Allowed(["smoothcert.data"])],
    "data.**": [NETWORKS],
    "model": [NETWORKS],
    "model.**": [NETWORKS],
    "objective": [Allowed(["smoothcert.objectives"])],
    "objective.**": [OF_A_LOSS, NETWORKS],
    "attack": [Allowed(["smoothcert.attacks"])],
    "attack.**": [OF_A_LOSS, NETWORKS],
    "certifier": [CERTIFYING],
    "certifier.**": [CERTIFYING],
    "execution": [CERTIFYING],
    "execution.**": [CERTIFYING],
    "optimizer": [LEARNING],
    "optimizer.**": [LEARNING],
    "scheduler": [LEARNING],
    "scheduler.**": [LEARNING],
    "trainer": [Allowed(["pytorch_lightning.trainer"])],
    "trainer.**": [
        Allowed(_of_lightning("accelerators", "plugins", "profilers", "strategies")),
        Allowed(["smoothcert.lightning"]),
    ],
    # What these write is looked at by `check_places`, and nothing else that writes is allowed.
    "callbacks.*": [Allowed(["pytorch_lightning.callbacks", "smoothcert.lightning"])],
    "callbacks.*.**": [Allowed(["pytorch_lightning.callbacks"]), CERTIFYING, NETWORKS, LEARNING],
    "callbacks.*.plot": [Allowed([], ["smoothcert.report.figures.plot_certified_accuracy"])],
    "logger.*": [
        Allowed(_of_lightning("loggers"), ["smoothcert.lightning.loggers.wandb_logger"]),
        Allowed(["smoothcert.lightning.loggers"]),
    ],
    "logger.*.**": [],
}
"""Where a configuration may call something, and what of libraries; a user's own modules may be
called in all of these places. `*` is any name, `**` any names in it.

Older versions of timm run what is in a file; functions of private modules take files."""
LIBRARIES = {"smoothcert", "torch", "torchvision", "timm", "pytorch_lightning", "lightning_fabric"}
"""Whose names are not a user's."""
OWN = (
    "what a module of your own defines, outside of site-packages, of the run folder and of "
    "packages that hold it"
)
REFUSED = {
    # By position, files and servers would have no name.
    "_args_": "arguments by position",
    **dict.fromkeys(("checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay"), "files"),
    # Where timm puts what it fetches.
    "cache_dir": "folders",
    # Whoever gets a request gets the key that is sent with it.
    **dict.fromkeys(("base_url", "tracking_uri"), "servers"),
}
"""Settings that no run folder may make, by what they would name."""
NOT_OWN = {"src", "tests", *sys.stdlib_module_names}
"""Modules in the working folder that are no module of the user's, and the standard library."""
PACKAGE = Path(__file__).parents[1]

VARIABLES = ("SMOOTHCERT_DATA", "SCRATCH", "SLURM_TMPDIR", "TMPDIR", "SLURM_JOB_NUM_NODES")
"""Variables of the environment that a run folder may read: others may hold what nobody else may
know, and what is read is kept in summaries and sent to loggers."""
REFERENCE = re.compile(r"\$\{([\w.]+)\}")
"""An interpolation that leads to another value."""
VARIABLE = re.compile(r"\$\{oc\.env:(\w+)(,[^${}]*)?\}")
"""One that leads to a variable of the environment, with a value for where it is not set."""
RESOLVER = re.compile(r"\$\{(for_sigma|epochs_within|bar_every|path_name|suffix|sweep_or|hydra):")
"""Those of `conf/` that make plain values of their arguments."""
LARGEST_YAML, MOST_NODES, DEEPEST = 64 * 2**10, 10_000, 50
"""Bytes of a file of `.hydra`, values in it, and how deep they may be in each other; a run's have
about 4,000, 300 and 4."""
LARGEST_EXPANSION, MOST_INTERPOLATIONS = 100_000, 12
"""Characters of a configuration once all is interpolated, and interpolations in overrides: a few
lines that repeat each other fill any memory."""
NO_VALUES = "it makes values, where it may only refer to others"
PATHS = ("ckpt_path",)
"""Settings at the top whose value may lead anywhere: it is read as a checkpoint, and no more."""
NEEDED = ("name", "sigma", "seed", "data", "model", "certifier")
"""What certification takes from the configuration of a training."""


def check_overrides(overrides: Sequence[str], run: Path) -> None:
    """Refuse overrides from a run folder that do more than set what is in the configuration.

    Args:
        overrides: what the folder's `overrides.yaml` lists.
        run: the run folder.

    Raises:
        InvalidArgumentError: if one of them sets Hydra itself, calls what is not allowed, or reads
            a configuration from elsewhere.

    Example:
        >>> check_overrides(["sigma=0.5", "objective=adre"], Path("outputs/run"))
    """
    source = run / ".hydra" / "overrides.yaml"
    if sum(override.count("${") for override in overrides) > MOST_INTERPOLATIONS:
        raise InvalidArgumentError(
            f"Expected at most {MOST_INTERPOLATIONS} interpolations in {source}, got more"
        )
    for override in overrides:
        try:
            key, value = _parsed(override)
            check_targets(_nested(key, value), source, run)
        except _Unlike as error:
            raise InvalidArgumentError(
                f"Expected overrides of the configuration in {source}, got {override!r}: {error}"
            ) from error


def check_targets(values: Any, source: Path, run: Path, all_used: bool = True) -> None:
    """Refuse a configuration from a run folder that calls what is not allowed.

    Args:
        values: plain values; interpolations are not followed.
        source: the file that they are from.
        run: the run folder.
        all_used: whether all of it is going to be used here; otherwise names of modules that this
            machine does not have are let pass.

    Raises:
        InvalidArgumentError: if something else would be called.

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
    """Return what a setting would name that it may not, if anything."""
    if TARGET in names[:-1]:
        return "targets in parts"
    # W&B's own: its server is one of a hundred, and what leads there are others.
    if names[:1] == ("logger",) and "settings" in names:
        return "servers"
    return next((REFUSED[name] for name in names if name in REFUSED), None)


def _check_target(
    place: Sequence[str], target: Any, source: Path, run: Path, is_used: bool
) -> None:
    allowed = _allowed_at(place)
    if allowed is None or not _is_missing(target):
        if allowed is None or not _is_trusted(target, allowed, run):
            raise InvalidArgumentError(
                f"{source} calls {target!r} as {'.'.join(place)!r}, which is not allowed: the "
                "folder may be from anywhere, and that could run its code or overwrite files. "
                f"Allowed there {_expected(allowed)}"
            )
    elif is_used:
        raise InvalidArgumentError(
            f"{source} calls {target!r}, and no such module is found: put its folder into "
            "PYTHONPATH"
        )


def _allowed_at(place: Sequence[str]) -> Allowed | None:
    """Return what may be called in a place; None where nothing is called at all."""
    found = [each for pattern, each in PLACES.items() if _is_at(place, pattern.split("."))]
    if not found:
        return None
    every = [allowed for each in found for allowed in each]
    return Allowed(
        [name for allowed in every for name in allowed.classes],
        [name for allowed in every for name in allowed.functions],
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


def _expected(allowed: Allowed | None) -> str:
    if allowed is None:
        return "is nothing: no part of a run is made of it"
    names = list(dict.fromkeys([*allowed.classes, *allowed.functions]))
    return f"are {', '.join([*names, OWN])}"


def check_yaml(text: str) -> None:
    """Refuse YAML that would keep this machine busy; Hydra writes no anchors and aliases.

    Args:
        text: the contents of a file of a run's `.hydra` folder.

    Raises:
        ValueError: if there are aliases, or more or deeper values than in any run.
        yaml.YAMLError: if it is no YAML.

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
                f"expected at most {MOST_NODES:,} values, {DEEPEST} deep in each other, got more"
            )


def trusted(config: Any, paths: DictConfig, run: Path) -> DictConfig:
    """Return what certification needs of a run's configuration, as plain values that were checked.

    Args:
        config: the contents of the folder's `config.yaml`.
        paths: where things are on this machine, in place of the run's own.
        run: the run folder.

    Raises:
        InvalidArgumentError: if something in it is not allowed.
        RecordsError: if it is damaged.
    """
    source = run / ".hydra" / "config.yaml"
    if not isinstance(config, DictConfig):
        raise RecordsError(f"{source} is damaged: expected settings by name")
    # As it stands, too: what is not needed today is not left for others to find.
    check_targets(OmegaConf.to_container(config), source, run, all_used=False)
    config.paths = resolved(paths)
    _Expansion(OmegaConf.to_container(config), source).check(NEEDED)
    try:
        values = {name: resolved(config[name]) for name in NEEDED}
    except (OmegaConfBaseException, KeyError, TypeError, RecursionError) as error:
        raise RecordsError(f"{source} is damaged: {error}") from error
    check_targets(values, source, run)
    for names, value in leaves(values):
        # Written out once more, it would be followed after all.
        if "${" in str(value):
            raise InvalidArgumentError(f"{source} sets {'.'.join(names)} to {value!r}")
    return OmegaConf.create(values)


class _Expansion:
    """How large a configuration gets by interpolation, which is found out without doing it.

    Args:
        values: the configuration, plain, with its interpolations.
        source: the file that it is from.
    """

    def __init__(self, values: Any, source: Path) -> None:
        self._values = values
        self._source = source
        self._sizes: dict[tuple[str, ...], int] = {}

    def check(self, names: Sequence[str]) -> None:
        """Refuse parts that get too large, or that interpolate more than values of the run.

        Raises:
            InvalidArgumentError: if one does.
        """
        try:
            for name in names:
                self._size((name,))
        except RecursionError:
            raise InvalidArgumentError(f"{self._source} interpolates without end") from None

    def _size(self, names: tuple[str, ...]) -> int:
        if names not in self._sizes:
            self._sizes[names] = 0  # What leads back to itself is refused by OmegaConf.
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
        """Return what a name leads to, or what it leads through, and where that is."""
        value = self._values
        for count, name in enumerate(names):
            if isinstance(value, Mapping):
                value = next((each for key, each in value.items() if str(key) == name), None)
            elif isinstance(value, list) and name.isdecimal() and int(name) < len(value):
                value = value[int(name)]
            else:
                return value, names[:count]
        return value, names

    def _references(self, names: tuple[str, ...], leaf: Any) -> list[tuple[str, ...]]:
        try:
            return _references(names, str(leaf))
        except _Unlike as error:
            raise InvalidArgumentError(
                f"{self._source} sets {'.'.join(names)} to {leaf!r}: {error}"
            ) from error


def _references(names: Sequence[str], text: str) -> list[tuple[str, ...]]:
    """Return the values that a text interpolates, by their names from the top.

    Args:
        names: where the text is.
        text: the text.

    Raises:
        _Unlike: if it interpolates anything but values and a few variables of the environment.
    """
    found = []
    for start in re.finditer(r"\$\{", text):
        if reference := REFERENCE.match(text, start.start()):
            path = reference[1].lstrip(".")
            up = len(reference[1]) - len(path)
            found.append((*(names[:-up] if up else ()), *path.split(".")))
        elif variable := VARIABLE.match(text, start.start()):
            if variable[1] not in VARIABLES:
                raise _Unlike(
                    f"it reads {variable[1]} from the environment, where a run folder may read "
                    f"{', '.join(VARIABLES)} alone. Write the value itself there"
                )
        elif not RESOLVER.match(text, start.start()):
            raise _Unlike(NO_VALUES)
    return found


class _Unlike(Exception):  # noqa: N818
    """What is wrong with an override."""


def _parsed(override: str) -> tuple[list[str], Any]:
    """Return an override's key in parts, and its value."""
    try:
        parsed = OverridesParser.create().parse_override(override)
    except (HydraException, RecursionError) as error:
        raise _Unlike("it is none") from error
    key = re.split(r"[./]", parsed.key_or_group)
    package = (parsed.package or "").split(".")
    if not key[0] or "hydra" in (key[0], *package):
        raise _Unlike("it sets more than parts of it")
    if key == ["paths", "run"]:
        raise _Unlike("the folder is the run's")
    if parsed.package and (key != ["warmup"] or package[-1] != "warmup"):
        raise _Unlike("it puts an option where it does not belong")
    if parsed.is_sweep_override():
        raise _Unlike("a run has one value")
    value = None if parsed.is_delete() else parsed.value()
    _check_value(parsed.key_or_group, value)
    return key, value


def _check_value(key: str, value: Any) -> None:
    for names, leaf in leaves(value):
        _references(names, str(leaf))
        for text in (*names, VARIABLE.sub("", REFERENCE.sub("", str(leaf)))):
            if "${" in text:
                raise _Unlike(NO_VALUES)
        # The options of a group are files; `..` leads to others.
        if "." not in key and key not in PATHS and ".." in re.split(r"[/\\]", str(leaf)):
            raise _Unlike("it leads out of the configuration")


def _nested(key: Sequence[str], value: Any) -> Any:
    for name in reversed(key):
        value = {name: value}
    return value


def _is_trusted(target: Any, allowed: Allowed, run: Path) -> bool:
    """Return whether a name leads to what may be called; what may not is not even imported."""
    parts = target.split(".") if isinstance(target, str) else []
    if len(parts) < 2 or not all(part.isidentifier() and part[0] != "_" for part in parts):
        return False
    if not _may_be_imported(target, allowed, run):
        return False
    found = _located(parts)
    # Methods are called on what a configuration gives them.
    if not (isclass(found) or isfunction(found)) or found.__qualname__ != found.__name__:
        return False
    # A name may lead through a module to whatever that has imported.
    module = found.__module__
    if module.partition(".")[0] not in LIBRARIES:
        return _is_own(module, run)
    full = f"{module}.{found.__name__}"
    if isclass(found):
        return _begins(full, allowed.classes)
    return _begins(full, allowed.functions) and "._" not in full


def _may_be_imported(target: str, allowed: Allowed, run: Path) -> bool:
    top = target.partition(".")[0]
    if top not in LIBRARIES:
        return _is_own(target, run)
    short = target.count(".") == 1 or top == PACKAGE.name
    return short or _begins(target, [*allowed.classes, *allowed.functions])


def _is_missing(target: Any) -> bool:
    """Return whether a name begins with that of no module of this machine."""
    top = target.partition(".")[0] if isinstance(target, str) else ""
    try:
        return top.isidentifier() and find_spec(top) is None
    except ValueError:  # of modules that are no file's
        return False


def _begins(name: str, places: Sequence[str]) -> bool:
    return any(f"{name}.".startswith(f"{place}.") for place in places)


def _located(parts: Sequence[str]) -> Any:
    """Return what Hydra finds by a name, or None.

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
    except Exception as error:  # whatever a module's own code raises
        if isinstance(error, ModuleNotFoundError) and error.name == name:
            return None
        raise InvalidArgumentError(f"{name} cannot be imported: {error!r}") from error


def _is_own(name: str, run: Path) -> bool:
    """Return whether a name lies in a module of the user's; nothing is imported to find out."""
    parts = name.split(".")
    if parts[0] in NOT_OWN:
        return False
    try:
        spec = find_spec(parts[0])
    except ValueError:  # of modules that are no file's
        return False
    for count in range(1, len(parts) + 1):
        if spec is None:
            # The rest of the name is inside a module.
            return count > 1
        if not _lies_with_the_user(spec, run):
            return False
        inner = spec.submodule_search_locations
        if inner is None or count == len(parts):
            return True
        # By its last name alone: of a whole one Python wants to have imported the packages.
        spec = PathFinder.find_spec(parts[count], list(inner))
    return True


def _lies_with_the_user(spec: ModuleSpec, run: Path) -> bool:
    # Folders of modules, with an __init__.py or without; those of Python itself have none.
    folders = [Path(place) for place in spec.submodule_search_locations or ()]
    files = [Path(spec.origin)] if spec.has_location and spec.origin is not None else []
    # Such as `outputs`, where run folders are and whatever came with them.
    if any(_holds(folder, run) for folder in folders):
        return False
    places = [*folders, *files]
    return bool(places) and not any(
        _holds(other, place) for place in places for other in (run, PACKAGE, *_installed())
    )


def _holds(folder: Path, path: Path) -> bool:
    """Return whether a folder holds a path, by the names of both or by where links lead."""
    return any(
        Path(where).is_relative_to(place)
        for place in {os.path.abspath(folder), os.path.realpath(folder)}  # noqa: PTH100
        for where in {
            os.path.abspath(path),  # noqa: PTH100
            os.path.realpath(path),
            # A link itself, in a folder that is reached by another one.
            os.path.join(os.path.realpath(path.absolute().parent), path.name),  # noqa: PTH118
        }
    )


def _installed() -> list[Path]:
    """Return where Python, and what was installed, lie."""
    kinds = ("stdlib", "platstdlib", "purelib", "platlib")
    return [
        *(Path(sysconfig.get_path(kind)) for kind in kinds),
        *(Path(place) for place in sys.path if Path(place).name.endswith("-packages")),
    ]
