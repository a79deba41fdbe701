"""Finds the logits in the output of a classifier."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor, nn

from smoothcert.errors import MismatchError


class LogitsOf(nn.Module):
    """Wraps a network that returns logits inside a tuple, mapping or dataclass; returns the logits.

    Args:
        network: returns a tensor, or an output that `find_logits` reads.
        num_classes: number of classes K.

    Example:
        >>> import torch
        >>> class Pair(nn.Module):
        ...     def forward(self, images):
        ...         return images.sum((2, 3)), images
        >>> LogitsOf(Pair(), num_classes=3)(torch.ones(2, 3, 4, 4)).shape
        torch.Size([2, 3])
    """

    def __init__(self, network: nn.Module, num_classes: int) -> None:
        super().__init__()
        self.network = network
        self.num_classes = num_classes

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, K) for images (N, C, H, W)."""
        output = self.network(images)
        if isinstance(output, Tensor):
            return output
        return find_logits(output, len(images), self.num_classes)


def find_logits(output: Any, count: int, num_classes: int) -> Tensor:
    """Return the logits in the output of a classifier for a batch.

    These are the attribute or key `logits`; without it, the only floating-point tensor of shape
    (N, K) in a tuple, list, mapping or dataclass.

    Args:
        output: output of the classifier, not a tensor.
        count: number of images N.
        num_classes: number of classes K.

    Raises:
        MismatchError: if there is no such tensor, or more than one.

    Example:
        >>> import torch
        >>> find_logits({"logits": torch.zeros(2, 3), "features": torch.zeros(2, 8)}, 2, 3).shape
        torch.Size([2, 3])
    """
    parts = _parts(output)
    named = parts.get("logits", getattr(output, "logits", None))
    if isinstance(named, Tensor):
        return named
    fitting = [
        part
        for part in parts.values()
        if isinstance(part, Tensor)
        and part.is_floating_point()
        and tuple(part.shape) == (count, num_classes)
    ]
    if len(fitting) == 1:
        return fitting[0]
    found = ", ".join(
        f"{name}: {tuple(part.shape) if isinstance(part, Tensor) else type(part).__name__}"
        for name, part in parts.items()
    )
    raise MismatchError(
        f"Expected logits of shape (N, {num_classes}) from the classifier, in a tensor, as "
        f"`logits`, or as the only tensor of that shape; got {type(output).__name__}"
        + (f" ({found})" if found else "")
        + f" for N = {count}. Wrap it in a module that returns the logits"
    )


def _parts(output: Any) -> dict[Any, Any]:
    if isinstance(output, Mapping):
        return dict(output)
    if isinstance(output, tuple | list):
        return dict(enumerate(output))
    if is_dataclass(output):
        return {field.name: getattr(output, field.name) for field in fields(output)}
    return {}
