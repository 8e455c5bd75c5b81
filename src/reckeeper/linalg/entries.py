"""Entries of some rows of a matrix, and the largest of them."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from scipy import sparse

Found = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Row, column and value of some entries."""


@dataclass(frozen=True)
class Entries:
    """Entries of some rows, columns ascending: `columns[indptr[i]:indptr[i + 1]]` are row i's."""

    indptr: np.ndarray
    columns: np.ndarray
    values: np.ndarray

    @classmethod
    def of(cls, found: Found, n_rows: int) -> Self:
        """Sort rows, columns and values, no two of one place."""
        row, column, value = found
        order = np.argsort((row.astype(np.int64) << 32) + column)
        indptr = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=n_rows))])
        return cls(indptr, column[order].astype(np.int32), value[order])

    def found(self, first_row: int = 0) -> Found:
        """Return row, column and value of each, the rows counted from a number on."""
        counts = np.diff(self.indptr)
        row = np.repeat(np.arange(first_row, first_row + len(counts)), counts)
        return row, self.columns, self.values

    def largest(self, n: int) -> "Entries":
        """Keep the n largest of each row by absolute value; of equal ones the smaller columns."""
        border = self.border(n)
        if border is None:
            return self
        sizes = np.abs(self.values)
        keep = sizes >= np.repeat(border, np.diff(self.indptr))
        kept = np.concatenate([[0], np.cumsum(keep)])[self.indptr]
        for short in np.flatnonzero(np.diff(kept) > n).tolist():
            part = slice(self.indptr[short], self.indptr[short + 1])
            surplus = int(kept[short + 1] - kept[short]) - n
            equal = np.flatnonzero(sizes[part] == border[short])
            keep[part.start + equal[-surplus:]] = False
        return self.only(keep)

    def border(self, n: int) -> np.ndarray | None:
        """Return how large the n-th largest of each row is, below zero in rows of fewer.

        None where all have n at most.
        """
        counts = np.diff(self.indptr)
        width = int(counts.max(initial=0))
        if width <= n:
            return None
        table = np.full((len(counts), width), -1.0, dtype=np.float32)
        row = np.repeat(np.arange(len(counts)), counts)
        table[row, np.arange(len(row)) - self.indptr[row]] = np.abs(self.values)
        return np.partition(table, width - n, axis=1)[:, width - n]

    def only(self, keep: np.ndarray) -> "Entries":
        """Keep some of the entries."""
        kept = np.concatenate([[0], np.cumsum(keep)])[self.indptr]
        return Entries(kept, self.columns[keep], self.values[keep])


def largest_of(values: np.ndarray, n: int) -> tuple[Entries, np.ndarray]:
    """Return the n largest entries of each row by size, zeros left out, and how large they are.

    With the n-th all that are equal to it.
    """
    entries, bound = reaching(values, n)
    border = entries.border(n)
    if border is None:
        return entries, bound
    np.maximum(bound, border, out=bound)
    reaches = np.abs(entries.values) >= np.repeat(bound, np.diff(entries.indptr))
    return entries.only(reaches), bound


def reaching(values: np.ndarray, n: int) -> tuple[Entries, np.ndarray]:
    """Return entries of each row that reach a bound which at least n do; zeros left out."""
    sizes = np.abs(values)
    height, width = values.shape
    bound = np.full(height, np.finfo(np.float32).tiny, dtype=np.float32)
    # The largest of each of many groups of columns: n of them are reached by at least n entries.
    n_groups = 4 * n if width >= 16 * n else 2 * n
    if width >= 2 * n_groups:
        grouped = sizes[:, : width // n_groups * n_groups].reshape(height, -1, n_groups)
        largest = np.partition(grouped.max(axis=1), n_groups - n, axis=1)[:, n_groups - n]
        np.maximum(bound, largest, out=bound)
    place = np.flatnonzero(sizes >= bound[:, None])
    indptr = np.searchsorted(place, np.arange(height + 1) * width)
    column = place - np.repeat(np.arange(height) * width, np.diff(indptr))
    return Entries(indptr, column, values.ravel()[place]), bound


def concatenated(found: list[Found]) -> Found:
    """Return all in one."""
    row, column, value = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return row, column, value


def joined(rows: list[np.ndarray], pieces: list[Entries], *, n: int) -> sparse.csr_array:
    """Return the entries of groups of rows as one matrix; empties `pieces`."""
    counts = np.zeros(n, dtype=np.int64)
    for index, piece in zip(rows, pieces, strict=True):
        counts[index] = np.diff(piece.indptr)
    indptr = np.concatenate([[0], np.cumsum(counts)])
    columns = np.empty(indptr[-1], dtype=np.int32)
    values = np.empty(indptr[-1], dtype=np.float32)
    for index in reversed(rows):
        piece = pieces.pop()
        shift = np.repeat(indptr[index] - piece.indptr[:-1], np.diff(piece.indptr))
        places = shift + np.arange(len(shift))
        columns[places], values[places] = piece.columns, piece.values
    if len(values) <= np.iinfo(np.int32).max:
        indptr = indptr.astype(np.int32)
    return sparse.csr_array((values, columns, indptr), shape=(n, n))
