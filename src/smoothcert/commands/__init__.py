"""What the commands do: configurations in, run folders out.

Whatever needs torch or Lightning is imported by the command that uses it: that takes ten seconds,
and `--help` and a mistyped option answer without.
"""

import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from omegaconf import DictConfig

from smoothcert.commands.commandline import (
    check,
    check_given,
    folder_name,
    for_sigma,
    names_checkpoint,
    suffix,
    typed,
)
from smoothcert.commands.error_handling import command, sweep_folder
from smoothcert.commands.guard import check_command_line
from smoothcert.commands.launching import devices_of, run
from smoothcert.commands.security import check_places
from smoothcert.errors import Stopped
from smoothcert.records import check_links

__all__ = [
    "benchmark",
    "certify",
    "check",
    "check_command_line",
    "folder_name",
    "for_sigma",
    "merge",
    "names_checkpoint",
    "report",
    "suffix",
    "train",
]


logger = logging.getLogger(__name__)

KEPT = "Finished work is kept."


@contextmanager
def _how_to_resume(how: str) -> Iterator[None]:
    """Say, where a signal ends a command, what is kept and how to resume."""
    try:
        yield
    except Stopped as stopped:
        name = signal.Signals(stopped.signal).name
        sweep = sweep_folder()
        if sweep is not None:
            how = f"Resume the sweep with the same command and hydra.sweep.dir={sweep}"
        logger.warning("Stopped by %s. %s", name, how)
        raise


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
    resume = f"{KEPT} Resume with: python -m src.train {typed('run', cfg.paths.run)}"
    with command(), _how_to_resume(resume):
        check(cfg)
        check_places(cfg)
        trainer = cfg.trainer
        each = devices_of(trainer.devices, trainer.accelerator)
        return run("smoothcert.commands.training:train", cfg, each, trainer.num_nodes)


def certify(cfg: DictConfig) -> float:
    """Certify a split of a run's data with the run's checkpoint, or images with a file's weights.

    Args:
        cfg: a configuration of `conf/certify.yaml` or `conf/certify_checkpoint.yaml`.

    Returns:
        ACR on the certified images.

    Raises:
        SystemExit: with the message of a `SmoothCertError`.
    """
    with command(), _how_to_resume(f"{KEPT} Resume with the same command"):
        check_links(Path(cfg.paths.run))
        check_given(cfg)
        each = devices_of(cfg.devices, "cpu" if cfg.device == "cpu" else "auto")
        return run("smoothcert.commands.certification:certify", cfg, each, cfg.num_nodes)


def merge(cfg: DictConfig) -> float:
    """Make one certification of its shards.

    Args:
        cfg: a configuration of `conf/merge.yaml`.

    Returns:
        ACR on all images.

    Raises:
        SystemExit: with the message of a `SmoothCertError`.
    """
    with command(), _how_to_resume("The shards are unchanged. Merge them with the same command"):
        from smoothcert.commands import merging

        return merging.merge(cfg)


def benchmark(cfg: DictConfig) -> None:
    """Measure something on this machine, print a table and write `benchmark.json`.

    Args:
        cfg: a configuration of `conf/benchmark.yaml`.

    Raises:
        SystemExit: with the message of a `SmoothCertError`.
    """
    with command(), _how_to_resume("Nothing was measured. Start again with the same command"):
        check(cfg)
        from smoothcert.commands import benchmarking

        benchmarking.benchmark(cfg)


def report(cfg: DictConfig) -> None:
    """Print a table over runs, and write it.

    Args:
        cfg: a configuration of `conf/report.yaml`.

    Raises:
        SystemExit: with the message of a `SmoothCertError`.
    """
    with command(), _how_to_resume("The runs are unchanged. Report them with the same command"):
        from smoothcert.commands import reporting

        reporting.report(cfg)
