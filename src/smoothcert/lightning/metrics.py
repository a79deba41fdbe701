"""Certification figures as torchmetrics, so that they reduce correctly over processes."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric


class _MeanOverImages(Metric):
    """A mean over images as sums, which processes with unequal shares can add up."""

    full_state_update = False
    total: Tensor
    images: Tensor

    def __init__(self, size: int = 1) -> None:
        super().__init__()
        self.add_state("total", torch.zeros(size, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("images", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def compute(self) -> Tensor:
        """Return the mean over all images seen."""
        return (self.total / self.images).squeeze(0)

    def _add(self, values: Tensor) -> None:
        self.total += values.double().sum(0)
        self.images += len(values)


class AverageCertifiedRadius(_MeanOverImages):
    """ACR: mean certified radius, wrong and abstained images counting 0 (Zhai et al., 2020).

    Example:
        >>> metric = AverageCertifiedRadius()
        >>> metric.update(torch.tensor([0.3, 0.6]), torch.tensor([True, False]))
        >>> round(metric.compute().item(), 3)
        0.15
    """

    def update(self, radius: Tensor, correct: Tensor) -> None:
        """Add images: radius in pixel units, shape (N,), and whether right, bool (N,)."""
        self._add((radius * correct)[:, None])


class CertifiedAccuracy(_MeanOverImages):
    """Share of images predicted correctly with a radius of at least r, for each r of a list.

    Args:
        radii: the values of r.

    Example:
        >>> metric = CertifiedAccuracy([0.0, 0.5])
        >>> metric.update(torch.tensor([0.3, 0.6]), torch.tensor([True, True]))
        >>> metric.compute().tolist()
        [1.0, 0.5]
    """

    radii: Tensor

    def __init__(self, radii: Sequence[float]) -> None:
        super().__init__(len(radii))
        self.register_buffer("radii", torch.tensor(radii, dtype=torch.float64), persistent=False)

    def update(self, radius: Tensor, correct: Tensor) -> None:
        """Add images: radius in pixel units, shape (N,), and whether right, bool (N,)."""
        self._add((radius[:, None] >= self.radii) & correct[:, None])


class AbstentionRate(_MeanOverImages):
    """Share of images on which the smoothed classifier abstains.

    Example:
        >>> metric = AbstentionRate()
        >>> metric.update(torch.tensor([3, -1, 5, 5]))
        >>> metric.compute().item()
        0.25
    """

    def update(self, predict: Tensor) -> None:
        """Add images: certified class or -1, int64, shape (N,)."""
        self._add((predict < 0)[:, None])
