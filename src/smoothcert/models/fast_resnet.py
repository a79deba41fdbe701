"""A small residual network that trains in minutes: shallow, at half the resolution."""

from collections.abc import Sequence

from torch import nn

from smoothcert.errors import require_count
from smoothcert.models.normalization import normalized
from smoothcert.models.resnet_cifar import ThreeStages


class FastResNet(ThreeStages):
    """ResNet of basic blocks after one convolution that halves the image.

    After that convolution each layer costs a quarter, which leaves time for more epochs.
    `docs/results.md` compares widths.

    Args:
        num_classes: number of logits.
        in_channels: channels of the images.
        width: channels of the first stage; the others have twice and four times as many.
        blocks: basic blocks per stage, >= 1.

    Raises:
        InvalidArgumentError: if `blocks` < 1.

    Example:
        >>> import torch
        >>> FastResNet(10, width=16)(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self, num_classes: int, in_channels: int = 3, width: int = 64, blocks: int = 1
    ) -> None:
        require_count("blocks", blocks)
        conv1 = nn.Conv2d(in_channels, width, 4, stride=2, padding=1, bias=False)
        super().__init__(conv1, blocks, num_classes)


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
        mean: one value per channel.
        std: one value per channel.
        width: channels of the first stage.
        blocks: basic blocks per stage.

    Example:
        >>> type(fast_resnet(10, (3, 32, 32), [0.5] * 3, [0.2] * 3)[1]).__name__
        'FastResNet'
    """
    return normalized(FastResNet(num_classes, input_shape[0], width, blocks), mean, std)
