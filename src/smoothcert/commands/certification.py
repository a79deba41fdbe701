"""What `python -m src.certify` does."""

import logging
import re
import warnings
from dataclasses import dataclass
from glob import escape
from inspect import signature
from itertools import zip_longest
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, OmegaConf
from torch import nn

from smoothcert.certify import Certifier, SmoothedClassifier, Subset, certify_examples
from smoothcert.commands.build import (
    CHOICES,
    build_data,
    device_of,
    load_images,
    load_model,
    name_of,
    names_of_parts,
    recorded_of,
    without_publisher,
)
from smoothcert.commands.chance import near_chance
from smoothcert.commands.commandline import check, checked_radii, read_yaml, typed
from smoothcert.commands.guard import choices_of
from smoothcert.commands.security import trusted
from smoothcert.commands.summary import performance_of, provenance, write_summary
from smoothcert.data import ImageDataModule, write_thumbnails
from smoothcert.distributed.group import processes
from smoothcert.errors import (
    InvalidArgumentError,
    MismatchError,
    RecordsError,
    SmoothCertWarning,
    require_positive,
)
from smoothcert.lightning.callbacks import warn_of_few_samples
from smoothcert.records import RunFolder, Shard
from smoothcert.records.summary import summarize
from smoothcert.report import plot_certified_accuracy
from smoothcert.stats import default_radii

logger = logging.getLogger(__name__)

OF_TRAINING = ("epochs", "seconds_training", "training_images", "training")
"""What a certification's summary repeats of its run's."""


@dataclass(frozen=True)
class Subject:
    """What is certified, of a run or of a file.

    Attributes:
        model: the base classifier, with its weights.
        data: the images.
        sigma: standard deviation of the noise, in pixel units.
        certifier: samples and bounds.
        seed: seed of the noise.
        facts: what the summary says of it.
    """

    model: nn.Module
    data: ImageDataModule
    sigma: float
    certifier: Certifier
    seed: int
    facts: dict[str, Any]


def certify(cfg: DictConfig) -> float | None:
    """Certify and summarize; see `smoothcert.commands.certify`."""
    folder, device = RunFolder(cfg.paths.run), device_of(cfg.device)
    subject = subject_of_run(cfg) if cfg.run is not None else subject_of_file(cfg)
    radii = default_radii(subject.sigma) if cfg.radii is None else checked_radii(cfg.radii)
    warn_of_few_samples(subject.certifier, subject.sigma, radii)
    load_images(subject.data, cfg.split)
    images = subject.data.images(cfg.split)
    subset = Subset(cfg.split, cfg.skip, cfg.max_images, cfg.start)
    smoothed = SmoothedClassifier(
        subject.model.to(device),
        subject.sigma,
        subject.data.num_classes,
        instantiate(cfg.execution, _convert_="all"),
        cfg.noise,
    )
    certified = certify_examples(
        smoothed,
        subject.certifier,
        images,
        subset,
        folder.certificates,
        seed=subject.seed,
        configuration={"data": subject.facts["data"]},
        max_hours=cfg.max_hours,
        shard=None if cfg.shard is None else Shard.parse(cfg.shard),
    )
    if not certified.rows:
        raise InvalidArgumentError(
            "Time is up before the first image was certified: raise max_hours"
        )
    if not processes().first:
        return None
    write_thumbnails(images, subset.positions(len(images)), folder.thumbnails)
    plot_certified_accuracy(certified.rows, certified.settings, folder.figure)
    summary = {
        **{name: subject.facts[name] for name in CHOICES},
        **summarize(certified.rows, certified.settings, radii),
        **subject.facts,
        **near_chance(smoothed, images, certified.rows, subject.seed),
        "images_asked": certified.requested,
        **performance_of(certified, folder),
        **provenance(),
    }
    write_summary(summary, folder, certified)
    if cfg.shard is not None:
        logger.info(
            "This is shard %s alone. Once all are there: python -m src.merge %s",
            cfg.shard,
            typed("runs", _all_shards(folder.path)),
        )
    if len(certified.rows) < certified.requested:
        logger.warning(
            "Time is up: the first %d of %d images are certified, in the order of their files. "
            "The same command goes on; images that were finished out of turn wait for it",
            len(certified.rows),
            certified.requested,
        )
    return summary["acr"]


def _all_shards(folder: Path) -> str:
    """Return a glob of the folders of all shards, from the folder of one."""
    return re.sub(r"shard-\d+-of-", "shard-*-of-", escape(str(folder)))


def subject_of_run(cfg: DictConfig) -> Subject:
    """Return a run's model, data and certifier, with whatever the command line says otherwise."""
    run = RunFolder(cfg.run)
    trained, choices = trained_configuration(run, cfg)
    # What it cannot do is refused before any image is read.
    certifier = _certifier(cfg, trained)
    checkpoint = run.checkpoint(cfg.checkpoint)
    data = build_data(trained)
    _check_classes(checkpoint, data)
    model = load_model(trained.model, data, checkpoint)
    return Subject(
        model,
        data,
        _sigma(cfg, trained),
        certifier,
        trained.seed if cfg.seed is None else cfg.seed,
        {**choices, **_training_facts(run, trained), "run": str(run)},
    )


def _training_facts(run: RunFolder, trained: DictConfig) -> dict[str, Any]:
    """Return what a run's own summary says of its training, where it has one."""
    try:
        summary = run.summary() or {}
    except RecordsError as error:
        raise RecordsError(f"{error}. Without it the run can be certified: remove it") from error
    facts = {name: summary[name] for name in OF_TRAINING if name in summary}
    return {"name": trained.name, "training_seed": trained.seed, **facts}


def subject_of_file(cfg: DictConfig) -> Subject:
    """Return the model of a checkpoint file, with the data and the certifier of the command line.

    Raises:
        InvalidArgumentError: if the command line does not say σ, which no published file records,
            or no certifier.
        MismatchError: if a file of ours records another normalisation.
    """
    # Of runs of ours; published files have none.
    recorded = recorded_of(Path(cfg.ckpt))
    if cfg.sigma is None:
        if "sigma" not in recorded:
            raise InvalidArgumentError(
                "Expected sigma=<σ that the network was trained at>; the file does not record it"
            )
        # A text would be interpolated.
        require_positive("sigma", recorded["sigma"])
        cfg.sigma = recorded["sigma"]
    check(cfg)
    _warn_of_sigma(cfg.sigma, recorded.get("sigma", cfg.sigma))
    _check_normalization(cfg.model.normalization, recorded)
    asked = _asked(cfg)
    if "_target_" not in asked:
        raise InvalidArgumentError("Expected certifier=<option>; a checkpoint file has none")
    certifier = _built(asked)
    data = build_data(cfg)
    _check_classes(Path(cfg.ckpt), data)
    choices = HydraConfig.get().runtime.choices
    network = name_of("model", cfg.model, choices["model"])
    model = load_model(cfg.model, data, Path(cfg.ckpt))
    facts = {"objective": None, "attack": None, "ckpt": str(cfg.ckpt)}
    facts |= {"normalization": cfg.model.normalization}
    return Subject(
        model,
        data,
        cfg.sigma,
        certifier,
        cfg.seed,
        {"data": choices["data"], "model": network, **facts},
    )


def trained_configuration(run: RunFolder, cfg: DictConfig) -> tuple[DictConfig, dict[str, str]]:
    """Return a run's configuration, with this command's paths, and the names of its choices."""
    run.check_links()
    configuration: Any = read_yaml(run, "config")
    choices = choices_of(run)
    trained = trusted(configuration, cfg.paths, run.path)
    # A data folder that moved since is named again, as in training.
    # Its unreadable images may be left out now.
    for name in ("root", "corrupt"):
        if cfg.data.get(name) is not None:
            trained.data[name] = cfg.data[name]
    # The run's own weights come next.
    trained.model = without_publisher(trained.model)
    try:
        # As they stand: what they interpolate is not looked at.
        plain: Any = OmegaConf.to_container(configuration)
        return trained, names_of_parts(plain, choices)
    except (AttributeError, KeyError, TypeError) as error:
        raise RecordsError(f"{run.path / '.hydra'} is damaged: {error}") from error


def _check_classes(checkpoint: Path, data: ImageDataModule) -> None:
    """Number test images alone as in training; refuse data that has different classes."""
    trained = recorded_of(checkpoint).get("class_names")
    data.trained_classes = trained
    if trained is not None and trained != list(data.class_names):
        ours, theirs = next(
            pair for pair in zip_longest(data.class_names, trained) if pair[0] != pair[1]
        )
        raise MismatchError(
            f"The data has a class {ours!r} where the run was trained with {theirs!r}: the class "
            "folders must have the same names"
        )


def _sigma(cfg: DictConfig, trained: DictConfig) -> float:
    if cfg.sigma is None or cfg.sigma == trained.sigma:
        return trained.sigma
    require_positive("sigma", cfg.sigma)
    _warn_of_sigma(cfg.sigma, trained.sigma)
    return cfg.sigma


def _warn_of_sigma(asked: float, trained: float) -> None:
    if asked != trained:
        warnings.warn(
            f"Certifying at sigma={asked} a classifier that was trained at sigma={trained}",
            SmoothCertWarning,
            stacklevel=3,
        )


def _check_normalization(asked: str, recorded: dict[str, Any]) -> None:
    trained = recorded.get("model", {}).get("normalization", asked)
    if asked != trained:
        raise MismatchError(
            f"The file's network was trained with model.normalization={trained}, got {asked}"
        )


def _certifier(cfg: DictConfig, trained: DictConfig) -> Certifier:
    """Return the run's certifier, with whatever the command line says otherwise."""
    asked = _asked(cfg)
    base: Any = OmegaConf.to_container(trained.certifier, resolve=True)
    if "_target_" in asked:
        base = {name: base[name] for name in ("n0", "n", "alpha") if name in base}
    shorthands = {name: cfg[name] for name in ("n0", "n", "alpha") if cfg[name] is not None}
    return _built({**base, **asked, **shorthands})


def _asked(cfg: DictConfig) -> dict[str, Any]:
    """Return the settings of the certifier that the command line gives."""
    asked: Any = OmegaConf.to_container(cfg.certifier, resolve=True)
    return {name: value for name, value in asked.items() if value is not None}


def _built(wanted: dict[str, Any]) -> Certifier:
    try:
        takes = signature(get_class(wanted["_target_"])).parameters
    except (ImportError, TypeError, ValueError) as error:
        raise InvalidArgumentError(
            f"Expected certifier._target_ a class that can be imported, got {wanted['_target_']!r}"
        ) from error
    for name in wanted:
        if name != "_target_" and name not in takes:
            raise InvalidArgumentError(
                f"Expected settings of {wanted['_target_'].rpartition('.')[2]}, "
                f"{', '.join(takes)}; got {name!r}"
            )
    return instantiate(wanted, _convert_="all")
