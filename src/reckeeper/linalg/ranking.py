"""The largest scores, of one row or of many."""

import numpy as np
from scipy import sparse

from reckeeper.linalg.parallel import on_threads, row_blocks


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
        Where scores are equal, the smaller index comes first.

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


def top_k_rows(
    scores: np.ndarray,
    k: int,
    *,
    exclude: sparse.csr_array | None = None,
    n_threads: int | None = None,
) -> np.ndarray:
    """Return the indices of the k largest scores of each row, the largest first.

    Parameters
    ----------
    scores : ndarray of float, shape (n, n_items)
        Finite. Overwritten where `exclude` has entries.
    k : int
        At least 1.
    exclude : scipy.sparse.csr_array, shape (n, n_items), optional
        Stored entries, zeros too, must not be returned.
    n_threads : int, optional
        All cores by default.

    Returns
    -------
    ndarray of int64, shape (n, k)
        Rows with fewer than k allowed items are filled up with -1. Among equal
        scores the smaller index comes first.

    Notes
    -----
    The result does not depend on the number of threads. Split users into
    blocks with `row_blocks`, so that users × items is never held.
    """
    n_rows, n_columns = scores.shape
    if exclude is not None:
        rows = np.repeat(np.arange(n_rows), np.diff(exclude.indptr))
        scores[rows, exclude.indices] = -np.inf
    width = min(k, n_columns)
    top = np.full((n_rows, k), -1, dtype=np.int64)

    def select(rows: slice) -> None:
        part = scores[rows]
        border = np.partition(part, n_columns - width, axis=1)[:, n_columns - width]
        row, column = np.nonzero(part >= border[:, None])
        values = part[row, column]
        order = np.lexsort((column, -values, row))
        row, column, values = row[order], column[order], values[order]
        rank = np.arange(len(row)) - np.searchsorted(row, row)
        kept = (rank < width) & (values > -np.inf)
        top[rows][row[kept], rank[kept]] = column[kept]

    if width:
        # Small blocks: the copy that a selection works on stays in the cache.
        blocks = list(row_blocks(n_rows, n_columns, limit_bytes=4 << 20))
        on_threads(select, blocks, n_threads=n_threads)
    return top
