"""Failed jobs of a sweep, and the messages at its end."""

import logging
import time
from glob import escape
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from smoothcert.commands.commandline import typed
from smoothcert.errors import SmoothCertError
from smoothcert.records import RunFolder, write_atomically

logger = logging.getLogger(__name__)

ERROR = "error.txt"
"""File in the folder of a failed job, with its error."""


class SweepEnd(Callback):
    """Continues a sweep after a failed job, and reports the failed jobs at its end.

    A failed job leaves `error.txt` in its folder, with any launcher. A sweeper that optimizes
    receives NaN as its value.
    """

    def __init__(self) -> None:
        self.began = 0.0

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:  # noqa: ARG002
        """Keep the time: the folder may contain jobs of earlier sweeps."""
        self.began = time.time()

    def on_job_start(self, config: DictConfig, **_: Any) -> None:
        """Remove the error of an earlier attempt."""
        (Path(config.hydra.runtime.output_dir) / ERROR).unlink(missing_ok=True)

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **_: Any) -> None:
        """Keep the error of a job of a sweep."""
        if str(config.hydra.mode).endswith("MULTIRUN") and job_return.status is JobStatus.FAILED:
            error = job_return._return_value
            message = f"{type(error).__name__}: {error}"
            logger.error(
                "Job %s failed, the sweep continues: %s",
                config.hydra.job.num,
                message,
                # Errors of the user's input need no trace.
                exc_info=None if isinstance(error, SmoothCertError) else error,
            )
            write_atomically(Path(config.hydra.runtime.output_dir) / ERROR, f"{message}\n")
            job_return.status, job_return.return_value = JobStatus.COMPLETED, float("nan")

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Log the failed jobs, and the command that compares the others."""
        folder = Path(config.hydra.sweep.dir)
        jobs = [path for path in sorted(folder.iterdir()) if self._is_of_this_sweep(path)]
        failed = [path for path in jobs if (path / ERROR).is_file()]
        logger.info("%d of %d jobs finished in %s", len(jobs) - len(failed), len(jobs), folder)
        for path in failed:
            logger.error("Failed: %s: %s", path.name, (path / ERROR).read_text("utf-8").strip())
        if any(RunFolder(path).is_certified for path in jobs):
            pattern = typed("runs", f"{escape(str(folder))}/**")
            logger.info("Compare them: python -m src.report %s", pattern)
        if failed:
            raise SystemExit(1)

    def _is_of_this_sweep(self, folder: Path) -> bool:
        overrides = RunFolder(folder).configuration("overrides")
        # The clock of a file system may be coarser.
        return overrides.is_file() and overrides.stat().st_mtime >= self.began - 2
