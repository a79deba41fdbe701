"""Anytime-valid tests: evidence against a radius that may be examined after any sample."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri

from smoothcert.errors import InvalidArgumentError, require_probability
from smoothcert.stats.boundary import likeliest_on_boundary
from smoothcert.stats.bounds import FloatArray

PSEUDO_COUNTS = np.array([0.5, 0.05])
"""Added to each count by the two estimates whose evidence is averaged."""
CONVERGED = 1e-10
"""Largest derivative of a projection that counts as converged. Only such a projection is used for a
bet, and its factor's mean is at most 1 up to this value."""
ROUNDING = 1e-6
"""Margin above log(1/alpha) that the evidence must reach; above all factors' rounding errors."""


class AnytimeTest:
    """Tests of a grid of radii against every other class, valid at any stopping time.

    For one other class c the hypothesis "R_c <= σt" is the convex set
    {a <= Φ(2t + Φ⁻¹(b))}. An estimate q of the class probabilities, made from **earlier** samples
    alone, and its projection p* on that set give the factor q/p* of each sample; the factor's
    mean is at most 1 under the hypothesis, so the product exceeds 1/alpha at any time with
    probability at most alpha (Ville, 1939). Votes of one update share one estimate. The
    smallest product over the other classes is used: R <= σt means R_c <= σt for one of them.

    Args:
        grid: radii in units of σ, increasing, >= 0; shape (G,).
        alpha: failure probability of one image's certificate, in (0, 1).
        selected: the class that is tested, chosen independently of the votes to come.
        selection: earlier votes, shape (C,), for the first estimate; zeros if there are none.

    Attributes:
        reached: how many radii are certified so far.

    Raises:
        InvalidArgumentError: if an argument is out of range.

    Example:
        >>> test = AnytimeTest([0.0, 1.0], 0.001, selected=0, selection=np.array([98, 2, 0]))
        >>> for _ in range(4):
        ...     test.update(np.array([49, 1, 0]))
        >>> test.reached
        2
    """

    def __init__(
        self, grid: ArrayLike, alpha: float, selected: int, selection: NDArray[np.int64]
    ) -> None:
        require_probability("alpha", alpha)
        self.grid = np.asarray(grid, dtype=float)
        increasing = self.grid.ndim == 1 and self.grid.size and np.all(np.diff(self.grid) > 0)
        if not increasing or not np.all(self.grid >= 0):
            raise InvalidArgumentError(f"Expected increasing radii >= 0, got {grid}")
        self.alpha = alpha
        self.selected = selected
        self.reached = 0
        self._seen = np.array(selection, dtype=float)
        self._log_evidence = np.zeros((len(PSEUDO_COUNTS), len(self.grid), len(self._seen)))

    def update(self, votes: ArrayLike) -> None:
        """Bet on new votes, then add them to the estimates.

        Args:
            votes: new votes by class, shape (C,).
        """
        new = np.asarray(votes, dtype=float)
        others, place = _distinct(self._seen, new, self.selected)
        a, b = new[self.selected], new[others]
        log_factor = self._log_factors(others)
        gain = a * log_factor.a + b * log_factor.b + (new.sum() - a - b) * log_factor.none
        self._log_evidence += gain[..., place]
        self._seen += new
        evidence, needed = self.log_evidence(), -np.log(self.alpha) + ROUNDING
        while self.reached < len(self.grid) and evidence[self.reached] >= needed:
            self.reached += 1

    def log_evidence(self) -> FloatArray:
        """Return the logarithm of the evidence against each radius, shape (G,)."""
        mean = np.logaddexp(*self._log_evidence) - np.log(len(PSEUDO_COUNTS))
        return np.delete(mean, self.selected, axis=-1).min(-1)

    def _log_factors(self, others: NDArray[np.int64]) -> "_LogFactors":
        """Return log q/p* for each plug-in, radius and other class, shape (2, G, len(others))."""
        pseudo, t = PSEUDO_COUNTS[:, None, None], self.grid[:, None]
        seen_a, seen_b = self._seen[self.selected], self._seen[others]
        # The selected class stays among the others to keep positions; `log_evidence` removes it.
        seen_none = np.maximum(self._seen.sum() - seen_a - seen_b, 0)
        total = self._seen.sum() + 3 * pseudo
        a, b, none, t = np.broadcast_arrays(
            (seen_a + pseudo) / total, (seen_b + pseudo) / total, (seen_none + pseudo) / total, t
        )
        point = likeliest_on_boundary(a, b, t)
        # An estimate inside the hypothesis is its own projection.
        idle = (ndtri(a) - ndtri(b) <= 2 * t) | (np.abs(point.slope) > CONVERGED)
        logs = (
            np.log(a) - point.log_a,
            np.log(b) - point.log_b,
            np.log(none) - point.log_none,
        )
        return _LogFactors(*(np.where(idle, 0.0, log) for log in logs))


class _LogFactors(NamedTuple):
    a: FloatArray
    b: FloatArray
    none: FloatArray


def _distinct(
    seen: NDArray[Any], votes: NDArray[Any], selected: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the classes to compute factors for, and each class's position among these.

    All classes without a vote, most of them if there are a thousand, share their factors.
    """
    voted = (seen > 0) | (votes > 0)
    voted[selected] = True
    keys = np.where(voted, np.arange(len(seen)), -1)
    _, first, place = np.unique(keys, return_index=True, return_inverse=True)
    return first, place
