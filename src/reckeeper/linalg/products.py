"""Products of two sparse matrices, whose result is dense or not."""

import itertools
from collections.abc import Iterator

import numpy as np
from scipy import sparse
from scipy.sparse import _sparsetools

from reckeeper.linalg.parallel import n_cores, on_threads

_CACHED_BYTES = 4 << 20
"""Of the rows that are added up at once, so that they stay in a cache."""

_ROWS_AT_ONCE = 128
"""Rows of the matrix that are copied at once, to be added up."""

_LEAST_ROWS = 8
"""Rows that a thread takes, at least."""

_TERMS_AT_ONCE = 1 << 16
"""Terms of their sums that are added at once."""


def dense_product(
    rows: sparse.csr_array, matrix: sparse.csr_array, *, n_threads: int | None = None
) -> np.ndarray:
    """Return rows · matrix as a dense matrix.

    Parameters
    ----------
    rows : scipy.sparse.csr_array of float32, shape (m, k)
    matrix : scipy.sparse.csr_array of float32, shape (k, n)
    n_threads : int, optional
        All cores by default.

    Returns
    -------
    ndarray of float32, shape (m, n)

    Notes
    -----
    Linear in the terms of the sums and the cells of the result. SciPy's sparse
    product finds out first which cells there are, and takes three times as
    long; the sums are the same, in the same order.
    """
    product = np.zeros((rows.shape[0], matrix.shape[1]), dtype=np.float32)
    if len(product) == 1:
        _add_rows(product[0], matrix, rows.indices, factors=rows.data)
        return product
    height = max(_LEAST_ROWS, -(-rows.shape[0] // (4 * (n_threads or n_cores()))))
    parts = [slice(start, start + height) for start in range(0, rows.shape[0], height)]
    on_threads(
        lambda part: _add_product(product[part], rows[part], matrix), parts, n_threads=n_threads
    )
    return product


def _add_product(sums: np.ndarray, rows: sparse.csr_array, matrix: sparse.csr_array) -> None:
    """Add rows · matrix to dense rows."""
    for part in runs(_n_terms(rows, matrix), _TERMS_AT_ONCE, len(sums)):
        pairs = slice(int(rows.indptr[part.start]), int(rows.indptr[part.stop]))
        index, factors = rows.indices[pairs], rows.data[pairs]
        if part.stop - part.start == 1:
            _add_rows(sums[part.start], matrix, index, factors=factors)
            continue
        found = _Rows(matrix, index)
        bounds = (rows.indptr[part.start : part.stop + 1] - pairs.start).tolist()
        for row, (start, stop) in zip(sums[part], itertools.pairwise(bounds), strict=True):
            found.add(slice(start, stop), factors[start:stop], row)


def _n_terms(rows: sparse.csr_array, matrix: sparse.csr_array) -> np.ndarray:
    """Return how many terms each row of the product is the sum of, shape (m,)."""
    of_pairs = matrix.indptr[rows.indices + 1] - matrix.indptr[rows.indices]
    return np.diff(np.concatenate([[0], np.cumsum(of_pairs)])[rows.indptr])


def _add_rows(
    sums: np.ndarray, matrix: sparse.csr_array, index: np.ndarray, *, factors: np.ndarray
) -> None:
    """Add some rows of a matrix, each times its factor, to ``sums``, shape (n_columns,)."""
    for start in range(0, len(index), _ROWS_AT_ONCE):
        some = slice(start, start + _ROWS_AT_ONCE)
        _Rows(matrix, index[some]).add(slice(None), factors[some], sums)


class _Rows:
    """Copies of some rows of a matrix, one after the other.

    By the kernels of SciPy's own products: for one history, the checks and conversions
    around them take three times as long as they do.
    """

    def __init__(self, matrix: sparse.csr_array, index: np.ndarray) -> None:
        index = index.astype(matrix.indptr.dtype, copy=False)
        begins = matrix.indptr[index]
        self.indptr = np.zeros(len(index) + 1, dtype=begins.dtype)
        (matrix.indptr[index + 1] - begins).cumsum(out=self.indptr[1:])
        self.columns = np.empty(self.indptr[-1], dtype=matrix.indices.dtype)
        self._values = np.empty(self.indptr[-1], dtype=matrix.dtype)
        of_matrix = matrix.indptr, matrix.indices, matrix.data
        _sparsetools.csr_row_index(len(index), index, *of_matrix, self.columns, self._values)

    def add(self, some: slice, factors: np.ndarray, sums: np.ndarray) -> None:
        """Add some of them, each times its factor, to a dense row."""
        indptr = self.indptr[some.start : None if some.stop is None else some.stop + 1]
        # A matrix by rows is its transpose by columns.
        transpose = len(sums), len(factors), indptr, self.columns, self._values
        _sparsetools.csc_matvec(*transpose, factors, sums)


def dense_products(
    rows: sparse.csr_array, matrix: sparse.csr_array
) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield what rows · matrix is, dense, few rows at a time.

    To add each term where it belongs is far cheaper than to find out first
    which places there are.
    """
    height = max(1, _CACHED_BYTES // (4 * max(1, matrix.shape[1])))
    for start in range(0, rows.shape[0], height):
        part = slice(start, min(start + height, rows.shape[0]))
        sums = np.zeros((part.stop - start, matrix.shape[1]), dtype=np.float32)
        _add_product(sums, rows[part], matrix)
        yield part, sums


def sparse_product(rows: sparse.csr_array, matrix: sparse.csr_array) -> sparse.csr_array:
    """Return rows · matrix as a sparse matrix, where each row has few terms for its columns.

    Parameters
    ----------
    rows : scipy.sparse.csr_array of float32, shape (m, k)
    matrix : scipy.sparse.csr_array of float32, shape (k, n)

    Returns
    -------
    scipy.sparse.csr_array of float32, shape (m, n)
        With a value wherever there is a term; columns ascend.

    Notes
    -----
    O(t log t) for the t terms of a row, about 10 ns each, and 4 bytes for each column. SciPy's
    product takes as long for each column as for a term. One core.
    """
    indices, sums, lengths = [], [], []
    added = np.zeros(matrix.shape[1], dtype=np.float32)
    for part in runs(_n_terms(rows, matrix), _TERMS_AT_ONCE, rows.shape[0]):
        pairs = slice(int(rows.indptr[part.start]), int(rows.indptr[part.stop]))
        found, factors = _Rows(matrix, rows.indices[pairs]), rows.data[pairs]
        bounds = (rows.indptr[part.start : part.stop + 1] - pairs.start).tolist()
        for start, stop in itertools.pairwise(bounds):
            found.add(slice(start, stop), factors[start:stop], added)
            in_order = np.sort(found.columns[found.indptr[start] : found.indptr[stop]])
            is_new = np.ones(len(in_order), dtype=bool)
            np.not_equal(in_order[1:], in_order[:-1], out=is_new[1:])
            distinct = in_order[is_new].astype(np.int32, copy=False)
            sums.append(added[distinct])
            added[distinct] = 0.0
            indices.append(distinct)
            lengths.append(len(distinct))
    indptr = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    no_sums, no_indices = np.empty(0, dtype=np.float32), np.empty(0, dtype=np.int32)
    of_rows = (np.concatenate([no_sums, *sums]), np.concatenate([no_indices, *indices]), indptr)
    return sparse.csr_array(of_rows, shape=(rows.shape[0], matrix.shape[1]))


def runs(sizes: np.ndarray, most: int, most_items: int) -> Iterator[slice]:
    """Cut items into runs that hold no more than so many, or that are one item."""
    ends = np.cumsum(sizes)
    start = 0
    while start < len(sizes):
        before = ends[start - 1] if start else 0
        stop = int(np.searchsorted(ends, before + most, side="right"))
        stop = max(start + 1, min(stop, start + most_items))
        yield slice(start, stop)
        start = stop
