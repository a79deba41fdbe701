"""Certificates from a fixed number of samples."""

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
    """A certificate from a fixed number of samples.

    Attributes:
        n0: number of selection samples, >= 1.
        n: number of estimation samples, >= 1.
        alpha: largest probability that one image's certificate is wrong; in (0, 1).
        target: `selection` or `label`; see `Certifier`.
        stop_when_wrong: stop at an image whose selected class is not its label.
    """

    def estimation(self, selection: Votes, selected: int, sigma: float) -> Sampling:
        """Return the sampling after the class is chosen: one request."""
        votes = yield self.n
        return self.certificate(selection, selected, votes, sigma)

    @abstractmethod
    def certificate(
        self, selection: Votes, selected: int, votes: Votes, sigma: float
    ) -> Certificate:
        """Return the certificate of class `selected` from its votes."""

    def certify(self, counts: Counts, sigma: float) -> list[Certificate]:
        """Return the certificates of N images from their votes.

        Args:
            counts: selection votes (n0 per image) and estimation votes (n per image), (N, C).
            sigma: standard deviation of the added noise, in pixel units.

        Returns:
            One certificate per image.

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
                    f"Expected {expected} {name} votes per image, got {wrong[0]}"
                )
        return [
            self.certificate(selection, int(selection.argmax()), estimation, sigma)
            for selection, estimation in zip(counts.selection, counts.estimation, strict=True)
        ]


@dataclass(frozen=True)
class CohenCertifier(FixedCertifier):
    """CERTIFY of Cohen et al. (2019): bounds p_A and uses p_B = 1 − p_A.

    Attributes:
        n0: number of selection samples, >= 1.
        n: number of estimation samples, >= 1.
        alpha: largest probability that one image's certificate is wrong; in (0, 1).
        target: `selection` or `label`; see `Certifier`.
        stop_when_wrong: stop at an image whose selected class is not its label.

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
        """Return the certificate of one image; it abstains if p_A may be below one half."""
        tally = Tally.of(votes, selected)
        bounds = probability_bounds(tally.n_a, tally.n_b, tally.n, self.alpha, "cohen")
        return _by_bounds(tally, bounds, sigma)


@dataclass(frozen=True)
class TightCertifier(FixedCertifier):
    """T-CERTIFY: a lower bound on p_A and an upper bound on p_B together (Feng et al., 2020).

    Attributes:
        n0: number of selection samples, >= 1.
        n: number of estimation samples, >= 1.
        alpha: largest probability that one image's certificate is wrong; in (0, 1).
        target: `selection` or `label`; see `Certifier`.
        stop_when_wrong: stop at an image whose selected class is not its label.
        bound: `joint`: one exact test of both counts (`smoothcert.stats.joint_lower_bound`), the
            tightest. `rectangle`: two bounds that share alpha, as published.
        split: how `rectangle` divides alpha. A number in (0, 1]: that share for p_A.
            `selection`: per image, the share with the largest radius on the selection samples;
            sound, because these are independent of the estimation votes. `paper`: the share with
            the largest radius on the estimation votes themselves, as published. Its guarantee
            **is not proven** (an exact scan found no error above alpha, which is not a proof):
            for comparison only.

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
        """See `Certifier.settings`; `split` is called `alpha_split` because data has splits too."""
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
                f"Expected `split` only with bound=rectangle, got split={self.split!r} with "
                "bound=joint, which does not divide alpha"
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
    """Return the certificate of two bounds; it abstains unless the radius is positive."""
    radius = float(bounds.radius(sigma))
    return tally.certificate(bounds, radius, radius > 0, "fixed")
