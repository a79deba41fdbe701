"""Initial weights that residual networks share."""

from torch import nn


def initialize_convolution(part: nn.Module) -> None:
    """Draw a convolution's weights as He et al. (2015) do; leave every other part alone.

    Args:
        part: passed by `nn.Module.apply`.

    Example:
        >>> _ = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()).apply(initialize_convolution)
    """
    if isinstance(part, nn.Conv2d):
        nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
