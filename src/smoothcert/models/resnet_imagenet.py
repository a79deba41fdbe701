"""torchvision's ResNet-50, for photographs."""

from collections.abc import Sequence

from torch import nn
from torchvision.models import resnet50 as torchvision_resnet50

from smoothcert.errors import MismatchError
from smoothcert.models.normalization import normalized


def resnet50(
    num_classes: int,
    input_shape: Sequence[int],
    mean: Sequence[float],
    std: Sequence[float],
) -> nn.Module:
    """Return an untrained ResNet-50 with normalisation in front.

    Args:
        num_classes: number of logits.
        input_shape: (3, H, W) of the images.
        mean: one value per channel.
        std: one value per channel.

    Raises:
        MismatchError: if the images do not have three channels.

    Example:
        >>> network = resnet50(1000, (3, 224, 224), [0.485] * 3, [0.229] * 3)
        >>> network[1].fc.out_features
        1000
    """
    if input_shape[0] != 3:
        raise MismatchError(f"resnet50 takes 3 channels, and the data has {input_shape[0]}")
    return normalized(torchvision_resnet50(weights=None, num_classes=num_classes), mean, std)
