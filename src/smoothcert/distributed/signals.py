"""The signals by which schedulers and people tell a command to end in good order."""

import os
import signal

NAMES = ("SIGTERM", "SIGUSR1", "SIGINT")
IF_HANDLED = "SIGUSR2"
"""Counts where somebody handles it: submitit does, to be told that time is short."""


def stopping_signals() -> list[int]:
    """Return the numbers of the signals that this machine has of them.

    SIGINT, which Ctrl-C sends, counts unless it is ignored, as in a shell's background jobs.

    Example:
        >>> signal.SIGTERM in stopping_signals()
        True
    """
    numbers = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        numbers.remove(signal.SIGINT)
    last = getattr(signal, IF_HANDLED, None)
    return [*numbers, last] if last is not None and callable(signal.getsignal(last)) else numbers


def end_at_second_interrupt(number: int, before: int) -> None:
    """End this process at once where Ctrl-C comes after another signal; say so at the first.

    Args:
        number: the signal that has come.
        before: the signal that this process is stopping by already; 0: none.
    """
    if number != signal.SIGINT:
        return
    if before:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    # No logging here: the signal may have come in the middle of a line.
    os.write(2, b"\nStopping as soon as the state is saved. Ctrl-C again ends at once\n")


def ignore_signals(*names: str) -> None:
    """Let this process go on when it gets one of these signals: another one decides what they mean.

    Args:
        names: such as `SIGTERM`; those that this machine does not have are passed over.
    """
    for name in names:
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
