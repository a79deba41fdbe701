"""What the commands do: configurations in, run folders out.

Whatever needs torch or Lightning is imported by the command that uses it: that takes ten seconds,
and `--help` and a mistyped option answer without.
"""

from omegaconf import DictConfig

from smoothcert.runs.commandline import (
    check,
    expand_run,
    folder_name,
    for_sigma,
    names_checkpoint,
    quote_paths,
    require_run,
    require_runs,
    suffix,
)
from smoothcert.runs.shell import command

__all__ = [
    "benchmark",
    "certify",
    "check",
    "expand_run",
    "folder_name",
    "for_sigma",
    "names_checkpoint",
    "quote_paths",
    "report",
    "require_run",
    "require_runs",
    "suffix",
    "train",
]


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
    with command():
        check(cfg)
        from smoothcert.runs import training

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
    with command():
        from smoothcert.runs import certification

        return certification.certify(cfg)


def benchmark(cfg: DictConfig) -> None:
    """Measure something on this machine, print a table and write `benchmark.json`.

    Args:
        cfg: a configuration of `conf/benchmark.yaml`.

    Raises:
        SystemExit: with the message of a `SmoothCertError`.
    """
    with command():
        check(cfg)
        from smoothcert.runs import benchmarking

        benchmarking.benchmark(cfg)


def report(cfg: DictConfig) -> None:
    """Print a table over runs, and write it.

    Args:
        cfg: a configuration of `conf/report.yaml`.

    Raises:
        SystemExit: with the message of a `SmoothCertError`.
    """
    with command():
        from smoothcert.runs import reporting

        reporting.report(cfg)
