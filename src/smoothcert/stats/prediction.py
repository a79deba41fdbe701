"""Prediction without a radius, with as few samples as the most probable class needs."""

import numpy as np
from numpy.typing import NDArray

from smoothcert.errors import require_count, require_probability
from smoothcert.types import ABSTAIN


def prediction_sizes(n: int) -> list[int]:
    """Return the sample sizes at which to test: in steps of 1, then of an eighth of the size.

    Args:
        n: largest number of samples per image, >= 1.

    Example:
        >>> prediction_sizes(24)
        [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 18, 20, 22, 24]
    """
    require_count("n", n)
    sizes = [1]
    while sizes[-1] < n:
        sizes.append(min(n, sizes[-1] + max(1, sizes[-1] // 8)))
    return sizes


class ModeTest:
    """Finds the most probable class by bets against every other class.

    Against "q is the most probable class", bet that the current leader l is more probable: a vote
    for l multiplies the evidence by 2θ, a vote for q by 2(1 − θ), with
    θ = max(½, (n_l + ½)/(n_l + n_q + 1)) from **earlier** votes. If q is a most probable class, its
    evidence ever reaches 1/alpha with probability at most alpha (Ville, 1939). A is the answer once
    the evidence against every other class has reached 1/alpha. A wrong answer would need that
    evidence against the right class, so neither a correction for the number of classes nor a
    selection sample is needed.

    Args:
        num_classes: number of classes C, >= 2.
        alpha: probability of a wrong answer, at most; in (0, 1).

    Raises:
        InvalidArgumentError: if an argument is out of range.

    Example:
        >>> test = ModeTest(num_classes=3, alpha=0.001)
        >>> for _ in range(20):
        ...     test.update(np.array([0, 1, 0]))
        >>> test.answer
        1
    """

    def __init__(self, num_classes: int, alpha: float) -> None:
        require_count("num_classes", num_classes, minimum=2)
        require_probability("alpha", alpha)
        self.alpha = alpha
        self._seen = np.zeros(num_classes)
        self._log_evidence = np.zeros(num_classes)
        self._highest = np.zeros(num_classes)

    @property
    def answer(self) -> int:
        """The most probable class, or `ABSTAIN` while it is undecided."""
        undecided = np.flatnonzero(self._highest < -np.log(self.alpha) + 1e-9)
        if len(undecided) > 1:
            return ABSTAIN
        return int(np.argmin(self._highest))

    def update(self, votes: NDArray[np.int64]) -> None:
        """Bet on new votes, then count them; votes of one update share one bet.

        Args:
            votes: new votes by class, shape (C,).
        """
        leader = int(np.argmax(self._seen))
        theta = np.maximum(0.5, (self._seen[leader] + 0.5) / (self._seen[leader] + self._seen + 1))
        # No bet against the leader itself: every other class has fewer votes.
        gain = votes[leader] * np.log(2 * theta) + votes * np.log(2 * (1 - theta))
        gain[leader] = 0
        self._log_evidence += gain
        self._highest = np.maximum(self._highest, self._log_evidence)
        self._seen += votes
