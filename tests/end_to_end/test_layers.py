"""The import rule of the layout."""

import subprocess
import sys

from tests.helpers.support import ROOT


def test_imports_point_down_only():
    """In a process of its own: the linter switches off the loggers that other tests listen to."""
    source = (
        "from importlinter.cli import lint_imports; raise SystemExit(lint_imports(no_cache=True))"
    )
    done = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stdout


def modules_after(statement):
    source = f"{statement}; import sys; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return set(done.stdout.split())


def test_reading_certificates_needs_no_torch():
    parts = ("stats", "records", "report", "commands")
    loaded = modules_after(f"import {', '.join(f'smoothcert.{part}' for part in parts)}")
    assert not loaded & {"torch", "pytorch_lightning"}


def test_certifying_needs_neither_lightning_nor_hydra():
    loaded = modules_after("from smoothcert import SmoothedClassifier")
    assert "torch" in loaded
    assert not loaded & {"pytorch_lightning", "hydra", "omegaconf", "torchmetrics"}
