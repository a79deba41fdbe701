"""What a run folder, which people pass on to each other, may make this machine do.

Its configuration names classes, and whatever is named there would be called; its paths and links
would be written to. Nothing in a folder is followed before it has been looked at here.
"""

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

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from smoothcert.errors import InvalidArgumentError, RecordsError
from smoothcert.runs.places import leaves, lies_in, resolved

TARGET = "_target_"
REQUIRED = "???"
"""What stands for a value that is still to be given."""


@dataclass(frozen=True)
class Allowed:
    """What a library offers to configurations, by beginnings of full names."""

    classes: Sequence[str]
    functions: Sequence[str] = ()


OF_LIGHTNING = ("accelerators", "callbacks", "loggers", "plugins", "profilers", "strategies")
LIBRARIES: Mapping[str, Allowed] = {
    "smoothcert": Allowed(
        [f"smoothcert.{part}" for part in ("attacks", "certify", "data", "lightning", "models")]
        + [f"smoothcert.{part}" for part in ("objectives", "report", "warmup")],
        # Others write files that their arguments name.
        (
            "smoothcert.models",
            "smoothcert.lightning.loggers.wandb_logger",
            "smoothcert.report.plots.plot_certified_accuracy",
        ),
    ),
    "torch": Allowed(["torch.optim", "torch.nn"]),
    "torchvision": Allowed(["torchvision.models"], ["torchvision.models"]),
    # Not its command line, which calls what its arguments name.
    "pytorch_lightning": Allowed(
        [f"pytorch_lightning.{part}" for part in (*OF_LIGHTNING, "trainer")]
    ),
    "lightning_fabric": Allowed([f"lightning_fabric.{part}" for part in OF_LIGHTNING]),
    "timm": Allowed([f"timm.{part}" for part in ("models", "layers", "optim")], ["timm.models"]),
}
"""Older versions of timm run what is in a file; functions of private modules take files."""
EXPECTED = (
    "classes of smoothcert, torch.optim, torch.nn, torchvision.models, pytorch_lightning and timm, "
    "networks of these, and what a module of your own defines, outside of site-packages and of the "
    "run folder"
)
REFUSED = {
    # By position, files and servers would have no name.
    "_args_": "arguments by position",
    **dict.fromkeys(("checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay"), "files"),
    # Whoever gets a request gets the key that is sent with it.
    **dict.fromkeys(("base_url", "tracking_uri"), "servers"),
}
"""Settings that no run folder may make, by what they would name."""
NOT_OWN = {"src", "tests", *sys.stdlib_module_names}
"""Modules in the working folder that are no module of the user's, and the standard library."""
PACKAGE = Path(__file__).parents[1]

INTERPOLATION = re.compile(r"\$\{(\.*[\w.]+|oc\.env:\w+(,[^${}]*)?)\}")
"""Those that lead to another value, or to the environment, and make nothing new."""
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
        >>> check_targets({"_target_": "torch.optim.SGD"}, Path("config.yaml"), Path("run"))
    """
    for names, value in leaves(values):
        refused = _refused(names)
        if refused is not None:
            raise InvalidArgumentError(
                f"{source} sets {'.'.join(names)}, and a run folder may name no {refused}"
            )
        if names and names[-1] == TARGET and value != REQUIRED:
            _check_target(value, source, run, all_used)


def _refused(names: Sequence[str]) -> str | None:
    """Return what a setting would name that it may not, if anything."""
    if TARGET in names[:-1]:
        return "targets in parts"
    # W&B's own: its server is one of a hundred, and what leads there are others.
    if names[:1] == ("logger",) and "settings" in names:
        return "servers"
    return next((REFUSED[name] for name in names if name in REFUSED), None)


def _check_target(target: Any, source: Path, run: Path, is_used: bool) -> None:
    if not _is_missing(target):
        if not _is_trusted(target, run):
            raise InvalidArgumentError(
                f"{source} calls {target!r}, which is not allowed: the folder may be from "
                f"anywhere, and that could run its code. Allowed are {EXPECTED}"
            )
    elif is_used:
        raise InvalidArgumentError(
            f"{source} calls {target!r}, and no such module is found: put its folder into "
            "PYTHONPATH"
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
    config.paths = paths
    try:
        values = {name: resolved(config[name]) for name in NEEDED}
    except (OmegaConfBaseException, KeyError, TypeError) as error:
        raise RecordsError(f"{source} is damaged: {error}") from error
    check_targets(values, source, run)
    for names, value in leaves(values):
        # Written out once more, it would be followed after all.
        if "${" in str(value):
            raise InvalidArgumentError(f"{source} sets {'.'.join(names)} to {value!r}")
    return OmegaConf.create(values)


class _Unlike(Exception):  # noqa: N818
    """What is wrong with an override."""


def _parsed(override: str) -> tuple[list[str], Any]:
    """Return an override's key in parts, and its value."""
    try:
        parsed = OverridesParser.create().parse_override(override)
    except HydraException as error:
        raise _Unlike("it is none") from error
    key = re.split(r"[./]", parsed.key_or_group)
    package = (parsed.package or "").split(".")
    if not key[0] or "hydra" in (key[0], *package):
        raise _Unlike("it sets more than parts of it")
    if key == ["paths", "run"]:
        raise _Unlike("the folder is the run's")
    if parsed.is_sweep_override():
        raise _Unlike("a run has one value")
    value = None if parsed.is_delete() else parsed.value()
    _check_value(parsed.key_or_group, value)
    return key, value


def _check_value(key: str, value: Any) -> None:
    for names, leaf in leaves(value):
        for text in (*names, str(leaf)):
            if "${" in INTERPOLATION.sub("", text):
                raise _Unlike("it makes values")
        # The options of a group are files; `..` leads to others.
        if "." not in key and key not in PATHS and ".." in re.split(r"[/\\]", str(leaf)):
            raise _Unlike("it leads out of the configuration")


def _nested(key: Sequence[str], value: Any) -> Any:
    for name in reversed(key):
        value = {name: value}
    return value


def _is_trusted(target: Any, run: Path) -> bool:
    """Return whether a name leads to what may be called; what may not is not even imported."""
    parts = target.split(".") if isinstance(target, str) else []
    if len(parts) < 2 or not all(part.isidentifier() and part[0] != "_" for part in parts):
        return False
    if not _may_be_imported(target, run):
        return False
    found = _located(parts)
    # Methods are called on what a configuration gives them.
    if not (isclass(found) or isfunction(found)) or found.__qualname__ != found.__name__:
        return False
    # A name may lead through a module to whatever that has imported.
    module = found.__module__
    allowed = LIBRARIES.get(module.partition(".")[0])
    if allowed is None:
        return _is_own(module, run)
    full = f"{module}.{found.__name__}"
    if isclass(found):
        return _begins(full, allowed.classes)
    return _begins(full, allowed.functions) and "._" not in full


def _may_be_imported(target: str, run: Path) -> bool:
    library = LIBRARIES.get(target.partition(".")[0])
    if library is None:
        return _is_own(target, run)
    return target.count(".") == 1 or _begins(target, [*library.classes, *library.functions])


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
    if spec.has_location and spec.origin is not None:
        places = [Path(spec.origin)]
    else:
        # A folder of modules without an __init__.py; those of Python itself have no folder.
        places = [Path(place) for place in spec.submodule_search_locations or ()]
        # Such as `outputs`, where run folders lie and whatever came with them.
        if any(lies_in(place, run) for place in places):
            return False
    others = [run, PACKAGE, *_installed()]
    return bool(places) and not any(lies_in(other, place) for place in places for other in others)


def _installed() -> list[Path]:
    """Return where Python, and what was installed, lie."""
    kinds = ("stdlib", "platstdlib", "purelib", "platlib")
    return [
        *(Path(sysconfig.get_path(kind)) for kind in kinds),
        *(Path(place) for place in sys.path if Path(place).name.endswith("-packages")),
    ]
