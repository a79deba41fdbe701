"""The signals by which schedulers and people tell a command to end in good order."""

import signal

NAMES = ("SIGTERM", "SIGUSR1")
IF_HANDLED = "SIGUSR2"
"""Counts where somebody handles it: submitit does, to be told that time is short."""


def stopping_signals() -> list[int]:
    """Return the numbers of the signals that this machine has of them.

    Example:
        >>> signal.SIGTERM in stopping_signals()
        True
    """
    numbers = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]
    last = getattr(signal, IF_HANDLED, None)
    return [*numbers, last] if last is not None and callable(signal.getsignal(last)) else numbers


def ignore_signals(*names: str) -> None:
    """Let this process go on when it gets one of these signals: another one decides what they mean.

    Args:
        names: such as `SIGTERM`; those that this machine does not have are passed over.
    """
    for name in names:
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
