"""Sweeps that go out as jobs: SLURM's job array, and submitit's local executor."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import instantiate

from smoothcert import commands
from tests.helpers.commands import start
from tests.helpers.resuming import last_of, states_of
from tests.helpers.row_files import in_order
from tests.helpers.support import CONF, TINY

submitit = pytest.importorskip("submitit")

SHORT = [*TINY, "experiment=digits_gaussian", "objective.noise_draws=1", "model.width=8"]


def on_path(folder, **programs):
    """Make programs that stand for SLURM's, and return their folder."""
    folder.mkdir()
    for name, source in programs.items():
        (folder / name).write_text(f"#!/bin/sh\n{source}\n")
        (folder / name).chmod(0o755)
    return folder


def test_a_sweep_is_one_job_array_with_what_the_configuration_says(tmp_path, monkeypatch):
    """Submitted to a `sbatch` that keeps what it is given."""
    sbatch = f'cp "$1" "{tmp_path}/script.$(date +%N)"; echo Submitted batch job 77'
    programs = on_path(tmp_path / "bin", sbatch=sbatch, srun="exit 0")
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setattr(submitit.slurm.slurm.SlurmJob, "results", lambda self: [self.job_id])
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        asked = ["hydra/launcher=slurm", "hydra.launcher.partition=gpu", "hydra.job.name=train"]
        sweep = f"hydra.sweep.dir='{tmp_path}/sweep'"
        config = compose("train", [*asked, sweep], return_hydra_config=True)
    launcher = instantiate(config.hydra.launcher)
    launcher.setup(hydra_context=None, task_function=len, config=config)
    jobs = [["sigma=0.25"], ["sigma=0.5"], ["sigma=1"]]
    assert launcher.launch(jobs, initial_job_idx=0) == ["77_0", "77_1", "77_2"]
    [script] = tmp_path.glob("script.*")
    lines = {line for line in script.read_text().splitlines() if line.startswith("#SBATCH")}
    expected = ("array=0-2%3", "partition=gpu", "gpus-per-node=1", "cpus-per-task=8", "nodes=1")
    more = ("ntasks-per-node=1", "time=1440", "signal=USR2@300", "requeue", "job-name=train")
    assert lines >= {f"#SBATCH --{each}" for each in (*expected, *more)}


def test_a_launcher_that_is_not_installed_is_named_with_what_to_install(monkeypatch):
    commands.check_command_line(["src/train.py", "-m", "hydra/launcher=slurm"])
    monkeypatch.setattr("smoothcert.commands.guard.find_spec", lambda name: None)
    with pytest.raises(SystemExit, match=r"pip install 'smoothcert\[slurm\]'"):
        commands.check_command_line(["src/train.py", "-m", "hydra/launcher=slurm"])
    commands.check_command_line(["src/train.py", "-m", "hydra/launcher=basic"])


def swept(folder, *overrides):
    return start(
        "train", "-m", "hydra/launcher=submitit_local", *overrides, f"hydra.sweep.dir={folder}"
    )


def jobs_of(folder):
    """Return the processes that submitit has started for a sweep, of this user."""
    found = subprocess.run(
        ["pgrep", "-f", f"submitit.core._submit {folder}/"],
        capture_output=True,
        text=True,
        check=False,
    )
    return [int(each) for each in found.stdout.split()]


def finished(process):
    printed, said = process.communicate(timeout=400)
    assert process.returncode == 0, printed + said
    return printed + said


@pytest.mark.slow
def test_a_sweep_through_the_local_executor_leaves_a_complete_run_for_each_value(tmp_path):
    short = [*SHORT, "trainer.max_epochs=1", "trainer.limit_train_batches=3"]
    said = finished(swept(tmp_path / "sweep", *short, "sigma=0.25,0.5"))
    assert "2 of 2 jobs finished" in said
    assert len(list((tmp_path / "sweep").glob("*/summary.json"))) == 2


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 2])
def test_a_job_whose_time_is_short_is_queued_again_and_ends_as_if_it_had_not_been(
    tmp_path, devices
):
    """By submitit's own signal and handler, to the job alone, as SLURM sends it."""
    asked = [*SHORT, "trainer.max_epochs=30", f"trainer.devices={devices}", "sigma=0.25"]
    process = swept(tmp_path / "sweep", *asked)
    while process.poll() is None and not list(tmp_path.glob("sweep/*/checkpoints/last.ckpt")):
        time.sleep(0.05)
    [job] = jobs_of(tmp_path / "sweep")
    os.kill(job, signal.SIGUSR2)
    finished(process)
    [folder] = [path.parent for path in tmp_path.glob("sweep/*/summary.json")]
    logs = "".join(path.read_text() for path in tmp_path.glob("sweep/.submitit/*/*_log.out"))
    assert "Requeued job" in logs
    assert "Resuming from" in (folder / "train.log").read_text() + logs
    calm = start("train", *asked, f"hydra.run.dir={tmp_path}/calm")
    finished(calm)
    for ours, theirs in zip(
        states_of(last_of(folder)), states_of(last_of(tmp_path / "calm")), strict=True
    ):
        assert torch.equal(ours, theirs)
    assert in_order(folder / "certificates.tsv") == in_order(
        Path(tmp_path, "calm/certificates.tsv")
    )
