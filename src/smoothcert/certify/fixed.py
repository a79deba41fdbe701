"""Certificates from a number of samples that is set beforehand."""

from abc import abstractmethod
from dataclasses import dataclass
from numbers import Real
from typing import Any

from smoothcert.certify.certifiers import (
    Certifier,
    Sampling,
    Tally,
    Votes,
    by_joint_test,
)
from smoothcert.errors import InvalidArgumentError
from smoothcert.stats import (
    ProbabilityBounds,
    probability_bounds,
    require_joint_size,
    split_from_selection,
)
from smoothcert.types import Certificate, Counts


@dataclass(frozen=True)
class FixedCertifier(Certifier):
    """A certificate from a number of samples that is set beforehand.

    Attributes:
        n0: number of selection samples, >= 1.
        n: number of estimation samples, >= 1.
        alpha: probability, at most, that one image's certificate is wrong; in (0, 1).
        target: `selection` or `label`; see `Certifier`.
        stop_when_wrong: end an image whose selected class is not its label.
    """

    def estimation(self, selection: Votes, selected: int, sigma: float) -> Sampling:
        """Return the sampling once the class is fixed: one request."""
        votes = yield self.n
        return self.certificate(selection, selected, votes, sigma)

    @abstractmethod
    def certificate(
        self, selection: Votes, selected: int, votes: Votes, sigma: float
    ) -> Certificate:
        """Return what the votes prove of class `selected`."""

    def certify(self, counts: Counts, sigma: float) -> list[Certificate]:
        """Turn the votes of N images into their certificates.

        Args:
            counts: selection votes (n0 an image) and estimation votes (n an image), (N, C).
            sigma: standard deviation of the noise that was added, in pixel units.

        Returns:
            One certificate an image.

        Raises:
            InvalidArgumentError: if the votes do not add up to n0 and n.

        Example:
            >>> import numpy as np
            >>> votes = Counts(np.array([[95, 5, 0]]), np.array([[9500, 300, 200]]))
            >>> [proof] = CohenCertifier(n0=100, n=10_000).certify(votes, sigma=0.25)
            >>> proof.label, round(proof.radius, 4)
            (0, 0.3949)
        """
        for name, votes, expected in (
            ("selection", counts.selection, self.n0),
            ("estimation", counts.estimation, self.n),
        ):
            wrong = votes.sum(1)[votes.sum(1) != expected]
            if wrong.size:
                raise InvalidArgumentError(
                    f"Expected {expected} {name} votes an image, got {wrong[0]}"
                )
        return [
            self.certificate(selection, int(selection.argmax()), estimation, sigma)
            for selection, estimation in zip(counts.selection, counts.estimation, strict=True)
        ]


@dataclass(frozen=True)
class CohenCertifier(FixedCertifier):
    """CERTIFY of Cohen et al. (2019): bounds p_A alone and takes p_B = 1 − p_A.

    Attributes:
        n0: number of selection samples, >= 1.
        n: number of estimation samples, >= 1.
        alpha: probability, at most, that one image's certificate is wrong; in (0, 1).
        target: `selection` or `label`; see `Certifier`.
        stop_when_wrong: end an image whose selected class is not its label.

    Example:
        >>> CohenCertifier(n=1000).n0
        100
    """

    def certificate(
        self,
        selection: Votes,  # noqa: ARG002
        selected: int,
        votes: Votes,
        sigma: float,
    ) -> Certificate:
        """Return the certificate of one image; it abstains where p_A may be below one half."""
        tally = Tally.of(votes, selected)
        bounds = probability_bounds(tally.n_a, tally.n_b, tally.n, self.alpha, "cohen")
        return _by_bounds(tally, bounds, sigma)


@dataclass(frozen=True)
class TightCertifier(FixedCertifier):
    """T-CERTIFY: p_A bounded from below and p_B from above, together (Feng et al., 2020).

    Attributes:
        n0: number of selection samples, >= 1.
        n: number of estimation samples, >= 1.
        alpha: probability, at most, that one image's certificate is wrong; in (0, 1).
        target: `selection` or `label`; see `Certifier`.
        stop_when_wrong: end an image whose selected class is not its label.
        bound: `joint`: one exact test of both counts (`smoothcert.stats.joint_lower_bound`), the
            tightest. `rectangle`: two bounds that share alpha, as published.
        split: how `rectangle` divides alpha. A number in (0, 1]: that share for p_A.
            `selection`: the share that promises most on the selection samples, image by image;
            sound, since those are independent of the votes that are bounded. `paper`: the share
            that gives the largest radius on the estimation votes themselves, as published; its
            guarantee **is not proven** (an exact scan has not found an error above alpha, which
            is no proof): for comparison only.

    Raises:
        InvalidArgumentError: if an argument is out of range.

    Example:
        >>> import numpy as np
        >>> votes = Counts(np.array([[95, 5, 0]]), np.array([[9500, 300, 200]]))
        >>> [proof] = TightCertifier(n0=100, n=10_000).certify(votes, sigma=0.25)
        >>> proof.label, round(proof.radius, 3)
        (0, 0.424)
    """

    bound: str = "joint"
    split: float | str = "selection"

    @property
    def settings(self) -> dict[str, Any]:
        """See `Certifier.settings`; `split` is called `alpha_split`, data has splits too."""
        settings = super().settings
        split = settings.pop("split")
        return settings if self.bound == "joint" else {**settings, "alpha_split": split}

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bound not in ("joint", "rectangle"):
            raise InvalidArgumentError(
                f"Expected `bound` one of joint, rectangle, got {self.bound!r}"
            )
        if self.bound == "joint":
            require_joint_size(self.n)
        if self.bound == "joint" and self.split != "selection":
            raise InvalidArgumentError(
                f"Expected `split` with bound=rectangle alone, got split={self.split!r} with "
                "bound=joint, which divides nothing"
            )
        if isinstance(self.split, str):
            valid = self.split in ("selection", "paper")
        else:
            valid = isinstance(self.split, Real) and 0 < self.split <= 1
        if not valid:
            raise InvalidArgumentError(
                f"Expected `split` in (0, 1], 'selection' or 'paper', got {self.split!r}"
            )

    def certificate(
        self, selection: Votes, selected: int, votes: Votes, sigma: float
    ) -> Certificate:
        """Return the certificate of one image."""
        tally = Tally.of(votes, selected)
        if self.bound == "joint":
            return by_joint_test(tally, self.alpha, sigma, "fixed")
        bound, share = "rectangle", 0.5
        if self.split == "paper":
            bound = "paper"
        else:
            share = self._share(Tally.of(selection, selected))
        counts = tally.n_a, tally.n_b, tally.n
        return _by_bounds(tally, probability_bounds(*counts, self.alpha, bound, share), sigma)

    def _share(self, selection: Tally) -> float:
        if self.split != "selection":
            return float(self.split)
        if selection.n == 0:
            return 0.5
        votes = selection.n_a, selection.n_b, selection.n
        return float(split_from_selection(*votes, self.n, self.alpha))


def _by_bounds(tally: Tally, bounds: ProbabilityBounds, sigma: float) -> Certificate:
    """Return the certificate of two bounds; it abstains where they prove no positive radius."""
    radius = float(bounds.radius(sigma))
    return tally.certificate(bounds, radius, radius > 0, "fixed")
