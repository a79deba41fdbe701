"""The commands: configurations in, run folders out.

Each command imports torch and Lightning itself, which takes up to ten seconds: `--help` and an
invalid option are answered without them.
"""

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
from smoothcert.commands.error_handling import KEPT, command
from smoothcert.commands.guard import check_command_line
from smoothcert.commands.launching import devices_of, run
from smoothcert.commands.security import check_places
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


def train(cfg: DictConfig) -> float | None:
    """Train a base classifier, certify the best checkpoint, and leave a complete run folder.

    A folder with an unfinished run is continued: training from `checkpoints/last.ckpt`,
    certification from the rows that are there.

    Args:
        cfg: a configuration of `conf/train.yaml`.

    Returns:
        ACR of the best checkpoint on the certified images; None without certification.

    Raises:
        SystemExit: with the message of a `SmoothCertError`.
    """
    with command(f"{KEPT}. Resume with: python -m src.train {typed('run', cfg.paths.run)}"):
        check(cfg)
        check_places(cfg)
        each = devices_of(cfg.trainer.devices, cfg.trainer.accelerator)
        return run(_train, cfg, each, cfg.trainer.num_nodes)


def _train(cfg: DictConfig) -> float | None:
    # Here, and not in the launcher, which needs no Lightning.
    from smoothcert.commands import training

    return training.train(cfg)


def certify(cfg: DictConfig) -> float:
    """Certify a split of a run's data with the run's checkpoint, or images with a file's weights.

    Args:
        cfg: a configuration of `conf/certify.yaml` or `conf/certify_checkpoint.yaml`.

    Returns:
        ACR on the certified images.

    Raises:
        SystemExit: with the message of a `SmoothCertError`.
    """
    with command(f"{KEPT}. Resume with the same command"):
        check_links(Path(cfg.paths.run))
        check_given(cfg)
        each = devices_of(cfg.devices, "cpu" if cfg.device == "cpu" else "auto")
        return run(_certify, cfg, each, cfg.num_nodes)


def _certify(cfg: DictConfig) -> float | None:
    from smoothcert.commands import certification

    return certification.certify(cfg)


def merge(cfg: DictConfig) -> float:
    """Merge the shards of one certification.

    Args:
        cfg: a configuration of `conf/merge.yaml`.

    Returns:
        ACR on all images.

    Raises:
        SystemExit: with the message of a `SmoothCertError`.
    """
    with command("The shards are unchanged. Merge them with the same command"):
        from smoothcert.commands import merging

        return merging.merge(cfg)


def benchmark(cfg: DictConfig) -> None:
    """Measure something on this machine, print a table and write `benchmark.json`.

    Args:
        cfg: a configuration of `conf/benchmark.yaml`.

    Raises:
        SystemExit: with the message of a `SmoothCertError`.
    """
    with command("Nothing was measured. Start again with the same command"):
        check(cfg)
        from smoothcert.commands import benchmarking

        benchmarking.benchmark(cfg)


def report(cfg: DictConfig) -> None:
    """Compare runs: a page, tables and figures.

    Args:
        cfg: a configuration of `conf/report.yaml`.

    Raises:
        SystemExit: with the message of a `SmoothCertError`.
    """
    with command("The runs are unchanged. Report them with the same command"):
        from smoothcert.commands import reporting

        reporting.report(cfg)
