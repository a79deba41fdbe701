"""Differences between two classifiers that were certified on the same images."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import norm, t

from smoothcert.errors import InvalidArgumentError, require_probability
from smoothcert.stats.bounds import FloatArray


@dataclass(frozen=True)
class Difference:
    """Difference of a figure between two classifiers, with its confidence interval.

    Attributes:
        value: second minus first.
        lower: lower end of the confidence interval.
        upper: upper end of the confidence interval.
    """

    value: float
    lower: float
    upper: float

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.lower > 0 or self.upper < 0


def difference_of_shares(first: ArrayLike, second: ArrayLike, level: float = 0.95) -> Difference:
    """Difference of two shares of the same images, with a confidence interval over images.

    The adjusted Wald interval for matched pairs: half an image is added to each of the four
    cells, so that two classifiers that agree on every image still get an interval of positive
    width (Agresti and Min, 2005, "Simple improved confidence intervals for comparing matched
    proportions", Statistics in Medicine 24).

    Args:
        first: whether an image counts for the first classifier, bool, shape (N,), N >= 1.
        second: the same for the second, image by image.
        level: confidence level, in (0, 1).

    Returns:
        The difference in [-1, 1]; the interval does not cover the variation between
        training runs.

    Raises:
        InvalidArgumentError: if there is no image, or their numbers differ.

    Example:
        >>> first, second = [True] * 60 + [False] * 40, [True] * 70 + [False] * 30
        >>> gain = difference_of_shares(first, second)
        >>> round(gain.value, 3), round(gain.lower, 3), round(gain.upper, 3)
        (0.1, 0.037, 0.159)
    """
    one, other = _pair(first, second, level, bool)
    images = len(one)
    gained, lost = int((other > one).sum()), int((one > other).sum())
    total, up, down = images + 2, gained + 0.5, lost + 0.5
    center = (up - down) / total
    error = math.sqrt(up + down - (up - down) ** 2 / total) / total
    reach = float(norm.ppf((1 + level) / 2)) * error
    lower, upper = max(-1.0, center - reach), min(1.0, center + reach)
    return Difference((gained - lost) / images, lower, upper)


def difference_of_means(first: ArrayLike, second: ArrayLike, level: float = 0.95) -> Difference:
    """Difference of two means over the same images, with Student's interval for pairs.

    For ACR: pass each image's radius, 0 where it is wrong or abstained on.

    Args:
        first: one value per image for the first classifier, shape (N,), N >= 2.
        second: the same for the second, image by image.
        level: confidence level, in (0, 1).

    Raises:
        InvalidArgumentError: if there are fewer than two images, or their numbers differ.

    Example:
        >>> gain = difference_of_means([0.1, 0.2, 0.3, 0.4], [0.2, 0.2, 0.5, 0.5])
        >>> round(gain.value, 3), round(gain.lower, 3), round(gain.upper, 3)
        (0.1, -0.03, 0.23)
    """
    one, other = _pair(first, second, level, float)
    gains = other - one
    images = len(gains)
    if images < 2:
        raise InvalidArgumentError(f"Expected at least 2 images for an interval, got {images}")
    error = float(np.std(gains, ddof=1)) / math.sqrt(images)
    reach = float(t.ppf((1 + level) / 2, images - 1)) * error
    value = float(np.mean(gains))
    return Difference(value, value - reach, value + reach)


def _pair(
    first: ArrayLike, second: ArrayLike, level: float, dtype: type
) -> tuple[FloatArray, FloatArray]:
    require_probability("level", level)
    one, other = np.asarray(first, dtype=dtype), np.asarray(second, dtype=dtype)
    if one.ndim != 1 or one.shape != other.shape or one.size == 0:
        raise InvalidArgumentError(
            f"Expected one value per image for both classifiers, got shapes {one.shape} and "
            f"{other.shape}"
        )
    return one, other
