"""The command `python -m src.certify`."""

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
from smoothcert.commands.commandline import check, checked_radii, choices_of, read_yaml, typed
from smoothcert.commands.security import TARGET, resolved, trusted
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
"""Keys of a run's summary that the summaries of its certifications repeat."""


@dataclass(frozen=True)
class Subject:
    """What is certified: the best or last network of a run, or the one in a file.

    Attributes:
        model: the base classifier, with its weights.
        data: the images.
        sigma: standard deviation of the noise, in pixel units.
        certifier: the certifier.
        seed: seed of the noise.
        facts: its entries in the summary.
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
            "This is shard %s. After all shards: python -m src.merge %s",
            cfg.shard,
            typed("runs", re.sub(r"shard-\d+-of-", "shard-*-of-", escape(str(folder)))),
        )
    if len(certified.rows) < certified.requested:
        logger.warning(
            "Time is up: the first %d of %d images are certified, in the order of their files. "
            "Images that were finished out of order are kept too. Resume with the same command",
            len(certified.rows),
            certified.requested,
        )
    return summary["acr"]


def subject_of_run(cfg: DictConfig) -> Subject:
    """Return a run's model, data and certifier, with the changes of the command line."""
    run = RunFolder(cfg.run)
    trained, choices = trained_configuration(run, cfg)
    # Before any image is read.
    certifier = _certifier_of_run(cfg, trained)
    checkpoint = run.checkpoint(cfg.checkpoint)
    data = build_data(trained)
    _check_classes(checkpoint, data)
    model = load_model(trained.model, data, checkpoint)
    sigma = trained.sigma if cfg.sigma is None else cfg.sigma
    require_positive("sigma", sigma)
    _warn_of_sigma(sigma, trained.sigma)
    seed = trained.seed if cfg.seed is None else cfg.seed
    facts = {**choices, **_training_facts(run, trained), "run": str(run)}
    return Subject(model, data, sigma, certifier, seed, facts)


def _training_facts(run: RunFolder, trained: DictConfig) -> dict[str, Any]:
    """Return the facts about a run's training, from its summary if there is one."""
    try:
        summary = run.summary() or {}
    except RecordsError as error:
        raise RecordsError(f"{error}. Remove it: the run can be certified without it") from error
    facts = {name: summary[name] for name in OF_TRAINING if name in summary}
    return {"name": trained.name, "training_seed": trained.seed, **facts}


def subject_of_file(cfg: DictConfig) -> Subject:
    """Return the model of a checkpoint file, with the data and the certifier of the command line.

    Raises:
        InvalidArgumentError: if there is no certifier, or no σ, which no published file records.
        MismatchError: if the file records a different normalization.
    """
    # Empty for published files.
    recorded = recorded_of(Path(cfg.ckpt))
    if cfg.sigma is None:
        if "sigma" not in recorded:
            raise InvalidArgumentError(
                "Expected sigma=<σ that the network was trained at>; the file does not record it"
            )
        # Attack: a text, which would be interpolated.
        require_positive("sigma", recorded["sigma"])
        cfg.sigma = recorded["sigma"]
    check(cfg)
    _warn_of_sigma(cfg.sigma, recorded.get("sigma", cfg.sigma))
    normalization = cfg.model.normalization
    trained = recorded.get("model", {}).get("normalization", normalization)
    if normalization != trained:
        raise MismatchError(
            f"The network was trained with model.normalization={trained}, got {normalization}"
        )
    settings = _certifier_settings(cfg)
    if TARGET not in settings:
        raise InvalidArgumentError("Expected certifier=<option>; a checkpoint file has none")
    certifier = _built(settings)
    data = build_data(cfg)
    _check_classes(Path(cfg.ckpt), data)
    choices = HydraConfig.get().runtime.choices
    facts = {
        "data": choices["data"],
        "model": name_of("model", cfg.model, choices["model"]),
        "objective": None,
        "attack": None,
        "ckpt": str(cfg.ckpt),
        "normalization": normalization,
    }
    model = load_model(cfg.model, data, Path(cfg.ckpt))
    return Subject(model, data, cfg.sigma, certifier, cfg.seed, facts)


def trained_configuration(run: RunFolder, cfg: DictConfig) -> tuple[DictConfig, dict[str, str]]:
    """Return a run's configuration, with the paths of this command, and the names of its parts.

    Args:
        run: the run folder.
        cfg: the configuration of this command.

    Raises:
        InvalidArgumentError: if this is no run folder, or it contains something not allowed.
        RecordsError: if it is damaged.
    """
    run.check_links()
    configuration: Any = read_yaml(run, "config")
    choices = choices_of(run)
    trained = trusted(configuration, cfg.paths, run.path)
    # The data may have been moved since, or have unreadable images to leave out.
    for name in ("root", "corrupt"):
        if cfg.data.get(name) is not None:
            trained.data[name] = cfg.data[name]
    # The run's own weights replace them.
    trained.model = without_publisher(trained.model)
    try:
        # Not resolved: only the parts in `trained` have been checked.
        parts: Any = OmegaConf.to_container(configuration)
        return trained, names_of_parts(parts, choices)
    except (AttributeError, KeyError, TypeError) as error:
        raise RecordsError(f"{run.path / '.hydra'} is damaged: {error}") from error


def _check_classes(checkpoint: Path, data: ImageDataModule) -> None:
    """Refuse data with other classes than in training; test images alone get the same numbers."""
    trained = recorded_of(checkpoint).get("class_names")
    data.trained_classes = trained
    if trained is not None and trained != list(data.class_names):
        found, expected = next(
            pair for pair in zip_longest(data.class_names, trained) if pair[0] != pair[1]
        )
        raise MismatchError(
            f"The data has a class {found!r} where the run was trained with {expected!r}: the "
            "class folders must have the same names"
        )


def _warn_of_sigma(sigma: float, trained: float) -> None:
    if sigma != trained:
        warnings.warn(
            f"Certifying at sigma={sigma} a classifier that was trained at sigma={trained}",
            SmoothCertWarning,
            stacklevel=3,
        )


def _certifier_of_run(cfg: DictConfig, trained: DictConfig) -> Certifier:
    """Return the run's certifier, with the changes of the command line."""
    settings = _certifier_settings(cfg)
    base = resolved(trained.certifier)
    samples = ("n0", "n", "alpha")
    if TARGET in settings:
        base = {name: base[name] for name in samples if name in base}
    changes = {name: cfg[name] for name in samples if cfg[name] is not None}
    return _built({**base, **settings, **changes})


def _certifier_settings(cfg: DictConfig) -> dict[str, Any]:
    """Return the settings of the certifier on the command line."""
    return {name: value for name, value in resolved(cfg.certifier).items() if value is not None}


def _built(settings: dict[str, Any]) -> Certifier:
    target = settings[TARGET]
    try:
        parameters = signature(get_class(target)).parameters
    except (ImportError, TypeError, ValueError) as error:
        raise InvalidArgumentError(
            f"Expected certifier._target_ a class that can be imported, got {target!r}"
        ) from error
    for name in settings:
        if name != TARGET and name not in parameters:
            raise InvalidArgumentError(
                f"Expected settings of {target.rpartition('.')[2]}, {', '.join(parameters)}; "
                f"got {name!r}"
            )
    return instantiate(settings, _convert_="all")
