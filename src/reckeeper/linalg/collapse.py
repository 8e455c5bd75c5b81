"""A filter of a spectrum, collapsed into one sparse matrix."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy import sparse
from threadpoolctl import threadpool_limits

from reckeeper.linalg.parallel import on_threads, row_blocks

_NEGLIGIBLE = 1e-6
"""What is smaller than this share of the largest is rounding, in single precision."""

_SAMPLED = 2048
"""Columns of which a bound is guessed for each row."""

_ENTRY_BYTES = 76
"""What an entry over that bound comes to: in the blocks, their join, and the rows done again."""

_ENTRY_BYTES_WITHOUT_BOUND = 44
"""The same where there is no bound, and no row to do again."""

_BLOCK_BYTES = 16 << 20
"""Of the dense rows that a thread works on at once."""

_CELL_BYTES = 48
"""What a cell of the block that a thread works on comes to."""


def bytes_needed(
    *,
    n_rows: int,
    n_columns: int,
    n_entries: int,
    n_components: int,
    n_neighbours: int,
    n_threads: int,
) -> int:
    """Return what `item_filter` holds at most, its matrix and components not counted.

    Parameters
    ----------
    n_rows, n_columns, n_entries : int
        Size of the matrix, from 0 on.
    n_components : int
        From 0 on.
    n_neighbours : int
        At most `n_columns`.
    n_threads : int
        Each works on a block of its own.
    """
    if not n_columns or not n_rows:
        return 0
    copies = 24 * n_entries
    if not n_components:
        # Pairs of columns that rows have in common; those with many entries make most of them.
        met = 4 * (n_entries / n_columns) * (n_entries / n_rows)
        block = min(512, n_columns) * min(n_columns, int(met))
        return copies + n_threads * _CELL_BYTES * block + 2 * 8 * n_columns * n_neighbours
    height = _block_height(n_columns)
    blocks = n_threads * _CELL_BYTES * height * height + 4 * n_components * n_columns
    if _is_bounded(n_columns, n_neighbours):
        entries = n_columns * (_bound_rank(n_columns, n_neighbours) * n_columns // _SAMPLED)
        return copies + blocks + _ENTRY_BYTES * entries
    return copies + blocks + _ENTRY_BYTES_WITHOUT_BOUND * n_columns * n_columns


def _block_height(n_items: int) -> int:
    return min(n_items, max(256, min(2048, -(-n_items // 8))))


def _is_bounded(n_items: int, n_neighbours: int) -> bool:
    """Say whether so little of a row is kept that a guess of what is pays."""
    return n_neighbours * 4 < n_items and n_items > 4 * _SAMPLED


def _bound_rank(n_items: int, n_neighbours: int) -> int:
    """Return the place, among a row's sampled entries, of the one that becomes its bound."""
    expected = n_neighbours * _SAMPLED / n_items
    return min(_SAMPLED, int(expected + 3 * math.sqrt(expected)) + 1)


def item_filter(
    matrix: sparse.csr_array,
    *,
    components: np.ndarray,
    gains: np.ndarray,
    scale: np.ndarray,
    n_neighbours: int,
    tail: float = 1.0,
    seed: int = 0,
    n_threads: int | None = None,
    on_progress: Callable[[float], None] | None = None,
) -> sparse.csr_array:
    """Collapse a filter of the spectrum of AᵀA into one sparse items × items matrix.

    W = (tail AᵀA + Vᵀ diag(gains) V) diag(scale), without its diagonal, of
    each row the `n_neighbours` largest entries that are above zero (above
    rounding). The dense matrix never exists: the symmetric part is made in
    square blocks, half of them, and only entries above a bound that a sample
    of columns gives for each row are looked at.

    Parameters
    ----------
    matrix : scipy.sparse.csr_array of float32, shape (m, n)
        A.
    components : ndarray of float32, shape (k, n)
        V; k may be 0.
    gains : ndarray of float, shape (k,)
    scale : ndarray of float, shape (n,)
        Above zero.
    n_neighbours : int
        At least 1.
    tail : float
    seed : int
        Draws the sample of columns; the result does not depend on it.
    n_threads : int, optional
        All cores by default.
    on_progress : callable, optional
        Called between blocks with the fraction done, in [0, 1]; what it
        raises ends the work.

    Returns
    -------
    scipy.sparse.csr_array of float32, shape (n, n)
        Columns ascending in each row.

    Notes
    -----
    n² k multiplications, in single precision; holds A twice, a block a
    thread, and about twice the entries that are kept.
    """
    report = on_progress or (lambda _: None)
    n_items = matrix.shape[1]
    filtered = _Filter(matrix, components, gains, tail)
    scale = scale.astype(np.float32)
    diagonal = np.sqrt(np.maximum(filtered.diagonal(), 0.0))
    floor = 10 * _NEGLIGIBLE * float(diagonal.max(initial=0.0)) * diagonal * scale.min()
    floor = floor.astype(np.float32)

    if not len(components):
        return _neighbours(filtered, scale, floor, n_neighbours, n_threads=n_threads, report=report)
    bound = floor
    if _is_bounded(n_items, n_neighbours):
        bound = _row_bounds(filtered, scale, floor, n_neighbours, seed=seed, n_threads=n_threads)
    height = _block_height(n_items)
    blocks = [slice(at, min(at + height, n_items)) for at in range(0, n_items, height)]
    filtered.cut(blocks)
    found: list[list[tuple[np.ndarray, np.ndarray, np.ndarray]]] = [[] for _ in blocks]
    pairs = [(i, j) for i in range(len(blocks)) for j in range(i, len(blocks))]

    def fill(pair: tuple[int, int]) -> None:
        first, second = pair
        values = filtered.values(first, second)
        upper, right = blocks[first], blocks[second]
        scaled = values * scale[right]
        if first == second:
            np.fill_diagonal(scaled, -np.inf)
        row, column, value = _above(scaled, bound[upper, None])
        found[first].append((row, column + np.int32(right.start), value))
        if first != second:
            np.multiply(values, scale[upper, None], out=scaled)
            row, column, value = _above(scaled, bound[None, right])
            found[second].append((column, row + np.int32(upper.start), value))

    with threadpool_limits(1, user_api="blas"):
        on_threads(fill, pairs, n_threads=n_threads, report=lambda done: report(0.95 * done))

    pieces: list[sparse.csr_array] = []
    for index, block in enumerate(blocks):
        parts, found[index] = found[index], []
        row, column, value = (np.concatenate([part[at] for part in parts]) for at in range(3))
        shape = (block.stop - block.start, n_items)
        pieces.append(sparse.coo_array((value, (row, column)), shape=shape).tocsr())
    # A bound that was too high for its row left it short: that row again, whole.
    counts = np.concatenate([np.diff(part.indptr) for part in pieces])
    short = np.flatnonzero((counts < min(n_neighbours, n_items - 1)) & (bound > floor))
    whole = sparse.vstack(pieces, format="csr")
    if len(short):
        whole = _replace_rows(whole, short, filtered, scale, floor, n_neighbours)
    kept = [_largest_of_rows(whole[block], n_neighbours) for block in blocks]
    report(1.0)
    return sparse.csr_array(sparse.vstack(kept, format="csr"))


def _neighbours(
    filtered: "_Filter",
    scale: np.ndarray,
    floor: np.ndarray,
    n_neighbours: int,
    *,
    n_threads: int | None,
    report: Callable[[float], None],
) -> sparse.csr_array:
    """Do `item_filter`'s work without components, where all is sparse."""
    n_items = len(scale)
    blocks = [slice(at, min(at + 512, n_items)) for at in range(0, n_items, 512)]
    pieces: dict[int, sparse.csr_array] = {}
    columns = filtered.items.T.tocsr()

    def fill(index: int) -> None:
        block = blocks[index]
        product = filtered.items[block] @ columns
        product.data *= filtered.tail * scale[product.indices]
        row = np.repeat(np.arange(block.start, block.stop, dtype=np.int32), np.diff(product.indptr))
        product.data[(product.indices == row) | (product.data <= floor[row])] = 0.0
        product.eliminate_zeros()
        pieces[index] = _largest_of_rows(product, n_neighbours)

    on_threads(fill, range(len(blocks)), n_threads=n_threads, report=report)
    made = sparse.vstack([pieces[index] for index in range(len(blocks))], format="csr")
    return sparse.csr_array(made)


class _Filter:
    """The symmetric matrix tail AᵀA + Vᵀ diag(gains) V, by blocks."""

    def __init__(
        self,
        matrix: sparse.csr_array,
        components: np.ndarray,
        gains: np.ndarray,
        tail: float,
    ) -> None:
        self.items = matrix.T.tocsr().astype(np.float32)
        self.components = components
        self.weighted = components * gains[:, None].astype(np.float32)
        self.tail = np.float32(tail)

    def cut(self, blocks: list[slice]) -> None:
        """Prepare blocks of columns, which `values` then names by number."""
        self._rows = [self.items[block] for block in blocks]
        self._columns = [rows.T.tocsr() for rows in self._rows]
        self._blocks = blocks

    def values(self, first: int, second: int) -> np.ndarray:
        """Return the block of rows `first` and columns `second`, dense."""
        return self._dense(
            self._rows[first] @ self._columns[second],
            self.weighted[:, self._blocks[first]],
            self.components[:, self._blocks[second]],
        )

    def rows(self, index: np.ndarray, columns: np.ndarray | None = None) -> np.ndarray:
        """Return rows, at all columns or some, dense."""
        others = self.items if columns is None else self.items[columns]
        right = self.components if columns is None else self.components[:, columns]
        product = self.items[index] @ others.T.tocsr()
        return self._dense(product, self.weighted[:, index], right)

    def diagonal(self) -> np.ndarray:
        """Return the diagonal, in double precision."""
        squares = self.items.multiply(self.items).sum(axis=1)
        low_rank = np.einsum("ki,ki->i", self.weighted, self.components, dtype=np.float64)
        return np.asarray(float(self.tail) * np.asarray(squares, dtype=np.float64) + low_rank)

    def _dense(self, product: sparse.csr_array, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        values: np.ndarray = product.toarray()
        if self.tail != 1:
            values *= self.tail
        if len(left):
            values += left.T @ right
        return values


def _row_bounds(
    filtered: _Filter,
    scale: np.ndarray,
    floor: np.ndarray,
    n_neighbours: int,
    *,
    seed: int,
    n_threads: int | None,
) -> np.ndarray:
    """Return for each row a value that probably somewhat more than `n_neighbours` exceed."""
    n_items = len(scale)
    columns = np.sort(np.random.default_rng(seed).choice(n_items, size=_SAMPLED, replace=False))
    rank = _bound_rank(n_items, n_neighbours)
    bound = floor.copy()

    def fill(block: slice) -> None:
        values = filtered.rows(np.arange(block.start, block.stop), columns) * scale[columns]
        sampled = np.partition(values, _SAMPLED - rank, axis=1)[:, _SAMPLED - rank]
        bound[block] = np.maximum(sampled, floor[block])

    blocks = list(row_blocks(n_items, _SAMPLED, limit_bytes=16 << 20))
    with threadpool_limits(1, user_api="blas"):
        on_threads(fill, blocks, n_threads=n_threads)
    return bound


def _above(values: np.ndarray, bound: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return row, column and value of the entries above a bound."""
    place = np.flatnonzero(values > bound)
    row, column = np.divmod(place, values.shape[1])
    return row.astype(np.int32), column.astype(np.int32), values.ravel()[place]


def _replace_rows(
    whole: sparse.csr_array,
    index: np.ndarray,
    filtered: _Filter,
    scale: np.ndarray,
    floor: np.ndarray,
    n_neighbours: int,
) -> sparse.csr_array:
    keeps = np.ones(whole.shape[0], dtype=np.float32)
    keeps[index] = 0.0
    kept = sparse.diags_array(keeps, format="csr", dtype=np.float32) @ whole
    kept.eliminate_zeros()
    added = []
    for block in row_blocks(len(index), whole.shape[1]):
        part = index[block]
        values = filtered.rows(part) * scale
        values[np.arange(len(part)), part] = -np.inf
        row, column, value = _above(values, floor[part, None])
        # Cut at once: where many columns are equal, many rows are made again.
        made = sparse.csr_array((value, (row, column)), shape=values.shape)
        best = _largest_of_rows(made, n_neighbours).tocoo()
        added.append((part[best.row], best.col, best.data))
    row, column, value = (np.concatenate([part[at] for part in added]) for at in range(3))
    total = kept + sparse.csr_array((value, (row, column)), shape=whole.shape)
    return sparse.csr_array(total.astype(np.float32))


def _largest_of_rows(matrix: sparse.csr_array, n: int) -> sparse.csr_array:
    """Keep the n largest entries of each row; of equal ones those of smaller columns."""
    matrix.sort_indices()
    indptr, data = matrix.indptr, matrix.data
    keep = np.ones(len(data), dtype=bool)
    for row in np.flatnonzero(np.diff(indptr) > n).tolist():
        values = data[indptr[row] : indptr[row + 1]]
        border = np.partition(values, len(values) - n)[len(values) - n]
        chosen = values >= border
        surplus = int(chosen.sum()) - n
        if surplus:
            chosen[np.flatnonzero(values == border)[-surplus:]] = False
        keep[indptr[row] : indptr[row + 1]] = chosen
    kept_before = np.concatenate([[0], np.cumsum(keep)])
    parts = (data[keep], matrix.indices[keep].astype(np.int32), kept_before[indptr])
    return sparse.csr_array(parts, shape=matrix.shape)


def collapse(
    matrix: sparse.csr_array,
    *,
    tail: float,
    row_scale: np.ndarray,
    column_scale: np.ndarray,
    left: np.ndarray,
    right: np.ndarray,
    n_neighbours: int,
    added: sparse.csr_array | None = None,
    n_threads: int | None = None,
    on_progress: Callable[[float], None] | None = None,
) -> sparse.csr_array:
    """Collapse a sparse and a low-rank part into one sparse items × items matrix.

    W = tail · diag(row_scale) AᵀA diag(column_scale) + added + leftᵀ right,
    without its diagonal, of each row the `n_neighbours` entries that are
    largest by absolute value (above rounding). The dense matrix never exists:
    it is made in blocks of rows.

    Parameters
    ----------
    matrix : scipy.sparse.csr_array of float32, shape (m, n)
        A.
    tail : float
    row_scale, column_scale : ndarray of float, shape (n,)
    left, right : ndarray of float32, shape (r, n)
        r may be 0.
    n_neighbours : int
        At least 1.
    added : scipy.sparse.csr_array of float32, shape (n, n), optional
    n_threads : int, optional
        All cores by default.
    on_progress : callable, optional
        Called between blocks with the fraction done, in [0, 1]; what it
        raises ends the work.

    Returns
    -------
    scipy.sparse.csr_array of float32, shape (n, n)
        Columns ascending in each row; of entries equal by absolute value the
        smaller columns are kept.

    Notes
    -----
    n² r multiplications, in single precision.
    """
    report = on_progress or (lambda _: None)
    parts = _Parts(matrix, tail, row_scale, column_scale, added, left, right)
    blocks = list(row_blocks(parts.n, parts.n, limit_bytes=_BLOCK_BYTES))
    pieces: dict[int, _Entries] = {}

    def fill(index: int) -> None:
        block = blocks[index]
        entries = parts.dense(block, n_neighbours) if len(left) else parts.stored(block)
        pieces[index] = parts.without_rounding(entries.largest(n_neighbours), block)

    with threadpool_limits(1, user_api="blas"):
        on_threads(fill, range(len(blocks)), n_threads=n_threads, report=report)
    return _joined([pieces[index] for index in range(len(blocks))], n_columns=parts.n)


@dataclass(frozen=True)
class _Entries:
    """Entries of some rows, columns ascending: `columns[indptr[i]:indptr[i + 1]]` are row i's."""

    indptr: np.ndarray
    columns: np.ndarray
    values: np.ndarray

    def largest(self, n: int) -> "_Entries":
        """Keep the n largest of each row by absolute value; of equal ones the smaller columns."""
        counts = np.diff(self.indptr)
        width = int(counts.max(initial=0))
        if width <= n:
            return self
        sizes = np.abs(self.values)
        row = np.repeat(np.arange(len(counts)), counts)
        table = np.full((len(counts), width), -1.0, dtype=np.float32)
        table[row, np.arange(len(row)) - self.indptr[row]] = sizes
        border = np.partition(table, width - n, axis=1)[:, width - n]
        keep = sizes >= border[row]
        kept = np.concatenate([[0], np.cumsum(keep)])[self.indptr]
        for short in np.flatnonzero(np.diff(kept) > n).tolist():
            part = slice(self.indptr[short], self.indptr[short + 1])
            surplus = int(kept[short + 1] - kept[short]) - n
            equal = np.flatnonzero(sizes[part] == border[short])
            keep[part.start + equal[-surplus:]] = False
        return self.only(keep)

    def only(self, keep: np.ndarray) -> "_Entries":
        """Keep some of the entries."""
        kept = np.concatenate([[0], np.cumsum(keep)])[self.indptr]
        return _Entries(kept, self.columns[keep], self.values[keep])


class _Parts:
    """The parts that W is the sum of."""

    def __init__(
        self,
        matrix: sparse.csr_array,
        tail: float,
        row_scale: np.ndarray,
        column_scale: np.ndarray,
        added: sparse.csr_array | None,
        left: np.ndarray,
        right: np.ndarray,
    ) -> None:
        self.n = matrix.shape[1]
        self.matrix = matrix
        self.items = matrix.T.tocsr()
        self.row_scale = (tail * row_scale).astype(np.float32)
        self.column_scale = column_scale.astype(np.float32)
        self.added = added
        if added is not None and not added.has_canonical_format:
            self.added = added.copy()
            self.added.sum_duplicates()
        self.left, self.right = left, right
        squares = np.asarray(self.items.multiply(self.items).sum(axis=1))
        lengths = np.sqrt(squares.astype(np.float32))
        self._row_lengths = [np.abs(self.row_scale) * lengths, _lengths(left)]
        self._column_lengths = [np.abs(self.column_scale) * lengths, _lengths(right)]

    def _products(self, block: slice) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Yield the sparse parts of some rows: row, column (each pair once), value."""
        if self.row_scale[block].any():
            product = self.items[block] @ self.matrix
            row = np.repeat(np.arange(product.shape[0]), np.diff(product.indptr))
            value = product.data * self.row_scale[block][row]
            value *= self.column_scale[product.indices]
            yield row, product.indices, value
        if self.added is not None:
            part = self.added[block]
            yield np.repeat(np.arange(part.shape[0]), np.diff(part.indptr)), part.indices, part.data

    def stored(self, block: slice) -> _Entries:
        """Return the entries of some rows where nothing is dense."""
        shape = (block.stop - block.start, self.n)
        total = sparse.csr_array(shape, dtype=np.float32)
        for row, column, value in self._products(block):
            total = total + sparse.csr_array((value, (row, column)), shape=shape)
        total.sort_indices()
        row = np.repeat(np.arange(block.start, block.stop), np.diff(total.indptr))
        entries = _Entries(total.indptr, total.indices.astype(np.int32), total.data)
        return entries.only((total.indices != row) & (total.data != 0))

    def dense(self, block: slice, n_neighbours: int) -> _Entries:
        """Return of some rows the entries that may be among the largest."""
        values = self.left[:, block].T @ self.right
        height, n = values.shape
        flat = values.ravel()
        for row, column, value in self._products(block):
            flat[row * n + column] += value
        values[np.arange(height), np.arange(block.start, block.stop)] = 0.0
        sizes = np.abs(values)
        bound = np.full(height, np.finfo(np.float32).tiny)
        # The largest of each of many groups of columns: n_neighbours of them are reached by at
        # least as many entries.
        n_groups = 4 * n_neighbours
        if n >= 2 * n_groups:
            grouped = sizes[:, : n // n_groups * n_groups].reshape(height, -1, n_groups)
            largest = np.partition(grouped.max(axis=1), n_groups - n_neighbours, axis=1)
            np.maximum(bound, largest[:, n_groups - n_neighbours], out=bound)
        place = np.flatnonzero(sizes >= bound[:, None])
        indptr = np.searchsorted(place, np.arange(height + 1) * n)
        column = place - np.repeat(np.arange(height) * n, np.diff(indptr))
        return _Entries(indptr, column.astype(np.int32), flat[place])

    def without_rounding(self, entries: _Entries, block: slice) -> _Entries:
        """Return entries of some rows without those that are rounding."""
        if not len(self.left):
            return entries
        rows = np.repeat(np.arange(block.start, block.stop), np.diff(entries.indptr))
        floor = np.zeros(len(rows), dtype=np.float32)
        for row_lengths, column_lengths in zip(
            self._row_lengths, self._column_lengths, strict=True
        ):
            floor += row_lengths[rows] * column_lengths[entries.columns]
        return entries.only(np.abs(entries.values) > 10 * _NEGLIGIBLE * floor)


def _joined(pieces: list[_Entries], *, n_columns: int) -> sparse.csr_array:
    """Return the entries of all rows as one matrix."""
    counts = [np.diff(piece.indptr) for piece in pieces]
    indptr = np.concatenate([[0], np.cumsum(np.concatenate([[], *counts]), dtype=np.int64)])
    columns = np.concatenate([np.empty(0, np.int32), *(piece.columns for piece in pieces)])
    values = np.concatenate([np.empty(0, np.float32), *(piece.values for piece in pieces)])
    if len(values) <= np.iinfo(np.int32).max:
        indptr = indptr.astype(np.int32)
    return sparse.csr_array((values, columns, indptr), shape=(len(indptr) - 1, n_columns))


def _lengths(vectors: np.ndarray) -> np.ndarray:
    """Return the lengths of the columns."""
    squares = np.einsum("ki,ki->i", vectors, vectors, dtype=np.float64)
    return np.asarray(np.sqrt(squares), dtype=np.float32)
