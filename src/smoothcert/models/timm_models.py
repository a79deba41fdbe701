"""Networks of the timm library, with the normalisation that they were trained with."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from importlib.util import find_spec
from typing import Any

from torch import nn

from smoothcert.errors import CheckpointError, InvalidArgumentError, MismatchError
from smoothcert.models.normalization import normalized


def timm_model(
    num_classes: int,
    input_shape: Sequence[int],
    mean: Sequence[float],  # noqa: ARG001
    std: Sequence[float],  # noqa: ARG001
    name: str,
    pretrained: bool = False,
    arguments: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Return a network of timm with its own normalisation in front.

    Args:
        num_classes: number of logits; if the weights have a different number, the last layer
            is initialised anew.
        input_shape: (C, H, W) of the images.
        mean: mean of the data, not used: the network has its own.
        std: standard deviation of the data, not used either.
        name: name of a network, see `timm.list_models()`.
        pretrained: fetch the weights that timm publishes.
        arguments: more arguments of `timm.create_model`, for example `img_size`.

    Raises:
        InvalidArgumentError: if timm is not installed, or cannot make such a network.
        MismatchError: if its normalisation has another number of channels than the images.
        CheckpointError: if the weights cannot be fetched.

    Example:
        >>> network = timm_model(10, (3, 32, 32), [], [], name="resnet18")
        >>> network[0].mean.flatten()
        tensor([0.4850, 0.4560, 0.4060])
    """
    if find_spec("timm") is None:
        raise InvalidArgumentError("model=timm needs timm: pip install 'smoothcert[timm]'")
    import timm

    if not timm.is_model(name):
        longer = timm.list_models(f"{name}_*")[:3]
        similar = longer or get_close_matches(name, timm.list_models(), n=3)
        raise InvalidArgumentError(
            f"Expected `name` of a network of timm, got {name!r}"
            + (f"; similar: {', '.join(similar)}" if similar else "")
        )
    channels = input_shape[0]
    settings = {"num_classes": num_classes, "in_chans": channels, **(arguments or {})}
    try:
        network: Any = timm.create_model(name, pretrained=pretrained, **settings)
    except Exception as error:  # downloads fail in many ways
        if not pretrained:
            raise InvalidArgumentError(
                f"timm could not make {name} with {settings} ({type(error).__name__}: {error})"
            ) from error
        raise CheckpointError(
            f"timm could not load its weights of {name} ({type(error).__name__}: {error}). With a "
            "file of them: model.pretrained=false model.weights=<file>"
        ) from error
    own = network.pretrained_cfg
    if len(own["mean"]) != channels:
        raise MismatchError(
            f"{name} normalises {len(own['mean'])} channels, and the data has {channels}"
        )
    return normalized(network, own["mean"], own["std"])
