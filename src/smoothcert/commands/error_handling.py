"""What surrounds a command: plain errors and warnings, signals, exit codes."""

import errno
import logging
import re
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from smoothcert.distributed.signals import end_at_second_interrupt, stopping_signals
from smoothcert.errors import (
    DataError,
    InvalidArgumentError,
    RecordsError,
    SmoothCertError,
    SmoothCertWarning,
    Stopped,
)
from smoothcert.records import RunFolder

logger = logging.getLogger(__name__)

KEPT = "Finished work is kept"
UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
"""Error numbers of a full disk, an exhausted quota and a read-only file system."""
LOADING = "DataLoader worker"
"""Torch's name for a process that loads images."""
NO_SHARED_MEMORY = re.compile(r"shared memory\(shm\)|out of shared memory|to file </torch_")
END_OF_PROCESS = re.compile(r"(signal: [^.]+|exit code -?\d+)\.")
ADVICE = (
    ".*does not have many workers.*",
    ".*LeafSpec.*",
    "Checkpoint directory .* exists and is not empty.*",
    "The dirpath has changed from.*",
    ".*number of training batches .* is smaller than the logging.*",
    # A process without validation images has nothing to add to the means.
    ".*metric MeanMetric was called before.*",
    # Values logged at the end of an epoch are those of all processes already.
    ".*It is recommended to use .*sync_dist=True.*",
)
"""Warnings of libraries that do not apply here."""


@contextmanager
def command(when_stopped: str) -> Iterator[None]:
    """Run a command with plain errors and warnings; signals end it in an orderly way.

    Args:
        when_stopped: what to log where a signal ends it: what is kept, and how to resume.
    """
    with _plain_errors(), quiet(), signals_stop():
        try:
            yield
        except Stopped as stopped:
            sweep = sweep_folder()
            if sweep is not None:
                when_stopped = (
                    f"{KEPT}. Resume the sweep with the same command and hydra.sweep.dir={sweep}"
                )
            logger.warning("Stopped by %s. %s", signal.Signals(stopped.signal).name, when_stopped)
            raise


@contextmanager
def quiet() -> Iterator[None]:
    """Hide warnings that do not apply here, and show those of smoothcert as plain lines."""
    # `pytorch_lightning` itself sets its own level when it is imported.
    for library in ("pytorch_lightning.trainer", "pytorch_lightning.utilities.rank_zero"):
        logging.getLogger(library).setLevel(logging.WARNING)
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        for advice in ADVICE:
            warnings.filterwarnings("ignore", advice)
        warnings.filterwarnings("always", category=SmoothCertWarning)
        standard = warnings.showwarning

        def show(message: Any, category: type[Warning], *rest: Any) -> None:
            if issubclass(category, SmoothCertWarning):
                logger.warning(message)
            else:
                standard(message, category, *rest)

        warnings.showwarning = show
        yield


@contextmanager
def _plain_errors() -> Iterator[None]:
    """End a command at an error of the user's input with its message alone, without a trace."""
    try:
        yield
    except Exception as error:
        cause = plain(error)
        if cause is None:
            raise
        # A scheduler's signal stops the processes that load images, too. The first one that ends
        # is reported while the command is still stopping.
        stop = next((each for each in _chain(error) if isinstance(each, SystemExit)), None)
        if stop is not None and LOADING in str(error):
            raise stop from None
        if sweep_folder() is not None:
            # An exit would end the sweep.
            raise cause from None
        raise SystemExit(f"{type(cause).__name__}: {cause}") from error


def plain(error: BaseException) -> SmoothCertError | None:
    """Return the error to show without a trace; None if the trace is needed.

    Args:
        error: what a command raised.
    """
    from hydra.errors import InstantiationException
    from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

    # Hydra wraps what a constructor raises.
    cause = error.__cause__ if isinstance(error, InstantiationException) else error
    if isinstance(cause, SmoothCertError):
        return _without_trace(cause)
    if isinstance(cause, OSError) and cause.errno in UNWRITABLE:
        where = cause.filename or "A file of the run"
        return RecordsError(
            f"{where} cannot be written: {cause.strerror}. {KEPT}. Resume once it can be written"
        )
    if (folder := _removed_folder()) is not None:
        return RecordsError(f"{folder} was removed during the run: start again, or put it back")
    if isinstance(cause, OSError) and cause.filename is not None:
        return DataError(f"{cause.filename}: {cause.strerror}")
    if isinstance(cause, MissingMandatoryValue):
        return InvalidArgumentError(f"Expected {cause.full_key}=…, which has no default")
    if isinstance(cause, OmegaConfBaseException):
        return InvalidArgumentError(f"{_first_line(cause)}, at {cause.full_key}")
    if isinstance(error, InstantiationException):
        return _of_refused_settings(error)
    if type(cause).__name__ == "MisconfigurationException":
        return InvalidArgumentError(_first_line(cause))
    if type(cause).__module__.startswith("wandb."):
        return InvalidArgumentError(
            f"W&B: {_first_line(cause)}. Without a network: WANDB_MODE=offline in the environment, "
            "and `wandb sync` later; or logger=csv"
        )
    return _of_lost_process(cause) if isinstance(cause, RuntimeError) else None


def _first_line(error: BaseException | None) -> str:
    """Return the first line of an error's message, without the full stop at its end."""
    return str(error).strip().partition("\n")[0].rstrip(".")


def _of_refused_settings(error: Exception) -> InvalidArgumentError | None:
    """Return the error to show where a class refuses its settings, or is not found.

    Hydra's message has the target, the cause and the place in the configuration on separate lines.
    """
    cause = error.__cause__
    target = re.search(r"target '([^']+)'", str(error))
    place = re.search(r"full_key: (\S+)", str(error))
    part = f"{place[1] if place else 'a part'} ({target[1] if target else 'its target'})"
    if type(cause).__name__ == "MisconfigurationException" or isinstance(
        cause, TypeError | ValueError | RuntimeError
    ):
        return InvalidArgumentError(f"Expected settings that {part} takes: {_first_line(cause)}")
    if "Error locating target" in str(error):
        return InvalidArgumentError(
            f"Expected a class or function that can be imported for {part}: "
            f"{' '.join(str(cause).split())}"
        )
    return None


def _removed_folder() -> Path | None:
    """Return the run folder if it no longer exists."""
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    # Before a run starts, its folder is not set.
    if not HydraConfig.initialized():
        return None
    runtime = HydraConfig.get().runtime
    if OmegaConf.is_missing(runtime, "output_dir"):
        return None
    folder = Path(runtime.output_dir)
    return None if folder.is_dir() else folder


def _without_trace(error: SmoothCertError) -> SmoothCertError:
    """Return an error without the trace that torch adds in a process that loads images."""
    text = str(error)
    if not re.match(r"Caught \w+ in .*\.\nOriginal Traceback", text):
        return error
    kind = type(error)
    return kind(text.rpartition(f"{kind.__module__}.{kind.__qualname__}: ")[2].strip())


def _of_lost_process(error: RuntimeError) -> DataError | None:
    """Return the error to show where a process that loads images died, or shares no memory."""
    if LOADING not in str(error):
        return None
    # If torch finds it dead, an earlier error of the chain has the signal.
    text = " ".join(str(each) for each in _chain(error))
    if NO_SHARED_MEMORY.search(text):
        return DataError(
            "Shared memory (/dev/shm), through which loading processes return images, is full: "
            "enlarge it (docker run --shm-size=8g), or lower data.num_workers; 0 needs none. "
            f"{_how_to_resume()}"
        )
    if f"{LOADING} (pid" not in text:
        return None
    end = END_OF_PROCESS.search(text)
    return DataError(
        f"A process that loads images died{f' ({end[1]})' if end else ''}, often for lack of "
        f"memory: lower data.num_workers. {_how_to_resume()}"
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _how_to_resume() -> str:
    from hydra.core.hydra_config import HydraConfig

    if not HydraConfig.initialized():
        return KEPT
    run = RunFolder(HydraConfig.get().runtime.output_dir)
    last = run.checkpoint("last")
    if not last.is_file():
        return "No checkpoint is written yet: start again"
    return (
        f"{KEPT}. Resume with the same settings: run={run}. With fewer "
        f"data.num_workers, continue in a new folder: the same command with ckpt_path={last}"
    )


def sweep_folder() -> str | None:
    """Return the folder of the sweep that this command is a job of; None for a single run."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    if not HydraConfig.initialized() or HydraConfig.get().mode != RunMode.MULTIRUN:
        return None
    return HydraConfig.get().sweep.dir


@contextmanager
def signals_stop() -> Iterator[None]:
    """Raise `Stopped` at SIGTERM, SIGUSR1 and Ctrl-C, so that the exit code tells the signal.

    Schedulers send the first two before they kill. A second Ctrl-C ends the command at once.
    Lightning's own handler would exit with 0, as after success. A handler that is there already is
    a scheduler's, which may requeue the job: it is called instead.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before: dict[int, Any] = {}
    stopping: list[int] = []

    def leave(number: int, frame: Any) -> None:
        # A second signal must not interrupt saving and closing.
        if stopping:
            end_at_second_interrupt(number, stopping[0])
            return
        if not callable(before[number]):
            stopping.append(number)
            raise Stopped(number)
        before[number](number, frame)

    for number in stopping_signals():
        before[number] = signal.signal(number, leave)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
