"""Kernels. Pure: no I/O, no clock, no logging."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg
from scipy import sparse
from threadpoolctl import threadpool_limits

from reckeeper.errors import DataError

_DENSE_CELLS = 1 << 20
"""Up to so many cells a matrix is decomposed by LAPACK, in double precision."""

_MAX_GROWTH = 1e6
"""By how much a Chebyshev filter may raise the largest direction over the last that is kept:
above, single precision loses the last under the first."""

_CHECKED_BELOW = 1e-2
"""Tolerances up to here ask for every one of the leading triplets, equal ones too."""

_NEGLIGIBLE = 1e-6
"""What is smaller than this share of the largest is rounding, in single precision."""


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
        Rows with fewer than k allowed items are filled up with -1. Of equal
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
        _parallel(select, blocks, n_threads=n_threads)
    return top


def row_blocks(
    n_rows: int, n_columns: int, *, itemsize: int = 4, limit_bytes: int = 64 << 20
) -> Iterator[slice]:
    """Cut rows into blocks whose dense form stays under a limit; at least one row each."""
    height = max(1, limit_bytes // max(1, n_columns * itemsize))
    for start in range(0, n_rows, height):
        yield slice(start, min(start + height, n_rows))


def check_finite(matrix: sparse.csr_array) -> None:
    """Refuse a matrix with a value that is no finite number.

    Raises
    ------
    DataError
        It names the first such value with its row and column.
    """
    bad = np.flatnonzero(~np.isfinite(matrix.data))
    if len(bad):
        row = int(np.searchsorted(matrix.indptr, bad[0], side="right")) - 1
        raise DataError(
            f"The matrix has the value {matrix.data[bad[0]]} at row {row}, column "
            f"{matrix.indices[bad[0]]}: give only finite numbers."
        )


class SparseOperator:
    """A sparse matrix cut into blocks of rows, so that products run on all cores.

    SciPy's own products run on one core, but without the interpreter's lock:
    blocks with equal numbers of entries go to threads. No values are copied.

    Parameters
    ----------
    matrix : scipy.sparse.csr_array of float32, shape (m, n)
    n_threads : int, optional
        All cores by default.
    """

    def __init__(self, matrix: sparse.csr_array, *, n_threads: int | None = None) -> None:
        self.shape: tuple[int, int] = matrix.shape
        self._n_threads = n_threads
        n_blocks = 4 * (n_threads or _n_cores())
        indptr = matrix.indptr
        cuts = np.searchsorted(indptr, np.linspace(0, matrix.nnz, n_blocks + 1)[1:-1])
        edges = np.unique([0, *cuts, self.shape[0]])
        self._blocks = []
        for start, stop in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
            first, last = indptr[start], indptr[stop]
            # Filled afterwards: the constructor copies pieces of much larger arrays.
            block = sparse.csr_array((stop - start, self.shape[1]), dtype=matrix.dtype)
            block.data, block.indices = matrix.data[first:last], matrix.indices[first:last]
            block.indptr = indptr[start : stop + 1] - first
            self._blocks.append((slice(start, stop), block))

    def __matmul__(self, dense: np.ndarray) -> np.ndarray:
        """Return the product with a dense matrix of shape (n, k), as float32 (m, k)."""
        product = np.empty((self.shape[0], dense.shape[1]), dtype=np.float32)
        dense = np.ascontiguousarray(dense)

        def multiply(block: tuple[slice, sparse.csr_array]) -> None:
            rows, part = block
            product[rows] = part @ dense

        _parallel(multiply, self._blocks, n_threads=self._n_threads)
        return product


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
        Of the sample of columns; the result does not depend on it.
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
    n_sampled = 2048
    if n_neighbours * 4 < n_items and 4 * n_sampled < n_items:
        bound = _row_bounds(
            filtered, scale, floor, n_neighbours, n_sampled=n_sampled, seed=seed,
            n_threads=n_threads,
        )  # fmt: skip
    height = max(256, min(2048, -(-n_items // 8)))
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
        _parallel(fill, pairs, n_threads=n_threads, report=lambda done: report(0.95 * done))

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

    _parallel(fill, range(len(blocks)), n_threads=n_threads, report=report)
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

    def _dense(self, product: Any, left: np.ndarray, right: np.ndarray) -> np.ndarray:
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
    n_sampled: int,
    seed: int,
    n_threads: int | None,
) -> np.ndarray:
    """Return for each row a value that probably somewhat more than `n_neighbours` exceed."""
    n_items = len(scale)
    columns = np.sort(np.random.default_rng(seed).choice(n_items, size=n_sampled, replace=False))
    expected = n_neighbours * n_sampled / n_items
    rank = min(n_sampled, int(expected + 3 * np.sqrt(expected)) + 1)
    bound = floor.copy()

    def fill(block: slice) -> None:
        values = filtered.rows(np.arange(block.start, block.stop), columns) * scale[columns]
        sampled = np.partition(values, n_sampled - rank, axis=1)[:, n_sampled - rank]
        bound[block] = np.maximum(sampled, floor[block])

    blocks = list(row_blocks(n_items, n_sampled, limit_bytes=16 << 20))
    with threadpool_limits(1, user_api="blas"):
        _parallel(fill, blocks, n_threads=n_threads)
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


@dataclass(frozen=True)
class TruncatedSvd:
    """The leading part of a singular value decomposition A ≈ U diag(s) V.

    Attributes
    ----------
    components : ndarray of float32, shape (k, n)
        Right singular vectors V, orthonormal rows. Each is fixed up to its
        sign (and rotation, where singular values are equal).
    singular_values : ndarray of float64, shape (k,)
        In descending order; the norms of A v.
    residual : float
        Largest of ‖AᵀA v - s² v‖ / s₁² (or its mirror AAᵀ) over the triplets.
    """

    components: np.ndarray
    singular_values: np.ndarray
    residual: float


def truncated_svd(
    matrix: sparse.csr_array,
    n_components: int,
    *,
    tolerance: float = 1e-3,
    oversampling: float = 2.1,
    max_iterations: int = 20,
    start: np.ndarray | None = None,
    seed: int = 0,
    n_threads: int | None = None,
    on_progress: Callable[[float], None] | None = None,
) -> TruncatedSvd:
    """Decompose a sparse matrix into its leading singular triplets.

    A block Lanczos process with full orthogonalisation makes a basis of the
    smaller side; Chebyshev-filtered subspace iterations sharpen it until the
    residuals are small. Works in single precision, projections and singular
    values in double; a small matrix goes to LAPACK in double throughout.

    Parameters
    ----------
    matrix : scipy.sparse.csr_array of float, shape (m, n)
        Finite. Not modified.
    n_components : int
        k, at least 1; a matrix that has fewer gives min(m, n).
    tolerance : float
        The residual, relative to s₁², under which the iteration stops: an
        upper bound of the error of each s², relative to s₁²; the true error
        is usually its square.
    oversampling : float
        Size of the first basis, as a multiple of k, from 1.1 on. More costs
        memory and orthogonalisation, and saves iterations.
    max_iterations : int
        Filtered iterations at most; reaching it is no error, `residual` tells.
    start : ndarray of float, shape (any, n), optional
        Right singular vectors of a similar matrix: they replace the Lanczos
        process.
    seed : int
        Of the random start.
    n_threads : int, optional
        For sparse products; all cores by default.
    on_progress : callable, optional
        Called between steps with the fraction done, in [0, 1]; what it raises
        ends the work.

    Returns
    -------
    TruncatedSvd

    Raises
    ------
    DataError
        A value is not finite (its position is named), or k < 1.

    Notes
    -----
    O(nnz k) a product and O(min(m, n) k²) an orthogonalisation; holds the
    matrix twice in single precision and about 2 k (m + n) numbers.
    The same bits for the same seed, number of threads and machine.
    Golub & Underwood, "The block Lanczos method", 1977; Zhou, Saad, Tiago &
    Chelikowsky, J. Comput. Phys. 219, 2006 (the filter and its scaling).
    """
    if n_components < 1:
        raise DataError(f"n_components must be at least 1, not {n_components}.")
    check_finite(matrix)
    done = 0.0

    def report(fraction: float) -> None:
        nonlocal done
        done = max(done, min(float(fraction), 1.0))  # a residual may rise between steps
        if on_progress:
            on_progress(done)

    n_rows, n_columns = matrix.shape
    k = min(n_components, n_rows, n_columns)
    largest = float(np.abs(matrix.data).max(initial=0.0))
    if not k or largest == 0.0:
        report(1.0)
        return TruncatedSvd(np.eye(k, n_columns, dtype=np.float32), np.zeros(k), 0.0)
    size = min(n_rows, n_columns)
    n_vectors = k + max(8, k // 16)
    if n_rows * n_columns <= _DENSE_CELLS or 2 * n_vectors > size:
        whole = _dense_svd(matrix, k)
        report(1.0)
        return whole

    # Scaled, so that squares neither overflow nor vanish.
    scaled = sparse.csr_array(
        ((matrix.data / largest).astype(np.float32), matrix.indices, matrix.indptr),
        shape=matrix.shape,
    )
    is_wide = n_rows < n_columns
    turned = scaled.T.tocsr()
    inner, outer = (turned, scaled) if is_wide else (scaled, turned)
    inner_operator = SparseOperator(inner, n_threads=n_threads)
    outer_operator = SparseOperator(outer, n_threads=n_threads)
    random = np.random.default_rng(seed)

    residual = np.inf
    if start is None:
        basis, residual = _lanczos(
            inner_operator,
            outer_operator,
            k=k,
            n_vectors=n_vectors,
            oversampling=oversampling,
            random=random,
            report=lambda fraction: report(0.5 * fraction),
        )
    else:
        given = start[:n_vectors].T.astype(np.float32)
        basis = SparseOperator(scaled, n_threads=n_threads) @ given if is_wide else given
        fill = random.standard_normal((size, n_vectors - basis.shape[1]), dtype=np.float32)
        basis = _orthonormal(np.hstack([basis, fill]), random=random)
    n_checks = 0
    while True:
        if residual <= tolerance:
            vectors = basis[:, :k]
            images = inner_operator @ vectors
        else:
            vectors, images, residual = _filtered_iteration(
                inner_operator,
                outer_operator,
                basis,
                k=k,
                tolerance=tolerance,
                max_iterations=max_iterations,
                random=random,
                report=lambda fraction: report(0.5 + 0.5 * fraction),
            )
        # A space that was made from few vectors may know few copies of equal singular
        # values, with no residual to show for it.
        if tolerance > _CHECKED_BELOW or n_checks == k:
            break
        missed = _missed(inner_operator, outer_operator, vectors, images, random=random)
        if missed is None:
            break
        basis, residual, n_checks = np.hstack([vectors, missed]), np.inf, n_checks + 1
    norms = np.sqrt(np.einsum("ij,ij->j", images, images, dtype=np.float64))
    order = np.argsort(-norms, kind="stable")
    if is_wide:
        # The images of left vectors are right vectors times their singular values.
        vectors = images / np.maximum(norms, np.finfo(np.float32).tiny).astype(np.float32)
        # Their rounding grows as s₁/s: from here on they are not orthogonal by themselves.
        if norms.min() <= 0.03 * norms.max():
            vectors = _orthonormal(vectors[:, order], random=random)
            order, norms = np.arange(k), norms[order]
    report(1.0)
    return TruncatedSvd(
        np.ascontiguousarray(vectors[:, order].T), norms[order] * largest, float(residual)
    )


def _missed(
    inner: SparseOperator,
    outer: SparseOperator,
    vectors: np.ndarray,
    images: np.ndarray,
    *,
    random: np.random.Generator,
) -> np.ndarray | None:
    """Return orthonormal vectors beside those found that rise above the last of them, or None."""
    size, k = vectors.shape
    found = np.ascontiguousarray(vectors)
    beside = random.standard_normal((size, min(32, size - k)), dtype=np.float32)
    for _ in range(4):
        beside = _orthonormal(beside - found @ (found.T @ beside), random=random, against=found)
        image = inner @ beside
        values, rotation = np.linalg.eigh((image.T @ image).astype(np.float64))
        beside, last = beside @ rotation.astype(np.float32), beside
        beside = outer @ (inner @ beside)
    last = last @ rotation.astype(np.float32)
    squares = np.einsum("ij,ij->j", images, images, dtype=np.float64)
    # Where the least is no more than rounding, so is what rises above it.
    above = values > (1 + 1e-3) * squares.min() + _NEGLIGIBLE * squares.max()
    return last[:, above] if above.any() else None


def _dense_svd(matrix: sparse.csr_array, k: int) -> TruncatedSvd:
    dense = matrix.astype(np.float64)
    if matrix.shape[0] * matrix.shape[1] <= _DENSE_CELLS // 4:
        _, values, components = scipy.linalg.svd(dense.toarray(), full_matrices=False)
        return TruncatedSvd(components[:k].astype(np.float32), values[:k], 0.0)
    # The Gram matrix of the smaller side has all directions, and is far smaller.
    is_wide = matrix.shape[0] < matrix.shape[1]
    largest = float(np.abs(dense.data).max())
    dense.data /= largest
    gram = (dense @ dense.T if is_wide else dense.T @ dense).toarray()
    squares, vectors = scipy.linalg.eigh(
        gram, subset_by_index=[len(gram) - k, len(gram) - 1], overwrite_a=True
    )
    values, vectors = np.sqrt(np.maximum(squares[::-1], 0.0)), vectors[:, ::-1]
    if is_wide:
        # Images of null vectors are rounding: too short to count, they are replaced.
        vectors = _orthonormal(
            ((dense.T @ vectors) / np.maximum(values, _NEGLIGIBLE * values[0])).astype(np.float32),
            random=np.random.default_rng(0),
        )
    return TruncatedSvd(np.ascontiguousarray(vectors.T.astype(np.float32)), values * largest, 0.0)


def _lanczos(
    inner: SparseOperator,
    outer: SparseOperator,
    *,
    k: int,
    n_vectors: int,
    oversampling: float,
    random: np.random.Generator,
    report: Callable[[float], None],
) -> tuple[np.ndarray, float]:
    """Return Ritz vectors of BᵀB, B the `inner` operator, from one block Krylov space.

    And the largest residual of the first k, relative to the largest value.
    """
    size = outer.shape[0]
    # Narrow blocks: of two bases of one size, the one with more steps knows more.
    block = min(64, max(8, n_vectors // 16))
    # Whole blocks: what a cut block leaves out, the residual below does not see.
    n_blocks = max(24, -(-int(max(oversampling, 1.1) * n_vectors) // block))
    n_basis = min(size, n_blocks * block)
    basis = np.empty((size, n_basis), dtype=np.float32, order="F")
    projected = np.zeros((n_basis, n_basis))
    current = outer @ (inner @ random.standard_normal((size, block), dtype=np.float32))
    current = _orthonormal(current, random=random)
    done = 0
    while True:
        width = min(current.shape[1], n_basis - done)
        basis[:, done : done + width] = current[:, :width]
        done += width
        image = outer @ (inner @ basis[:, done - width : done])
        known = basis[:, :done]
        overlap = known.T @ image
        projected[:done, done - width : done] = overlap
        image -= known @ overlap
        report(done / n_basis)
        if done == n_basis:
            break
        current = _orthonormal(
            image[:, : n_basis - done],  # of the whole space no more is left
            random=random,
            against=known,
            scale=float(np.abs(overlap).max()),
        )
    upper = np.triu(projected)
    symmetric = upper + np.triu(projected, 1).T
    values, rotation = scipy.linalg.eigh(
        symmetric, subset_by_index=[n_basis - n_vectors, n_basis - 1], check_finite=False
    )
    rotation = rotation[:, ::-1]
    # What the last block of the basis leaves outside of it is all that is left over.
    rest = (image.T @ image).astype(np.float64)
    last = rotation[n_basis - width :, :k]
    squares = np.einsum("ij,ik,kj->j", last, rest, last, optimize=True)
    residual = float(np.sqrt(np.maximum(squares, 0.0).max()) / max(values[-1], 1e-300))
    return np.asarray(basis @ rotation.astype(np.float32)), residual


def _filtered_iteration(
    inner: SparseOperator,
    outer: SparseOperator,
    basis: np.ndarray,
    *,
    k: int,
    tolerance: float,
    max_iterations: int,
    random: np.random.Generator,
    report: Callable[[float], None],
) -> tuple[np.ndarray, np.ndarray, float]:
    """Sharpen an orthonormal basis; return k Ritz vectors, their images, the residual."""
    first_residual = None
    for iteration in range(max_iterations + 1):
        image = inner @ basis
        values, rotation = np.linalg.eigh((image.T @ image).astype(np.float64))
        values = np.maximum(values[::-1], 0.0)
        rotation = rotation[:, ::-1].astype(np.float32)
        basis = basis @ rotation
        image = image @ rotation
        product = outer @ image
        difference = product[:, :k] - basis[:, :k] * values[:k].astype(np.float32)
        norms = np.sqrt(np.einsum("ij,ij->j", difference, difference, dtype=np.float64))
        residual = float(norms.max() / values[0])
        if residual <= tolerance or iteration == max_iterations:
            break
        first_residual = first_residual or residual
        report(np.log(residual / first_residual) / np.log(tolerance / first_residual))
        basis = _chebyshev(inner, outer, basis, product, values)
        basis = _orthonormal(basis, random=random)
    return basis[:, :k], image[:, :k], residual


def _chebyshev(
    inner: SparseOperator,
    outer: SparseOperator,
    basis: np.ndarray,
    product: np.ndarray,
    values: np.ndarray,
) -> np.ndarray:
    """Filter a basis by a Chebyshev polynomial, small below the smallest Ritz value.

    Its degree is the largest that single precision bears. `product` is the
    operator's with the basis, and is overwritten.
    """
    half = max(float(values[-1]), 1e-9 * float(values[0])) / 2
    reach = (float(values[0]) - half) / half
    degree = int(np.clip(np.arccosh(_MAX_GROWTH) / np.arccosh(max(reach, 1.0001)), 2, 8))
    ratio = 1 / reach
    step = ratio
    previous = basis
    product -= np.float32(half) * basis
    product *= np.float32(step / half)
    current = product
    for _ in range(degree - 1):
        following = 1 / (2 / ratio - step)
        image = outer @ (inner @ current)
        image -= np.float32(half) * current
        image *= np.float32(2 * following / half)
        image -= np.float32(step * following) * previous
        previous, current, step = current, image, following
    return current


def _orthonormal(
    vectors: np.ndarray,
    *,
    random: np.random.Generator,
    against: np.ndarray | None = None,
    scale: float | None = None,
) -> np.ndarray:
    """Orthonormalise columns by Cholesky QR, twice; by Householder where that is not safe.

    Columns that are rounding (below `_NEGLIGIBLE` of `scale`, or of their own
    length before they were made orthogonal to the ones before) are replaced
    by random ones.

    Parameters
    ----------
    vectors : ndarray of float32, shape (n, k)
        n ≥ k (with `against`, n ≥ both together).
    against : ndarray of float32, shape (n, j), optional
        Orthonormal columns to which the result is orthogonal too; `vectors`
        have been projected once already.
    scale : float, optional
        Length that counts as large.
    """
    lengths = np.sqrt(np.einsum("ij,ij->j", vectors, vectors, dtype=np.float64))
    is_rounding = lengths <= _NEGLIGIBLE * (lengths.max() if scale is None else scale)
    result = vectors / np.where(is_rounding, 1.0, lengths).astype(np.float32)
    if is_rounding.any():
        result[:, is_rounding] = _random_columns(random, len(vectors), int(is_rounding.sum()))
    for n_done in range(8):
        if against is not None and (n_done or is_rounding.any()):
            result -= against @ (against.T @ result)
        factor = _cholesky(result)
        if factor is None:
            result = _householder(result, random=random, against=against)
            continue
        result = result @ np.linalg.inv(factor).T.astype(np.float32)
        # Twice is enough, unless the second time left little more than rounding of a column.
        if n_done and np.diagonal(factor).min() > 0.5:
            break
    return np.asarray(result)


def _cholesky(vectors: np.ndarray) -> np.ndarray | None:
    """Return the Cholesky factor of the Gram matrix, or None if it is ill-conditioned."""
    gram = (vectors.T @ vectors).astype(np.float64)
    try:
        factor: np.ndarray = np.linalg.cholesky(gram)
    except np.linalg.LinAlgError:
        return None
    diagonal = np.diagonal(factor)
    # Single precision gives the Gram matrix seven digits: its factor three.
    return factor if diagonal.min() > 2e-3 * diagonal.max() else None


def _householder(
    vectors: np.ndarray, *, random: np.random.Generator, against: np.ndarray | None
) -> np.ndarray:
    q, r = scipy.linalg.qr(vectors.astype(np.float64), mode="economic", check_finite=False)
    diagonal = np.abs(np.diagonal(r))
    lost = diagonal <= 10 * _NEGLIGIBLE * max(diagonal.max(), np.finfo(np.float64).tiny)
    if lost.any():
        q[:, lost] = _random_columns(random, len(vectors), int(lost.sum()))
        for _ in range(2):
            if against is not None:
                q -= against @ (against.T @ q)
            q, _r = scipy.linalg.qr(q, mode="economic", check_finite=False)
    return np.asarray(q.astype(np.float32))


def _random_columns(random: np.random.Generator, n: int, k: int) -> np.ndarray:
    return random.standard_normal((n, k), dtype=np.float32) / np.float32(np.sqrt(n))


def _n_cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # where the system has no such call
        return os.cpu_count() or 1


def _parallel(
    function: Callable[[Any], None],
    tasks: Sequence[Any],
    *,
    n_threads: int | None,
    report: Callable[[float], None] = lambda _: None,
) -> None:
    """Call a function on each task, on several threads; what it raises is raised here.

    `report` is called on the caller's thread with the fraction done; where it
    raises, what has not begun is left undone.
    """
    n_threads = min(n_threads or _n_cores(), len(tasks))
    if n_threads <= 1:
        for n_done, task in enumerate(tasks, 1):
            function(task)
            report(n_done / len(tasks))
        return
    pool = ThreadPoolExecutor(n_threads)
    try:
        for n_done, _ in enumerate(pool.map(function, tasks), 1):
            report(n_done / len(tasks))
    finally:
        pool.shutdown(cancel_futures=True)
