"""How long test sets take on one device and on many: `task=sizing` of the benchmark."""

import os
import warnings
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from hydra import compose
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, open_dict

from smoothcert.benchmarks import (
    GIVEN,
    Estimate,
    Pace,
    Workload,
    measured_figures,
    scaling_table,
    sizing_table,
    unlike,
)
from smoothcert.commands.benchmarking import Measurement, require_mapping, require_numbers
from smoothcert.commands.build import device_of
from smoothcert.commands.certification import certify
from smoothcert.commands.commandline import quoted
from smoothcert.commands.launching import start
from smoothcert.errors import InvalidArgumentError, SmoothCertWarning, require_count
from smoothcert.records import CertificateRow, RunFolder
from smoothcert.report.terminal import measurements_as_markdown

THREADS = 1
"""Of each process on a CPU."""
WARMUP_SAMPLES = 1000
"""Estimation samples per image of the certification that is not measured, at most."""


def sizing(cfg: DictConfig) -> Measurement:
    """Measure how processes share a certification, and estimate test sets from it.

    Args:
        cfg: a configuration of `conf/benchmark.yaml` with `task=sizing`.

    Returns:
        Rows of two tables, `scaling` and `sizing`.

    Raises:
        InvalidArgumentError: if a setting is out of range.
        ProcessError: if a certification failed.
    """
    require_numbers(cfg, ["processes", "devices"])
    require_mapping(cfg, "certify", "test_sets")
    counts = _process_counts(cfg)
    # Errors in the test sets show before hours of measuring.
    _estimates(cfg, (Estimate(1.0), Estimate(1.0), Estimate(1.0)))
    turns = _certify_in_turns(cfg, counts)
    paces = [{count: each.pace for count, each in turn.items()} for turn in turns]
    threads = THREADS if _on_cpu(cfg) else None
    first = turns[0][1]
    facts = {**first.facts, "threads": threads, "different_rows": _compare(turns)}
    scaling = [{**facts, **row} for row in scaling_table(paces, first.samples)]
    results = {"scaling": scaling, "sizing": _estimates(cfg, measured_figures(scaling))}
    return Measurement(results, measurements_as_markdown("sizing", results))


def _process_counts(cfg: DictConfig) -> list[int]:
    """Return the numbers of processes to measure; refuse what cannot be measured here."""
    for name, value in (("repeats", cfg.repeats), *(("processes", each) for each in cfg.processes)):
        require_count(name, value)
    counts = sorted({1, *cfg.processes})
    if counts == [1] and cfg.efficiency is None:
        raise InvalidArgumentError("Expected more than one process to measure, or efficiency=…")
    if not _on_cpu(cfg) and counts[-1] > torch.cuda.device_count():
        raise InvalidArgumentError(
            f"Expected `processes` of at most {torch.cuda.device_count()}, one per GPU, got "
            f"{counts[-1]}. To take the efficiency from another machine: processes=[1] efficiency=…"
        )
    return counts


def _estimates(
    cfg: DictConfig, measured: tuple[Estimate, Estimate, Estimate]
) -> list[dict[str, Any]]:
    samples, rate, efficiency = measured
    workloads = [
        Workload(str(name), test.images, _given(test.samples, samples), _given(test.rate, rate))
        for name, test in cfg.test_sets.items()
    ]
    most = cfg.certifier.n0 + cfg.certifier.n
    efficiency = _given(cfg.efficiency, efficiency)
    return sizing_table(workloads, efficiency, cfg.devices, most, max(cfg.processes))


def _given(value: float | None, measured: Estimate) -> Estimate:
    return measured if value is None else Estimate(value, GIVEN)


@dataclass(frozen=True)
class _Certification:
    """Summary and rows of one certification."""

    summary: dict[str, Any]
    rows: list[CertificateRow]

    @property
    def pace(self) -> Pace:
        return Pace(self.summary["samples_per_second"], self.summary["images_per_second"])

    @property
    def samples(self) -> list[int]:
        """Samples of each image, selection included."""
        selection = self.summary["n0"] if self.summary["target"] == "selection" else 0
        return [row.n_samples + selection for row in self.rows]

    @property
    def facts(self) -> dict[str, Any]:
        names = ("model", "data", "split", "images", "certifier", "sigma", "n0", "n", "precision")
        return {name: self.summary[name] for name in (*names, "compiled", "batch_size", "device")}


def _certify_in_turns(cfg: DictConfig, counts: Sequence[int]) -> list[dict[int, _Certification]]:
    """Certify with each number of processes in every turn, after a warm-up."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        small = {"max_images": counts[-1], "n": min(cfg.certifier.n, WARMUP_SAMPLES)}
        _certify(cfg, folder / "warm-up", counts[-1], small)
        return [
            {count: _certify(cfg, folder / f"{turn}_{count}", count) for count in counts}
            for turn in range(cfg.repeats)
        ]


def _certify(
    cfg: DictConfig, folder: Path, processes: int, changes: dict[str, Any] | None = None
) -> _Certification:
    """Certify as `python -m src.certify` does, in new processes, be it one or several."""
    name = "certify_checkpoint" if cfg.run is None else "certify"
    overrides = [*_overrides(cfg, changes or {}), "hydra/job_logging=disabled"]
    own = compose(name, overrides, return_hydra_config=True)
    own.hydra.run.dir = own.hydra.runtime.output_dir = str(folder)
    with open_dict(own):
        hydra = own.pop("hydra")
    folder.mkdir()
    start(partial(_certify_silently, THREADS if _on_cpu(cfg) else None), own, hydra, processes)
    run = RunFolder(folder)
    return _Certification(run.summary() or {}, run.rows())


def _certify_silently(threads: int | None, cfg: DictConfig) -> None:
    if threads is not None:
        torch.set_num_threads(threads)
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
        certify(cfg)


def _on_cpu(cfg: DictConfig) -> bool:
    return device_of(cfg.device) == "cpu"


def _overrides(cfg: DictConfig, changes: dict[str, Any]) -> list[str]:
    """Return this command's settings as overrides of `python -m src.certify`."""
    hydra: Any = HydraConfig.get()
    choices = hydra.runtime.choices
    if cfg.run is not None:
        subject, parts = [quoted("run", cfg.run)], ("certifier.", "execution.")
    elif cfg.ckpt is not None:
        subject = [quoted("ckpt", cfg.ckpt), f"model={choices.model}", f"sigma={cfg.sigma}"]
        parts = ("certifier.", "execution.", "model.")
    else:
        raise InvalidArgumentError("Expected run=<run folder>, or ckpt=<file> model=… sigma=…")
    values = {
        "certifier": choices.certifier,
        "execution": choices.execution,
        **{name: cfg.certifier[name] for name in ("n0", "n", "alpha")},
        "radii": cfg.radii,
        "seed": cfg.seed,
        "device": cfg.device,
        "max_images": cfg.images,
        **changes,
        **cfg.certify,
    }
    return [
        *subject,
        *(f"{name}={'null' if value is None else value}" for name, value in values.items()),
        *(each for each in hydra.overrides.task if each.lstrip("+~").startswith(parts)),
        quoted("paths.data", cfg.paths.data),
        *([] if cfg.data.root is None else [quoted("data.root", cfg.data.root)]),
    ]


def _compare(turns: Sequence[dict[int, _Certification]]) -> int:
    """Return how many images have different rows, which only rounding errors may cause."""
    first, *others = chain.from_iterable(turn.values() for turn in turns)
    different = unlike(first.rows, (each.rows for each in others))
    if different:
        warnings.warn(
            f"{len(different)} of {len(first.rows)} images have different votes in different "
            f"certifications, such as image {different[0]}: batches differ, and so do rounding "
            "errors",
            SmoothCertWarning,
            stacklevel=2,
        )
    return len(different)
