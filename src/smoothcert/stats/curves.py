"""Summary figures of a list of certificates: certified accuracy, ACR and abstention rate."""

import numpy as np
from numpy.typing import ArrayLike

from smoothcert.errors import InvalidArgumentError, require_positive
from smoothcert.stats.bounds import FloatArray


def certified_accuracy(radius: ArrayLike, correct: ArrayLike, radii: ArrayLike) -> FloatArray:
    """Share of images that are predicted correctly with a certified radius of at least r.

    Args:
        radius: certified radius of each image, shape (N,), N >= 1.
        correct: whether the certified class is the true one, shape (N,); false on abstention.
        radii: the values of r, any shape. At r = 0: correct and not abstained.

    Returns:
        Certified accuracy at each r, in [0, 1], float64, the shape of `radii`.

    Raises:
        InvalidArgumentError: if there is no image.

    Example:
        >>> certified_accuracy([0.3, 0.6, 0.9], [True, True, False], [0.0, 0.5, 1.0]).round(3)
        array([0.667, 0.333, 0.   ])
    """
    radius, correct = _check(radius, correct)
    # Sorted: an images × radii table would not fit in memory if each image is a step of the curve.
    ends = np.sort(radius[correct & ~np.isnan(radius)])
    return (len(ends) - np.searchsorted(ends, np.asarray(radii, dtype=float))) / len(radius)


def average_certified_radius(radius: ArrayLike, correct: ArrayLike) -> float:
    """ACR: mean certified radius; an image that is misclassified or abstained on counts 0.

    Args:
        radius: certified radius of each image, shape (N,), N >= 1.
        correct: whether the certified class is the true one, shape (N,).

    Returns:
        ACR in pixel units (Zhai et al., MACER, 2020).

    Raises:
        InvalidArgumentError: if there is no image.

    Example:
        >>> round(average_certified_radius([0.3, 0.6, 0.9], [True, True, False]), 3)
        0.3
    """
    radius, correct = _check(radius, correct)
    return float(np.mean(np.where(correct, radius, 0.0)))


def abstention_rate(predict: ArrayLike) -> float:
    """Share of images on which the smoothed classifier abstains.

    Args:
        predict: certified class of each image, -1 on abstention; shape (N,), N >= 1.

    Raises:
        InvalidArgumentError: if there is no image.

    Example:
        >>> abstention_rate([3, -1, 5, 5])
        0.25
    """
    predict = np.asarray(predict)
    if predict.size == 0:
        raise InvalidArgumentError("Expected at least one certificate, got none")
    return float(np.mean(predict < 0))


def default_radii(sigma: float) -> list[float]:
    """Default radii at which certified accuracy is reported.

    Args:
        sigma: standard deviation of the noise, in pixel units.

    Returns:
        0, .25, .5, … up to 4σ (100,000 unanimous samples reach 3.8σ); in steps of .05 for a σ
        below .2, where steps of .25 would leave too few radii.

    Example:
        >>> default_radii(0.25)
        [0.0, 0.25, 0.5, 0.75, 1.0]
    """
    require_positive("sigma", sigma)
    step = 0.25 if sigma >= 0.2 else 0.05
    return [round(step * i, 2) for i in range(int(4 * sigma / step + 1e-9) + 1)]


def _check(radius: ArrayLike, correct: ArrayLike) -> tuple[FloatArray, np.ndarray]:
    radii, right = np.asarray(radius, dtype=float), np.asarray(correct, dtype=bool)
    if radii.size == 0:
        raise InvalidArgumentError("Expected at least one certificate, got none")
    return radii, right
