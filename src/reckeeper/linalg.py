"""Kernels. Pure: no I/O, no clock, no logging."""

import numpy as np


def top_k(scores: np.ndarray, k: int, *, exclude: np.ndarray) -> np.ndarray:
    """Return the indices of the k largest scores, the largest first.

    Parameters
    ----------
    scores : ndarray of float, shape (n,)
        Finite.
    k : int
        At least 1.
    exclude : ndarray of int, shape (m,)
        Indices that must not be returned.

    Returns
    -------
    ndarray of int, shape (min(k, n - number excluded),)
        Of equal scores the smaller index comes first.

    Notes
    -----
    O(n) to select and O(k log k) to sort; deterministic.
    """
    allowed = np.ones(len(scores), dtype=bool)
    allowed[exclude] = False
    candidates = np.flatnonzero(allowed)
    if 0 < k < len(candidates):
        # The k-th largest score, then all that reach it: ties at the border
        # are cut by index, as the sort below puts them.
        chosen = scores[candidates]
        border = np.partition(chosen, len(chosen) - k)[len(chosen) - k]
        candidates = candidates[chosen >= border]
    order = np.argsort(-scores[candidates], kind="stable")
    return candidates[order[:k]]
