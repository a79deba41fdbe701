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
"""One image's sampling: yields how many votes it wants, is sent their counts, returns what they
prove."""

TARGETS = ("selection", "label")
MOST_SAMPLES = 10**9
"""Bounds are checked against exact arithmetic up to so many samples."""
SMALLEST_ALPHA = 1e-100
"""A look's share of it, and its probit, are computed without underflow."""


class Tally(NamedTuple):
    """The counts that a certificate rests on.

    Attributes:
        selected: the class A.
        n_a: votes for it.
        n_b: the largest count of any other class.
        n: all votes.
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
        """Return what is proved, an abstention unless the class is `answered`."""
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

    The selection samples choose the class A and are never reused: the certificate rests on the
    estimation samples; label and radius hold with probability at least 1 − alpha.

    Attributes:
        n0: number of selection samples, 1 to 10⁹.
        n: number of estimation samples, at most; 1 to 10⁹, and to 10⁷ for the joint bound.
        alpha: probability, at most, that one image's certificate is wrong; in [1e-100, 1).
        target: `selection`: A is the class that most selection samples vote for. `label`: A is
            the true class, and nothing is selected; valid for certified accuracy, which needs
            the label anyway, and no prediction.
        stop_when_wrong: end an image whose selected class is not its label: it counts as not
            certified whatever its radius. Has an effect where labels are known alone.

    Raises:
        InvalidArgumentError: if an argument is out of range: what was made can judge any votes.
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
        """What a certificate depends on besides the votes: JSON values by name."""
        return {"certifier": type(self).__name__, **asdict(self)}

    @property
    def typical_samples(self) -> int:
        """About how many samples an image takes: for plans of time, no more."""
        return self.n0 + self.n

    def sampling(self, sigma: float, num_classes: int, label: int | None = None) -> Sampling:
        """Return the sampling of one image.

        Args:
            sigma: standard deviation of the noise, in pixel units.
            num_classes: number of classes.
            label: the true class, where it is known.

        Raises:
            InvalidArgumentError: if the target is the label and there is none, or the label is
                no class.

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
        """Return the sampling once the class is fixed.

        Args:
            selection: votes of the selection samples, shape (C,); zeros where there are none.
            selected: the class A.
            sigma: standard deviation of the noise, in pixel units.
        """


def by_joint_test(tally: Tally, alpha: float, sigma: float, stop: str) -> Certificate:
    """Return the certificate of the joint bound; radius 0 is decided by the sign test."""
    answered = bool(sign_test_p_value(tally.n_a, tally.n_b) <= alpha)
    radius = certified_radius(tally.n_a, tally.n_b, tally.n, sigma, alpha) if answered else 0.0
    return tally.certificate(reported_bounds(tally, alpha), float(radius), answered, stop)


def reported_bounds(tally: Tally, alpha: float) -> ProbabilityBounds:
    """Return bounds that hold together at alpha, beside a radius that rests on neither."""
    return probability_bounds(tally.n_a, tally.n_b, tally.n, alpha, "rectangle")
