"""Processes that are killed at random moments: nothing finished is lost, nothing is there twice."""

import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch

from smoothcert import commands
from smoothcert.records import read_certificates
from tests.helpers.commands import start, succeeded
from tests.helpers.resuming import last_of, metrics_of, states_of
from tests.helpers.row_files import in_order
from tests.helpers.support import TINY, composed, save_hydra_files
from tests.helpers.together import ending, started

pytestmark = pytest.mark.slow

TRAINING = [
    *("experiment=digits_gaussian", *TINY, "objective.noise_draws=1", "model.width=8"),
    *("trainer.max_epochs=12", "callbacks=ema", "callbacks.ema.decay=0.9", "n=2000"),
    *("callbacks.certification.max_images=60", "trainer.log_every_n_steps=1"),
]
SEEDS = (1, 2, 3)
"""Of the random moments of the kills."""
CERTIFYING = ["split=val", "n=20000", "certifier=tight", "max_images=150"]


def train(folder):
    with composed(folder, TRAINING) as cfg:
        commands.train(cfg)


def certify(folder, own):
    with composed(own, [f"run={folder}", *CERTIFYING], "certify") as cfg:
        commands.certify(cfg)


def killed(rng, longest, function, *arguments):
    """Start something and kill it at a random moment of its work."""
    for _ in range(20):
        process = started(function, *arguments)
        with ending(process):
            process.join(rng.uniform(0.3, longest))
            alive = process.is_alive()
            process.kill()
        if alive:
            return
        longest /= 2
    pytest.fail("it ends before it can be killed")


def finished(function, *arguments):
    process = started(function, *arguments)
    with ending(process):
        process.join(600)
        assert process.exitcode == 0


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nobody disturbs."""
    with composed(folder := tmp_path_factory.mktemp("whole") / "run", TRAINING) as cfg:
        commands.train(cfg)
        save_hydra_files(cfg, folder, TRAINING)
    return folder


@pytest.mark.parametrize("seed", SEEDS)
def test_a_training_killed_five_times_ends_as_one_that_was_not(whole, tmp_path, seed):
    rng, folder = random.Random(seed), tmp_path / "run"
    for _ in range(5):
        killed(rng, 3.0, train, folder)
    finished(train, folder)
    for resumed, expected in zip(
        states_of(last_of(folder)), states_of(last_of(whole)), strict=True
    ):
        assert torch.equal(resumed, expected)
    assert metrics_of(folder) == metrics_of(whole)
    assert in_order(folder / "certificates.tsv") == in_order(whole / "certificates.tsv")


@pytest.mark.parametrize("seed", SEEDS)
def test_a_certification_killed_five_times_has_each_image_once(whole, tmp_path, seed):
    rng, own = random.Random(seed), tmp_path / "own"
    finished(certify, whole, tmp_path / "calm")
    seen: dict[int, object] = {}
    for _ in range(5):
        killed(rng, 2.5, certify, whole, own)
        if (own / "certificates.tsv").is_file():
            rows = {row.idx: row for row in read_certificates(own / "certificates.tsv")}
            # What was once there stays there, to the second that it took.
            assert seen.items() <= rows.items()
            seen = rows
    finished(certify, whole, own)
    assert in_order(own / "certificates.tsv") == in_order(tmp_path / "calm" / "certificates.tsv")


def children_of(pid):
    """Return the processes that a command has started to work."""
    tasks = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [
        int(task) for task in tasks if "spawn_main" in Path(f"/proc/{task}/cmdline").read_text()
    ]


def rows_in(own):
    return sum(path.read_bytes().count(b"\n") for path in own.glob("certificates*.tsv"))


def at_work(process, own):
    """Wait until a command has written rows of its own."""
    before = rows_in(own)
    while process.poll() is None and rows_in(own) < before + 3:
        time.sleep(0.01)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("victim", ["a worker", "the command"])
def test_a_certification_by_two_processes_survives_the_death_of_any_process(
    whole, tmp_path, victim, seed
):
    """Two kills each; a command with one process finishes the certification."""
    finished(certify, whole, tmp_path / "calm")
    rng, own = random.Random(f"{victim}, {seed}"), tmp_path / "own"
    common = [f"run={whole}", *CERTIFYING, "device=cpu", f"hydra.run.dir={own}"]
    for _ in range(2):
        process = start("certify", *common, "devices=2")
        at_work(process, own)
        time.sleep(rng.uniform(0, 0.3))
        target = process.pid if victim == "the command" else rng.choice(children_of(process.pid))
        os.kill(target, signal.SIGKILL)
        began = time.monotonic()
        _, errors = process.communicate(timeout=60)
        assert time.monotonic() - began < 60
        if victim == "a worker":
            assert process.returncode == 1
            assert f"(pid {target}) was killed by SIGKILL" in errors
    process = start("certify", *common)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert in_order(own / "certificates.tsv") == in_order(tmp_path / "calm" / "certificates.tsv")
    assert not list(own.glob("*.part*"))


@pytest.mark.parametrize("seed", SEEDS)
def test_a_training_by_two_processes_survives_the_death_of_one(tmp_path, seed):
    rng, folder = random.Random(seed), tmp_path / "run"
    overrides = [*TRAINING, "trainer.devices=2", f"hydra.run.dir={folder}"]
    process = start("train", *overrides)
    while process.poll() is None and not (folder / "checkpoints" / "last.ckpt").is_file():
        time.sleep(0.05)
    time.sleep(rng.uniform(0, 1))
    victim = rng.choice(children_of(process.pid))
    os.kill(victim, signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert f"(pid {victim}) was killed by SIGKILL" in errors
    again = start("train", f"run={folder}")
    again.stdout_text, again.stderr_text = again.communicate(timeout=300)
    succeeded(again)
    calm = start("train", *overrides[:-1], f"hydra.run.dir={tmp_path}/calm")
    calm.stdout_text, calm.stderr_text = calm.communicate(timeout=300)
    succeeded(calm)
    for resumed, expected in zip(
        states_of(last_of(folder)), states_of(last_of(tmp_path / "calm")), strict=True
    ):
        assert torch.equal(resumed, expected)
    assert in_order(folder / "certificates.tsv") == in_order(tmp_path / "calm/certificates.tsv")
