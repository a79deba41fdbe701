"""The anytime-valid form: evidence against a radius that may be read after any sample."""

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
"""A projection whose derivative is larger does not bet: a factor's mean is 1 up to that."""
ROUNDING = 1e-6
"""Asked for beyond log(1/alpha): more than all factors' rounding errors."""


class AnytimeTest:
    """Tests of a grid of radii against every other class, valid whenever one stops.

    For one other class c the hypothesis "R_c <= σt" is the convex set
    {a <= Φ(2t + Φ⁻¹(b))}. An estimate q of the class probabilities, made from **earlier** samples
    alone, and its projection p* on that set give the factor q/p* of each sample; the factor's
    mean is at most 1 under the hypothesis, so the product exceeds 1/alpha at any time with
    probability at most alpha (Ville, 1939). Votes that come together share one estimate. The
    smallest product over the other classes is taken: R <= σt means R_c <= σt for one of them.

    Args:
        grid: radii in units of σ, increasing, >= 0; shape (G,).
        alpha: failure probability of one image's certificate, in (0, 1).
        selected: the class that is tested, chosen without a look at the votes to come.
        selection: votes seen before, shape (C,): a first estimate. Zeros where there are none.

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
        """Bet on new votes, then learn from them.

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
        while self.reached < len(self.grid) and self._rejects(self.reached):
            self.reached += 1

    def log_evidence(self) -> FloatArray:
        """Return the logarithm of the evidence against each radius, shape (G,)."""
        mean = np.logaddexp(*self._log_evidence) - np.log(len(PSEUDO_COUNTS))
        return np.delete(mean, self.selected, axis=-1).min(-1)

    def _rejects(self, number: int) -> bool:
        return bool(self.log_evidence()[number] >= -np.log(self.alpha) + ROUNDING)

    def _log_factors(self, others: NDArray[np.int64]) -> "_LogFactors":
        """Return log q/p* for each plug-in, radius and other class, shape (2, G, len(others))."""
        pseudo, t = PSEUDO_COUNTS[:, None, None], self.grid[:, None]
        seen_a, seen_b = self._seen[self.selected], self._seen[others]
        # The selected class stands among the others too, for its place: it is left out at the end.
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
    """Return one class for each different pair of counts, and each class's place among those.

    Classes without a vote, most of them where there are a thousand, share all their evidence.
    """
    voted = (seen > 0) | (votes > 0)
    voted[selected] = True
    keys = np.where(voted, np.arange(len(seen)), -1)
    _, first, place = np.unique(keys, return_index=True, return_inverse=True)
    return first, place
