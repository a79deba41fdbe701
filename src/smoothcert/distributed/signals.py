"""The signals of schedulers and users at which a command saves its state and ends."""

import os
import signal

NAMES = ("SIGTERM", "SIGUSR1", "SIGINT")
IF_HANDLED = "SIGUSR2"
"""Included where a handler exists: submitit uses it to announce the end of a job's time."""


def stopping_signals() -> list[int]:
    """Return the numbers of these signals, if this machine has them.

    SIGINT, which Ctrl-C sends, is included unless it is ignored, as in a shell's background jobs.

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
    """End this process at once if Ctrl-C follows another signal; at a first Ctrl-C, print that.

    Args:
        number: the signal that was received.
        before: the earlier signal at which this process is stopping; 0: none.
    """
    if number != signal.SIGINT:
        return
    if before:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    # No logging in a signal handler: the signal may have interrupted a log message.
    os.write(2, b"\nStopping as soon as the state is saved. Ctrl-C again ends at once\n")


def ignore_signals(*names: str) -> None:
    """Ignore signals in this process, because another process handles them.

    Args:
        names: such as `SIGTERM`; names that this machine does not have are skipped.
    """
    for name in names:
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
