"""Singular value decompositions of sparse matrices."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.linalg
from scipy import sparse

from reckeeper.errors import DataError
from reckeeper.linalg.parallel import SparseOperator

_DENSE_CELLS = 1 << 20
"""Up to so many cells a matrix is decomposed by LAPACK, in double precision."""

_MAX_GROWTH = 1e6
"""By how much a Chebyshev filter may raise the largest direction over the last that is kept:
above, single precision loses the last under the first."""

_CHECKED_BELOW = 1e-2
"""Tolerances up to here ask for every one of the leading triplets, equal ones too."""

_NEGLIGIBLE = 1e-6
"""What is smaller than this share of the largest is rounding, in single precision."""


def bytes_needed(
    *,
    n_rows: int,
    n_columns: int,
    n_entries: int,
    n_components: int,
    oversampling: float = 2.1,
) -> int:
    """Return what `truncated_svd` holds at most, its matrix not counted.

    That is the matrix twice, its basis on the smaller side, and the iterates
    on both.

    Parameters
    ----------
    n_rows, n_columns, n_entries : int
        Size of the matrix, from 0 on.
    n_components : int
        At least 1.
    oversampling : float
        As for `truncated_svd`.
    """
    small, large = sorted((n_rows, n_columns))
    n_vectors = _n_vectors(n_components)
    if 2 * n_vectors > small:
        dense = 4 * small * small + 2 * n_components * (n_rows + n_columns)
        return 24 * n_entries + 8 * dense
    basis = min(small, max(24 * 64, int(oversampling * n_vectors) + 64))
    lanczos = small * (basis + 2 * n_vectors) + 8 * basis * basis
    iteration = n_vectors * (5 * small + 3 * large)
    return 24 * n_entries + 4 * max(lanczos, iteration)


def _n_vectors(n_components: int) -> int:
    """Return how many vectors are iterated on: some more than are asked for."""
    return n_components + max(8, n_components // 16)


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
        Draws the random start.
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
    n_vectors = _n_vectors(k)
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
