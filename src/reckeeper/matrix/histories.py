"""What users did, a row each, and how long ago in steps of their own."""

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse

_BLOCK = 1 << 14
"""Entries that are brought in order at a time, about: a row and a time then fit in 64 bits."""


@dataclass(frozen=True)
class Histories:
    """What models are scored from: a row for each user or question.

    Attributes
    ----------
    weights : scipy.sparse.csr_array of float64, shape (n, n_items)
        A stored zero was seen and weighs nothing.
    n_later : ndarray of int32, shape (nnz,), or None
        How many steps ago each stored entry was, in the order of
        ``weights.data``: the number of distinct later times at which the same
        history has something of weight above zero. Entries of one time share
        it, and 0 is the newest. None where times are not known or all the
        same: everything then counts as of one moment.
    """

    weights: sparse.csr_array
    n_later: np.ndarray | None = None

    @classmethod
    def of_times(cls, weights: sparse.csr_array, times: np.ndarray | None) -> "Histories":
        """Count the steps of rows whose entries have times.

        Parameters
        ----------
        weights : scipy.sparse.csr_array of float64, shape (n, n_items)
        times : ndarray of int64, shape (nnz,), or None
            In any unit.

        Notes
        -----
        O(n log n), 20 million entries in about 1.5 s; the order of the entries
        in a row makes no difference.
        """
        if times is None or not len(times) or times.min() == times.max():
            return cls(weights)
        return cls(weights, _n_later(weights, times))

    @classmethod
    def of_row(
        cls, item_index: np.ndarray, weights: np.ndarray, times: np.ndarray | None, *, n_items: int
    ) -> "Histories":
        """Return one row; what stands beyond its items counts as steps, and is left out.

        Parameters
        ----------
        item_index : ndarray of int, shape (n,)
            Ascending; from `n_items` on of items that nobody asks for.
        weights : ndarray of float64, shape (n,)
        times : ndarray of int64, shape (n,), or None
            In any unit.
        n_items : int
        """
        n = int(item_index.searchsorted(n_items))
        indices, indptr = item_index[:n].astype(np.int32), np.array([0, n], dtype=np.int32)
        row = with_entries(_empty_row(n_items), weights[:n], indices, indptr)
        if times is None or not len(times) or times.min() == times.max():
            return cls(row)
        return cls(row, _n_later_of_one(times, weights > 0)[:n])

    @classmethod
    def stacked(cls, parts: Sequence["Histories"], *, n_items: int) -> "Histories":
        """Put histories of the same items one under the other."""
        lengths = [length for part in parts for length in part.lengths.tolist()]
        entries = (
            np.concatenate([np.empty(0), *(part.weights.data for part in parts)]),
            np.concatenate([np.empty(0, np.int32), *(part.weights.indices for part in parts)]),
            np.cumsum([0, *lengths]),
        )
        weights = sparse.csr_array(entries, shape=(len(lengths), n_items))
        if all(part.n_later is None for part in parts):
            return cls(weights)
        steps = [
            np.zeros(part.weights.nnz, dtype=np.int32) if part.n_later is None else part.n_later
            for part in parts
        ]
        return cls(weights, np.concatenate(steps))

    def __len__(self) -> int:
        return int(self.weights.shape[0])

    @property
    def lengths(self) -> np.ndarray:
        """How many entries each has, shape (n,)."""
        return np.diff(self.weights.indptr)

    def __getitem__(self, rows: slice | np.ndarray) -> "Histories":
        """Return some of the rows, each as often as asked for.

        Parameters
        ----------
        rows : slice, or ndarray of int or bool
            Which, or their places, in the order wanted.
        """
        n_later = None if self.n_later is None else of_rows(self.n_later, self.weights, rows)
        return Histories(self.weights[rows], n_later)

    def renamed(self, places: np.ndarray, *, n_items: int) -> "Histories":
        """Return the histories in other items, without those that have no place there.

        What is left out still counts as a step: it happened.

        Parameters
        ----------
        places : ndarray of int, shape (any,)
            The new index of each item, -1 where there is none.
        n_items : int
            Number of the other items.
        """
        weights = self.weights
        place = places[weights.indices]
        is_known = place >= 0
        n_before = np.concatenate([[0], np.cumsum(is_known)])
        entries = (weights.data[is_known], place[is_known], n_before[weights.indptr])
        renamed = sparse.csr_array(entries, shape=(weights.shape[0], n_items))
        return Histories(renamed, None if self.n_later is None else self.n_later[is_known])


def of_rows(values: np.ndarray, weights: sparse.csr_array, rows: slice | np.ndarray) -> np.ndarray:
    """Return what belongs to the entries of some rows, in the order of ``weights[rows].data``.

    Parameters
    ----------
    values : ndarray, shape (nnz,)
        In the order of ``weights.data``.
    weights : scipy.sparse.csr_array
    rows : slice, or ndarray of int or bool
    """
    if isinstance(rows, slice) and rows.step in (None, 1):
        first, end, _ = rows.indices(weights.shape[0])
        return values[weights.indptr[first] : weights.indptr[max(first, end)]]
    begins = weights.indptr[:-1][rows]
    lengths = weights.indptr[1:][rows] - begins
    shifts = np.repeat(begins - (np.cumsum(lengths) - lengths), lengths)
    return np.asarray(values[shifts + np.arange(len(shifts))])


def with_entries(
    like: sparse.csr_array, data: np.ndarray, indices: np.ndarray, indptr: np.ndarray
) -> sparse.csr_array:
    """Return a matrix of the same shape with other entries, which are not checked.

    For one history, SciPy's checks of a new matrix take longer than all else.
    """
    made = sparse.csr_array.__new__(sparse.csr_array)
    vars(made).update(vars(like))
    made.data, made.indices, made.indptr = data, indices, indptr
    return made


@functools.lru_cache(maxsize=16)
def _empty_row(n_items: int) -> sparse.csr_array:
    return sparse.csr_array((1, n_items), dtype=np.float64)


def _n_later_of_one(times: np.ndarray, has_taste: np.ndarray) -> np.ndarray:
    """Return ``n_later`` of one history, int32, shape (n,).

    Parameters
    ----------
    times : ndarray of int64, shape (n,)
    has_taste : ndarray of bool, shape (n,)
        Which entries weigh more than zero.
    """
    steps = times[has_taste]
    steps.sort()
    if len(steps):
        is_new = np.ones(len(steps), dtype=bool)
        np.not_equal(steps[1:], steps[:-1], out=is_new[1:])
        steps = steps[is_new]
    n_later: np.ndarray = len(steps) - steps.searchsorted(times, side="right")
    return n_later.astype(np.int32)


def _n_later(weights: sparse.csr_array, times: np.ndarray) -> np.ndarray:
    n_later = np.empty(len(times), dtype=np.int32)
    has_taste = weights.data > 0
    if weights.shape[0] == 1:
        return _n_later_of_one(times, has_taste)
    indptr = weights.indptr[np.append(np.diff(weights.indptr) > 0, True)]  # no empty rows
    starts = np.searchsorted(indptr, np.arange(0, len(times), _BLOCK), side="right") - 1
    for first, end in itertools.pairwise([*np.unique(starts).tolist(), len(indptr) - 1]):
        entries = slice(int(indptr[first]), int(indptr[end]))
        row = np.repeat(np.arange(end - first), np.diff(indptr[first : end + 1]))
        n_later[entries] = _n_later_of_block(row, times[entries], has_taste[entries])
    return n_later


def _n_later_of_block(row: np.ndarray, times: np.ndarray, has_taste: np.ndarray) -> np.ndarray:
    """Return the steps of entries, in ascending rows of which none is empty."""
    oldest, newest = int(times.min()), int(times.max())
    if int(row[-1] + 1).bit_length() + (newest - oldest).bit_length() > 63:
        times = np.unique(times, return_inverse=True)[1]
        oldest, newest = 0, int(times.max())
    # One sort of whole numbers, by row and then the latest first, is far quicker than two.
    key = (row << (newest - oldest).bit_length()) | (newest - times)
    order = np.argsort(key)
    key = key[order]
    is_new = np.ones(len(key), dtype=bool)
    np.not_equal(key[1:], key[:-1], out=is_new[1:])
    step = np.cumsum(is_new) - 1
    counts = np.zeros(step[-1] + 1, dtype=np.int32)
    counts[step[has_taste[order]]] = 1
    n_before = (np.cumsum(counts, dtype=np.int32) - counts)[step]
    # Rows ascend before and after the sort: the first place of a row has its newest.
    first = np.searchsorted(row, np.arange(row[-1] + 1))
    n_later = np.empty(len(key), dtype=np.int32)
    n_later[order] = n_before - n_before[first][row]
    return n_later
