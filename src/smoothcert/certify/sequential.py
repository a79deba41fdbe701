"""Certificates at a grid of radii, with early stopping."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from smoothcert.certify.certifiers import (
    Certifier,
    Sampling,
    Tally,
    Votes,
    reported_bounds,
)
from smoothcert.errors import InvalidArgumentError
from smoothcert.stats import (
    AnytimeTest,
    LookPlan,
    SequentialTest,
    default_radii,
    futile,
    look_plan,
    require_joint_size,
)

ANYTIME_LOOKS = 100
ANYTIME_SAMPLES = 10**7
"""The test accounts for rounding errors up to this number of samples."""
LARGEST_RADIUS = 10_000.0
"""Larger than the distance between any two images; tests of larger radii would overflow."""


@dataclass(frozen=True)
class GridCertifier(Certifier):
    """Certifies the radii of a grid and stops an image once its certified radii are known.

    Attributes:
        n0: number of selection samples, >= 1.
        n: largest number of estimation samples, >= 1.
        alpha: largest probability that one image's certificate is wrong; in (0, 1).
        target: `selection` or `label`; see `Certifier`.
        stop_when_wrong: stop at an image whose selected class is not its label.
        radii: the grid in pixel units, increasing from 0; None: `default_radii(sigma)`.

    Raises:
        InvalidArgumentError: if an argument is out of range.
    """

    stop_when_wrong: bool = True
    radii: Sequence[float] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.radii is not None:
            try:
                # Configurations contain lists, which are not hashable.
                radii = tuple(float(r) for r in self.radii)
            except (TypeError, ValueError) as error:
                raise InvalidArgumentError(
                    f"Expected `radii` a list of numbers, got {self.radii!r}"
                ) from error
            # Refuses radii that it cannot test.
            SequentialTest(look_plan(1, self.alpha), radii)
            if radii[-1] > LARGEST_RADIUS:
                raise InvalidArgumentError(
                    f"Expected `radii` up to {LARGEST_RADIUS} in pixel units, got {radii[-1]}"
                )
            object.__setattr__(self, "radii", radii)

    @property
    def typical_samples(self) -> int:
        """About a fifteenth of n; the measured share on a CIFAR-10 network is a twentieth."""
        return self.n0 + self.n // 15

    def grid(self, sigma: float) -> Sequence[float]:
        """Return the radii in pixel units."""
        return default_radii(sigma) if self.radii is None else self.radii


@dataclass(frozen=True)
class SequentialCertifier(GridCertifier):
    """Certifies a grid of radii by a group-sequential test.

    Each look at the votes tests the smallest open radius at the look's own level
    (`smoothcert.stats.look_plan`). A radius that is unlikely to be certified is given up, which
    costs no alpha. Certified accuracy at the radii of the grid is close to that of n samples per
    image, from a small fraction of the samples. The radius of a certificate is the largest
    certified radius of the grid, or a larger one if the last look proves it. It is usually smaller
    than the radius from n samples, and so is the average certified radius.

    Attributes:
        n0: number of selection samples, >= 1.
        n: largest number of estimation samples, >= 1.
        alpha: largest probability that one image's certificate is wrong, over all radii and looks;
            in (0, 1).
        target: `selection` or `label`; see `Certifier`.
        stop_when_wrong: stop at an image whose selected class is not its label.
        radii: the grid in pixel units, increasing from 0; None: `default_radii(sigma)`.
        bound: `joint`, `rectangle` or `cohen`.

    Raises:
        InvalidArgumentError: if an argument is out of range.

    Example:
        >>> sampling = SequentialCertifier(radii=(0.0, 0.25)).sampling(0.25, num_classes=2)
        >>> next(sampling), sampling.send(np.array([100, 0])), sampling.send(np.array([33, 0]))
        (100, 33, 7)
    """

    bound: str = "joint"

    def __post_init__(self) -> None:
        super().__post_init__()
        # Refuses an unknown bound.
        SequentialTest(look_plan(1, self.alpha), (0.0,), self.bound)
        if self.bound == "joint":
            require_joint_size(self.n)

    def estimation(self, selection: Votes, selected: int, sigma: float) -> Sampling:
        """Return the sampling after the class is chosen: one request per look."""
        radii = self.grid(sigma)
        test = SequentialTest(
            look_plan(self.n, self.alpha), tuple(r / sigma for r in radii), self.bound
        )
        votes = np.zeros_like(selection)
        tally, look, reached, pursued = Tally.of(votes, selected), 0, 0, len(radii)
        for look, size in enumerate(test.plan.sizes):
            votes = votes + (yield size - int(votes.sum()))
            tally = Tally.of(votes, selected)
            reached = test.certified(look, tally.n_a, tally.n_b, reached, pursued)
            if reached < pursued and size < self.n:
                pursued = test.pursued(look, tally.n_a, tally.n_b, reached, pursued)
            if reached == pursued:
                break
        radius = 0.0
        if reached:
            radius = max(radii[reached - 1], sigma * test.lower_bound(look, tally.n_a, tally.n_b))
        bounds = reported_bounds(tally, test.plan.levels[look])
        return tally.certificate(bounds, radius, reached > 0, _reason(reached, pursued, len(radii)))


@dataclass(frozen=True)
class AnytimeCertifier(GridCertifier):
    """Certifies a grid of radii by a test that is valid at any stopping time.

    See `smoothcert.stats.AnytimeTest`. The proof needs no plan of looks: sampling may stop for any
    reason. The selection samples determine the first bet.

    Attributes:
        n0: number of selection samples, >= 1.
        n: largest number of estimation samples, >= 1.
        alpha: largest probability that one image's certificate is wrong; in (0, 1).
        target: `selection` or `label`; see `Certifier`.
        stop_when_wrong: stop at an image whose selected class is not its label.
        radii: the grid in pixel units, increasing from 0; None: `default_radii(sigma)`.

    Raises:
        InvalidArgumentError: if an argument is out of range.

    Example:
        >>> sampling = AnytimeCertifier(radii=(0.0, 0.25)).sampling(0.25, num_classes=2)
        >>> next(sampling), sampling.send(np.array([100, 0])), sampling.send(np.array([8, 0]))
        (100, 8, 1)
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n > ANYTIME_SAMPLES:
            raise InvalidArgumentError(
                f"Expected `n` from 1 to {ANYTIME_SAMPLES} for tests that are valid at any "
                f"stopping time, got {self.n}"
            )

    def estimation(self, selection: Votes, selected: int, sigma: float) -> Sampling:
        """Return the sampling after the class is chosen: one request per look."""
        radii = self.grid(sigma)
        grid = np.array(radii) / sigma
        test = AnytimeTest(grid, self.alpha, selected, selection)
        plan = LookPlan((self.n,), (self.alpha,))
        votes, pursued = np.zeros_like(selection), len(radii)
        tally = Tally.of(votes, selected)
        sizes = np.unique(np.geomspace(min(8, self.n), self.n, ANYTIME_LOOKS).round().astype(int))
        for size in sizes.tolist():
            new = yield size - int(votes.sum())
            test.update(new)
            votes = votes + new
            tally = Tally.of(votes, selected)
            if test.reached < pursued and size < self.n:
                open_radii = grid[test.reached : pursued]
                given_up = futile(tally.n_a, tally.n_b, size, plan, open_radii)
                if given_up.any():
                    pursued = test.reached + int(np.argmax(given_up))
            if test.reached >= pursued:
                break
        reached = test.reached
        return tally.certificate(
            # The votes decide when sampling stops, so the bounds must hold at all looks together.
            reported_bounds(tally, self.alpha / ANYTIME_LOOKS),
            radii[reached - 1] if reached else 0.0,
            reached > 0,
            _reason(reached, pursued, len(radii)),
        )


def _reason(reached: int, pursued: int, radii: int) -> str:
    if reached == radii:
        return "certified"
    return "futile" if reached >= pursued else "exhausted"
