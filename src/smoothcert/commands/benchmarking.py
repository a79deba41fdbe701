"""What `python -m src.benchmark` does."""

import json
from argparse import ArgumentParser
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from hydra import compose
from hydra.utils import instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf
from pytorch_lightning import seed_everything
from torch import nn

from smoothcert.benchmarks import (
    PLAIN,
    StepVariant,
    Training,
    VoteLog,
    compare_designs,
    compare_precisions,
    draw_votes,
    measure_steps,
    measure_throughput,
    summarize_steps,
    summarize_throughput,
)
from smoothcert.benchmarks.designs import usual_designs
from smoothcert.certify import Example, Subset
from smoothcert.commands.build import build_data, build_model, device_of, load_model, precision_of
from smoothcert.commands.certification import trained_configuration
from smoothcert.commands.commandline import checked_radii
from smoothcert.commands.methods import MARKS, markdown, methods_table
from smoothcert.commands.sizing import sizing
from smoothcert.commands.summary import machine, provenance
from smoothcert.data import CIFAR10DataModule
from smoothcert.data.datasets import InMemoryImages
from smoothcert.errors import InvalidArgumentError
from smoothcert.noise import generator
from smoothcert.records import RunFolder, write_atomically
from smoothcert.report import plot_losses, print_measurements
from smoothcert.report.markdown import marks, replace_part
from smoothcert.report.terminal import measurements_as_markdown


def benchmark(cfg: DictConfig) -> None:
    """Measure, print and write; see `smoothcert.commands.benchmark`."""
    if cfg.task not in BENCHMARKS:
        raise InvalidArgumentError(
            f"Expected `task` one of {', '.join(BENCHMARKS)}, got {cfg.task!r}"
        )
    device = device_of(cfg.device)
    _check_kinds(cfg)
    table = BENCHMARKS[cfg.task](cfg)
    configuration = OmegaConf.to_container(cfg, resolve=True)
    record(cfg.task, configuration, table, Path(cfg.paths.run), device)
    if cfg.task in PAGES:
        _write_page(cfg, table)


def record(task: str, configuration: Any, table: Any, folder: Path, device: str = "cpu") -> None:
    """Write what was measured to `benchmark.json`, and print it.

    Args:
        task: what was measured.
        configuration: the settings, JSON values.
        table: rows of a table, or of several by their names; JSON values.
        folder: where the file is written.
        device: where it was measured.
    """
    measured = {
        "task": task,
        "configuration": configuration,
        "results": table,
        "machine": machine(device),
        **provenance(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "benchmark.json", json.dumps(measured, indent=2) + "\n")
    print_measurements(task, table, measured["machine"], folder)


def add_folder(parser: ArgumentParser) -> None:
    """Add the option `--folder` of the scripts in `benchmarks/`: where a study is written.

    Args:
        parser: of the script's command line.
    """
    now = datetime.now().strftime("%Y-%m-%d_%H-%M-%S-%f")
    default = Path("outputs", "benchmark", now)
    parser.add_argument("--folder", type=Path, default=default, help="where results are written")


def _check_kinds(cfg: DictConfig) -> None:
    """Refuse lists and mappings that are none; whatever task, before hours of measuring."""
    for name, length in LISTS.items():
        numbers = cfg[name] if isinstance(cfg[name], ListConfig) else [None]
        if not all(isinstance(each, int | float) for each in numbers) or (
            length is not None and len(numbers) != length(cfg)
        ):
            raise InvalidArgumentError(
                f"Expected `{name}` a list of {length(cfg) if length else 'whole'} numbers, "
                f"got {cfg[name]}"
            )
    for name in MAPPINGS:
        if not isinstance(cfg[name], DictConfig):
            raise InvalidArgumentError(
                f"Expected `{name}` settings by their names, as in conf/benchmark.yaml, "
                f"got {cfg[name]}"
            )
    if cfg.task == "train" and cfg.curve_steps and cfg.curve_method not in cfg.methods:
        raise InvalidArgumentError(
            f"Expected `curve_method` one of {', '.join(cfg.methods)}, got {cfg.curve_method!r}"
        )


def _write_page(cfg: DictConfig, table: Any) -> None:
    between, as_markdown = PAGES[cfg.task]
    part = as_markdown(table)
    write_atomically(Path(cfg.paths.run) / f"{cfg.task}.md", part)
    if cfg.readme is not None:
        replace_part(Path(cfg.readme), between, part)


def _benchmark_throughput(cfg: DictConfig) -> list[dict[str, Any]]:
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


def _benchmark_designs(cfg: DictConfig) -> list[dict[str, Any]]:
    if not cfg.votes:
        raise InvalidArgumentError("Expected votes=<file>, to read votes from or to write them to")
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
    radii = checked_radii(cfg.radii)
    return compare_designs(log, usual_designs(cfg.n0, cfg.n, cfg.alpha, radii), radii)


def _benchmark_precisions(cfg: DictConfig) -> list[dict[str, Any]]:
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


def _benchmark_methods(cfg: DictConfig) -> list[dict[str, Any]]:  # noqa: ARG001
    return methods_table()


def _benchmark_train(cfg: DictConfig) -> list[dict[str, Any]]:
    device = torch.device(device_of(cfg.device))
    images = _training_images(cfg)
    facts = SimpleNamespace(
        num_classes=cfg.num_classes,
        input_shape=tuple(images.images.shape[1:]),
        mean=list(cfg.mean),
        std=list(cfg.std),
    )
    seed_everything(cfg.seed, verbose=False)
    network = build_model(cfg.model, facts)
    on_gpu = device.type == "cuda"
    native = precision_of("auto", "gpu" if on_gpu else "cpu") == "bf16-mixed"
    ours = StepVariant("ours", "bfloat16" if native else "float32", True, on_gpu, True)

    def training(form: StepVariant, method: str, seed: int) -> Training:
        parts = _method(cfg, method)
        return Training(form, network, images, *parts, cfg.sigma, cfg.batch_size, seed, device)

    measured = []
    for method in cfg.methods:
        steps = 1 if cfg.methods[method].attack != "none" else cfg.steps
        forms = [training(form, method, cfg.seed) for form in (PLAIN, ours)]
        measured.append(measure_steps(method, forms, cfg.batch_size, cfg.turns, steps))
    if cfg.curve_steps:
        curves = {
            form.name: [
                [run.step() for _ in range(cfg.curve_steps)]
                for run in (training(form, cfg.curve_method, seed) for seed in cfg.curve_seeds)
            ]
            for form in (PLAIN, ours)
        }
        folder = Path(cfg.paths.run)
        write_atomically(folder / "losses.json", json.dumps(curves) + "\n")
        plot_losses(curves, folder / "losses.png", cfg.curve_method)
    return summarize_steps(measured)


def _method(cfg: DictConfig, name: str) -> tuple[Any, Any]:
    chosen = cfg.methods[name]
    overrides = [f"objective={chosen.objective}", f"attack={chosen.attack}", f"sigma={cfg.sigma}"]
    composed = compose("train", [*overrides, f"objective.noise_draws={cfg.noise_draws}"])
    return (
        instantiate(composed.objective, _convert_="all"),
        instantiate(composed.attack, _convert_="all"),
    )


def _training_images(cfg: DictConfig) -> InMemoryImages:
    """Return CIFAR-10's training images where its folder is named, else random ones."""
    if cfg.data.root is not None:
        data = CIFAR10DataModule(cfg.data.root)
        images = data.images("train")
        assert isinstance(images, InMemoryImages), "CIFAR-10 is held in memory"
        return images
    source = generator("cpu", cfg.seed)
    shape = (8 * cfg.batch_size, *cfg.input_shape)
    pixels = torch.randint(256, shape, dtype=torch.uint8, generator=source)
    labels = torch.randint(cfg.num_classes, shape[:1], generator=source)
    return InMemoryImages(pixels, labels)


BENCHMARKS: dict[str, Callable[[DictConfig], Any]] = {
    "throughput": _benchmark_throughput,
    "designs": _benchmark_designs,
    "precisions": _benchmark_precisions,
    "methods": _benchmark_methods,
    "train": _benchmark_train,
    "sizing": sizing,
}
"""What `python -m src.benchmark task=…` measures: rows of a table, or of several by their names."""

PAGES: dict[str, tuple[tuple[str, str], Callable[[Any], str]]] = {
    "methods": (MARKS, markdown),
    "sizing": (
        marks("sizing", "python -m src.benchmark task=sizing"),
        partial(measurements_as_markdown, "sizing"),
    ),
}
"""Tasks whose tables pages show: between which marks, and how they are made."""


LISTS: dict[str, Callable[[DictConfig], int] | None] = {
    "input_shape": lambda _: 3,
    **dict.fromkeys(("mean", "std"), lambda cfg: cfg.input_shape[0]),
    **dict.fromkeys(("curve_seeds", "processes", "devices")),
}
"""Settings that are lists of numbers, with their lengths; None: any."""
MAPPINGS = ("executions", "methods", "certify", "test_sets")


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
    seed_everything(cfg.seed, verbose=False)
    shape = tuple(cfg.input_shape)
    facts = SimpleNamespace(
        num_classes=cfg.num_classes, input_shape=shape, mean=list(cfg.mean), std=list(cfg.std)
    )
    if cfg.ckpt is None:
        model = build_model(cfg.model, facts)
    else:
        model = load_model(cfg.model, facts, Path(cfg.ckpt))
    source = generator("cpu", cfg.seed)
    images = torch.rand((cfg.images, *shape), generator=source)
    examples = [Example(image, None, index) for index, image in enumerate(images)]
    return _Subject(model.to(device_of(cfg.device)), examples, cfg.sigma, cfg.num_classes)


def _trained_subject(cfg: DictConfig) -> _Subject:
    run = RunFolder(cfg.run)
    trained, _ = trained_configuration(run, cfg)
    data = build_data(trained)
    model = load_model(trained.model, data, run.checkpoint("best"))
    images = data.images("test")
    chosen = Subset("test", max_images=cfg.images).positions(len(images))
    examples = [images.example(position) for position in chosen]
    return _Subject(model.to(device_of(cfg.device)), examples, trained.sigma, data.num_classes)
