"""Errors and warnings of smoothcert; all errors but `Stopped` derive from `SmoothCertError`."""

import math
from numbers import Real


class SmoothCertError(Exception):
    """Base of every error that smoothcert raises on purpose."""


class InvalidArgumentError(SmoothCertError, ValueError):
    """An argument outside the range that its docstring states."""


class DataError(SmoothCertError):
    """Images that are missing, unreadable or not laid out as expected."""


class MismatchError(SmoothCertError, ValueError):
    """Two parts that do not fit together: data and model, or checkpoint and model."""


class CheckpointError(SmoothCertError):
    """A checkpoint that cannot be read."""


class RecordsError(SmoothCertError):
    """A certificate file that is damaged, or that belongs to another configuration."""


class NonFiniteError(SmoothCertError, ArithmeticError):
    """NaN or infinite pixels, logits or losses. They are never counted as votes."""


class ProcessError(SmoothCertError):
    """One of several cooperating processes has died or cannot be reached."""


class Stopped(SystemExit):
    """Ends a command after a signal; the exit code is 128 plus the signal's number.

    Attributes:
        signal: the signal's number.

    Example:
        >>> Stopped(15).code
        143
    """

    def __init__(self, signal: int) -> None:
        super().__init__(128 + signal)
        self.signal = signal


class SmoothCertWarning(UserWarning):
    """A result that is valid but probably not what the user expects."""


def require_positive(name: str, value: float) -> None:
    """Raise unless `value` is a positive, finite number.

    Args:
        name: what to call the value in the message.
        value: the number to check.

    Raises:
        InvalidArgumentError: if it is zero, negative, infinite or NaN.

    Example:
        >>> require_positive("sigma", 0.25)
    """
    if not (isinstance(value, Real) and value > 0 and math.isfinite(value)):
        raise InvalidArgumentError(f"Expected `{name}` > 0 and finite, got {value}")


def require_probability(name: str, value: float) -> None:
    """Raise unless `value` is strictly between 0 and 1.

    Args:
        name: what to call the value in the message.
        value: the number to check.

    Raises:
        InvalidArgumentError: if it is outside the open interval (0, 1), or NaN.

    Example:
        >>> require_probability("alpha", 0.001)
    """
    if not (isinstance(value, Real) and 0 < value < 1):
        raise InvalidArgumentError(f"Expected `{name}` in (0, 1), got {value}")


def require_count(name: str, value: int, minimum: int = 1) -> None:
    """Raise unless `value` is a whole number of at least `minimum`.

    Args:
        name: what to call the value in the message.
        value: the number to check.
        minimum: the smallest number allowed.

    Raises:
        InvalidArgumentError: if it is not whole, or smaller than `minimum`.

    Example:
        >>> require_count("n", 100_000)
    """
    if not isinstance(value, int) or value < minimum:
        raise InvalidArgumentError(f"Expected `{name}` a whole number >= {minimum}, got {value}")
