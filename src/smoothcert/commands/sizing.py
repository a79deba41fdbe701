"""How long whole test sets take on one device and on many: `task=sizing` of the benchmark."""

import os
import shlex
import subprocess
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

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
from smoothcert.commands.build import device_of
from smoothcert.commands.commandline import quoted
from smoothcert.errors import (
    InvalidArgumentError,
    ProcessError,
    SmoothCertWarning,
    require_count,
)
from smoothcert.records import CertificateRow, RunFolder

THREADS = 1
"""Of each process on a CPU."""
WARMUP_SAMPLES = 1000
"""Estimation samples an image in what is not measured, at most."""


def sizing(cfg: DictConfig) -> dict[str, list[dict[str, Any]]]:
    """Measure how processes share a certification, and estimate whole test sets by it.

    Args:
        cfg: a configuration of `conf/benchmark.yaml`.

    Returns:
        Rows of two tables, `scaling` and `sizing`.

    Raises:
        InvalidArgumentError: if a setting is out of range.
        ProcessError: if a certification failed.
    """
    counts = _process_counts(cfg)
    # What is wrong with the test sets shows before hours of measuring.
    _estimates(cfg, (Estimate(1.0), Estimate(1.0), Estimate(1.0)))
    turns = _certified_in_turns(cfg, counts)
    first = turns[0][1]
    paces = [{count: each.pace for count, each in turn.items()} for turn in turns]
    threads = THREADS if _on_cpu(cfg) else None
    facts = {**first.facts, "threads": threads, "different_rows": _compare(turns)}
    scaling = [{**facts, **row} for row in scaling_table(paces, first.samples)]
    return {"scaling": scaling, "sizing": _estimates(cfg, measured_figures(scaling))}


def _process_counts(cfg: DictConfig) -> list[int]:
    """Return how many processes are to be measured, once that can be done here."""
    for name, value in (("repeats", cfg.repeats), *(("processes", each) for each in cfg.processes)):
        require_count(name, value)
    counts = sorted({1, *cfg.processes})
    if counts == [1] and cfg.efficiency is None:
        raise InvalidArgumentError("Expected more than one process to measure, or efficiency=…")
    if not _on_cpu(cfg) and counts[-1] > torch.cuda.device_count():
        raise InvalidArgumentError(
            f"Expected `processes` of at most {torch.cuda.device_count()}, one a GPU, got "
            f"{counts[-1]}. processes=[1] efficiency=… takes the efficiency from elsewhere"
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
    """What one certification by the command left behind."""

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


def _certified_in_turns(cfg: DictConfig, counts: Sequence[int]) -> list[dict[int, _Certification]]:
    """Certify with each number of processes in every turn, after once that does not count."""
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
    """Certify by the command itself; on a CPU a process is a device, of as many threads as set."""
    command = [sys.executable, "-m", "src.certify"]
    command += _certify_arguments(cfg, folder, processes, changes or {})
    threads = {"OMP_NUM_THREADS": str(THREADS)} if _on_cpu(cfg) else {}
    # Its progress and its errors are shown, its tables not.
    done = subprocess.run(
        command,
        env={**os.environ, **threads},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        check=False,
    )
    if done.returncode:
        raise ProcessError(f"{shlex.join(command)} ended with code {done.returncode}")
    run = RunFolder(folder)
    return _Certification(run.summary() or {}, run.rows())


def _on_cpu(cfg: DictConfig) -> bool:
    return device_of(cfg.device) == "cpu"


def _certify_arguments(
    cfg: DictConfig, folder: Path, processes: int, changes: dict[str, Any]
) -> list[str]:
    """Return what `python -m src.certify` is told, so that it does as this command says."""
    choices = HydraConfig.get().runtime.choices
    values = {
        **{name: choices[name] for name in ("certifier", "execution")},
        **{name: cfg.certifier[name] for name in ("n0", "n", "alpha")},
        "radii": cfg.radii,
        "seed": cfg.seed,
        "device": cfg.device,
        "max_images": cfg.images,
        "devices": processes,
        **changes,
        **cfg.certify,
    }
    return [
        *_certified_subject(cfg),
        *(f"{name}={'null' if value is None else value}" for name, value in values.items()),
        *_overrides_of("certifier.", "execution."),
        quoted("paths.data", cfg.paths.data),
        quoted("hydra.run.dir", str(folder)),
    ]


def _certified_subject(cfg: DictConfig) -> list[str]:
    """Return how the command line of certification names a run, or a file and its network."""
    root = [] if cfg.data.root is None else [quoted("data.root", cfg.data.root)]
    if cfg.run is not None:
        return [quoted("run", cfg.run), *root]
    if cfg.ckpt is None:
        raise InvalidArgumentError("Expected run=<run folder>, or ckpt=<file> model=… sigma=…")
    network = f"model={HydraConfig.get().runtime.choices['model']}"
    return [
        quoted("ckpt", cfg.ckpt),
        network,
        f"sigma={cfg.sigma}",
        *_overrides_of("model."),
        *root,
    ]


def _overrides_of(*beginnings: str) -> list[str]:
    """Return what this command's line says of single settings of some parts."""
    said = HydraConfig.get().overrides.task
    return [each for each in said if each.lstrip("+~").startswith(beginnings)]


def _compare(turns: Sequence[dict[int, _Certification]]) -> int:
    """Return how many images have different rows, which rounding errors alone may cause."""
    first, *others = chain.from_iterable(turn.values() for turn in turns)
    different = unlike(first.rows, (each.rows for each in others))
    if different:
        warnings.warn(
            f"{len(different)} of {len(first.rows)} images have other votes in other runs, such "
            f"as image {different[0]}: batches differ, and rounding errors with them",
            SmoothCertWarning,
            stacklevel=2,
        )
    return len(different)
