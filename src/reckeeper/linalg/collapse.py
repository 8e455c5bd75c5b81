"""A sparse and a low-rank part, collapsed into one sparse matrix."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy import sparse
from threadpoolctl import threadpool_limits

from reckeeper.linalg.entries import Entries, Found, concatenated, joined, largest_of, reaching
from reckeeper.linalg.parallel import on_threads
from reckeeper.linalg.products import dense_products, runs

_NEGLIGIBLE = 1e-5
"""What is smaller than this share of the vectors it is a product of is rounding, in single
precision."""

_BLOCK_BYTES = 16 << 20
"""Of the dense rows that a thread multiplies at once, where rows are made whole."""

_LISTED = 4096
"""Columns that a group of rows looks at, at least."""

_LISTED_PER_NEIGHBOUR = 20
"""The same for each entry that is kept."""

_GROUPED = 256
"""Rows of a group, at least: fewer make small products, more have less in common."""

_LEADING = 32
"""Directions that groups and their columns are chosen by, at most."""

_OF_GROUP = 4
"""Directions of a group that its columns are chosen by."""

_SAMPLED = 2048
"""Vectors of which the direction is found that they are halved across."""

_WHOLE_FROM = 10
"""Rows are made whole where the sparse parts have one in so many of their cells, by estimate."""

_BOUNDED_FROM = 16_384
_BOUNDED_PER_NEIGHBOUR = 128
"""Columns from which on rows are made whole in the first of them only, and bounded beyond, and how
many there must be for each entry that is kept: where many are, a bound rules out few."""

_FIRST = 6
"""These are one in so many, those of the longest vectors."""

_BEYOND = 48
"""Where beyond them more than one in so many of all has to be made, a bound does not pay."""

_ENTRIES_AT_ONCE = 1 << 17
"""Of the sparse parts, that a thread works on at once; of a large catalogue half a row."""

_ENTRY_BYTES = 64
"""What an entry of the sparse parts comes to while a group is made."""

_CELL_BYTES = 64
"""What a dense cell comes to where all of a row may be kept."""

_BOUNDED_CELL_BYTES = 16
"""The same where a bound leaves few."""


def bytes_needed(
    *,
    n_rows: int,
    n_columns: int,
    n_entries: int,
    n_components: int,
    n_neighbours: int,
    n_threads: int,
) -> int:
    """Return what `collapse` holds at most, what it is given not counted.

    Parameters
    ----------
    n_rows, n_columns, n_entries : int
        Size of the matrix, from 0 on.
    n_components : int
        Rows of `left`, from 0 on.
    n_neighbours : int
        At least 1.
    n_threads : int
        Each works on a group of its own.
    """
    if not n_columns:
        return 0
    copies = 32 * n_entries
    vectors = 4 * n_columns * (3 * n_components + 2 * min(n_components, _LEADING) + 20)
    kept = 2 * 8 * n_columns * min(n_neighbours, n_columns)
    n_listed = _n_listed(n_columns, n_components, n_neighbours)
    height = min(n_columns, _whole_height(n_columns))
    bounded = 4 * n_neighbours <= n_columns
    cell = _BOUNDED_CELL_BYTES if bounded else _CELL_BYTES
    dense = cell * height * n_columns if n_components else 0
    if n_listed < n_columns:
        listed = _BOUNDED_CELL_BYTES * _group_height(n_columns) * n_listed
        chosen = 4 * n_components * n_listed + 8 * (_OF_GROUP + 2) * n_columns
        dense = max(dense, listed + chosen)
    entries = _ENTRY_BYTES * min(n_columns * height, max(_ENTRIES_AT_ONCE, n_columns))
    return copies + vectors + kept + n_threads * (dense + entries)


def _n_listed(n: int, rank: int, n_neighbours: int) -> int:
    """Return how many columns are looked at for a group of rows; all, where they are few."""
    n_listed = max(_LISTED, _LISTED_PER_NEIGHBOUR * n_neighbours)
    return n_listed if rank and 2 * n_listed < n else n


def _group_height(n: int) -> int:
    return max(_GROUPED, int(n**0.5))


def _whole_height(n: int) -> int:
    return max(16, _BLOCK_BYTES // (4 * n))


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
    largest by absolute value (above rounding). The dense matrix never exists.

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
    Exact without a low-rank part, up to some thousands of columns, and in
    rows that the sparse parts fill: these are made whole, save that the
    low-rank part is left out where the lengths of its two vectors leave an
    entry no chance. Of the others, rows whose low-rank parts point the
    same way make a group, and share a list of some thousands of columns:
    those of the largest mean square of their low-rank parts, by the few
    directions that the group has most of. An entry of the sparse parts
    outside that list is looked at wherever the lengths of its two vectors
    leave it a chance, so none of these is missed; one of the low-rank part
    alone is missed where its column is on no list. All values are exact, of
    all directions. `benchmarks.collapse` measures the recall.

    A graph (HNSW) would answer each row by itself, by a walk in memory for
    which NumPy has no kernel, and knows no largest negative product; a list
    for many rows makes of nearly all work a dense product. That stays in
    single precision: BLAS has no faster one of 8 or 16 bits for CPUs at
    large, and few directions for the choice save more.

    Time grows as n^1.5 r for the lists, and with the products of pairs of
    entries in A's rows.
    """
    report = on_progress or (lambda _: None)
    parts = _Parts(matrix, tail, row_scale, column_scale, added, left, right, n_neighbours)
    pieces: dict[int, Entries] = {}

    def fill(index: int) -> None:
        group = groups[index]
        if not parts.rank:
            entries = parts.stored(group)
        elif group.n_columns == parts.n:
            entries = parts.whole(group, n_neighbours)
        else:
            entries = parts.listed(group, n_neighbours)
        pieces[index] = parts.without_rounding(entries.largest(n_neighbours), group.rows)

    with threadpool_limits(1, user_api="blas"):
        groups = list(parts.groups(n_neighbours))
        on_threads(fill, range(len(groups)), n_threads=n_threads, report=report)
    rows = [group.rows for group in groups]
    return joined(rows, [pieces.pop(index) for index in range(len(groups))], n=parts.n)


@dataclass(frozen=True)
class _Group:
    """Rows that are made together, and how many columns their list has."""

    rows: np.ndarray
    n_columns: int


class _Parts:
    """The parts that W is the sum of: one sparse product, and one of dense vectors."""

    def __init__(
        self,
        matrix: sparse.csr_array,
        tail: float,
        row_scale: np.ndarray,
        column_scale: np.ndarray,
        added: sparse.csr_array | None,
        left: np.ndarray,
        right: np.ndarray,
        n_neighbours: int,
    ) -> None:
        self.n = matrix.shape[1]
        self.rank = len(left)
        row_scale = (tail * row_scale).astype(np.float32)
        column_scale = column_scale.astype(np.float32)
        items = matrix.T.tocsr().astype(np.float32)
        squares = np.asarray(items.multiply(items).sum(axis=1), dtype=np.float32)
        self._lengths = [(np.abs(row_scale * squares**0.5), np.abs(column_scale * squares**0.5))]
        items.data *= np.repeat(row_scale, np.diff(items.indptr))
        users = matrix.astype(np.float32)
        users.data *= column_scale[users.indices]
        met = np.zeros(items.nnz + 1, dtype=np.int64)
        np.cumsum(np.diff(users.indptr)[items.indices], out=met[1:])
        self._n_met = np.diff(met[items.indptr])
        if added is not None:
            # As one product, so that a place that both have is found once.
            unit = sparse.eye_array(self.n, dtype=np.float32, format="csr")
            users = sparse.vstack([users, unit], format="csr", dtype=np.float32)
            self._n_met += np.diff(added.indptr)
        self._items, self._added, self._users = items, added, users
        self._n_met = np.minimum(self._n_met, self.n)
        parts = [items, users] if added is None else [items, users, added]
        # A bound is simple where all terms are on one side of zero.
        self._is_bounded = bool(len(left)) and self.n >= max(
            _BOUNDED_FROM, _BOUNDED_PER_NEIGHBOUR * n_neighbours
        )
        self._is_bounded &= all(part.data.min(initial=0.0) >= 0 for part in parts)
        # Each direction is as long on both sides: the bound by lengths is the tighter for it.
        of_left, of_right = (np.sqrt(_squares(part.T)) for part in (left, right))
        used = (of_left > 0) & (of_right > 0)
        balance = np.sqrt(np.divide(of_right, of_left, out=np.ones(self.rank), where=used))
        self._left = np.multiply(left.T, balance, order="C", dtype=np.float32)
        self._right = np.divide(right.T, balance, order="C", dtype=np.float32)
        self._left[:, ~used] = self._right[:, ~used] = 0.0
        self._left_lengths, self._right_lengths = (
            np.sqrt(_squares(part.T)).astype(np.float32) for part in (self._left, self._right)
        )
        self._lengths.append((self._left_lengths, self._right_lengths))
        # Columns in the order of their lengths, so that the first are those of the longest
        # vectors; `_column_of` says where a row's own is, `_named` which one a column is.
        self._column_of = self._named = np.arange(self.n, dtype=np.int32)
        if self._is_bounded:
            self._named = np.argsort(-self._right_lengths, kind="stable").astype(np.int32)
            self._column_of = np.empty_like(self._named)
            self._column_of[self._named] = np.arange(self.n, dtype=np.int32)
            self._users.indices = self._column_of[self._users.indices]
            self._users.has_sorted_indices = False
            self._right = self._right[self._named]
            self._right_lengths = self._right_lengths[self._named]
        leading = np.argsort(-of_left * of_right, kind="stable")[:_LEADING]
        self._leading = np.ascontiguousarray(self._right[:, leading])
        turned = self._left[:, leading]
        turned /= np.maximum(np.sqrt(_squares(turned.T)), np.finfo(np.float32).tiny)[:, None]
        self._turned = turned

    def groups(self, n_neighbours: int) -> Iterator[_Group]:
        """Cut the rows into those that are made together."""
        n_listed = _n_listed(self.n, self.rank, n_neighbours)
        together = [np.arange(self.n)]
        if n_listed < self.n:
            together = list(_halved(self._turned, together[0], _group_height(self.n)))
        height = _whole_height(max(1, self.n // _FIRST if self._is_bounded else self.n))
        for rows in together:
            # Many entries of the sparse parts cost more one by one than a list saves.
            if n_listed < self.n and _WHOLE_FROM * self._n_met[rows].mean() < self.n:
                yield _Group(rows, n_listed)
            else:
                for start in range(0, len(rows), height):
                    yield _Group(rows[start : start + height], self.n)

    def columns_of(self, group: _Group) -> np.ndarray:
        """Return the columns that are looked at for all rows of a group, ascending."""
        rows = self._turned[group.rows]
        values, vectors = np.linalg.eigh((rows.T @ rows).astype(np.float64))
        most = (vectors * np.sqrt(np.maximum(values, 0.0)))[:, -_OF_GROUP:]
        expected = np.square(self._leading @ most.astype(np.float32)).sum(axis=1)
        border = np.partition(expected, self.n - group.n_columns)[self.n - group.n_columns]
        return np.flatnonzero(expected >= border)[: group.n_columns]

    def stored(self, group: _Group) -> Entries:
        """Return the entries of some rows where nothing is dense."""
        found = []
        for part, product in self._products(group.rows):
            row = np.repeat(np.arange(part.start, part.stop), np.diff(product.indptr))
            keep = (product.indices != self._column_of[group.rows[row]]) & (product.data != 0)
            found.append((row[keep], product.indices[keep], product.data[keep]))
        return Entries.of(concatenated(found), len(group.rows))

    def whole(self, group: _Group, n_neighbours: int) -> Entries:
        """Return of some rows the `n_neighbours` largest of all entries."""
        found = self._bounded(group.rows, n_neighbours) if self._is_bounded else None
        if found is None:
            found = self._unbounded(group.rows, n_neighbours)
        return self._named_entries(found, len(group.rows)).largest(n_neighbours)

    def _unbounded(self, rows: np.ndarray, n_neighbours: int) -> list[Found]:
        """Return entries of some rows among which the largest are."""
        found = []
        height = _whole_height(self.n)
        for start in range(0, len(rows), height):
            block = rows[start : start + height]
            low_rank = self._left[block] @ self._right.T
            for part, of_part in dense_products(self._factors(block), self._users):
                of_part += low_rank[part]
                of_part[np.arange(len(of_part)), self._column_of[block[part]]] = 0.0
                largest, _ = largest_of(of_part, n_neighbours)
                found.append(largest.found(start + part.start))
        return found

    def _bounded(self, rows: np.ndarray, n_neighbours: int) -> list[Found] | None:
        """Return the same, the low-rank part made in the first columns and where it may matter.

        Elsewhere it is at most the product of the lengths of its vectors, and
        leaves an entry no chance. None where too many have one.
        """
        n_first = self.n // _FIRST
        lengths = self._left_lengths[rows]
        lengths = np.maximum(lengths, np.float32(1e-6) * lengths.max() or np.float32(1.0))
        # To rows of one length, each column adds at most as much as to any other.
        left = self._left[rows] / lengths[:, None]
        factors = self._factors(rows)
        factors.data /= np.repeat(lengths, np.diff(factors.indptr))
        low_rank = left @ self._right[:n_first].T
        found, n_beyond = [], 0
        for part, sums in dense_products(factors, self._users):
            first = sums[:, :n_first] + low_rank[part]
            own = self._column_of[rows[part]]
            is_first = np.flatnonzero(own < n_first)
            first[is_first, own[is_first]] = 0.0
            sums[np.arange(len(own)), own] = -np.inf
            among_first, bound = reaching(first, n_neighbours)
            row, column, value = self._with_beyond(
                sums[:, n_first:], among_first, bound, left[part], n_neighbours
            )
            n_beyond += len(row) - len(among_first.values)
            if n_beyond > self.n // _BEYOND * max(part.stop, len(rows) // 16):
                return None
            value *= lengths[part][row]
            found.append((row + part.start, column, value))
        return found

    def _with_beyond(
        self,
        sums: np.ndarray,
        among_first: Entries,
        bound: np.ndarray,
        left: np.ndarray,
        n_neighbours: int,
    ) -> Found:
        """Return entries of few rows among which the largest are.

        Those of the first columns that reach `bound`, as `n_neighbours` do, and
        those beyond that may; `sums` are the sparse parts beyond.
        """
        n_first = self.n // _FIRST
        reach = self._right_lengths[n_first:]
        highest = sums + reach
        found = [among_first.found()]
        for row, (begin, end) in enumerate(itertools.pairwise(among_first.indptr.tolist())):
            of_row = highest[row]
            column = np.flatnonzero(of_row >= bound[row])
            at_most = of_row[column]
            # The n-th largest is at least the n-th largest of what each is at least.
            at_least = np.concatenate(
                [np.abs(among_first.values[begin:end]), at_most - 2 * reach[column]]
            )
            if len(at_least) > n_neighbours:
                nth = np.partition(at_least, -n_neighbours)[-n_neighbours]
                column = column[at_most >= nth]
            value = self._right.take(column + n_first, axis=0) @ left[row]
            value += sums[row].take(column)
            found.append((np.full(len(column), row), column + n_first, value))
        return concatenated(found)

    def listed(self, group: _Group, n_neighbours: int) -> Entries:
        """Return of some rows the entries that may be among the largest.

        Of the listed columns the `n_neighbours` largest, and those of the
        sparse parts in other columns that are as large.
        """
        rows, columns = group.rows, self.columns_of(group)
        height, width = len(rows), len(columns)
        place = np.full(self.n, width)
        place[columns] = np.arange(width)
        # One column more takes what belongs to no listed column.
        values = np.empty((height, width + 1), dtype=np.float32)
        values[:, width] = 0.0
        np.matmul(self._left[rows], self._right[columns].T, out=values[:, :width])
        found = []
        for part, product in self._products(rows):
            of_part = values[part]
            places = place[product.indices]
            starts = np.arange(len(of_part)) * (width + 1)
            of_part.ravel()[places + np.repeat(starts, np.diff(product.indptr))] += product.data
            of_part[np.arange(len(of_part)), place[self._column_of[rows[part]]]] = 0.0
            of_part[:, width:] = 0.0
            largest, bound = largest_of(of_part, n_neighbours)
            row, listed, value = largest.found(part.start)
            found.append((row, columns[listed], value))
            row, column, value = self._beyond(rows[part], product, places == width, bound)
            found.append((row + part.start, column, value))
        return self._named_entries(found, height).largest(n_neighbours)

    def _named_entries(self, found: list[Found], n_rows: int) -> Entries:
        row, column, value = concatenated(found)
        return Entries.of((row, self._named[column], value), n_rows)

    def _factors(self, rows: np.ndarray) -> sparse.csr_array:
        """Return some rows of what times `_users` is the sparse parts."""
        items = self._items[rows]
        if self._added is None:
            return items
        return sparse.csr_array(sparse.hstack([items, self._added[rows]], format="csr"))

    def _products(self, rows: np.ndarray) -> Iterator[tuple[slice, sparse.csr_array]]:
        """Yield the sparse parts of some rows, few rows at a time."""
        most = max(_ENTRIES_AT_ONCE, self.n // 2)
        factors = self._factors(rows)
        for part in runs(self._n_met[rows], most, len(rows)):
            yield part, factors[part] @ self._users

    def _beyond(
        self, rows: np.ndarray, product: sparse.csr_array, is_beyond: np.ndarray, bound: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return row, column and value of entries of the sparse parts that reach a bound.

        Each has the low-rank part added, which is at most the product of the
        lengths of its vectors.
        """
        counts = np.diff(product.indptr)
        reach = self._right_lengths[product.indices]
        reach *= np.repeat(self._left_lengths[rows], counts)
        reach += np.abs(product.data)
        is_beyond &= reach >= np.repeat(bound, counts)
        chosen = np.flatnonzero(is_beyond)
        column, value = product.indices[chosen], product.data[chosen]
        edges = np.searchsorted(chosen, product.indptr)
        row = np.repeat(np.arange(len(rows)), np.diff(edges))
        for index, (begin, end) in enumerate(itertools.pairwise(edges.tolist())):
            vectors = self._right.take(column[begin:end], axis=0)
            value[begin:end] += vectors @ self._left[rows[index]]
        keep = (np.abs(value) >= bound[row]) & (column != self._column_of[rows[row]])
        return row[keep], column[keep], value[keep]

    def without_rounding(self, entries: Entries, rows: np.ndarray) -> Entries:
        """Return entries of some rows without those that are rounding."""
        if not self.rank:
            return entries
        row = np.repeat(rows, np.diff(entries.indptr))
        floor = np.zeros(len(row), dtype=np.float32)
        for of_row, of_column in self._lengths:
            floor += of_row[row] * of_column[entries.columns]
        return entries.only(np.abs(entries.values) > _NEGLIGIBLE * floor)


def _halved(vectors: np.ndarray, index: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Halve vectors across the direction in which they differ most until each part is small."""
    if len(index) <= size:
        yield np.sort(index)
        return
    part = vectors[index]
    sample = part[:: max(1, len(part) // _SAMPLED)]
    sample = sample - sample.mean(axis=0)
    _, directions = np.linalg.eigh((sample.T @ sample).astype(np.float64))
    along = part @ directions[:, -1].astype(np.float32)
    # Whole parts on one side, so that all but one are full.
    half = -(-len(index) // size) // 2 * size
    order = np.argpartition(along, half)
    for side in (order[:half], order[half:]):
        yield from _halved(vectors, index[side], size)


def _squares(vectors: np.ndarray) -> np.ndarray:
    """Return the sums of squares of the columns, in double precision."""
    return np.asarray(np.einsum("ki,ki->i", vectors, vectors, dtype=np.float64))
