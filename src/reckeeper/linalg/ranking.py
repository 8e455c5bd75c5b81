"""The largest scores, of one row or of many."""

import numpy as np
from scipy import sparse

from reckeeper.linalg.parallel import on_threads, row_blocks

_GROUPS, _LEAST_GROUPS = 16, 512
"""Groups of columns for each score that is wanted: with so many, few of those wanted share one.

And at least: the largest of few long rows are found more quickly than those of many short ones.
"""


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


def top_k_shared(scores: np.ndarray, k: int, *, exclude: sparse.csr_array) -> np.ndarray:
    """Return for each row the indices of the k largest scores, which all rows share.

    Parameters
    ----------
    scores : ndarray of float, shape (n_items,)
        Finite, or -inf for an item that must not be returned.
    k : int
        At least 1.
    exclude : scipy.sparse.csr_array, shape (n, n_items)
        Stored entries, zeros too, must not be returned.

    Returns
    -------
    ndarray of int64, shape (n, k)
        As of `top_k_rows`.

    Notes
    -----
    O(n_items + m log m) for m entries, and no matrix of n × n_items.
    """
    n_rows, n_items = exclude.shape
    n_excluded = np.diff(exclude.indptr)
    width = min(k, n_items)
    candidates = np.arange(n_items)
    most = width + int(n_excluded.max(initial=0))
    if most < n_items:
        border = np.partition(scores, n_items - most)[n_items - most]
        candidates = np.flatnonzero(scores >= border)
    candidates = candidates[scores[candidates] > -np.inf]
    order = candidates[np.argsort(-scores[candidates], kind="stable")]
    place = np.full(n_items, -1, dtype=np.int64)
    place[order] = np.arange(len(order))
    # With a row's excluded places e₀ < e₁ < …, its j-th item stands at place j + t, where t of
    # the eᵢ - i, which never fall, are at most j.
    is_ahead = place[exclude.indices] >= 0
    row = np.repeat(np.arange(n_rows), n_excluded)[is_ahead]
    excluded = np.sort(row * n_items + place[exclude.indices][is_ahead])
    first = np.searchsorted(row, np.arange(n_rows))
    before = excluded - (np.arange(len(excluded)) - first[row])
    wanted = np.arange(n_rows)[:, None] * n_items + np.arange(width)
    n_skipped = np.searchsorted(before, wanted.ravel(), side="right").reshape(wanted.shape)
    places = np.arange(width) + n_skipped - first[:, None]
    top = np.full((n_rows, k), -1, dtype=np.int64)
    is_there = places < len(order)
    top[:, :width][is_there] = order[places[is_there]]
    return top


def top_k_of_one(scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Return the k largest scores of one row, the largest first.

    Parameters
    ----------
    scores : ndarray of float, shape (n,)
        -inf for what must not be returned.
    k : int
        From 1 to n.

    Returns
    -------
    ndarray of int64, shape (at most k,)
        Indices. Where scores are equal, the smaller comes first.
    ndarray of float, shape (at most k,)
        The scores.
    float
        The largest of all: NaN where a score is.
    """
    largest = _of_groups(scores[None, :], k)[0].copy()
    largest.partition(-k)
    largest = largest[-k:]
    place = (scores >= largest[0]).nonzero()[0]
    best = scores[place]
    order = (-best).argsort(kind="stable")[:k]
    place, best = place[order], best[order]
    if largest[0] == -np.inf:
        place, best = place[best > -np.inf], best[best > -np.inf]
    return place, best, float(np.maximum.reduce(largest))


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
        rows = 0 if n_rows == 1 else np.repeat(np.arange(n_rows), np.diff(exclude.indptr))
        scores[rows, exclude.indices] = -np.inf
    width = min(k, n_columns)
    top = np.full((n_rows, k), -1, dtype=np.int64)
    if n_rows == 1 and width:
        place, *_ = top_k_of_one(scores[0], width)
        top[0, : len(place)] = place
        return top

    def select(rows: slice) -> None:
        part = scores[rows]
        border = np.partition(_of_groups(part, width), -width, axis=1)[:, -width]
        place = np.flatnonzero(part >= border[:, None])
        row, column = np.divmod(place, n_columns)
        values = part.ravel()[place]
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


def top_k_stored(
    scores: sparse.csr_array, k: int, *, exclude: sparse.csr_array, allowed: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the k largest scores of each row where all of them are stored, the largest first.

    Parameters
    ----------
    scores : scipy.sparse.csr_array of float, shape (n, n_items)
        Finite; a column comes once in a row, in any order. What is not stored is 0.
    k : int
        At least 1.
    exclude : scipy.sparse.csr_array, shape (n, n_items)
        Stored entries, zeros too, must not be returned.
    allowed : ndarray of bool, shape (n_items,), or None
        Which columns may be returned; None: all.

    Returns
    -------
    ndarray of int64, shape (n, k)
        Indices. Among equal scores the smaller comes first. Where fewer than k scores above zero
        are left, and so what is not stored would be among them, all are -1.
    ndarray of float64, shape (n, k)
        The scores; 0 where there is none.

    Notes
    -----
    Linear in the stored entries, whatever the number of columns. One core: for blocks on threads.
    """
    n, n_items = scores.shape
    top, best = np.full((n, k), -1, dtype=np.int64), np.zeros((n, k))
    is_out = np.zeros(n_items, dtype=bool) if allowed is None else ~allowed
    for row in range(n):
        entries = slice(int(scores.indptr[row]), int(scores.indptr[row + 1]))
        seen = exclude.indices[int(exclude.indptr[row]) : int(exclude.indptr[row + 1])]
        indices, values = scores.indices[entries], scores.data[entries]
        if len(values) < k:
            continue
        before = is_out[seen]
        is_out[seen] = True
        left = np.where(is_out[indices], 0, values)
        is_out[seen] = before
        border = np.partition(left, len(left) - k)[len(left) - k]
        if border > 0:
            place = np.flatnonzero(left >= border)
            place = place[np.lexsort((indices[place], -left[place]))[:k]]
            top[row], best[row] = indices[place], left[place]
    return top, best


def _of_groups(scores: np.ndarray, n: int) -> np.ndarray:
    """Return the largest of each of many groups of columns, shape (rows, at least n groups).

    At least n scores reach the n-th largest of these, and few more do. Of few columns each is a
    group.
    """
    n_columns = scores.shape[1]
    n_groups = min(n_columns, max(_GROUPS * n, _LEAST_GROUPS))
    height = n_columns // n_groups
    if height == 1:
        return scores
    in_groups = height * n_groups
    groups = scores[:, :in_groups].reshape(len(scores), height, n_groups)
    largest: np.ndarray = np.maximum.reduce(groups, axis=1)
    rest = largest[:, : n_columns - in_groups]
    np.maximum(rest, scores[:, in_groups:], out=rest)
    return largest
