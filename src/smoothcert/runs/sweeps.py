"""Where commands write, what a sweep does when a job fails, and what it says at its end."""

import logging
import os
import time
from collections.abc import Sequence
from glob import escape
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, read_write

from smoothcert.errors import RecordsError, SmoothCertError
from smoothcert.records import check_links, write_atomically
from smoothcert.runs.commandline import quoted

logger = logging.getLogger(__name__)

ERROR = "error.txt"
"""File of a job's folder that says why it failed."""
HYDRAS_FILES = 2**16
"""Bytes that Hydra writes, at most, before a command begins."""
EXCLUDED = "hydra.job.config.override_dirname.exclude_keys"
"""Keys that a job's folder is not named by."""


class RunFolder(Callback):
    """Says in one line that a command's folder cannot be written, before Hydra writes there.

    Folders of a sweep's jobs are named by what differs between them.
    """

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        """Look at the folder of a run.

        Raises:
            SystemExit: if it cannot be made or written, or a link in it leads elsewhere.
        """
        # Hydra itself does so next; a folder's name may come from its values.
        HydraConfig.instance().set_config(config)
        folder = Path(config.hydra.run.dir)
        _require_writable(folder, "hydra.run.dir")
        # Not of a report, whose folder is no run folder.
        if config.hydra.output_subdir is not None:
            try:
                check_links(folder)
            except RecordsError as error:
                raise SystemExit(str(error)) from error

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Look at the folder of a sweep, and leave what its jobs share out of their names.

        Raises:
            SystemExit: if it cannot be made or written.
        """
        _require_writable(Path(config.hydra.sweep.dir), "hydra.sweep.dir")
        shared = _shared_keys(config.hydra.overrides.task)
        with read_write(config):
            # Each job is composed anew, wherever it runs, with the overrides of Hydra's own part.
            config.hydra.overrides.hydra.append(f"{EXCLUDED}={shared}")


def _shared_keys(overrides: Sequence[str]) -> list[str]:
    """Return the keys that have one value in all jobs of a sweep."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    different = {each.key_or_group for each in parsed if each.is_sweep_override()}
    return sorted({each.key_or_group for each in parsed} - different)


def _require_writable(folder: Path, setting: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # A disk that is full, or a quota, shows in what is written.
        with TemporaryFile(dir=folder) as file:
            file.write(bytes(HYDRAS_FILES))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise SystemExit(
            f"{folder} cannot be written: {error.strerror}. Choose another folder by {setting}=…"
        ) from error


class SweepEnd(Callback):
    """Lets a sweep go on after a failed job, and says at its end what came of all of them.

    A failed job leaves `error.txt` in its folder, whichever launcher ran it, and counts as NaN
    for a sweeper that optimizes.
    """

    def __init__(self) -> None:
        self.began = 0.0

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:  # noqa: ARG002
        """Remember when: a folder that is used again holds jobs of other sweeps."""
        self.began = time.time()

    def on_job_start(self, config: DictConfig, **_: Any) -> None:
        """Forget the error of an earlier attempt."""
        (Path(config.hydra.runtime.output_dir) / ERROR).unlink(missing_ok=True)

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **_: Any) -> None:
        """Keep the error of a job of a sweep."""
        if str(config.hydra.mode).endswith("MULTIRUN") and job_return.status is JobStatus.FAILED:
            error = job_return._return_value
            message = f"{type(error).__name__}: {error}"
            logger.error(
                "Job %s failed, the sweep goes on: %s",
                config.hydra.job.num,
                message,
                # Errors about a user's input say all that there is to say.
                exc_info=None if isinstance(error, SmoothCertError) else error,
            )
            write_atomically(Path(config.hydra.runtime.output_dir) / ERROR, f"{message}\n")
            job_return.status, job_return.return_value = JobStatus.COMPLETED, float("nan")

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Name the failed jobs, and the command that compares the others."""
        folder = Path(config.hydra.sweep.dir)
        jobs = [path for path in sorted(folder.iterdir()) if self._is_ours(path)]
        failed = [path for path in jobs if (path / ERROR).is_file()]
        logger.info("%d of %d jobs finished in %s", len(jobs) - len(failed), len(jobs), folder)
        for path in failed:
            logger.error("Failed: %s: %s", path.name, (path / ERROR).read_text("utf-8").strip())
        if any((path / "certificates.tsv").is_file() for path in jobs):
            pattern = quoted("runs", f"{escape(str(folder))}/**")
            logger.info("Compare them: python -m src.report %s", pattern)
        if failed:
            raise SystemExit(1)

    def _is_ours(self, folder: Path) -> bool:
        overrides = folder / ".hydra" / "overrides.yaml"
        # A file system's clock may be coarser than ours.
        return overrides.is_file() and overrides.stat().st_mtime >= self.began - 2
