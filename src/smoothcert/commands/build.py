"""Parts of a run, built from their configurations."""

import logging
import os
from collections.abc import Mapping, Sequence
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
from smoothcert.commands.security import REQUIRED, TARGET, leaves, resolved
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
"""Settings and parts that a run depends on."""
PLACES = ("root", "download", "cache", "num_workers", "corrupt")
"""Settings of the data that a run does not depend on: where images are, and how they are read.
Certificates depend on the images themselves."""
CHOICES = ("data", "model", "objective", "attack")
"""Groups whose options describe a run."""
OF_ANY_MODEL = ("weights", "reinitialize", "freeze", "freeze_epochs", "normalization")
"""Settings of `model` that are not arguments of the network."""


def names_of_parts(cfg: Mapping[str, Any], choices: Mapping[str, str]) -> dict[str, str]:
    """Return the names of a run's data, model, objective and attack in summaries.

    Args:
        cfg: the configuration.
        choices: the option of each group.

    Example:
        >>> parts = {name: {"_target_": f"smoothcert.{name}"} for name in CHOICES}
        >>> parts["objective"] = {"_target_": "mine.Objective"}
        >>> chosen = dict(data="digits", model="small_cnn", objective="gaussian", attack="none")
        >>> names_of_parts(OmegaConf.create(parts), chosen)["objective"]
        'mine.Objective'
    """
    return {name: name_of(name, cfg[name], choices[name]) for name in CHOICES}


def name_of(group: str, config: Mapping[str, Any], choice: str) -> str:
    """Return the name of a part in summaries: its option, or the user's own class.

    Args:
        group: the group of the part.
        config: its configuration.
        choice: the option of the group.

    Raises:
        InvalidArgumentError: if the class is missing, which some options leave to the command line.
    """
    target = config.get(TARGET)
    if target in (None, REQUIRED):
        raise InvalidArgumentError(
            f"Expected {group}._target_=<module>.<class> with {group}={choice}, got none"
        )
    # A user's own class may have the settings of any option.
    return choice if target.startswith("smoothcert.") else target


def build_model(config: DictConfig, data: ImageDataModule | SimpleNamespace) -> nn.Module:
    """Build a model with the image shape and the number of classes of the data.

    Args:
        config: a configuration of `conf/model/`.
        data: the data module, or an object with the same `num_classes`, `input_shape`, `mean` and
            `std`.

    Raises:
        MismatchError: if the configuration has a different number of classes, or the model refuses
            the images, or returns no logits, or a different number of them.
        InvalidArgumentError: if the configuration has an unknown normalization.
    """
    classes = config.get("num_classes")
    if classes is not None and classes != data.num_classes:
        raise MismatchError(
            f"The model is configured for {classes} classes and the data has {data.num_classes}. "
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
    """Return a network, built with those facts that it takes as arguments."""
    parameters = signature(get_method(config._target_)).parameters
    names = set(parameters)
    if any(each.kind is Parameter.VAR_KEYWORD for each in parameters.values()):
        # Libraries pass them on to networks that take only the number of classes.
        names.add("num_classes")
    arguments = {name: fact for name, fact in facts.items() if name in names}
    network = instantiate(config, **arguments, _convert_="all")
    if not isinstance(network, nn.Module):
        raise InvalidArgumentError(
            f"Expected a torch.nn.Module from {config._target_}, got {type(network).__name__}"
        )
    if {"mean", "std"} & set(parameters):
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
        data: as in `build_model`.
        path: a checkpoint.
        reinitialize: parts of the network that keep their initial weights.

    Raises:
        CheckpointError: if the file cannot be read, or lacks a part of the model; the message
            names an option of `conf/model` that fits.
        MismatchError: as in `build_model`, and if a part has a different shape in the file.
    """
    model = build_model(settled(config, path, data), data)
    try:
        load_weights(model, path, reinitialize)
    except (CheckpointError, MismatchError) as error:
        found = fitting_model(path, tuple(data.input_shape))
        if found is None:
            raise
        override, classes = found
        of_classes = "" if classes == data.num_classes else f", for {classes} classes"
        raise type(error)(f"{error}. It fits {override}{of_classes}") from error
    return model


def recorded_of(checkpoint: Path) -> dict[str, Any]:
    """Return the configuration that a checkpoint records; empty if smoothcert did not write it.

    Args:
        checkpoint: the file.
    """
    # Other programs may use the same key.
    recorded = read_checkpoint(checkpoint).get("configuration")
    return recorded if isinstance(recorded, dict) else {}


def without_publisher(config: DictConfig) -> DictConfig:
    """Return a configuration that downloads no pretrained weights.

    Args:
        config: a configuration of `conf/model/`.
    """
    changed = config.copy()
    if "pretrained" in changed:
        changed.pretrained = False
    return changed


def settled(config: DictConfig, path: Path, data: ImageDataModule | SimpleNamespace) -> DictConfig:
    """Return a configuration whose `shortcut`, if it was null, is that of the network in a file.

    Args:
        config: a configuration of `conf/model/`.
        path: a checkpoint.
        data: as in `build_model`.
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

    Args:
        cfg: a configuration with `data`.

    Raises:
        InvalidArgumentError: if a setting is out of range, or the data needs a folder and
            `data.root` is missing.
    """
    config = cfg.data.copy()
    with open_dict(config):
        # `src.certify` has these for any data; the digits have no folder.
        for name in ("root", "corrupt"):
            if name in config and (OmegaConf.is_missing(config, name) or config[name] is None):
                del config[name]
    root = signature(get_class(config._target_)).parameters.get("root")
    if root is not None and root.default is root.empty and "root" not in config:
        raise InvalidArgumentError(f"Expected data.root=<folder>, with {LAYOUT}")
    return instantiate(config, _convert_="all")


def load_images(data: ImageDataModule, *splits: str) -> None:
    """Load splits; on each machine, one process downloads and decodes before the others load.

    Args:
        data: the data module.
        splits: `train`, `val` or `test`.
    """
    team = processes()
    name = f"loaded/{os.environ.get('NODE_RANK', os.environ.get('GROUP_RANK', 0))}"
    first = team.size == 1 or os.environ.get("LOCAL_RANK") == "0"
    if not first:
        team.get(name)
    data.prepare_data()
    for split in splits:
        data.images(split)
    if first:
        team.set(name, True)


def build_module(
    cfg: DictConfig, data: ImageDataModule, last: Path | None = None
) -> SmoothedTraining:
    """Return the module that Lightning trains.

    Args:
        cfg: a configuration of `conf/train.yaml`.
        data: the data module.
        last: the run's own last checkpoint, which Lightning will load; it replaces the weights
            that the configuration names.

    Raises:
        InvalidArgumentError: if parts of the weights are excluded, and no weights are named.
    """
    settings = resolved(cfg)
    for place in PLACES:
        settings["data"].pop(place, None)
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
    # Older checkpoints record none.
    settings["model"].pop("shortcut", None)
    if config.get("shortcut") is not None:
        settings["model"]["shortcut"] = config.shortcut
    if cfg.scheduler_interval == "step":
        settings["scheduler"]["max_epochs"] = cfg.trainer.max_epochs
    ema = (cfg.get("callbacks") or {}).get("ema")
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
            **{name: settings[name] for name in TRAINED_BY},
            **({"ema": ema.decay} if ema is not None else {}),
            "class_names": list(data.class_names),
        },
        scheduler_interval=cfg.scheduler_interval,
        channels_last=cfg.speed.channels_last,
        compile_model=_compiled(cfg.speed.compile, cfg.trainer.accelerator),
    )


def check_types(cfg: DictConfig) -> None:
    """Refuse a text as the argument of a class or function that takes a number, true or false.

    Args:
        cfg: a configuration; each of its parts with a target is checked.

    Raises:
        InvalidArgumentError: if there is one; the message names the setting.

    Example:
        >>> check_types(OmegaConf.create({"trainer": {"_target_": "pytorch_lightning.Trainer"}}))
    """
    values, refused = dict(leaves(resolved(cfg))), {}
    for names, value in values.items():
        target = values.get((*names[:-1], TARGET))
        if isinstance(value, str) and target is not None:
            expected = _numeric_arguments(target).get(names[-1])
            if expected is not None:
                refused[names] = f"Expected {'.'.join(names)} of type {expected}, got {value!r}"
    unresolved = dict(leaves(OmegaConf.to_container(cfg)))
    # The setting itself before settings that interpolate it.
    for names in sorted(refused, key=lambda names: "${" in str(unresolved.get(names))):
        raise InvalidArgumentError(refused[names])


@cache
def _numeric_arguments(target: str) -> Mapping[str, str]:
    """Return the arguments of a class or function that take no text, with their types in words."""
    try:
        found = get_object(target)
        hints = get_type_hints(found.__init__ if isclass(found) else found)
    except Exception:  # An invalid target is reported where it is called.
        return {}
    types = {name: set(get_args(hint) or (hint,)) - {NoneType} for name, hint in hints.items()}
    return {
        name: " or ".join(sorted(each.__name__ for each in alternatives))
        for name, alternatives in types.items()
        if alternatives and alternatives <= {int, float, bool}
    }


def build_trainer(cfg: DictConfig) -> Any:
    """Return Lightning's trainer, with callbacks and loggers.

    Args:
        cfg: a configuration of `conf/train.yaml`.

    Raises:
        InvalidArgumentError: if a setting is out of range, or a file of the run would not contain
            the network that is certified.
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
        **_for_this_group(cfg),
        _convert_="all",
    )
    settings = resolved(cfg.callbacks) if callbacks else {}
    check_callbacks(callbacks, settings, Path(cfg.paths.run), trainer)
    return trainer


def log_configuration(cfg: DictConfig, names: Mapping[str, str], trainer: Any) -> None:
    """Log the configuration with a trainer's loggers.

    Args:
        cfg: a configuration of `conf/train.yaml`.
        names: names of the run and of its parts.
        trainer: Lightning's trainer.
    """
    configuration = {
        **names,
        "method": method_name(names.get("objective"), names.get("attack")),
        "sigma": cfg.sigma,
        "seed": cfg.seed,
        "cfg": resolved(cfg),
    }
    for each in trainer.loggers:
        each.log_hyperparams(configuration)


def _for_this_group(cfg: DictConfig) -> dict[str, Any]:
    """Return the settings of a trainer that depend on the number of processes."""
    by_number = not str(cfg.trainer.devices).removeprefix("-").isalnum()
    if not is_group():
        # Explicit numbers: otherwise Lightning would start processes of its own.
        return {"num_nodes": 1} | ({} if by_number else {"devices": 1})
    each = int(os.environ["LOCAL_WORLD_SIZE"])
    settings: dict[str, Any] = {"num_nodes": processes().size // each}
    if not by_number:
        settings["devices"] = each
    if cfg.trainer.strategy == "auto":
        # Frozen parts have no gradients to wait for.
        settings["strategy"] = SmoothedDDP(find_unused_parameters=bool(cfg.model.freeze))
    return settings


def precision_of(setting: str, accelerator: str) -> str:
    """Return the precision for Lightning: `auto` is bfloat16 if the hardware supports it.

    Args:
        setting: a precision of Lightning, or `auto`.
        accelerator: an accelerator of Lightning.

    Example:
        >>> precision_of("32-true", "cpu")
        '32-true'
    """
    if setting != "auto":
        return setting
    if _on_gpu(accelerator):
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
    return "bf16-mixed" if native else "32-true"


def switch(name: str, value: Any) -> bool | Literal["auto"]:
    """Return a setting that is true, false or `auto`.

    Args:
        name: its name in the message.
        value: the setting.

    Raises:
        InvalidArgumentError: if it is none of these.

    Example:
        >>> switch("speed.compile", "auto")
        'auto'
    """
    if value not in (True, False, "auto"):
        raise InvalidArgumentError(f"Expected {name} true, false or auto, got {value!r}")
    return value


def _compiled(setting: bool | str, accelerator: str) -> bool:
    """Return whether to compile: `auto` compiles on a GPU, where it makes steps faster."""
    setting = switch("speed.compile", setting)
    return _on_gpu(accelerator) if setting == "auto" else setting


def _on_gpu(accelerator: str) -> bool:
    return accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()


def device_of(name: str) -> str:
    """Return the device for a setting: `auto` is a GPU if there is one.

    Args:
        name: `auto`, `cpu`, `cuda` or `cuda:1`.

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
