"""The two parts of W before it is made: what goes together, and what comes next."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from reckeeper import linalg
from reckeeper.matrix import Histories
from reckeeper.recipes.spectral import order
from reckeeper.recipes.spectral.factors import Factors, Weighted
from reckeeper.recipes.spectral.settings import SpectralSettings
from reckeeper.recipes.weighting import weigh

_POWER = 0.15
"""Power of an item's users that both sides of the whitening are divided by."""

WHITENED = 32
"""Components that the whitening takes, at most: with 128 it is no better, and costs more."""

_RIDGE = 100.0
"""The whitening's ridge, in units of the mean diagonal."""

_BEST = 20
"""Scores by which the two parts are made as large as each other."""

_ROWS_AT_ONCE = 128

_PRODUCTS = 200_000_000
_SAMPLE = (50, 400)
"""Histories by which the two parts are made as large as each other: as many as come to so many
products with the matrix, within limits."""

_SPARSE_COST = 8
"""What a multiplication of sparse matrices costs, in times of one by a dense matrix."""

DENSE_ROWS = 64
"""Rows that are multiplied densely at a time, so that they stay in a cache."""

BLOCK_BYTES = 32 << 20
"""Of the dense products that are made at a time otherwise."""


@dataclass(frozen=True)
class Plain:
    """What goes together: tail · diag(row_scale) AᵀA diag(column_scale) + leftᵀ right.

    Without its diagonal. Attributes are named as those of `linalg.collapse`.
    """

    matrix: sparse.csr_array
    tail: float
    row_scale: np.ndarray
    column_scale: np.ndarray
    left: np.ndarray
    right: np.ndarray
    diagonal: np.ndarray

    @classmethod
    def of(cls, weighted: Weighted, factors: Factors, settings: SpectralSettings) -> "Plain":
        """Filter a decomposition.

        W_plain = D^-c (F - diag F) D^d (1 - diag F)^-e, F the filtered AᵀA.
        """
        tail, gains = factors.filter(ridge=settings.ridge, n_components=settings.n_components)
        row_scale = (weighted.item_sums**-settings.history_power).astype(np.float32)
        uplift = factors.uplift(tail, gains, power=settings.diagonal_power)
        column_scale = weighted.item_sums**settings.popularity_power * uplift
        column_scale = column_scale.astype(np.float32)
        components = factors.components[: len(gains)]
        left = components * gains[:, None].astype(np.float32) * row_scale
        right = components * column_scale
        diagonal = tail * row_scale * column_scale * factors.squares
        diagonal += np.einsum("ki,ki->i", left, right)
        return cls(factors.matrix, tail, row_scale, column_scale, left, right, diagonal)

    @property
    def n_items(self) -> int:
        """How many rows and columns W_plain has."""
        return len(self.diagonal)

    def scores(
        self, rows: sparse.csr_array, *, transposed: sparse.csr_array | None = None
    ) -> np.ndarray:
        """Return rows · W_plain, float32 of shape (n, n_items), without making the matrix.

        `transposed` is as of `through`.
        """
        scaled = sparse.csr_array(rows * self.row_scale)
        scores = through(scaled, self.matrix, transposed=transposed)
        scores *= np.float32(self.tail) * self.column_scale
        scores += _low_rank(rows, self.left, self.right)
        return _without_diagonal(scores, rows, self.diagonal)


@dataclass(frozen=True)
class Ordered:
    """What comes next, beyond what goes together: B = added + leftᵀ right, without its diagonal.

    Attributes
    ----------
    added : scipy.sparse.csr_array of float32, shape (n_items, n_items)
    left, right : ndarray of float32, shape (r, n_items)
    """

    added: sparse.csr_array
    left: np.ndarray
    right: np.ndarray

    @classmethod
    def of(cls, follows: sparse.csr_array, weighted: Weighted, factors: Factors) -> "Ordered":
        """Whiten counts with the plain part's own first components.

        B = D^-0.15 (I - V diag(x / (x + λ')) Vᵀ) D^-0.15 N, λ' 100 times the
        mean diagonal: what comes after an item because it comes after
        everything is taken away.

        Parameters
        ----------
        follows : scipy.sparse.csr_array of float32, shape (n_items, n_items)
            N · D^-y, as `order.following` gives it.
        weighted : Weighted
        factors : Factors
        """
        # Transposed twice, the columns of each row ascend, at a fraction of what sorting takes.
        transposed = follows.T.tocsr()
        follows = transposed.T.tocsr()
        scale = (weighted.item_sums**-_POWER).astype(np.float32)
        follows.data *= np.repeat(scale * scale, np.diff(follows.indptr))
        transposed.data *= scale[transposed.indices]
        components = factors.components[:WHITENED]
        squares = factors.singular_values[:WHITENED] ** 2
        shares = squares / (squares + factors.strength(_RIDGE))
        right = linalg.SparseOperator(transposed) @ components.T
        left = -components * shares[:, None].astype(np.float32) * scale
        return cls(follows, left, np.ascontiguousarray(right.T))

    def strength(self, plain: Plain, rows: sparse.csr_array) -> float:
        """Return what makes B's scores as large as those of the plain part.

        The mean of the 20 best scores of some histories by the plain part,
        divided by that by B, items of the history included; 0 where B says
        nothing of them.

        Parameters
        ----------
        plain : Plain
        rows : scipy.sparse.csr_array of float32, shape (n, n_items)
            As they enter, weighed by recency.
        """
        totals = np.zeros(2)
        for block in linalg.row_blocks(rows.shape[0], rows.shape[1]):
            part = rows[block]
            totals += [_sum_of_best(scored.scores(part)) for scored in (plain, self)]
        return float(totals[0] / totals[1]) if min(totals) > 0 else 0.0

    def at(self, places: sparse.csr_array) -> np.ndarray:
        """Return the entries of B at the places of another matrix's, in the order of its data."""
        n_items = places.shape[1]
        left, right = (np.ascontiguousarray(part.T) for part in (self.left, self.right))
        values = np.empty(places.nnz, dtype=np.float32)

        def fill(begin: int) -> None:
            row, entries, key = _keys(places, slice(begin, begin + _ROWS_AT_ONCE))
            column = places.indices[entries]
            of_entry = np.einsum("nk,nk->n", left[row], right[column])
            _, stored, stored_key = _keys(self.added, slice(begin, begin + _ROWS_AT_ONCE))
            if len(stored_key):
                place = np.minimum(np.searchsorted(stored_key, key), len(stored_key) - 1)
                of_entry += np.where(stored_key[place] == key, self.added.data[stored][place], 0)
            values[entries] = of_entry

        linalg.parallel.on_threads(fill, range(0, n_items, _ROWS_AT_ONCE), n_threads=None)
        return values

    def times(self, factor: float) -> "Ordered":
        """Return a multiple of B."""
        added = self.added.copy()
        added.data *= np.float32(factor)
        return Ordered(added, self.left * np.float32(factor), self.right)

    def scores(self, rows: sparse.csr_array) -> np.ndarray:
        """Return rows · B, float32 of shape (n, n_items), without making the matrix."""
        scores = linalg.dense_product(rows, self.added)
        scores += _low_rank(rows, self.left, self.right)
        diagonal = np.einsum("ki,ki->i", self.left, self.right)
        return _without_diagonal(scores, rows, diagonal)


def ordered_part(
    settings: SpectralSettings,
    histories: Histories,
    weighted: Weighted,
    factors: Factors,
    plain: Plain,
    *,
    on_progress: Callable[[float], None] | None = None,
) -> Ordered | None:
    """Return μ z B of a matrix of interactions; None where nothing comes after anything.

    Parameters
    ----------
    settings : SpectralSettings
        With an order.
    histories : Histories
        Those of training.
    weighted : Weighted
    factors : Factors
    plain : Plain
    on_progress : callable, optional
        Called with the fraction done of what was counted.
    """
    follows = order.following(
        histories, scale=weighted.item_sums**-settings.order_popularity, on_progress=on_progress
    )
    if settings.order is None or not follows.nnz:
        return None
    ordered = Ordered.of(follows, weighted, factors)
    strength = ordered.strength(plain, _sampled(histories, weighted, settings))
    return ordered.times(settings.order * strength) if strength else None


def _sampled(
    histories: Histories, weighted: Weighted, settings: SpectralSettings
) -> sparse.csr_array:
    """Return some histories as they enter the model, weighed by recency: the same each time."""
    n_wanted = int(np.clip(_PRODUCTS // max(1, weighted.matrix.nnz), *_SAMPLE))
    users = np.flatnonzero(np.diff(weighted.matrix.indptr))
    if len(users) > n_wanted:
        users = np.sort(np.random.default_rng(0).choice(users, n_wanted, replace=False))
    chosen = histories[users]
    rows = weigh(chosen.weights, settings.weighting, scale=weighted.scale)
    return order.recent(rows, chosen.n_later, recency=settings.recency)


def collapsed(
    plain: Plain,
    ordered: Ordered | None,
    *,
    n_neighbours: int,
    on_progress: Callable[[float], None] | None = None,
) -> sparse.csr_array:
    """Return W_plain + B, of each row the entries that are largest by absolute value."""
    left, right, added = plain.left, plain.right, None
    if ordered is not None:
        left = np.concatenate([left, ordered.left])
        right = np.concatenate([right, ordered.right])
        added = ordered.added
    return linalg.collapse.collapse(
        plain.matrix,
        tail=plain.tail,
        row_scale=plain.row_scale,
        column_scale=plain.column_scale,
        added=added,
        left=left,
        right=right,
        n_neighbours=n_neighbours,
        on_progress=on_progress,
    )


def _keys(matrix: sparse.csr_array, rows: slice) -> tuple[np.ndarray, slice, np.ndarray]:
    """Return the row, the place and a number that names the cell of each entry of some rows."""
    indptr = matrix.indptr[rows.start : rows.stop + 1]
    entries = slice(int(indptr[0]), int(indptr[-1]))
    row = np.repeat(np.arange(rows.start, rows.start + len(indptr) - 1), np.diff(indptr))
    return row, entries, row * matrix.shape[1] + matrix.indices[entries]


def _sum_of_best(scores: np.ndarray) -> float:
    n = min(_BEST, scores.shape[1])
    return float(np.partition(scores, -n, axis=1)[:, -n:].sum(dtype=np.float64))


def _low_rank(rows: sparse.csr_array, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    return np.asarray((linalg.SparseOperator(rows) @ np.ascontiguousarray(left.T)) @ right)


def _without_diagonal(
    scores: np.ndarray, rows: sparse.csr_array, diagonal: np.ndarray
) -> np.ndarray:
    row = np.repeat(np.arange(rows.shape[0]), np.diff(rows.indptr))
    scores[row, rows.indices] -= (rows.data * diagonal[rows.indices]).astype(np.float32)
    return scores


def through(
    rows: sparse.csr_array, matrix: sparse.csr_array, *, transposed: sparse.csr_array | None = None
) -> np.ndarray:
    """Return rows · matrixᵀ · matrix, dense, by way of sparse or dense products as is cheaper.

    `transposed` saves to transpose the matrix, by rows, once more.
    """
    products = np.empty(rows.shape, dtype=np.float32)
    by_item = matrix.T.tocsr() if transposed is None else transposed
    n_of_item, n_of_user = np.diff(by_item.indptr), np.diff(matrix.indptr)
    n_dense = matrix.nnz * rows.shape[0]
    # At most, since users who have several items of a row are counted for each.
    of_item = np.bincount(
        matrix.indices, np.repeat(n_of_user, n_of_user), minlength=matrix.shape[1]
    )
    if _SPARSE_COST * int(of_item[rows.indices].sum()) < n_dense:
        for block in linalg.row_blocks(*rows.shape, limit_bytes=BLOCK_BYTES):
            products[block] = linalg.dense_product(rows[block] @ by_item, matrix)
        return products
    few_users = _SPARSE_COST * int(n_of_item[rows.indices].sum()) < n_dense

    def fill(begin: int) -> None:
        block = rows[begin : begin + DENSE_ROWS]
        if few_users:
            users = np.ascontiguousarray(linalg.dense_product(block, by_item, n_threads=1).T)
        else:
            users = matrix @ block.T.toarray()
        products[begin : begin + DENSE_ROWS] = (by_item @ users).T

    linalg.parallel.on_threads(fill, range(0, rows.shape[0], DENSE_ROWS), n_threads=None)
    return products


@dataclass(frozen=True)
class Uncut:
    """Scores by the parts as they are, without making a matrix of them; a `Scorer`.

    Attributes
    ----------
    settings : SpectralSettings
    weight_scale : float
    plain : Plain
    transposed : scipy.sparse.csr_array
        The matrix of `plain`, transposed, by rows.
    ordered : Ordered or None
        None leaves recency out, too.
    """

    settings: SpectralSettings
    weight_scale: float
    plain: Plain
    transposed: sparse.csr_array
    ordered: Ordered | None = None
    is_personal: bool = True

    @classmethod
    def of(cls, settings: SpectralSettings, weighted: Weighted, plain: Plain) -> "Uncut":
        """Make the scorer of the plain part alone; others of the same matrix are made of it."""
        return cls(settings, weighted.scale, plain, plain.matrix.T.tocsr())

    def with_order(self, settings: SpectralSettings, ordered: Ordered | None) -> "Uncut":
        """Return the scorer of the plain part and what comes next."""
        return dataclasses.replace(self, settings=settings, ordered=ordered)

    def score(self, histories: Histories) -> np.ndarray:
        """Return scores as the model gives them that keeps all entries."""
        rows = weigh(histories.weights, self.settings.weighting, scale=self.weight_scale)
        if self.ordered is None:
            return self.plain.scores(rows, transposed=self.transposed)
        rows = order.recent(rows, histories.n_later, recency=self.settings.recency)
        scores = self.plain.scores(rows, transposed=self.transposed)
        scores += self.ordered.scores(rows)
        return scores
