"""Context managers that change modes of a module and restore them exactly."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluating(module: nn.Module) -> Iterator[nn.Module]:
    """Put a module into eval mode, and each of its parts back into its own mode afterwards.

    Args:
        module: any module; its BatchNorm statistics are read, not updated, inside the context.

    Example:
        >>> network = nn.Sequential(nn.Dropout(), nn.Dropout().eval())
        >>> with evaluating(network):
        ...     network[0].training
        False
        >>> [part.training for part in network]
        [True, False]
    """
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield module
    finally:
        for part, training in modes:
            part.training = training


@contextmanager
def frozen(module: nn.Module) -> Iterator[nn.Module]:
    """Compute no gradients of a module's parameters; gradients still flow to its input.

    Args:
        module: any module; each parameter's `requires_grad` is restored afterwards.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> with frozen(layer):
        ...     layer.weight.requires_grad
        False
        >>> layer.weight.requires_grad
        True
    """
    flags = [(parameter, parameter.requires_grad) for parameter in module.parameters()]
    module.requires_grad_(False)
    try:
        yield module
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
