"""Certifiers: how many samples to draw, and what their votes prove."""

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from smoothcert.errors import InvalidArgumentError, require_count, require_probability
from smoothcert.stats import ProbabilityBounds, probability_bounds, split_from_selection
from smoothcert.types import ABSTAIN, Certificate, Counts


@dataclass(frozen=True)
class Certifier(ABC):
    """A certificate from a fixed number of samples.

    The selection samples choose the class A and are never reused; the estimation samples bound
    its probability and the runner-up's.

    Attributes:
        n0: number of selection samples, >= 1.
        n: number of estimation samples, >= 1.
        alpha: probability, at most, that one image's certificate is wrong; in (0, 1).

    Raises:
        InvalidArgumentError: if an argument is out of range.
    """

    n0: int = 100
    n: int = 100_000
    alpha: float = 0.001

    def __post_init__(self) -> None:
        require_count("n0", self.n0)
        require_count("n", self.n)
        require_probability("alpha", self.alpha)

    @property
    def settings(self) -> dict[str, Any]:
        """What a certificate depends on besides the votes: JSON values by name."""
        return {"certifier": type(self).__name__, **asdict(self)}

    @abstractmethod
    def bounds(
        self, selection_a: np.ndarray, selection_b: np.ndarray, n_a: np.ndarray, n_b: np.ndarray
    ) -> ProbabilityBounds:
        """Return joint bounds on p_A and p_B at level alpha.

        Args:
            selection_a: selection votes for A, shape (N,).
            selection_b: largest selection count of another class, shape (N,).
            n_a: estimation votes for A, shape (N,).
            n_b: largest estimation count of another class, shape (N,).
        """

    def certify(self, counts: Counts, sigma: float) -> list[Certificate]:
        """Turn the votes of N images into their certificates.

        Args:
            counts: selection votes (n0 an image) and estimation votes (n an image), (N, C).
            sigma: standard deviation of the noise that was added, in pixel units.

        Returns:
            One certificate an image; it abstains where no positive radius is proved.

        Raises:
            InvalidArgumentError: if the votes do not add up to n0 and n.

        Example:
            >>> votes = Counts(np.array([[95, 5, 0]]), np.array([[9500, 300, 200]]))
            >>> [proof] = CohenCertifier(n0=100, n=10_000).certify(votes, sigma=0.25)
            >>> proof.label, round(proof.radius, 4)
            (0, 0.3949)
        """
        self._check(counts)
        selected = counts.selection.argmax(1)
        selection_a, selection_b = _top_and_other(counts.selection, selected)
        n_a, n_b = _top_and_other(counts.estimation, selected)
        bounds = self.bounds(selection_a, selection_b, n_a, n_b)
        radii = bounds.radius(sigma)
        return [
            Certificate(
                label=int(selected[i]) if radii[i] > 0 else ABSTAIN,
                radius=float(radii[i]),
                p_a_lower=float(bounds.p_a_lower[i]),
                p_b_upper=float(bounds.p_b_upper[i]),
                n_a=int(n_a[i]),
                n_b=int(n_b[i]),
                n_samples=self.n,
                stop="fixed",
            )
            for i in range(len(selected))
        ]

    def _check(self, counts: Counts) -> None:
        for name, votes, expected in (
            ("selection", counts.selection, self.n0),
            ("estimation", counts.estimation, self.n),
        ):
            totals = votes.sum(1)
            wrong = totals[totals != expected]
            if wrong.size:
                raise InvalidArgumentError(
                    f"Expected {expected} {name} votes an image, got {wrong[0]}"
                )


@dataclass(frozen=True)
class CohenCertifier(Certifier):
    """CERTIFY of Cohen et al. (2019): bounds p_A alone and takes p_B = 1 − p_A.

    Attributes:
        n0: number of selection samples, >= 1.
        n: number of estimation samples, >= 1.
        alpha: probability, at most, that one image's certificate is wrong; in (0, 1).

    Example:
        >>> CohenCertifier(n=1000)
        CohenCertifier(n0=100, n=1000, alpha=0.001)
    """

    def bounds(
        self,
        selection_a: np.ndarray,  # noqa: ARG002
        selection_b: np.ndarray,  # noqa: ARG002
        n_a: np.ndarray,
        n_b: np.ndarray,
    ) -> ProbabilityBounds:
        """Return a lower bound on p_A at level alpha, and one minus it."""
        return probability_bounds(n_a, n_b, self.n, self.alpha, "cohen")


@dataclass(frozen=True)
class TightCertifier(Certifier):
    """T-CERTIFY of Feng et al. (2020): bounds p_A from below and p_B from above, together.

    Attributes:
        n0: number of selection samples, >= 1.
        n: number of estimation samples, >= 1.
        alpha: probability, at most, that one image's certificate is wrong; in (0, 1).
        split: how alpha is divided. A number in (0, 1]: that share for p_A. `selection`: the
            share that promises most on the selection samples, image by image; sound, since
            those are independent of the votes that are bounded. `paper`: the share that gives
            the largest radius on the estimation votes themselves, as published; its guarantee
            **is not proven** (an exact scan has not found an error above alpha, which is no
            proof): for comparison only.

    Raises:
        InvalidArgumentError: if an argument is out of range.

    Example:
        >>> votes = Counts(np.array([[95, 5, 0]]), np.array([[9500, 300, 200]]))
        >>> [proof] = TightCertifier(n0=100, n=10_000, split=0.5).certify(votes, sigma=0.25)
        >>> proof.label, round(proof.radius, 4)
        (0, 0.4218)
    """

    split: float | str = "selection"

    @property
    def settings(self) -> dict[str, Any]:
        """See `Certifier.settings`; `split` is called `alpha_split`, data has splits too."""
        settings = super().settings
        return {**settings, "alpha_split": settings.pop("split")}

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.split, str):
            valid = self.split in ("selection", "paper")
        else:
            valid = 0 < self.split <= 1
        if not valid:
            raise InvalidArgumentError(
                f"Expected `split` in (0, 1], 'selection' or 'paper', got {self.split!r}"
            )

    def bounds(
        self, selection_a: np.ndarray, selection_b: np.ndarray, n_a: np.ndarray, n_b: np.ndarray
    ) -> ProbabilityBounds:
        """Return bounds on p_A and p_B that hold together at level alpha."""
        if self.split == "paper":
            return probability_bounds(n_a, n_b, self.n, self.alpha, "paper")
        if self.split == "selection":
            split = split_from_selection(selection_a, selection_b, self.n0, self.n, self.alpha)
        else:
            split = self.split
        return probability_bounds(n_a, n_b, self.n, self.alpha, "rectangle", split)


def _top_and_other(votes: np.ndarray, selected: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    rows = np.arange(len(votes))
    others = votes.copy()
    others[rows, selected] = -1
    return votes[rows, selected], others.max(1).clip(min=0)
