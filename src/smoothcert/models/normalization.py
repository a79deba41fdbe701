"""Input normalisation as a network's first layer, so that σ and radii stay in pixel units."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, fx, nn

from smoothcert.errors import InvalidArgumentError, MismatchError

KINDS = ("standard", "center", "none", "imagenet")
"""What the network receives: pixels normalised by the mean and standard deviation of the data
(`standard`) or of ImageNet (`imagenet`), pixels minus the mean (`center`), or pixels (`none`)."""
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and standard deviation of ImageNet, which much code uses for other photographs too."""


class Normalize(nn.Module):
    """Subtract a mean and divide by a standard deviation, channel by channel.

    It has no state: a checkpoint's keys are the same with any normalisation.

    Args:
        mean: one value per channel, in pixel units.
        std: one positive value per channel, in pixel units.

    Raises:
        MismatchError: if there are not as many means as deviations, or images have another number
            of channels.
        InvalidArgumentError: if they are empty, a deviation is not positive or a value not finite.

    Example:
        >>> Normalize([0.5], [0.25])(torch.ones(1, 1, 1, 1)).item()
        2.0
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if len(mean) != len(std):
            raise MismatchError(f"Expected as many means as deviations, got {mean} and {std}")
        if not std or not all(each > 0 and math.isfinite(each) for each in std):
            raise InvalidArgumentError(
                f"Expected `std` > 0 and finite in every channel, got {list(std)}"
            )
        if not all(map(math.isfinite, mean)):
            raise InvalidArgumentError(f"Expected `mean` finite in every channel, got {list(mean)}")
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Normalise images of shape (N, C, H, W)."""
        return (_of_channels(images, len(self.mean)) - self.mean) / self.std

    def extra_repr(self) -> str:
        """Show the constants in the module's repr."""
        return f"mean={self.mean.flatten().tolist()}, std={self.std.flatten().tolist()}"


@fx.wrap  # Stays one call in a traced graph: tracing has no images to check.
def _of_channels(images: Tensor, channels: int) -> Tensor:
    """Return the images after a check of their channels, which broadcasting would hide.

    Raises:
        MismatchError: if they have another number.
    """
    if images.dim() < 3 or images.shape[-3] != channels:
        raise MismatchError(
            f"Expected images of {channels} channels, as many as the normalisation has means, "
            f"got shape {tuple(images.shape)}"
        )
    return images


def normalized(network: nn.Module, mean: Sequence[float], std: Sequence[float]) -> nn.Sequential:
    """Return a network that takes pixels in [0, 1]: normalisation, then the given network.

    Args:
        network: takes normalised images.
        mean: one value per channel.
        std: one value per channel.

    Example:
        >>> list(normalized(nn.Flatten(), [0.5], [0.25]).state_dict())
        []
    """
    return nn.Sequential(Normalize(mean, std), network)


def with_normalization(model: nn.Module, kind: str) -> nn.Module:
    """Return a model with another normalisation in front of the same network.

    Published checkpoints do not record their normalisation: most have `standard`, some of Salman et
    al. (2019) `center`, MACER `none`.

    Args:
        model: a network with a `Normalize` in front.
        kind: `standard`: unchanged; `center`: subtract only the mean; `none`: raw pixels;
            `imagenet`: the mean and standard deviation of ImageNet.

    Raises:
        InvalidArgumentError: for another kind.
        MismatchError: if the model does not begin with a `Normalize`, or takes no photographs.

    Example:
        >>> model = normalized(nn.Flatten(), [0.5], [0.25])
        >>> with_normalization(model, "center")(torch.ones(1, 1, 1, 1)).item()
        0.5
    """
    if kind not in KINDS:
        raise InvalidArgumentError(
            f"Expected `normalization` one of {', '.join(KINDS)}, got {kind!r}"
        )
    if kind == "standard":
        return model
    if not (isinstance(model, nn.Sequential) and isinstance(first := model[0], Normalize)):
        raise MismatchError(
            f"normalization={kind} replaces the Normalize that a model begins with, and "
            f"{type(model).__name__} does not begin with one"
        )
    channels = len(first.mean)
    if kind == "imagenet" and channels != 3:
        raise MismatchError(f"normalization=imagenet takes 3 channels, and the data has {channels}")
    mean, std = {
        "center": (first.mean.flatten().tolist(), [1.0] * channels),
        "none": ([0.0] * channels, [1.0] * channels),
        "imagenet": IMAGENET,
    }[kind]
    return nn.Sequential(Normalize(mean, std), *model[1:])
