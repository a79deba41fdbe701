"""What a run folder and a command line may make this machine do; each rule names its attack.

People pass run folders on to each other. The configuration in one names classes, and whatever is
named there would be called; its paths and links would be written to. Nothing in a folder is
followed before it was checked here. And what a command is given is kept with the run, so no secret
may be in it.
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
"""What stands for a value that is still to be given."""


@dataclass(frozen=True)
class Allowed:
    """What may be called in a place of the configuration, by beginnings of full names."""

    classes: Sequence[str] = ()
    functions: Sequence[str] = ()


def _of_lightning(*parts: str) -> list[str]:
    # Attack: Lightning's command line, which calls what its arguments name.
    return [f"{top}.{part}" for top in ("pytorch_lightning", "lightning_fabric") for part in parts]


NETWORKS = Allowed(
    ["torch.nn", "torchvision.models", "timm.models", "timm.layers", "smoothcert.models"],
    ["torchvision.models", "timm.models", "smoothcert.models"],
)
OF_A_LOSS = Allowed([f"smoothcert.{part}" for part in ("objectives", "attacks", "warmup")])
CERTIFYING = Allowed(["smoothcert.certify"])
LEARNING = Allowed(["torch.optim", "timm.optim"])
# Attack: `os.system`, or an allowed class in a place where its arguments are not checked.
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
    # Attack: files and servers by position, where they have no name.
    "_args_": "arguments by position",
    # Attack: a pickle, which timm runs when it loads it.
    **dict.fromkeys(("checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay"), "files"),
    # Attack: a file that timm fetches, over one of the user's.
    "cache_dir": "folders",
    # Attack: a server that gets the key which is sent with a request.
    **dict.fromkeys(("base_url", "tracking_uri"), "servers"),
}
"""Settings that no run folder may make, by what they would name."""
# Attack: call `subprocess.Popen` as a module of the user's.
NOT_OWN = {"src", "tests", *sys.stdlib_module_names}
"""Modules in the working folder that are no module of the user's, and the standard library."""
PACKAGE = Path(__file__).parents[1]

# Attack: read a password from the environment; what is read is kept in summaries and logged.
VARIABLES = ("SMOOTHCERT_DATA", "SCRATCH", "SLURM_TMPDIR", "TMPDIR", "SLURM_JOB_NUM_NODES")
"""Variables of the environment that a run folder may read."""
REFERENCE = re.compile(r"\$\{([\w.]+)\}")
"""An interpolation that leads to another value."""
VARIABLE = re.compile(r"\$\{oc\.env:(\w+)(,[^${}]*)?\}")
"""One that leads to a variable of the environment, with a value for where it is not set."""
RESOLVER = re.compile(
    r"\$\{(for_sigma|epochs_within|bar_every|path_name|suffix|sweep_or|hydra):"
    # The one of `conf/trainer/slurm.yaml`.
    r"|\$\{oc\.decode:\$\{oc\.env:SLURM_JOB_NUM_NODES,1\}\}"
)
"""Those of `conf/` that make plain values of their arguments."""
# Attack: a file of a few lines that fills the memory, or keeps the parser busy.
LARGEST_YAML, MOST_NODES, DEEPEST = 64 * 2**10, 10_000, 50
"""Bytes of a file of `.hydra`, values in it, and how deep they may be in each other; a run's have
about 4,000, 300 and 4."""
# Attack: lines that repeat each other, nine times in each of thirty steps.
LARGEST_EXPANSION = 100_000
"""Characters of a configuration once all is interpolated."""
NO_VALUES = "it makes values, where it may only refer to others"
FOR_CERTIFICATION = ("name", "sigma", "seed", "data", "model", "certifier")
"""What certification takes from the configuration of a training."""


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
    # Attack: W&B's own settings: its server is one of a hundred, and what leads there are others.
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


def trusted(
    config: Any, paths: Any, run: Path, parts: Sequence[str] | None = FOR_CERTIFICATION
) -> DictConfig:
    """Return parts of a run's configuration as plain values that were checked.

    Args:
        config: the contents of the folder's `config.yaml`.
        paths: where things are on this machine, in place of the run's own.
        run: the run folder.
        parts: names of what is needed; None: all.

    Raises:
        InvalidArgumentError: if something in it is not allowed.
        RecordsError: if it is damaged.
    """
    source = RunFolder(run).configuration("config")
    if not isinstance(config, DictConfig):
        raise RecordsError(f"{source} is damaged: expected settings by name")
    plain: Any = OmegaConf.to_container(config)
    # Attack: set variables of the environment, and classes, by Hydra's own part.
    if "hydra" in plain:
        raise InvalidArgumentError(f"{source} sets hydra, and a run folder may not")
    # Attack: leave a target in a part that is not needed today, for others to find.
    check_targets(plain, source, run, all_used=False)
    before = plain.get("paths")
    config.paths = {**(before if isinstance(before, dict) else {}), **resolved(paths)}
    parts = list(plain) if parts is None else parts
    _Expansion(OmegaConf.to_container(config), source).check(parts)
    try:
        values = {name: resolved(config[name]) for name in parts}
    except (OmegaConfBaseException, KeyError, TypeError, RecursionError) as error:
        raise RecordsError(f"{source} is damaged: {error}") from error
    # Attack: a target that stands there only once it is interpolated.
    check_targets(values, source, run)
    for names, value in leaves(values):
        # Attack: an escaped interpolation, which would be followed when it is read once more.
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

    def _references(self, names: Sequence[str], leaf: Any) -> list[tuple[str, ...]]:
        """Return the values that a text interpolates, by their names from the top."""
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
                    f"it reads {variable[1]} from the environment, where a run folder may read "
                    f"{', '.join(VARIABLES)} alone. Write the value itself there"
                )
            # Attack: make a target of parts of texts, which no check of texts sees.
            elif not variable and not RESOLVER.match(text, start.start()):
                wrong = NO_VALUES
            else:
                continue
            raise InvalidArgumentError(
                f"{self._source} sets {'.'.join(names)} to {leaf!r}: {wrong}"
            )
        return found


def _is_trusted(target: Any, allowed: Allowed, run: Path) -> bool:
    """Return whether a name leads to what may be called; what may not is not even imported."""
    parts = target.split(".") if isinstance(target, str) else []
    if len(parts) < 2 or not all(part.isidentifier() and part[0] != "_" for part in parts):
        return False
    # Attack: a module whose import alone does something.
    if not _may_be_imported(target, allowed, run):
        return False
    found = _located(parts)
    # Attack: a method, which is called on what a configuration gives it.
    if not (isclass(found) or isfunction(found)) or found.__qualname__ != found.__name__:
        return False
    # Attack: a name through an allowed module to what it has imported.
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
    # Attack: a package that came with the run folder, in `outputs`.
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
"""Parts that write, in places that their settings name."""
# Attack: a writer as a part of the model, where no folder is checked.
WRITERS = ("pytorch_lightning", "lightning_fabric", "smoothcert.lightning", "smoothcert.report")
"""Beginnings of what may be called in these parts alone."""
# Attack: a name such as `../../x`, which leaves its folder.
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


# Secrets.

# Attack: read the API key from a run folder that somebody has published, or from a log.
SECRET = re.compile(
    r"(^|_)(api_?keys?|access_?key|private_?key|client_?secret|secret(_?key)?|passw(or)?d|"
    r"passphrase|credentials?|token)$",
    re.IGNORECASE,
)
"""Names of settings that hold what nobody else may know. `tokens` are a transformer's."""
SECRET_VARIABLE = re.compile(rf"{SECRET.pattern}|_(key|pass|pat|auth)$", re.IGNORECASE)
"""Names of such variables of the environment."""
NO_SECRET = re.compile(r"(null|none|true|false|\?{3})?", re.IGNORECASE)
"""Values that are none, such as that of `class_token=true`."""
SHORTEST_SECRET = 12
"""Characters from which a variable's value is looked for: shorter ones may stand for themselves."""
INNER = re.compile(r"[{,]\s*([\w-]+)\s*:\s*([^,{}\[\]]*)")
"""Names and values in a value."""
READ_VARIABLES = re.compile(r"oc\.env\s*:\s*['\"]?([^'\",}\s]+)")
"""Variables of the environment in a value."""


def environment(name: str, *default: Any) -> str | None:
    """Return a variable of the environment, as `${oc.env:…}` in configurations, if it is no secret.

    Args:
        name: the variable.
        default: what to return where it is not set.

    Raises:
        InvalidArgumentError: if it is a secret: configurations are kept and logged.

    Example:
        >>> environment("SMOOTHCERT_DATA", "data")
        'data'
    """
    if _is_secret(name):
        raise InvalidArgumentError(f"Expected no secret in a configuration, got ${{oc.env:{name}}}")
    return oc.env(name, *default)


def refuse_secrets(arguments: Sequence[str]) -> None:
    """Refuse a command line with a secret: Hydra and W&B would keep it with the run.

    Args:
        arguments: the command line.

    Raises:
        SystemExit: with where the secret belongs; the secret itself is not repeated.

    Example:
        >>> refuse_secrets(["src/train.py", "sigma=0.5", "model.arguments.class_token=true"])
    """
    for argument in arguments[1:]:
        found = next(_secrets_in(argument), None)
        if found is not None:
            raise SystemExit(
                f"Expected no secret on the command line, got one by {found}: it would be kept in "
                "the run folder. Set it in the environment, for example WANDB_API_KEY, or use "
                "`wandb login`"
            )


def _secrets_in(argument: str) -> Iterator[str]:
    """Yield what in an argument holds a secret, by name."""
    key, _, value = argument.partition("=")
    pattern = SECRET_VARIABLE if "env_set" in key else SECRET
    pairs = [(key.lstrip("+~"), value), *INNER.findall(value)]
    for name, said in pairs:
        last = re.split(r"[./@:]", name)[-1].replace("-", "_")
        if pattern.search(last) and not NO_SECRET.fullmatch(said.strip("'\" ")):
            yield name
    yield from (f"oc.env:{name}" for name in READ_VARIABLES.findall(value) if _is_secret(name))
    yield from (
        f"the value of {name}"
        for name, secret in os.environ.items()
        if _is_secret(name) and len(secret) >= SHORTEST_SECRET and secret in argument
    )


def _is_secret(variable: str) -> bool:
    return SECRET_VARIABLE.search(variable) is not None
