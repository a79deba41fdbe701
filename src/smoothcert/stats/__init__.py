"""The certification theory on arrays: NumPy and SciPy only."""

from smoothcert.stats.anytime import AnytimeTest
from smoothcert.stats.bounds import (
    clopper_pearson_lower,
    clopper_pearson_upper,
    is_near_chance,
    probit_lower,
    probit_upper,
    sign_test_p_value,
)
from smoothcert.stats.curves import (
    abstention_rate,
    average_certified_radius,
    certified_accuracy,
    default_radii,
)
from smoothcert.stats.joint import (
    joint_lower_bound,
    joint_p_value,
    joint_test,
    require_joint_size,
)
from smoothcert.stats.paired import Difference, difference_of_means, difference_of_shares
from smoothcert.stats.prediction import ModeTest, prediction_sizes
from smoothcert.stats.radius import (
    ProbabilityBounds,
    certified_radius,
    largest_radius,
    probability_bounds,
    split_from_selection,
)
from smoothcert.stats.sequential_plan import (
    LookPlan,
    SequentialTest,
    futile,
    look_plan,
    planned_size,
    signed_root,
)

__all__ = [
    "AnytimeTest",
    "Difference",
    "LookPlan",
    "ModeTest",
    "ProbabilityBounds",
    "SequentialTest",
    "abstention_rate",
    "average_certified_radius",
    "certified_accuracy",
    "certified_radius",
    "clopper_pearson_lower",
    "clopper_pearson_upper",
    "default_radii",
    "difference_of_means",
    "difference_of_shares",
    "futile",
    "is_near_chance",
    "joint_lower_bound",
    "joint_p_value",
    "joint_test",
    "largest_radius",
    "look_plan",
    "planned_size",
    "prediction_sizes",
    "probability_bounds",
    "probit_lower",
    "probit_upper",
    "require_joint_size",
    "sign_test_p_value",
    "signed_root",
    "split_from_selection",
]
