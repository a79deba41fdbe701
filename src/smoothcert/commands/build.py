"""Parts of a run, built from their configurations."""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from inspect import Parameter, isclass, signature
from pathlib import Path
from types import NoneType, SimpleNamespace
from typing import Any, Literal, get_args, get_type_hints

import torch
from hydra.utils import get_class, get_method, get_object, instantiate
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from omegaconf import DictConfig, OmegaConf, open_dict
from torch import Tensor, nn

from smoothcert.commands.checkpoints import check_callbacks
from smoothcert.commands.fitting import fitting_model, shortcut_of
from smoothcert.commands.security import REQUIRED, TARGET, leaves
from smoothcert.data import ImageDataModule
from smoothcert.data.class_folders import LAYOUT
from smoothcert.distributed.group import is_group, processes
from smoothcert.errors import (
    CheckpointError,
    InvalidArgumentError,
    MismatchError,
    require_count,
)
from smoothcert.lightning import SmoothedDDP, SmoothedTraining, WholeCheckpoints
from smoothcert.models import (
    evaluating,
    load_weights,
    normalized,
    read_checkpoint,
    with_normalization,
)
from smoothcert.report.methods import method_name

logger = logging.getLogger(__name__)

TRAINED_BY = ("sigma", "seed", "data", "model", "objective", "attack", "optimizer", "scheduler")
"""What makes a run, with the names of its classes."""
PLACES = ("root", "download", "cache", "num_workers", "corrupt")
"""Where data lies and how it is read: no part of what makes a run. What certificates depend on are
the images themselves."""
CHOICES = ("data", "model", "objective", "attack")
"""Groups that say what a run is."""
OF_ANY_MODEL = ("weights", "reinitialize", "freeze", "freeze_epochs", "normalization")
"""Settings of `model` that are not the network's own."""


def names_of_parts(cfg: Mapping[str, Any], choices: Mapping[str, str]) -> dict[str, str]:
    """Return what a run's data, model, objective and attack are called in summaries.

    Args:
        cfg: the configuration.
        choices: the option that was chosen in each group.

    Example:
        >>> parts = {name: {"_target_": f"smoothcert.{name}"} for name in CHOICES}
        >>> parts["objective"] = {"_target_": "mine.Objective"}
        >>> chosen = dict(data="digits", model="small_cnn", objective="gaussian", attack="none")
        >>> names_of_parts(OmegaConf.create(parts), chosen)["objective"]
        'mine.Objective'
    """
    return {name: name_of(name, cfg[name], choices[name]) for name in CHOICES}


def name_of(group: str, config: Mapping[str, Any], choice: str) -> str:
    """Return what a part is called in summaries: its option, or the name of a user's own class.

    Args:
        group: the group of the part.
        config: its configuration.
        choice: the option that was chosen.

    Raises:
        InvalidArgumentError: if the option leaves the class to the command line, which names none.
    """
    target = config.get(TARGET)
    if target in (None, REQUIRED):
        raise InvalidArgumentError(
            f"Expected {group}._target_=<module>.<class> with {group}={choice}, got none"
        )
    # Whatever option the settings of a user's own class came from.
    return choice if target.startswith("smoothcert.") else target


def build_model(config: DictConfig, data: ImageDataModule | SimpleNamespace) -> nn.Module:
    """Build a model for the data, whose shape and number of classes it takes from there.

    Args:
        config: a configuration of `conf/model/`.
        data: the data module, or anything with its facts.

    Raises:
        MismatchError: if the configuration names another number of classes, or the model does
            not take the images, or gives another number of logits, or none.
        InvalidArgumentError: if the configuration asks for an unknown normalisation.
    """
    asked = config.get("num_classes")
    if asked is not None and asked != data.num_classes:
        raise MismatchError(
            f"The model is configured for {asked} classes and the data has {data.num_classes}. "
            "Leave out model.num_classes: it is taken from the data"
        )
    facts = {
        "num_classes": data.num_classes,
        "input_shape": data.input_shape,
        "mean": data.mean,
        "std": data.std,
    }
    model = _instantiated(_network(config), facts)
    model = with_normalization(model, config.get("normalization", "standard"))
    try:
        with evaluating(model), torch.no_grad():
            logits = model(torch.zeros(1, *data.input_shape))
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        raise MismatchError(
            f"The model does not take images of shape {tuple(data.input_shape)} "
            f"({type(error).__name__}: {error})"
        ) from error
    if not isinstance(logits, Tensor):
        raise MismatchError(
            f"Expected logits of shape (N, {data.num_classes}) from the model, got "
            f"{type(logits).__name__}: return the logits alone"
        )
    if logits.shape != (1, data.num_classes):
        raise MismatchError(
            f"The model gives {logits.shape[-1]} logits and the data has {data.num_classes} classes"
        )
    return model


def _instantiated(config: DictConfig, facts: Mapping[str, Any]) -> nn.Module:
    """Return a network, made from what it takes of the facts; see README, "A model of your own"."""
    takes = signature(get_method(config._target_)).parameters
    wanted = set(takes)
    if any(each.kind is Parameter.VAR_KEYWORD for each in takes.values()):
        # Libraries pass these on to networks that know the number of classes alone.
        wanted.add("num_classes")
    given = {name: fact for name, fact in facts.items() if name in wanted}
    network = instantiate(config, **given, _convert_="all")
    if not isinstance(network, nn.Module):
        raise InvalidArgumentError(
            f"Expected a torch.nn.Module from {config._target_}, got {type(network).__name__}"
        )
    if {"mean", "std"} & set(takes):
        return network
    return normalized(network, facts["mean"], facts["std"])


def load_model(
    config: DictConfig,
    data: ImageDataModule | SimpleNamespace,
    path: Path,
    reinitialize: Sequence[str] = (),
) -> nn.Module:
    """Build a model for the data, and load its weights from a file.

    Args:
        config: a configuration of `conf/model/`.
        data: the data module, or anything with its facts.
        path: a checkpoint.
        reinitialize: parts of the network that keep their fresh weights.

    Raises:
        CheckpointError: if the file cannot be read, or lacks a part of the model; it names the
            option of `conf/model` that would fit.
        MismatchError: as `build_model`, and if a part has another shape in the file.
    """
    model = build_model(settled(config, path, data), data)
    try:
        load_weights(model, path, reinitialize)
    except (CheckpointError, MismatchError) as error:
        found = fitting_model(path, tuple(data.input_shape))
        if found is None:
            raise
        override, classes = found
        other = "" if classes == data.num_classes else f", for {classes} classes"
        raise type(error)(f"{error}. It fits {override}{other}") from error
    return model


def recorded_of(checkpoint: Path) -> dict[str, Any]:
    """Return what a checkpoint records of its run; nothing where smoothcert did not write it.

    Args:
        checkpoint: the file.
    """
    # Others may call anything so.
    recorded = read_checkpoint(checkpoint).get("configuration")
    return recorded if isinstance(recorded, dict) else {}


def without_publisher(config: DictConfig) -> DictConfig:
    """Return a configuration that fetches no weights of its network's publisher.

    Args:
        config: a configuration of `conf/model/`.
    """
    changed = config.copy()
    if "pretrained" in changed:
        changed.pretrained = False
    return changed


def settled(config: DictConfig, path: Path, data: ImageDataModule | SimpleNamespace) -> DictConfig:
    """Return a configuration whose `shortcut`, where it is null, is that of a file's network.

    Args:
        config: a configuration of `conf/model/`.
        path: a checkpoint.
        data: as `build_model` takes it.
    """
    if config.get("shortcut", "") is not None:
        return config
    changed = config.copy()
    changed.shortcut = shortcut_of(path, _network(config), tuple(data.input_shape))
    if changed.shortcut is not None:
        logger.info("%s: its network has model.shortcut=%s", path, changed.shortcut)
    return changed


def _network(config: DictConfig) -> DictConfig:
    network = config.copy()
    with open_dict(network):
        for name in OF_ANY_MODEL:
            network.pop(name, None)
    return network


def build_data(cfg: DictConfig) -> ImageDataModule:
    """Return the data of a configuration; no image is decoded before `load_images`.

    Raises:
        InvalidArgumentError: if a setting is out of range, or the data needs a folder and none is
            named.
    """
    config = cfg.data.copy()
    with open_dict(config):
        # What `src.certify` has for data of any kind; the digits have no folder.
        for name in ("root", "corrupt"):
            if name in config and (OmegaConf.is_missing(config, name) or config[name] is None):
                del config[name]
    root = signature(get_class(config._target_)).parameters.get("root")
    if root is not None and root.default is root.empty and "root" not in config:
        raise InvalidArgumentError(f"Expected data.root=<folder>, which holds {LAYOUT}")
    return instantiate(config, _convert_="all")


def load_images(data: ImageDataModule, *splits: str) -> None:
    """Load splits, on each machine in one process first: it downloads, and decodes for all."""
    team = processes()
    this = f"loaded/{os.environ.get('NODE_RANK', os.environ.get('GROUP_RANK', 0))}"
    first = team.size == 1 or os.environ.get("LOCAL_RANK") == "0"
    if not first:
        team.get(this)
    data.prepare_data()
    for split in splits:
        data.images(split)
    if first:
        team.set(this, True)


def build_module(
    cfg: DictConfig, data: ImageDataModule, last: Path | None = None
) -> SmoothedTraining:
    """Return what Lightning trains.

    Args:
        cfg: a configuration of `conf/train.yaml`.
        data: the data module.
        last: the run's own last checkpoint, which Lightning is going to load in place of the
            weights that the configuration starts from.

    Raises:
        InvalidArgumentError: if parts are to be left out of weights that are not named.
    """
    resolved: Any = OmegaConf.to_container(cfg, resolve=True)
    for place in PLACES:
        resolved["data"].pop(place, None)
    config = cfg.model.copy()
    if cfg.model.weights is None and cfg.model.reinitialize:
        raise InvalidArgumentError("Expected model.weights=<file> with model.reinitialize")
    if last is not None:
        config = without_publisher(config)
    source = last or cfg.model.weights or cfg.ckpt_path
    if source is not None:
        config = settled(config, Path(source), data)
    if last is None and cfg.model.weights is not None:
        model = load_model(config, data, Path(cfg.model.weights), cfg.model.reinitialize)
    else:
        model = build_model(config, data)
    # Checkpoints from before there was a choice have none.
    resolved["model"].pop("shortcut", None)
    if config.get("shortcut") is not None:
        resolved["model"]["shortcut"] = config.shortcut
    if cfg.scheduler_interval == "step":
        resolved["scheduler"]["max_epochs"] = cfg.trainer.max_epochs
    return SmoothedTraining(
        model=model,
        objective=instantiate(cfg.objective, _convert_="all"),
        attack=instantiate(cfg.attack, _convert_="all"),
        sigma=cfg.sigma,
        optimizer=instantiate(cfg.optimizer, _convert_="all"),
        scheduler=instantiate(cfg.scheduler, _convert_="all"),
        validation_draws=cfg.validation_draws,
        seed=cfg.seed,
        configuration={
            **{name: resolved[name] for name in TRAINED_BY},
            **({"ema": cfg.callbacks.ema.decay} if _averages(cfg) else {}),
            "class_names": list(data.class_names),
        },
        scheduler_interval=cfg.scheduler_interval,
        channels_last=cfg.speed.channels_last,
        compile_model=_compiled(cfg.speed.compile, cfg.trainer.accelerator),
    )


def _averages(cfg: DictConfig) -> bool:
    return bool(cfg.get("callbacks")) and cfg.callbacks.get("ema") is not None


def check_types(cfg: DictConfig) -> None:
    """Refuse a text where what takes it says that it wants a number, true or false.

    Args:
        cfg: a configuration; parts that name a target are looked at.

    Raises:
        InvalidArgumentError: if there is one; the message names the setting.

    Example:
        >>> check_types(OmegaConf.create({"trainer": {"_target_": "pytorch_lightning.Trainer"}}))
    """
    refused = {}
    for names, part in _parts(OmegaConf.to_container(cfg, resolve=True)):
        wanted = _numbers_taken(part[TARGET])
        for key in wanted.keys() & part.keys():
            if isinstance(part[key], str):
                message = f"Expected {'.'.join((*names, key))} of type {wanted[key]}"
                refused[(*names, key)] = f"{message}, got {part[key]!r}"
    given = dict(leaves(OmegaConf.to_container(cfg)))
    # Where it was set comes first: other settings may take it over from there.
    for names in sorted(refused, key=lambda names: "${" in str(given.get(names))):
        raise InvalidArgumentError(refused[names])


def _parts(values: Any, names: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield every part of a configuration that names a target, with the names that lead to it."""
    if isinstance(values, dict):
        if TARGET in values:
            yield names, values
        for name, value in values.items():
            yield from _parts(value, (*names, str(name)))


@cache
def _numbers_taken(target: str) -> Mapping[str, str]:
    """Return the arguments of a class or function that take no text, with their types in words."""
    try:
        found = get_object(target)
        hints = get_type_hints(found.__init__ if isclass(found) else found)
    except Exception:  # Whatever is wrong with a target is said where it is called.
        return {}
    taken = {name: set(get_args(hint) or (hint,)) - {NoneType} for name, hint in hints.items()}
    return {
        name: " or ".join(sorted(kind.__name__ for kind in kinds))
        for name, kinds in taken.items()
        if kinds and kinds <= {int, float, bool}
    }


def build_trainer(cfg: DictConfig) -> Any:
    """Return Lightning's trainer, with callbacks and loggers.

    Args:
        cfg: a configuration of `conf/train.yaml`.

    Raises:
        InvalidArgumentError: if one of its settings cannot be, or a file of the run would not hold
            the network that its certificates speak of.
    """
    for name in ("accumulate_grad_batches", "check_val_every_n_epoch", "num_nodes"):
        if cfg.trainer[name] is not None:
            require_count(f"trainer.{name}", cfg.trainer[name])
    callbacks = {
        name: instantiate(callback, _convert_="all")
        for name, callback in (cfg.get("callbacks") or {}).items()
        if callback is not None
    }
    loggers = [
        instantiate(each, _convert_="all")
        for each in (cfg.get("logger") or {}).values()
        if each is not None
    ]
    trainer = instantiate(
        cfg.trainer,
        callbacks=list(callbacks.values()),
        logger=loggers,
        precision=precision_of(cfg.trainer.precision, cfg.trainer.accelerator),
        plugins=[WholeCheckpoints(), LightningEnvironment()],
        **_of_this_group(cfg),
        _convert_="all",
    )
    settings = OmegaConf.to_container(cfg.callbacks, resolve=True) if callbacks else {}
    check_callbacks(callbacks, settings, Path(cfg.paths.run), trainer)
    return trainer


def log_configuration(cfg: DictConfig, names: Mapping[str, str], trainer: Any) -> None:
    """Give the configuration to a trainer's loggers.

    Args:
        cfg: a configuration of `conf/train.yaml`.
        names: names of the run and of its parts.
        trainer: Lightning's trainer.
    """
    configuration = OmegaConf.to_container(cfg, resolve=True)
    for each in trainer.loggers:
        each.log_hyperparams(
            {
                **names,
                "method": method_name(names.get("objective"), names.get("attack")),
                "sigma": cfg.sigma,
                "seed": cfg.seed,
                "cfg": configuration,
            }
        )


def _of_this_group(cfg: DictConfig) -> dict[str, Any]:
    """Return what a trainer must be told where it is one of several processes."""
    named = not str(cfg.trainer.devices).removeprefix("-").isalnum()
    if not is_group():
        # Nothing is left to guess: Lightning would start processes of its own.
        return {"num_nodes": 1} | ({} if named else {"devices": 1})
    each = int(os.environ["LOCAL_WORLD_SIZE"])
    told: dict[str, Any] = {"num_nodes": processes().size // each}
    if not named:
        told["devices"] = each
    if cfg.trainer.strategy == "auto":
        # A frozen part has no gradient to wait for.
        told["strategy"] = SmoothedDDP(find_unused_parameters=bool(cfg.model.freeze))
    return told


def precision_of(asked: str, accelerator: str) -> str:
    """Return Lightning's precision: `auto` is bfloat16 where the hardware multiplies it.

    Args:
        asked: a precision of Lightning's, or `auto`.
        accelerator: an accelerator of Lightning's.

    Example:
        >>> precision_of("32-true", "cpu")
        '32-true'
    """
    if asked != "auto":
        return asked
    if _on_gpu(accelerator):
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
    return "bf16-mixed" if native else "32-true"


def switch(name: str, value: Any) -> bool | Literal["auto"]:
    """Return a setting that is true, false or `auto`.

    Args:
        name: what to call it in the message.
        value: the setting.

    Raises:
        InvalidArgumentError: if it is something else.

    Example:
        >>> switch("speed.compile", "auto")
        'auto'
    """
    if value not in (True, False, "auto"):
        raise InvalidArgumentError(f"Expected {name} true, false or auto, got {value!r}")
    return value


def _compiled(asked: bool | str, accelerator: str) -> bool:
    """Return whether to compile: `auto` is on a GPU, where a step gains by it."""
    asked = switch("speed.compile", asked)
    return _on_gpu(accelerator) if asked == "auto" else asked


def _on_gpu(accelerator: str) -> bool:
    return accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()


def device_of(name: str) -> str:
    """Return the device that a setting means: `auto` is a GPU where there is one.

    Raises:
        InvalidArgumentError: if there is no such device.
    """
    if name in ("auto", "cuda") and torch.cuda.is_available():
        return f"cuda:{os.environ['LOCAL_RANK']}" if is_group() else "cuda"
    if name == "auto":
        return "cpu"
    kind, _, number = str(name).partition(":")
    if kind not in ("cpu", "cuda", "mps", "xpu") or not (number or "0").isdecimal():
        raise InvalidArgumentError(f"Expected `device` auto, cpu, cuda or cuda:1, got {name!r}")
    if kind == "cuda" and int(number or 0) >= (here := torch.cuda.device_count()):
        found = f"{here} GPUs here, numbered from 0" if here else "no GPU here"
        raise InvalidArgumentError(f"Expected a device of this machine, got {name!r}: {found}")
    return name
