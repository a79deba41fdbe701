"""A small convolutional network for small images: it trains on a laptop in seconds."""

from collections.abc import Sequence

from torch import Tensor, nn

from smoothcert.models.normalization import normalized


class SmallCNN(nn.Module):
    """Three convolutions with BatchNorm, one halving of the image, mean and a linear layer.

    Args:
        num_classes: number of logits.
        in_channels: channels of the images.
        width: channels of the first convolution; the others have twice as many.

    Example:
        >>> import torch
        >>> SmallCNN(10, in_channels=1)(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """

    def __init__(self, num_classes: int, in_channels: int, width: int = 32) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *_convolution(in_channels, width),
            *_convolution(width, 2 * width, stride=2),
            *_convolution(2 * width, 2 * width),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
        )
        self.fc = nn.Linear(8 * width, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (N, C, H, W) to logits (N, num_classes)."""
        return self.fc(self.features(images))


def small_cnn(
    num_classes: int,
    input_shape: Sequence[int],
    mean: Sequence[float],
    std: Sequence[float],
    width: int = 32,
) -> nn.Module:
    """Return a `SmallCNN` with normalisation in front.

    Args:
        num_classes: number of logits.
        input_shape: (C, H, W) of the images.
        mean: one value per channel.
        std: one value per channel.
        width: channels of the first convolution.

    Example:
        >>> type(small_cnn(10, (1, 8, 8), [0.3], [0.4])[1]).__name__
        'SmallCNN'
    """
    return normalized(SmallCNN(num_classes, input_shape[0], width), mean, std)


def _convolution(in_channels: int, out_channels: int, stride: int = 1) -> list[nn.Module]:
    return [
        nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    ]
