"""Commands as a user types them, in processes of their own."""

import os
import signal
import subprocess
import sys
from contextlib import contextmanager

from PIL import Image

from tests.helpers.support import ROOT, TINY

QUICK = [*TINY, "experiment=digits_reg", "trainer.max_epochs=1", "trainer.limit_train_batches=3"]


def start(command, *arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "WANDB_MODE": "offline", "COLUMNS": "200"}
    return subprocess.Popen(
        [sys.executable, "-m", f"src.{command}", *arguments],
        cwd=ROOT,
        env=environment,
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def run(command, *arguments):
    process = start(command, *arguments)
    process.stdout_text, process.stderr_text = process.communicate(timeout=300)
    return process


def succeeded(process):
    assert process.returncode == 0, process.stderr_text
    return process.stdout_text


@contextmanager
def from_a_terminal():
    """Leave Ctrl-C to a command, as a terminal does; pytest, or whoever runs it, may not."""
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def class_folders(root, names):
    for name in names:
        (root / name).mkdir(parents=True)
        for number in range(6):
            image = Image.new("RGB", (8, 8), (40 * number, 9, 9))
            image.save(root / name / f"{number}.png")
    return ["data=image_folder", "data.image_size=8", f"data.root={root}"]
