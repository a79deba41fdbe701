"""Wide residual networks with pre-activation (Zagoruyko and Komodakis, 2016)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from smoothcert.errors import InvalidArgumentError
from smoothcert.models.normalization import normalized
from smoothcert.models.resnet_cifar import initialize_convolution


class PreActivationBlock(nn.Module):
    """BatchNorm and ReLU before each of two 3×3 convolutions, with a shortcut.

    Args:
        in_channels: channels of the input.
        channels: channels of the output.
        stride: stride of the first convolution.
        dropout: probability of dropping a value between the convolutions.
    """

    def __init__(self, in_channels: int, channels: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.shortcut: nn.Module | None = None
        if stride != 1 or in_channels != channels:
            self.shortcut = nn.Conv2d(in_channels, channels, 1, stride=stride, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, channels, H/stride, W/stride)."""
        activated = torch.relu(self.bn1(images))
        # The projection gets the activated input, the identity the raw one (figure 1 of the paper).
        shortcut = images if self.shortcut is None else self.shortcut(activated)
        out = self.dropout(torch.relu(self.bn2(self.conv1(activated))))
        return self.conv2(out) + shortcut


class WideResNet(nn.Module):
    """WRN-depth-factor with three stages of (depth − 4) / 6 blocks.

    Args:
        depth: 6k + 4, for example 16 or 28.
        factor: widening factor; the stages have 16, 32 and 64 times as many channels.
        num_classes: number of logits.
        in_channels: channels of the images.
        dropout: probability of dropping a value inside a block.

    Raises:
        InvalidArgumentError: if the depth is not 6k + 4 with k >= 1.

    Example:
        >>> WideResNet(10, 1, 10)(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        depth: int,
        factor: int,
        num_classes: int,
        in_channels: int = 3,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if depth < 10 or (depth - 4) % 6:
            raise InvalidArgumentError(f"Expected `depth` 10, 16, 22, … (6k + 4), got {depth}")
        blocks = (depth - 4) // 6
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.layer1 = _stage(16, 16 * factor, blocks, 1, dropout)
        self.layer2 = _stage(16 * factor, 32 * factor, blocks, 2, dropout)
        self.layer3 = _stage(32 * factor, 64 * factor, blocks, 2, dropout)
        self.bn = nn.BatchNorm2d(64 * factor)
        self.fc = nn.Linear(64 * factor, num_classes)
        self.apply(initialize_convolution)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (N, C, H, W) to logits (N, num_classes)."""
        out = self.layer3(self.layer2(self.layer1(self.conv1(images))))
        return self.fc(torch.relu(self.bn(out)).mean((2, 3)))


def wide_resnet(
    num_classes: int,
    input_shape: Sequence[int],
    mean: Sequence[float],
    std: Sequence[float],
    depth: int = 28,
    factor: int = 10,
    dropout: float = 0.0,
) -> nn.Module:
    """Return a `WideResNet` with normalisation in front.

    Args:
        num_classes: number of logits.
        input_shape: (C, H, W) of the images.
        mean: one value per channel.
        std: one value per channel.
        depth: 6k + 4.
        factor: widening factor.
        dropout: probability of dropping a value inside a block.

    Example:
        >>> type(wide_resnet(10, (3, 32, 32), [0.5] * 3, [0.2] * 3, 10, 1)[1]).__name__
        'WideResNet'
    """
    return normalized(WideResNet(depth, factor, num_classes, input_shape[0], dropout), mean, std)


def _stage(
    in_channels: int, channels: int, blocks: int, stride: int, dropout: float
) -> nn.Sequential:
    first = PreActivationBlock(in_channels, channels, stride, dropout)
    rest = (PreActivationBlock(channels, channels, 1, dropout) for _ in range(blocks - 1))
    return nn.Sequential(first, *rest)
