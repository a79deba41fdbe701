"""What the commands do: configurations in, run folders out."""

from __future__ import annotations

import json
import logging
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from importlib.metadata import PackageNotFoundError, version
from inspect import signature
from itertools import zip_longest
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from smoothcert.errors import (
    InvalidArgumentError,
    MismatchError,
    RecordsError,
    SmoothCertError,
    SmoothCertWarning,
    require_count,
    require_positive,
    require_probability,
)
from smoothcert.records import write_atomically

# Whatever needs torch or Lightning is imported where it is used: they take ten seconds, and
# `--help` and a mistyped option answer without them.
if TYPE_CHECKING:
    from torch import nn

    from smoothcert.certify import Certified, Certifier, Example
    from smoothcert.data import ImageDataModule
    from smoothcert.lightning import CertificationCallback, SmoothedTraining

logger = logging.getLogger(__name__)

CHOICES = ("data", "model", "objective", "attack")
TRAINED_BY = ("sigma", "seed", "data", "model", "objective", "attack", "optimizer", "scheduler")
"""What makes a run, with the names of its classes."""
PLACES = ("root", "download", "cache", "num_workers")
"""Where data lies and how it is read: no part of what makes a run."""
PACKAGES = ("smoothcert", "torch", "torchvision", "pytorch-lightning", "numpy", "scipy")
LONGEST_FOLDER_NAME = 200
MULTIRUN = {"-m", "--multirun"}


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
        overrides: Hydra's `override_dirname`.

    Example:
        >>> folder_name(2, "data.root=/a/b,sigma=0.5")
        '2_data.root=_a_b,sigma=0.5'
    """
    return f"{number}_{overrides}".replace("/", "_")[:LONGEST_FOLDER_NAME]


def suffix(overrides: str) -> str:
    """Return overrides as the end of a folder name, empty where there are none.

    Args:
        overrides: Hydra's `override_dirname`.

    Example:
        >>> suffix("certifier=cohen,n=1000"), suffix("")
        ('_certifier=cohen,n=1000', '')
    """
    return f"_{overrides}".replace("/", "_")[:LONGEST_FOLDER_NAME] if overrides else ""


OmegaConf.register_new_resolver("for_sigma", for_sigma, replace=True)
OmegaConf.register_new_resolver("suffix", suffix, replace=True)
OmegaConf.register_new_resolver("folder_name", folder_name, replace=True)


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


def quote_run(arguments: Sequence[str]) -> list[str]:
    """Quote the value of `run=`: folders of a sweep have commas in their names.

    Args:
        arguments: the command line. In a multirun commas separate runs, so nothing is quoted.

    Example:
        >>> quote_run(["src/certify.py", "run=a,b", "n=100"])
        ['src/certify.py', "run='a,b'", 'n=100']
    """
    if MULTIRUN & set(arguments):
        return list(arguments)
    return [
        quoted("run", argument.removeprefix("run=")) if argument.startswith("run=") else argument
        for argument in arguments
    ]


def require_run(arguments: Sequence[str]) -> None:
    """Refuse a command line that names no run folder, before Hydra makes folders of its own.

    Args:
        arguments: the command line.

    Raises:
        SystemExit: with what was expected.

    Example:
        >>> require_run(["src/certify.py", "--help"])
    """
    if any(argument.startswith("-") and argument not in MULTIRUN for argument in arguments[1:]):
        return
    runs = [argument.removeprefix("run=") for argument in arguments if argument.startswith("run=")]
    if not runs:
        raise SystemExit("Expected run=<run folder>, a folder that `python -m src.train` made")
    folder = Path(runs[0].strip("'\""))
    if not MULTIRUN & set(arguments) and not (folder / ".hydra" / "config.yaml").is_file():
        raise SystemExit(
            f"Expected a run folder, got {str(folder)!r}: it has no .hydra/config.yaml"
        )


def expand_run(arguments: Sequence[str]) -> list[str]:
    """Replace `run=<folder>` by the overrides that the run was started with, and its folder.

    Hydra writes its own files before any code of ours runs, so whatever would mix two
    configurations in one folder is refused here.

    Args:
        arguments: the command line.

    Raises:
        InvalidArgumentError: if the folder is no run folder, or other overrides come with it.
        RecordsError: if `hydra.run.dir` names the folder of a run with other overrides.

    Example:
        >>> expand_run(["src/train.py", "sigma=0.5"])
        ['src/train.py', 'sigma=0.5']
    """
    program, *others = arguments
    runs = [argument for argument in others if argument.startswith("run=")]
    if runs:
        if len(others) > 1:
            raise InvalidArgumentError(
                f"{runs[0]} goes on with a run exactly as it was started, so nothing else may be "
                f"set; got {' '.join(argument for argument in others if argument not in runs)}"
            )
        folder = Path(runs[0].removeprefix("run=").strip("'\""))
        return [program, *_overrides(folder), quoted("hydra.run.dir", str(folder))]
    for argument in others:
        if argument.startswith("hydra.run.dir="):
            _check_folder(Path(argument.removeprefix("hydra.run.dir=").strip("'\"")), others)
    return list(arguments)


def _check_folder(folder: Path, arguments: Sequence[str]) -> None:
    if not (folder / ".hydra" / "overrides.yaml").is_file():
        return
    ours = [a for a in arguments if "=" in a and not a.startswith(("hydra.", "-"))]
    if sorted(ours) != sorted(_overrides(folder)):
        raise RecordsError(
            f"{folder} holds a run that was started with {' '.join(_overrides(folder))!r}. Go on "
            f"with it by run={folder}, or choose another folder; nothing was overwritten"
        )


def _overrides(folder: Path) -> list[str]:
    return [str(item) for item in _read_yaml(folder, "overrides.yaml")]


def train(cfg: DictConfig) -> float | None:
    """Train a base classifier, certify the best checkpoint, and leave a complete run folder.

    A folder that holds an unfinished run is continued: training from `checkpoints/last.ckpt`,
    certification from the rows that are there.

    Args:
        cfg: a configuration of `conf/train.yaml`.

    Returns:
        ACR of the best checkpoint on the certified images; None without certification.

    Raises:
        SystemExit: with the message of a `SmoothCertError`.
    """
    with _plain_errors(), _quiet(), _exit_code_on_sigterm():
        _check(cfg)
        return _train(cfg)


def certify(cfg: DictConfig) -> float:
    """Certify a split of a run's data with the run's own configuration and checkpoint.

    Args:
        cfg: a configuration of `conf/certify.yaml`.

    Returns:
        ACR on the certified images.

    Raises:
        SystemExit: with the message of a `SmoothCertError`.
    """
    with _plain_errors(), _quiet(), _exit_code_on_sigterm():
        return _certify(cfg)


def benchmark(cfg: DictConfig) -> None:
    """Measure certification on this machine, print a table and write `benchmark.json`.

    Args:
        cfg: a configuration of `conf/benchmark.yaml`.

    Raises:
        SystemExit: with the message of a `SmoothCertError`.
    """
    with _plain_errors(), _quiet(), _exit_code_on_sigterm():
        if cfg.task not in BENCHMARKS:
            raise InvalidArgumentError(
                f"Expected `task` one of {', '.join(BENCHMARKS)}, got {cfg.task!r}"
            )
        _check(cfg)
        _benchmark(cfg)


def build_model(config: DictConfig, data: ImageDataModule | SimpleNamespace) -> nn.Module:
    """Build a model for the data, whose shape and number of classes it takes from there.

    Args:
        config: a configuration of `conf/model/`.
        data: the data module, set up, or anything with its facts.

    Raises:
        MismatchError: if the configuration names another number of classes, or the model gives
            another number of logits.
    """
    import torch
    from hydra.utils import instantiate

    from smoothcert.models import evaluating

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
    model = instantiate(config, **facts, _convert_="all")
    with evaluating(model), torch.no_grad():
        logits = model(torch.zeros(1, *data.input_shape))
    if logits.shape != (1, data.num_classes):
        raise MismatchError(
            f"The model gives {logits.shape[-1]} logits and the data has {data.num_classes} classes"
        )
    return model


def _train(cfg: DictConfig) -> float | None:
    import pytorch_lightning as pl
    from hydra.core.hydra_config import HydraConfig

    from smoothcert.lightning import CertificationCallback
    from smoothcert.models import load_weights

    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    folder = Path(cfg.paths.run)
    choices = {name: HydraConfig.get().runtime.choices[name] for name in CHOICES}
    data = _data(cfg)
    module = _module(cfg, data)
    trainer = _trainer(cfg, {**choices, "name": cfg.name})
    last, best = (folder / "checkpoints" / name for name in ("last.ckpt", "best.ckpt"))
    resumed = last.is_file()
    if resumed:
        _prepare_resume(last, module, trainer)
    start = time.perf_counter()
    try:
        trainer.fit(module, datamodule=data, ckpt_path=last if resumed else None, weights_only=True)
        seconds = time.perf_counter() - start
        certification = next(
            (c for c in trainer.callbacks if isinstance(c, CertificationCallback)), None
        )
        if certification is None:
            return None
        if best.is_file() and not trainer.fast_dev_run:
            load_weights(module.model, best)
        trainer.validate(module, datamodule=data, verbose=False)
        facts = {"epochs": trainer.current_epoch, "seconds_training": round(seconds, 1)}
        return _finish(folder, choices, facts, certification, data, trainer)
    finally:
        _close_wandb()


def _finish(
    folder: Path,
    choices: Mapping[str, str],
    facts: Mapping[str, Any],
    certification: CertificationCallback,
    data: ImageDataModule,
    trainer: Any,
) -> float:
    from smoothcert.lightning.loggers import log_summary
    from smoothcert.report import summarize

    certified = certification.last
    assert certified is not None, "Trainer.validate certifies"
    summary = {
        **choices,
        **summarize(certified.rows, certified.settings, certification.radii),
        **facts,
        **_performance(certified, folder),
        "training_images": len(data.images("train")),
        **_provenance(),
    }
    log_summary(trainer.loggers, {k: v for k, v in summary.items() if not isinstance(v, dict)})
    _write_summary(summary, folder)
    return summary["acr"]


def _certify(cfg: DictConfig) -> float:
    from hydra.utils import instantiate

    from smoothcert.certify import SmoothedClassifier, Subset, certify_examples
    from smoothcert.lightning.callbacks import warn_of_few_samples
    from smoothcert.models import load_weights
    from smoothcert.report import plot_certified_accuracy, summarize
    from smoothcert.stats import default_radii

    run, folder = Path(cfg.run), Path(cfg.paths.run)
    trained, choices = _trained(run, cfg)
    sigma, certifier = _sigma(cfg, trained), _certifier(cfg, trained)
    radii = list(cfg.radii) if cfg.radii else default_radii(sigma)
    warn_of_few_samples(certifier, sigma, radii)
    data = _data(trained)
    model = build_model(trained.model, data)
    checkpoint = run / "checkpoints" / f"{cfg.checkpoint}.ckpt"
    load_weights(model, checkpoint)
    _check_classes(checkpoint, data)
    model.to(_device(cfg.device))
    certified = certify_examples(
        SmoothedClassifier(
            model,
            sigma,
            data.num_classes,
            instantiate(cfg.execution, _convert_="all"),
            cfg.noise,
        ),
        certifier,
        data.images(cfg.split),
        Subset(cfg.split, cfg.skip, cfg.max_images, cfg.start),
        folder / "certificates.tsv",
        seed=trained.seed if cfg.seed is None else cfg.seed,
        configuration={"data": choices["data"]},
        max_hours=cfg.max_hours,
    )
    if not certified.rows:
        raise SystemExit("Time is up before the first image was certified: raise max_hours")
    picture = folder / "certified_accuracy.png"
    plot_certified_accuracy(certified.rows, certified.settings, picture)
    summary = {
        **choices,
        **summarize(certified.rows, certified.settings, radii),
        "run": str(run),
        "images_asked": certified.asked,
        **_performance(certified, folder),
        **_provenance(),
    }
    _write_summary(summary, folder)
    if len(certified.rows) < certified.asked:
        logger.warning(
            "Time is up: the first %d of %d images are certified, in the order of their files. "
            "The same command goes on; images that were finished out of turn wait for it",
            len(certified.rows),
            certified.asked,
        )
    return summary["acr"]


def _benchmark(cfg: DictConfig) -> None:
    from smoothcert.report import print_measurements

    table = BENCHMARKS[cfg.task](cfg)
    folder = Path(cfg.paths.run)
    measured = {
        "task": cfg.task,
        "configuration": OmegaConf.to_container(cfg, resolve=True),
        "results": table,
        "machine": _machine(cfg),
        **_provenance(),
    }
    write_atomically(folder / "benchmark.json", json.dumps(measured, indent=2) + "\n")
    print_measurements(cfg.task, table, measured["machine"], folder)


def _benchmark_throughput(cfg: DictConfig) -> list[dict[str, Any]]:
    from hydra.utils import instantiate

    from smoothcert.benchmarks import measure_throughput, summarize_throughput

    subject = _subject(cfg)
    certifier = instantiate(cfg.certifier, _convert_="all")
    executions = {
        str(name): instantiate(cfg.execution, **changes, _convert_="all")
        for name, changes in cfg.executions.items()
    }
    return summarize_throughput(
        measure_throughput(
            subject.classifier,
            subject.examples,
            certifier,
            subject.sigma,
            subject.num_classes,
            executions,
            cfg.repeats,
            cfg.reference_batches,
            cfg.art_samples,
            cfg.seed,
        )
    )


def _benchmark_tightness(cfg: DictConfig) -> list[dict[str, Any]]:
    from smoothcert.benchmarks import tightness_table

    return tightness_table(alpha=cfg.alpha, draws=cfg.draws, seed=cfg.seed)


def _benchmark_coverage(cfg: DictConfig) -> list[dict[str, Any]]:  # noqa: ARG001
    from smoothcert.benchmarks import coverage_table

    return [entry for n in (20, 60, 150) for entry in coverage_table(n)]


def _benchmark_designs(cfg: DictConfig) -> list[dict[str, Any]]:
    from hydra.utils import instantiate

    from smoothcert.benchmarks import VoteLog, compare_designs, draw_votes
    from smoothcert.benchmarks.designs import usual_designs

    path = Path(cfg.votes)
    if path.is_file():
        log = VoteLog.load(path)
    else:
        subject = _subject(cfg)
        execution = instantiate(cfg.execution, _convert_="all")
        log = draw_votes(
            subject.classifier,
            subject.examples,
            subject.sigma,
            subject.num_classes,
            cfg.n0 + cfg.n,
            execution,
            cfg.seed,
        )
        log.save(path)
    radii = [float(r) for r in cfg.radii]
    return compare_designs(log, usual_designs(cfg.n0, cfg.n, cfg.alpha, radii), radii)


def _benchmark_precisions(cfg: DictConfig) -> list[dict[str, Any]]:
    from smoothcert.benchmarks import compare_precisions

    subject = _subject(cfg)
    return [
        compare_precisions(
            subject.classifier,
            subject.examples,
            subject.sigma,
            subject.num_classes,
            min(cfg.n, 2000),
            cfg.alpha,
            seed=cfg.seed,
        )
    ]


BENCHMARKS: dict[str, Callable[[DictConfig], list[dict[str, Any]]]] = {
    "throughput": _benchmark_throughput,
    "tightness": _benchmark_tightness,
    "coverage": _benchmark_coverage,
    "designs": _benchmark_designs,
    "precisions": _benchmark_precisions,
}
"""What `python -m src.benchmark task=…` measures."""


@dataclass(frozen=True)
class _Subject:
    """What is measured: a classifier on its device, and images for it."""

    classifier: nn.Module
    examples: list[Example]
    sigma: float
    num_classes: int


def _subject(cfg: DictConfig) -> _Subject:
    if cfg.run is not None:
        return _trained_subject(cfg)
    if cfg.task != "throughput":
        raise InvalidArgumentError(
            f"Expected run=<run folder> with task={cfg.task}: it needs a trained network and "
            "labelled images"
        )
    from pytorch_lightning import seed_everything

    from smoothcert.certify import Example
    from smoothcert.models import load_weights
    from smoothcert.noise import generator

    seed_everything(cfg.seed, verbose=False)
    shape = tuple(cfg.input_shape)
    facts = SimpleNamespace(
        num_classes=cfg.num_classes, input_shape=shape, mean=list(cfg.mean), std=list(cfg.std)
    )
    model = build_model(cfg.model, facts)
    if cfg.ckpt is not None:
        load_weights(model, Path(cfg.ckpt))
    import torch

    source = generator("cpu", cfg.seed)
    images = torch.rand((cfg.images, *shape), generator=source)
    examples = [Example(image, index) for index, image in enumerate(images)]
    return _Subject(model.to(_device(cfg.device)), examples, cfg.sigma, cfg.num_classes)


def _trained_subject(cfg: DictConfig) -> _Subject:
    from smoothcert.certify import Example, Subset
    from smoothcert.models import load_weights

    run = Path(cfg.run)
    trained, _ = _trained(run, cfg)
    data = _data(trained)
    model = build_model(trained.model, data)
    load_weights(model, run / "checkpoints" / "best.ckpt")
    images = data.images("test")
    chosen = Subset("test", max_images=cfg.images).positions(len(images))
    examples = [Example(image, index, label) for image, label, index in map(images.example, chosen)]
    return _Subject(model.to(_device(cfg.device)), examples, trained.sigma, data.num_classes)


def _machine(cfg: DictConfig) -> dict[str, Any]:
    import platform

    import torch

    device = _device(cfg.device)
    name = torch.cuda.get_device_name(device) if device != "cpu" else _processor()
    return {
        "device": device,
        "name": name,
        "threads": torch.get_num_threads(),
        "system": platform.platform(),
    }


def _processor() -> str:
    import platform

    path = Path("/proc/cpuinfo")
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _prepare_resume(last: Path, module: SmoothedTraining, trainer: Any) -> None:
    """Refuse to go on with a run of another configuration, or from a damaged checkpoint."""
    from smoothcert.lightning import ResumingCSVLogger
    from smoothcert.models import load_weights, read_checkpoint

    checkpoint = read_checkpoint(last)
    theirs, ours = checkpoint.get("configuration", {}), module.configuration
    different = [name for name in ours if theirs.get(name) != ours[name]]
    if different:
        details = ", ".join(
            f"{name} was {theirs.get(name)!r} and is now {ours[name]!r}" for name in different
        )
        raise RecordsError(
            f"{last.parent.parent} holds a run of another configuration: {details}. Nothing was "
            "overwritten; choose another run folder"
        )
    # Lightning loads them again, with errors that name no file.
    load_weights(module.model, last)
    for each in trainer.loggers:
        if isinstance(each, ResumingCSVLogger):
            each.drop_from(checkpoint["global_step"])
    logger.info("Going on from %s", last)


def _check(cfg: DictConfig) -> None:
    """Refuse what no part could use, before anything is loaded."""
    require_positive("sigma", cfg.sigma)
    require_probability("alpha", cfg.alpha)
    require_count("seed", cfg.seed, minimum=0)


def _data(cfg: DictConfig) -> ImageDataModule:
    from hydra.utils import instantiate

    data = instantiate(cfg.data, _convert_="all")
    data.prepare_data()
    data.setup()
    return data


def _module(cfg: DictConfig, data: ImageDataModule) -> SmoothedTraining:
    from hydra.utils import instantiate

    from smoothcert.lightning import SmoothedTraining

    resolved: Any = OmegaConf.to_container(cfg, resolve=True)
    for place in PLACES:
        resolved["data"].pop(place, None)
    return SmoothedTraining(
        model=build_model(cfg.model, data),
        objective=instantiate(cfg.objective, _convert_="all"),
        attack=instantiate(cfg.attack, _convert_="all"),
        sigma=cfg.sigma,
        optimizer=instantiate(cfg.optimizer, _convert_="all"),
        scheduler=instantiate(cfg.scheduler, _convert_="all"),
        validation_draws=cfg.validation_draws,
        seed=cfg.seed,
        configuration={
            **{name: resolved[name] for name in TRAINED_BY},
            "class_names": list(data.class_names),
        },
    )


def _trainer(cfg: DictConfig, names: Mapping[str, str]) -> Any:
    from hydra.utils import instantiate

    callbacks = [
        instantiate(callback, _convert_="all")
        for callback in (cfg.callbacks or {}).values()
        if callback is not None
    ]
    loggers = [
        instantiate(each, _convert_="all")
        for each in (cfg.logger or {}).values()
        if each is not None
    ]
    trainer = instantiate(cfg.trainer, callbacks=callbacks, logger=loggers, _convert_="all")
    configuration = OmegaConf.to_container(cfg, resolve=True)
    for each in trainer.loggers:
        each.log_hyperparams({**names, "sigma": cfg.sigma, "seed": cfg.seed, "cfg": configuration})
    return trainer


def _trained(run: Path, cfg: DictConfig) -> tuple[DictConfig, dict[str, str]]:
    """Return a run's configuration, with this command's paths, and the names of its choices."""
    trained: Any = _read_yaml(run, "config.yaml")
    hydra = _read_yaml(run, "hydra.yaml")
    # A data folder that moved since is named again, as in training.
    trained.paths = cfg.paths
    if cfg.data.root is not None:
        trained.data.root = cfg.data.root
    return trained, {name: hydra["hydra"]["runtime"]["choices"][name] for name in CHOICES}


def _check_classes(checkpoint: Path, data: ImageDataModule) -> None:
    """Refuse data whose class numbers mean other classes than in training."""
    from smoothcert.models import read_checkpoint

    trained = read_checkpoint(checkpoint).get("configuration", {}).get("class_names")
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
    warnings.warn(
        f"Certifying at sigma={cfg.sigma} a classifier that was trained at sigma={trained.sigma}",
        SmoothCertWarning,
        stacklevel=2,
    )
    return cfg.sigma


def _certifier(cfg: DictConfig, trained: DictConfig) -> Certifier:
    """Return the run's certifier, with whatever the command line says otherwise."""
    from hydra.utils import get_class, instantiate

    asked: Any = OmegaConf.to_container(cfg.certifier, resolve=True)
    asked = {name: value for name, value in asked.items() if value is not None}
    base: Any = OmegaConf.to_container(trained.certifier, resolve=True)
    if "_target_" in asked:
        base = {name: base[name] for name in ("n0", "n", "alpha") if name in base}
    shorthands = {name: cfg[name] for name in ("n0", "n", "alpha") if cfg[name] is not None}
    wanted = {**base, **asked, **shorthands}
    takes = signature(get_class(wanted["_target_"])).parameters
    for name in wanted:
        if name != "_target_" and name not in takes:
            raise InvalidArgumentError(
                f"Expected settings of {wanted['_target_'].rpartition('.')[2]}, "
                f"{', '.join(takes)}; got {name!r}"
            )
    return instantiate(wanted, _convert_="all")


def _device(name: str) -> str:
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise InvalidArgumentError(f"Expected a device of this machine, got {name!r}: no GPU here")
    return name


def _read_yaml(run: Path, name: str) -> Any:
    path = run / ".hydra" / name
    if not path.is_file():
        raise InvalidArgumentError(
            f"Expected a run folder, got {str(run)!r}: it has no .hydra/{name}"
        )
    return OmegaConf.load(path)


def _write_summary(summary: dict[str, Any], folder: Path) -> None:
    from smoothcert.report import print_summary

    write_atomically(folder / "summary.json", json.dumps(summary, indent=2) + "\n")
    print_summary(summary, folder)


def _performance(certified: Certified, folder: Path) -> dict[str, Any]:
    """Return what certification took; of the call that did the work, if this one had none left."""
    from smoothcert.certify import Performance

    names = [field.name for field in fields(Performance)]
    if certified.performance is not None:
        values = asdict(certified.performance)
    else:
        path = folder / "summary.json"
        values = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return {name: values.get(name) for name in names}


def _provenance() -> dict[str, Any]:
    return {
        "versions": {
            "python": sys.version.split()[0],
            **{name: _version(name) for name in PACKAGES},
        },
        "git_commit": _git_commit(),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    """Return the commit of the working tree, with `+` where files differ from it."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--abbrev=40"]
    command += ["--dirty=+", "--match", "no tag"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide advice that does not apply here, and show our own warnings as plain lines."""
    for library in ("pytorch_lightning", "pytorch_lightning.utilities.rank_zero"):
        logging.getLogger(library).setLevel(logging.WARNING)
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        for advice in (
            ".*does not have many workers.*",
            ".*LeafSpec.*",
            "Checkpoint directory .* exists and is not empty.*",
            ".*number of training batches .* is smaller than the logging.*",
        ):
            warnings.filterwarnings("ignore", advice)
        warnings.filterwarnings("always", category=SmoothCertWarning)
        standard = warnings.showwarning

        def show(message: Any, category: type[Warning], *rest: Any) -> None:
            if issubclass(category, SmoothCertWarning):
                logger.warning(message)
            else:
                standard(message, category, *rest)

        warnings.showwarning = show
        yield


def _close_wandb() -> None:
    """End W&B's run with ours: the next job of a sweep has a run of its own."""
    wandb = sys.modules.get("wandb")
    if wandb is not None and wandb.run is not None:
        wandb.finish()


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Answer bad input with its message alone; other errors keep their trace."""
    from hydra.errors import InstantiationException

    try:
        yield
    except (SmoothCertError, InstantiationException) as error:
        # Hydra wraps whatever a constructor raises.
        cause = error.__cause__ if isinstance(error, InstantiationException) else error
        if not isinstance(cause, SmoothCertError):
            raise
        raise SystemExit(f"{type(cause).__name__}: {cause}") from error


@contextmanager
def _exit_code_on_sigterm() -> Iterator[None]:
    """Exit with 143 on SIGTERM: Lightning's own handler exits with 0, as if all had gone well."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(*_: Any) -> None:
        raise SystemExit(143)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
