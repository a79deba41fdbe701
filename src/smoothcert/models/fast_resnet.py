"""A small residual network that trains in minutes: wide, shallow, at half the resolution."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from smoothcert.errors import require_count
from smoothcert.models.initialization import initialize_convolution
from smoothcert.models.normalization import normalized
from smoothcert.models.resnet_cifar import residual_stage


class FastResNet(nn.Module):
    """ResNet of basic blocks behind one convolution that halves the image.

    Noise of the usual σ hides what is finer than two pixels, and the layers behind that
    convolution cost a quarter: width, which a processor multiplies well, buys more there than
    depth and resolution do.

    Args:
        num_classes: number of logits.
        in_channels: channels of the images.
        width: channels of the first stage; the others have twice and four times as many.
        blocks: basic blocks a stage, >= 1.

    Raises:
        InvalidArgumentError: if there is no block.

    Example:
        >>> FastResNet(10, width=16)(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self, num_classes: int, in_channels: int = 3, width: int = 64, blocks: int = 1
    ) -> None:
        super().__init__()
        require_count("blocks", blocks)
        self.conv1 = nn.Conv2d(in_channels, width, 4, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = residual_stage(width, width, blocks, stride=1)
        self.layer2 = residual_stage(width, 2 * width, blocks, stride=2)
        self.layer3 = residual_stage(2 * width, 4 * width, blocks, stride=2)
        self.fc = nn.Linear(4 * width, num_classes)
        self.apply(initialize_convolution)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (N, C, H, W) to logits (N, num_classes)."""
        out = torch.relu_(self.bn1(self.conv1(images)))
        out = self.layer3(self.layer2(self.layer1(out)))
        return self.fc(out.mean((2, 3)))


def fast_resnet(
    num_classes: int,
    input_shape: Sequence[int],
    mean: Sequence[float],
    std: Sequence[float],
    width: int = 64,
    blocks: int = 1,
) -> nn.Module:
    """Return a `FastResNet` with normalisation in front.

    Args:
        num_classes: number of logits.
        input_shape: (C, H, W) of the images.
        mean: one value a channel.
        std: one value a channel.
        width: channels of the first stage.
        blocks: basic blocks a stage.

    Example:
        >>> type(fast_resnet(10, (3, 32, 32), [0.5] * 3, [0.2] * 3)[1]).__name__
        'FastResNet'
    """
    return normalized(FastResNet(num_classes, input_shape[0], width, blocks), mean, std)
