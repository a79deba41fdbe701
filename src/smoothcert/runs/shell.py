"""What surrounds a command: plain errors, plain warnings, honest exit codes."""

import logging
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from smoothcert.errors import SmoothCertError, SmoothCertWarning

logger = logging.getLogger(__name__)


@contextmanager
def command() -> Iterator[None]:
    """Run a command as its user should see it."""
    with _plain_errors(), _quiet(), _exit_code_on_sigterm():
        yield


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide advice that does not apply here, and show our own warnings as plain lines."""
    for library in ("pytorch_lightning", "pytorch_lightning.utilities.rank_zero"):
        logging.getLogger(library).setLevel(logging.WARNING)
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        for advice in (
            ".*does not have many workers.*",
            ".*LeafSpec.*",
            "Checkpoint directory .* exists and is not empty.*",
            "The dirpath has changed from.*",
            ".*number of training batches .* is smaller than the logging.*",
        ):
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
    """Answer bad input with its message alone; other errors keep their trace."""
    from hydra.errors import InstantiationException

    try:
        yield
    except (SmoothCertError, InstantiationException) as error:
        # Hydra wraps whatever a constructor raises.
        cause = error.__cause__ if isinstance(error, InstantiationException) else error
        if not isinstance(cause, SmoothCertError):
            raise
        if _in_a_sweep():
            # An exit would end the whole sweep.
            raise cause from None
        raise SystemExit(f"{type(cause).__name__}: {cause}") from error


def _in_a_sweep() -> bool:
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


@contextmanager
def _exit_code_on_sigterm() -> Iterator[None]:
    """Exit with 143 on SIGTERM: Lightning's own handler exits with 0, as if all had gone well."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(*_: Any) -> None:
        raise SystemExit(143)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
