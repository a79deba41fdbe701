"""Certifiers: how many samples to draw, and what their votes prove."""

from abc import ABC, abstractmethod
from collections.abc import Generator
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from smoothcert.errors import (
    InvalidArgumentError,
    require_count,
    require_probability,
)
from smoothcert.stats import (
    ProbabilityBounds,
    certified_radius,
    probability_bounds,
    sign_test_p_value,
)
from smoothcert.types import ABSTAIN, Certificate

Votes = NDArray[np.int64]
"""Votes by class, shape (C,)."""

Sampling = Generator[int, Votes, Certificate]
"""The sampling of one image: yields how many votes it needs, receives their counts, and returns the
certificate."""

TARGETS = ("selection", "label")
MOST_SAMPLES = 10**9
"""Tests compare the bounds with exact arithmetic up to this number of samples."""
SMALLEST_ALPHA = 1e-100
"""At this alpha, the share of each look and its probit do not underflow."""


class Tally(NamedTuple):
    """The counts that a certificate is computed from.

    Attributes:
        selected: the class A.
        n_a: number of votes for A.
        n_b: largest number of votes for another class.
        n: number of all votes.
    """

    selected: int
    n_a: int
    n_b: int
    n: int

    @classmethod
    def of(cls, votes: Votes, selected: int) -> "Tally":
        """Return the tally of votes (C,) for a class."""
        others = np.delete(votes, selected)
        return cls(selected, int(votes[selected]), int(others.max()), int(votes.sum()))

    def certificate(
        self, bounds: ProbabilityBounds, radius: float, answered: bool, stop: str
    ) -> Certificate:
        """Return the certificate; an abstention unless `answered`."""
        return Certificate(
            label=self.selected if answered else ABSTAIN,
            radius=float(radius) if answered else 0.0,
            p_a_lower=float(bounds.p_a_lower),
            p_b_upper=float(bounds.p_b_upper),
            n_a=self.n_a,
            n_b=self.n_b,
            n_samples=self.n,
            stop=stop,
        )


@dataclass(frozen=True)
class Certifier(ABC):
    """How the smoothed classifier is sampled at one image, and what the votes prove.

    The selection samples choose the class A and are never reused: the certificate is computed from
    the estimation samples. Label and radius hold with probability at least 1 − alpha.

    Attributes:
        n0: number of selection samples, 1 to 10⁹.
        n: largest number of estimation samples; 1 to 10⁹, and to 10⁷ for the joint bound.
        alpha: largest probability that one image's certificate is wrong; in [1e-100, 1).
        target: `selection`: A is the class that most selection samples vote for. `label`: A is
            the true class, and there is no selection; this is valid for certified accuracy, which
            needs the label anyway, but not a prediction.
        stop_when_wrong: stop at an image whose selected class is not its label: it counts as not
            certified at any radius. Has no effect without labels.

    Raises:
        InvalidArgumentError: if an argument is out of range.
    """

    n0: int = 100
    n: int = 100_000
    alpha: float = 0.001
    target: str = "selection"
    stop_when_wrong: bool = False

    def __post_init__(self) -> None:
        for name in ("n0", "n"):
            require_count(name, getattr(self, name))
            if getattr(self, name) > MOST_SAMPLES:
                raise InvalidArgumentError(
                    f"Expected `{name}` from 1 to {MOST_SAMPLES}, got {getattr(self, name)}"
                )
        require_probability("alpha", self.alpha)
        if self.alpha < SMALLEST_ALPHA:
            raise InvalidArgumentError(
                f"Expected `alpha` of at least {SMALLEST_ALPHA}, got {self.alpha}"
            )
        if self.target not in TARGETS:
            raise InvalidArgumentError(
                f"Expected `target` one of {', '.join(TARGETS)}, got {self.target!r}"
            )
        if not isinstance(self.stop_when_wrong, bool):
            raise InvalidArgumentError(
                f"Expected `stop_when_wrong` true or false, got {self.stop_when_wrong!r}"
            )

    @property
    def settings(self) -> dict[str, Any]:
        """Settings that a certificate depends on: JSON values by name."""
        return {"certifier": type(self).__name__, **asdict(self)}

    @property
    def typical_samples(self) -> int:
        """Estimated number of samples per image; only used to plan the run time."""
        return self.n0 + self.n

    def sampling(self, sigma: float, num_classes: int, label: int | None = None) -> Sampling:
        """Return the sampling of one image.

        Args:
            sigma: standard deviation of the noise, in pixel units.
            num_classes: number of classes.
            label: the true class, if known.

        Raises:
            InvalidArgumentError: if the target is the label and there is none, or the label is
                not a class.

        Example:
            >>> from smoothcert.certify import CohenCertifier
            >>> sampling = CohenCertifier(n0=100, n=10_000).sampling(sigma=0.25, num_classes=3)
            >>> next(sampling), sampling.send(np.array([95, 5, 0]))
            (100, 10000)
            >>> try:
            ...     sampling.send(np.array([9500, 300, 200]))
            ... except StopIteration as stop:
            ...     print(round(stop.value.radius, 4))
            0.3949
        """
        if label is not None and not 0 <= label < num_classes:
            raise InvalidArgumentError(f"Expected a label in 0 … {num_classes - 1}, got {label}")
        if self.target == "label":
            if label is None:
                raise InvalidArgumentError("Expected labels with target=label, got none")
            return (yield from self.estimation(np.zeros(num_classes, dtype=np.int64), label, sigma))
        selection = yield self.n0
        selected = int(selection.argmax())
        if self.stop_when_wrong and label is not None and selected != label:
            return Certificate(ABSTAIN, 0.0, 0.0, 1.0, 0, 0, 0, "wrong")
        return (yield from self.estimation(selection, selected, sigma))

    @abstractmethod
    def estimation(self, selection: Votes, selected: int, sigma: float) -> Sampling:
        """Return the sampling after the class is chosen.

        Args:
            selection: votes of the selection samples, shape (C,); zeros if there are none.
            selected: the class A.
            sigma: standard deviation of the noise, in pixel units.
        """


def by_joint_test(tally: Tally, alpha: float, sigma: float, stop: str) -> Certificate:
    """Return the certificate of the joint bound; the sign test decides radius 0."""
    answered = bool(sign_test_p_value(tally.n_a, tally.n_b) <= alpha)
    radius = certified_radius(tally.n_a, tally.n_b, tally.n, sigma, alpha) if answered else 0.0
    return tally.certificate(reported_bounds(tally, alpha), float(radius), answered, stop)


def reported_bounds(tally: Tally, alpha: float) -> ProbabilityBounds:
    """Return bounds on p_A and p_B that hold together at alpha; the radius does not use them."""
    return probability_bounds(tally.n_a, tally.n_b, tally.n, alpha, "rectangle")
