"""What `python -m src.benchmark` does."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf
from pytorch_lightning import seed_everything
from torch import nn

from smoothcert.benchmarks import measure_throughput, summarize_throughput
from smoothcert.certify import Example, Subset
from smoothcert.commands.build import build_data, build_model, device_of, load_model
from smoothcert.commands.certification import trained_configuration
from smoothcert.commands.summary import machine, provenance
from smoothcert.errors import InvalidArgumentError
from smoothcert.noise import generator
from smoothcert.records import RunFolder, write_atomically
from smoothcert.report import print_measurements
from smoothcert.report.markdown import marks, replace_part


class Measurement(NamedTuple):
    """What a task measured.

    Attributes:
        results: rows of a table, or of several tables by name; JSON values.
        page: the tables as Markdown, where pages show them.
    """

    results: Any
    page: str | None = None


@dataclass(frozen=True)
class Subject:
    """A classifier on its device, and images for it.

    Attributes:
        classifier: maps images (N, C, H, W) to logits.
        examples: the images.
        sigma: standard deviation of the noise, in pixel units.
        num_classes: number of classes.
    """

    classifier: nn.Module
    examples: list[Example]
    sigma: float
    num_classes: int


def benchmark(cfg: DictConfig) -> None:
    """Measure, print and write; see `smoothcert.commands.benchmark`."""
    device, folder = device_of(cfg.device), Path(cfg.paths.run)
    measured: Measurement = instantiate(cfg.task)(cfg)
    choices: Any = HydraConfig.get().runtime.choices
    task = choices.task
    configuration: Any = OmegaConf.to_container(cfg, resolve=True)
    record(task, {**configuration, "task": task}, measured.results, folder, device)
    if measured.page is not None:
        write_atomically(folder / f"{task}.md", measured.page)
        if cfg.readme is not None:
            between = marks(task, f"python -m src.benchmark task={task}")
            replace_part(Path(cfg.readme), between, measured.page)


def record(task: str, configuration: Any, results: Any, folder: Path, device: str) -> None:
    """Write what was measured to `benchmark.json`, and print it.

    Args:
        task: what was measured.
        configuration: the settings, JSON values.
        results: rows of a table, or of several tables by name; JSON values.
        folder: where to write the file.
        device: where it was measured.
    """
    measured = {
        "task": task,
        "configuration": configuration,
        "results": results,
        "machine": machine(device),
        **provenance(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "benchmark.json", json.dumps(measured, indent=2) + "\n")
    print_measurements(task, results, measured["machine"], folder)


def require_numbers(cfg: DictConfig, names: Sequence[str], length: int | None = None) -> None:
    """Check that settings are lists of numbers.

    Args:
        cfg: the configuration.
        names: names of the settings.
        length: how many numbers each list must have; None: any number.

    Raises:
        InvalidArgumentError: if one is not.

    Example:
        >>> require_numbers(OmegaConf.create({"devices": [1, 8]}), ["devices"])
    """
    for name in names:
        numbers = cfg[name] if isinstance(cfg[name], ListConfig) else [None]
        wrong = not all(isinstance(each, int | float) for each in numbers)
        if wrong or len(numbers) != (length or len(numbers)):
            kind = "numbers" if length is None else f"{length} numbers"
            raise InvalidArgumentError(f"Expected `{name}` a list of {kind}, got {cfg[name]}")


def require_mapping(cfg: DictConfig, *names: str) -> None:
    """Check that settings are mappings.

    Args:
        cfg: the configuration.
        names: names of the settings.

    Raises:
        InvalidArgumentError: if one is not.

    Example:
        >>> require_mapping(OmegaConf.create({"certify": {}}), "certify")
    """
    for name in names:
        if not isinstance(cfg[name], DictConfig):
            raise InvalidArgumentError(
                f"Expected `{name}` a mapping, as in conf/task/, got {cfg[name]}"
            )


def throughput(cfg: DictConfig) -> Measurement:
    """Compare the throughput of certification with that of the published algorithm.

    Args:
        cfg: a configuration of `conf/benchmark.yaml` with `task=throughput`.

    Returns:
        One row per algorithm.

    Raises:
        InvalidArgumentError: if a setting is out of range.
    """
    require_numbers(cfg, ["input_shape"], 3)
    require_numbers(cfg, ["mean", "std"], cfg.input_shape[0])
    require_mapping(cfg, "executions")
    subject = _untrained_subject(cfg) if cfg.run is None else trained_subject(cfg)
    measured = measure_throughput(
        subject.classifier,
        subject.examples,
        instantiate(cfg.certifier, _convert_="all"),
        subject.sigma,
        subject.num_classes,
        {
            str(name): instantiate(cfg.execution, **changes, _convert_="all")
            for name, changes in cfg.executions.items()
        },
        cfg.repeats,
        cfg.reference_batches,
        cfg.art_samples,
        cfg.seed,
    )
    return Measurement(summarize_throughput(measured))


def trained_subject(cfg: DictConfig) -> Subject:
    """Return the best checkpoint of a run, and test images.

    Args:
        cfg: the run folder `run`, the number of `images`, `device`, `data.root` and `paths`.

    Raises:
        SmoothCertError: if this is no run folder, or a file of it is damaged.
    """
    run = RunFolder(cfg.run)
    trained, _ = trained_configuration(run, cfg)
    data = build_data(trained)
    model = load_model(trained.model, data, run.checkpoint("best"))
    images = data.images("test")
    chosen = Subset("test", max_images=cfg.images).positions(len(images))
    examples = [images.example(position) for position in chosen]
    return Subject(model.to(device_of(cfg.device)), examples, trained.sigma, data.num_classes)


def _untrained_subject(cfg: DictConfig) -> Subject:
    """Return a network with random weights or those of a file, and random images."""
    seed_everything(cfg.seed, verbose=False)
    shape = tuple(cfg.input_shape)
    facts = SimpleNamespace(
        num_classes=cfg.num_classes, input_shape=shape, mean=list(cfg.mean), std=list(cfg.std)
    )
    if cfg.ckpt is None:
        model = build_model(cfg.model, facts)
    else:
        model = load_model(cfg.model, facts, Path(cfg.ckpt))
    images = torch.rand((cfg.images, *shape), generator=generator("cpu", cfg.seed))
    examples = [Example(image, None, index) for index, image in enumerate(images)]
    return Subject(model.to(device_of(cfg.device)), examples, cfg.sigma, cfg.num_classes)
