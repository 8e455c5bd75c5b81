"""What comes after what: a directed matrix of items × items, from the order of each user's events.

That two items are near each other in time says little beyond what the plain model knows; which of
them comes first says much.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from reckeeper import linalg
from reckeeper.matrix import Histories

DEPTH = 20
"""Rows after an item that count as coming after it."""

_DECAY = 0.25
"""Power of the steps between two items that what they say is divided by."""

_SOURCES = 1 << 15
"""Events whose followers are counted at a time."""

_LEAST_FOLLOWERS = 256
_CELLS = 20_000_000
"""Followers that an item keeps at least, and all items together at most where that is more. On
video, 128 of each item tell as much as 512."""


def n_followers(n_items: int) -> int:
    """Return how many followers an item keeps at most."""
    return max(_LEAST_FOLLOWERS, _CELLS // max(1, n_items))


def following_bytes(*, n_items: int, n_pairs: int, n_threads: int) -> int:
    """Return what `following` holds at most, its result in it."""
    counted = n_threads * 48 * DEPTH * min(2 * _SOURCES, n_pairs)
    return 40 * n_pairs + counted + 3 * kept_bytes(n_items=n_items, n_pairs=n_pairs)


def kept_bytes(*, n_items: int, n_pairs: int) -> int:
    """Return what the result of `following` holds at most."""
    return 8 * min(DEPTH * n_pairs, n_items * min(n_items, n_followers(n_items)))


def recent(
    rows: sparse.csr_array, n_later: np.ndarray | None, *, recency: float
) -> sparse.csr_array:
    """Weigh rows by recency: each entry by 1 / (1 + s / h).

    Parameters
    ----------
    rows : scipy.sparse.csr_array of float32
        As they enter the model.
    n_later : ndarray of int, shape (nnz,), or None
        s, as `Histories` has it; None leaves the rows as they are.
    recency : float
        h, above zero.
    """
    if n_later is None:
        return rows
    data = rows.data * recency_of(n_later, recency=recency)
    return sparse.csr_array((data, rows.indices, rows.indptr), shape=rows.shape)


def recency_of(n_later: np.ndarray, *, recency: float) -> np.ndarray:
    """Return 1 / (1 + s / h) of steps s, float32, shape (nnz,)."""
    return (1.0 / (1.0 + n_later / recency)).astype(np.float32)


def following(
    histories: Histories,
    *,
    scale: np.ndarray | None = None,
    n_threads: int | None = None,
    on_progress: Callable[[float], None] | None = None,
) -> sparse.csr_array:
    """Count what came after what.

    Of each user's pairs with taste, in the order of time: item j counts for
    item i if it is strictly later and at most 20 rows after it, as (steps
    between)^-0.25. A step is a distinct time of that user.

    Parameters
    ----------
    histories : Histories
        A row for each user. Where times are not known nothing comes after
        anything.
    scale : ndarray of float, shape (n_items,), optional
        Above zero; columns are multiplied by it.
    n_threads : int, optional
        All cores by default.
    on_progress : callable, optional
        Called with the fraction done; what it raises ends the work.

    Returns
    -------
    scipy.sparse.csr_array of float32, shape (n_items, n_items)
        N: row i has what came after i, the `n_followers` largest entries of
        it, in any order. Nothing on the diagonal.

    Notes
    -----
    Linear in the pairs, apart from bringing them in order; holds some 24 bytes
    for each, a block for each thread, and the result. Deterministic; of items
    of one time, which are in no order, the smaller index counts as a row
    before the larger.
    """
    n_items = histories.weights.shape[1]
    events = _Events.of(histories)
    if not len(events.places):
        return _nothing((n_items, n_items))
    blocks = events.blocks()
    pieces: dict[int, sparse.csr_array] = {}

    def fill(index: int) -> None:
        piece = events.count(blocks[index])
        if scale is not None:
            piece.data *= scale[piece.indices].astype(np.float32)
        pieces[index] = largest(piece, n_followers(n_items))

    report = on_progress or (lambda _: None)
    linalg.parallel.on_threads(fill, range(len(blocks)), n_threads=n_threads, report=report)
    made = sparse.vstack([pieces.pop(index) for index in range(len(blocks))], format="csr")
    return sparse.csr_array(made)


@dataclass(frozen=True)
class _Events:
    """All users' pairs with taste, in order, and where each item occurs among them.

    Attributes
    ----------
    packed : ndarray of int64, shape (n + DEPTH + 1,)
        Step in the upper half, item in the lower. Steps go on from one user to
        the next with a gap of more than `DEPTH`.
    places : ndarray of int32, shape (n,)
        Those of the first item, then of the second, and so on.
    starts : ndarray of int64, shape (n_items + 1,)
        Where in `places` an item's begin.
    """

    packed: np.ndarray
    places: np.ndarray
    starts: np.ndarray

    @classmethod
    def of(cls, histories: Histories) -> "_Events":
        weights, n_later = histories.weights, histories.n_later
        n_items = weights.shape[1]
        if n_later is None:
            nothing = np.empty(0, dtype=np.int32)
            return cls(nothing, nothing, np.zeros(n_items + 1, dtype=np.int64))
        kept = weights.data > 0
        of_entry = np.repeat(np.arange(weights.shape[0], dtype=np.int32), np.diff(weights.indptr))
        user = of_entry[kept]
        item, later = weights.indices[kept], n_later[kept]
        # Steps of all users in one number: one sort brings them in order.
        longest = np.zeros(weights.shape[0], dtype=np.int64)
        np.maximum.at(longest, user, later)
        ends = np.cumsum(longest + DEPTH + 1)
        packed = ((ends[user] - later) << 32) | item
        del of_entry, user, item, later, kept
        packed.sort()
        item = (packed & 0xFFFFFFFF).astype(np.int32)
        of_items = sparse.csr_array(
            (np.arange(len(item), dtype=np.int32), item, np.array([0, len(item)])),
            shape=(1, n_items),
        ).tocsc()
        beyond = np.full(DEPTH + 1, np.iinfo(np.int32).max << 32, dtype=np.int64)
        return cls(np.append(packed, beyond), of_items.data, of_items.indptr.astype(np.int64))

    def blocks(self) -> list[slice]:
        """Cut the items into runs of about as many events."""
        edges = np.searchsorted(
            self.starts, np.arange(_SOURCES, len(self.places) + _SOURCES, _SOURCES), side="left"
        )
        edges = np.unique([0, *np.minimum(edges, len(self.starts) - 1), len(self.starts) - 1])
        return [
            slice(first, last)
            for first, last in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)
        ]

    def count(self, items: slice) -> sparse.csr_array:
        """Return some rows of N."""
        of_distance = np.zeros(DEPTH + 2, dtype=np.float32)
        of_distance[1:-1] = np.arange(1, DEPTH + 1) ** -_DECAY
        starts = self.starts[items.start : items.stop + 1]
        shape = (items.stop - items.start, len(self.starts) - 1)
        total = _nothing(shape)
        # One item may have any number of events.
        for first in range(int(starts[0]), int(starts[-1]), 2 * _SOURCES):
            last = min(first + 2 * _SOURCES, int(starts[-1]))
            places = self.places[first:last]
            after = np.lib.stride_tricks.sliding_window_view(self.packed, DEPTH)[places + 1]
            item = after.astype(np.int32)  # the lower half of each
            after >>= 32
            after -= (self.packed[places] >> 32)[:, None]
            distance = np.minimum(after, DEPTH + 1, out=after)
            followers = sparse.csr_array(
                (
                    of_distance[distance].ravel(),
                    item.ravel(),
                    np.arange(0, DEPTH * (len(places) + 1), DEPTH, dtype=np.int32),
                ),
                shape=(len(places), shape[1]),
            )
            of_item = sparse.csr_array(
                (
                    np.ones(len(places), dtype=np.float32),
                    np.arange(len(places), dtype=np.int32),
                    np.clip(starts - first, 0, last - first).astype(np.int32),
                ),
                shape=(shape[0], len(places)),
            )
            counted = of_item @ followers
            counted.eliminate_zeros()
            total = counted if first == starts[0] else total + counted
        return sparse.csr_array(total)


def largest(matrix: sparse.csr_array, n: int) -> sparse.csr_array:
    """Keep the n largest entries of each row, of equal ones those of smaller columns.

    Entries that are not above zero are not kept; the matrix is changed.
    """
    for row in np.flatnonzero(np.diff(matrix.indptr) > n).tolist():
        entries = slice(matrix.indptr[row], matrix.indptr[row + 1])
        values = matrix.data[entries]
        border = np.partition(values, len(values) - n)[len(values) - n]
        dropped = values < border
        surplus = len(values) - n - np.count_nonzero(dropped)
        if surplus:
            tied = np.flatnonzero(values == border)
            by_column = np.argsort(matrix.indices[entries][tied])
            dropped[tied[by_column[len(tied) - surplus :]]] = True
        values[dropped] = 0.0
    matrix.data[matrix.data < 0] = 0.0
    matrix.eliminate_zeros()
    return matrix


def _nothing(shape: tuple[int, int]) -> sparse.csr_array:
    empty = np.empty(0, dtype=np.int32)
    starts = np.zeros(shape[0] + 1, dtype=np.int32)
    return sparse.csr_array((empty.astype(np.float32), empty, starts), shape=shape)
