"""Every outcome of a few votes, with its probability."""

from itertools import combinations_with_replacement

import numpy as np
from scipy.special import gammaln, xlogy


def outcomes(n: int, classes: int) -> np.ndarray:
    """Return every vector of counts of n votes, shape (K, classes)."""
    bars = np.array(list(combinations_with_replacement(range(n + 1), classes - 1)))
    edges = np.hstack([np.zeros((len(bars), 1), int), bars, np.full((len(bars), 1), n)])
    return np.diff(edges, axis=1)


def multinomial_pmf(votes: np.ndarray, p: np.ndarray) -> np.ndarray:
    """Return the probability of each vector of counts, shape (K,)."""
    logs = gammaln(votes.sum(1) + 1) + (xlogy(votes, p) - gammaln(votes + 1)).sum(1)
    return np.exp(logs)
