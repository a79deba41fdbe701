"""Certificates of the full radius from a planned number of samples."""

from dataclasses import dataclass

from smoothcert.certify.certifiers import (
    Certifier,
    Sampling,
    Tally,
    Votes,
    by_joint_test,
)
from smoothcert.errors import InvalidArgumentError, require_probability
from smoothcert.stats import planned_size, require_joint_size


@dataclass(frozen=True)
class PrecisionCertifier(Certifier):
    """The full radius within a tolerance, from as many samples as each image needs.

    The selection samples choose the class and the number of estimation samples: the smallest
    whose expected radius is within `tolerance` of the expected radius of n samples. One joint test
    at full alpha follows on new samples, so the certificate is valid whatever the plan.

    Attributes:
        n0: number of selection samples, which also plan; >= 1.
        n: largest number of estimation samples, >= 1.
        alpha: largest probability that one image's certificate is wrong; in (0, 1).
        target: only `selection`, because the selection samples plan.
        stop_when_wrong: stop at an image whose selected class is not its label.
        tolerance: largest expected loss of radius against n samples, as a share; in (0, 1).

    Raises:
        InvalidArgumentError: if an argument is out of range.

    Example:
        >>> import numpy as np
        >>> sampling = PrecisionCertifier(tolerance=0.05).sampling(0.25, num_classes=2)
        >>> next(sampling), sampling.send(np.array([900, 100])) < 20_000
        (1000, True)
    """

    n0: int = 1000
    tolerance: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        require_joint_size(self.n)
        require_probability("tolerance", self.tolerance)
        if self.target == "label":
            raise InvalidArgumentError(
                "Expected target=selection: the selection samples plan the number of samples, "
                "got target=label"
            )

    @property
    def typical_samples(self) -> int:
        """About a fifth of n, measured at a tolerance of 5 %."""
        return self.n0 + self.n // 5

    def estimation(self, selection: Votes, selected: int, sigma: float) -> Sampling:
        """Return the sampling after the class is chosen: one request of the planned size."""
        pilot = Tally.of(selection, selected)
        counts = pilot.n_a, pilot.n_b, pilot.n
        votes = yield planned_size(*counts, self.n, self.alpha, self.tolerance)
        return by_joint_test(Tally.of(votes, selected), self.alpha, sigma, "planned")
