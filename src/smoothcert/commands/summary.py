"""The summary of a run, `summary.json`, and the versions and the machine that made it."""

import platform
import subprocess
import sys
import warnings
from dataclasses import asdict, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from smoothcert.certify import Certified, Performance
from smoothcert.errors import RecordsError, SmoothCertWarning
from smoothcert.records import MergedCertificates, RunFolder
from smoothcert.report import print_summary

PACKAGES = ("smoothcert", "torch", "torchvision", "pytorch-lightning", "numpy", "scipy")


def write_summary(summary: dict[str, Any], run: RunFolder, certified: Certified) -> None:
    """Write `summary.json` next to the certificates, and print it.

    Args:
        summary: JSON values by name.
        run: the run folder.
        certified: the summarized certificates.

    Raises:
        RecordsError: if the certificates are no longer in their file, and cannot be written again.
    """
    # Figures and loggers took some time: the file must still have the rows that are summarized.
    MergedCertificates(certified.settings, certified.rows).write(run.certificates)
    run.write_summary(summary)
    print_summary(summary, run.path)


def performance_of(certified: Certified, run: RunFolder) -> dict[str, Any]:
    """Return the measurements of a certification, by this command or by the one that computed it.

    Args:
        certified: the certification.
        run: its folder, perhaps with a summary of an earlier command.
    """
    names = [field.name for field in fields(Performance)]
    if certified.performance is not None:
        values = asdict(certified.performance)
    else:
        try:
            values = run.summary() or {}
        except RecordsError as error:
            # It will be replaced.
            warnings.warn(f"{error}. It is replaced", SmoothCertWarning, stacklevel=2)
            values = {}
    return {name: values.get(name) for name in names}


def provenance() -> dict[str, Any]:
    """Return the versions and the commit that made a result."""
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
    """Return the commit of the working tree, with `+` if files were changed."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--abbrev=40"]
    command += ["--dirty=+", "--match", "no tag"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def machine(device: str) -> dict[str, Any]:
    """Return the hardware and the system of a measurement.

    Args:
        device: `cpu`, or torch's name of a GPU.
    """
    name = torch.cuda.get_device_name(device) if device != "cpu" else _processor()
    return {
        "device": device,
        "name": name,
        "threads": torch.get_num_threads(),
        "system": platform.platform(),
    }


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
