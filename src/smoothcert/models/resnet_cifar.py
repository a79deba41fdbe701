"""Residual networks for 32×32 images (He et al., 2016, section 4.2).

Names of the parts follow the published checkpoints of randomized smoothing (`conv1`, `layer1`,
`downsample`, `fc`), so that those files can be loaded.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from smoothcert.errors import InvalidArgumentError
from smoothcert.models.normalization import normalized

SHORTCUTS = ("A", "B")
"""Options of He et al. (2016), section 3.3, where the shape changes: zeros for the missing
channels, or a 1×1 convolution."""
DEFAULT_SHORTCUT = "B"


def initialize_convolution(part: nn.Module) -> None:
    """Initialise a convolution's weights as in He et al. (2015); leave other modules unchanged.

    Args:
        part: passed by `nn.Module.apply`.

    Example:
        >>> _ = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()).apply(initialize_convolution)
    """
    if isinstance(part, nn.Conv2d):
        nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")


class ZeroPadding(nn.Module):
    """A shortcut without parameters: every stride-th pixel, between channels of zeros.

    Args:
        added: channels of zeros, half of them before the others.
        stride: distance between the pixels that are kept.

    Example:
        >>> ZeroPadding(added=2, stride=2)(torch.ones(1, 2, 4, 4))[0, :, 0, 0].tolist()
        [0.0, 1.0, 1.0, 0.0]
    """

    def __init__(self, added: int, stride: int) -> None:
        super().__init__()
        self.added = added
        self.stride = stride

    def forward(self, images: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C + added, H/stride, W/stride)."""
        before = self.added // 2
        kept = images[:, :, :: self.stride, :: self.stride]
        return pad(kept, (0, 0, 0, 0, before, self.added - before))


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut, which is the identity unless the shape changes.

    Args:
        in_channels: channels of the input.
        channels: channels of the output.
        stride: stride of the first convolution.
        shortcut: `A` or `B`; see `SHORTCUTS`.
    """

    def __init__(
        self, in_channels: int, channels: int, stride: int, shortcut: str = DEFAULT_SHORTCUT
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample: nn.Module | None = None
        if shortcut == "A" and (stride != 1 or in_channels != channels):
            self.downsample = ZeroPadding(channels - in_channels, stride)
        elif stride != 1 or in_channels != channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride=stride, bias=False),
                nn.BatchNorm2d(channels),
            )

    def forward(self, images: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, channels, H/stride, W/stride)."""
        shortcut = images if self.downsample is None else self.downsample(images)
        out = torch.relu_(self.bn1(self.conv1(images)))
        return torch.relu_(self.bn2(self.conv2(out)) + shortcut)


class ThreeStages(nn.Module):
    """A convolution, three stages of basic blocks, a mean over places and a linear layer.

    Args:
        conv1: the first convolution; its output's channels are the first stage's.
        blocks: basic blocks per stage, >= 1; later stages halve the image and double the channels.
        num_classes: number of logits.
        shortcut: `A` or `B`; see `SHORTCUTS`.

    Raises:
        InvalidArgumentError: for another shortcut.
    """

    def __init__(
        self, conv1: nn.Conv2d, blocks: int, num_classes: int, shortcut: str = DEFAULT_SHORTCUT
    ) -> None:
        if shortcut not in SHORTCUTS:
            raise InvalidArgumentError(
                f"Expected `shortcut` one of {', '.join(SHORTCUTS)}, got {shortcut!r}"
            )
        super().__init__()
        width = conv1.out_channels
        self.conv1 = conv1
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = residual_stage(width, width, blocks, stride=1, shortcut=shortcut)
        self.layer2 = residual_stage(width, 2 * width, blocks, stride=2, shortcut=shortcut)
        self.layer3 = residual_stage(2 * width, 4 * width, blocks, stride=2, shortcut=shortcut)
        self.fc = nn.Linear(4 * width, num_classes)
        self.apply(initialize_convolution)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (N, C, H, W) to logits (N, num_classes)."""
        out = torch.relu_(self.bn1(self.conv1(images)))
        out = self.layer3(self.layer2(self.layer1(out)))
        return self.fc(out.mean((2, 3)))


class CifarResNet(ThreeStages):
    """ResNet with three stages of (depth − 2) / 6 basic blocks.

    Args:
        depth: 6k + 2, for example 20, 56 or 110.
        num_classes: number of logits.
        in_channels: channels of the images.
        width: channels of the first stage; the others have twice and four times as many.
        shortcut: `A` or `B`; see `SHORTCUTS`.

    Raises:
        InvalidArgumentError: if the depth is not 6k + 2 with k >= 1, or for another shortcut.

    Example:
        >>> CifarResNet(20, 10)(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        depth: int,
        num_classes: int,
        in_channels: int = 3,
        width: int = 16,
        shortcut: str = DEFAULT_SHORTCUT,
    ) -> None:
        if depth < 8 or (depth - 2) % 6:
            raise InvalidArgumentError(f"Expected `depth` 8, 14, 20, … (6k + 2), got {depth}")
        conv1 = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        super().__init__(conv1, (depth - 2) // 6, num_classes, shortcut)


def cifar_resnet(
    num_classes: int,
    input_shape: Sequence[int],
    mean: Sequence[float],
    std: Sequence[float],
    depth: int = 110,
    width: int = 16,
    shortcut: str | None = None,
) -> nn.Module:
    """Return a `CifarResNet` with normalisation in front.

    Args:
        num_classes: number of logits.
        input_shape: (C, H, W) of the images.
        mean: one value per channel.
        std: one value per channel.
        depth: 20, 56, 110 or any other 6k + 2.
        width: channels of the first stage.
        shortcut: `A`: without parameters, as in most networks on CIFAR-10 outside of randomized
            smoothing; `B` or None: 1×1 convolutions.

    Example:
        >>> network = cifar_resnet(10, (3, 32, 32), [0.5] * 3, [0.2] * 3, depth=20)
        >>> next(iter(network.state_dict()))
        '1.conv1.weight'
    """
    network = CifarResNet(depth, num_classes, input_shape[0], width, shortcut or DEFAULT_SHORTCUT)
    return normalized(network, mean, std)


def residual_stage(
    in_channels: int, channels: int, blocks: int, stride: int, shortcut: str = DEFAULT_SHORTCUT
) -> nn.Sequential:
    """Return basic blocks of one width, the first of which may halve the image.

    Args:
        in_channels: channels of the input.
        channels: channels of the output.
        blocks: number of blocks, >= 1.
        stride: stride of the first block.
        shortcut: `A` or `B`; see `SHORTCUTS`.

    Example:
        >>> residual_stage(8, 16, blocks=2, stride=2)(torch.zeros(1, 8, 4, 4)).shape
        torch.Size([1, 16, 2, 2])
    """
    first = BasicBlock(in_channels, channels, stride, shortcut)
    return nn.Sequential(first, *(BasicBlock(channels, channels, 1) for _ in range(blocks - 1)))
