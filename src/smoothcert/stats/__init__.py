"""The certification theory on arrays: NumPy and SciPy only."""

from smoothcert.stats.bounds import (
    clopper_pearson_lower,
    clopper_pearson_upper,
    probit_lower,
    probit_upper,
)
from smoothcert.stats.curves import (
    abstention_rate,
    average_certified_radius,
    certified_accuracy,
    default_radii,
)
from smoothcert.stats.radius import (
    BOUNDS,
    ProbabilityBounds,
    certified_radius,
    largest_radius,
    probability_bounds,
    split_from_selection,
)

__all__ = [
    "BOUNDS",
    "ProbabilityBounds",
    "abstention_rate",
    "average_certified_radius",
    "certified_accuracy",
    "certified_radius",
    "clopper_pearson_lower",
    "clopper_pearson_upper",
    "default_radii",
    "largest_radius",
    "probability_bounds",
    "probit_lower",
    "probit_upper",
    "split_from_selection",
]
