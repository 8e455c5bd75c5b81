"""The weighted, normalised matrix of `spectral`, its singular triplets, and their filter."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from reckeeper import linalg
from reckeeper.recipes.weighting import usual_weight, weigh

_TOLERANCE = 0.05
"""Residual that the decomposition stops at: a filter sums over directions, which need not be told
apart. They must span the leading ones, though, so the first basis is no smaller than usual: with
1.5 times as many directions as are kept, NDCG was 1.4% lower on one set of three."""

_NEGLIGIBLE = 1e-5
"""Singular values below this share of the largest are rounding: the matrix has no more directions,
and those that stand for them are arbitrary."""

_LEAST_LEFT = 0.02
"""What an item leaves unexplained of itself is taken to be this much at least."""

_WHOLE = 1024
"""Rows or columns, whichever are fewer, up to which a matrix is decomposed whole."""


def most_components(shape: tuple[int, int]) -> int:
    """Return how many components a matrix is decomposed into at most.

    Beyond half of the smaller side, iterations no longer pay; a small matrix
    is decomposed whole.
    """
    side = min(shape)
    return side if side <= _WHOLE else side // 2


@dataclass(frozen=True)
class Weighted:
    """Interactions as they enter, and what they sum to.

    Attributes
    ----------
    matrix : scipy.sparse.csr_array of float32, shape (n_users, n_items)
        X, without stored zeros.
    scale : float
        The mean weight of X's pairs before weighting, 1 where there are none.
    user_sums, item_sums : ndarray of float64
        Sums of rows and columns; 1 where they are 0.
    """

    matrix: sparse.csr_array
    scale: float
    user_sums: np.ndarray
    item_sums: np.ndarray

    @classmethod
    def of(cls, weights: sparse.csr_array, weighting: str) -> "Weighted":
        """Weigh a matrix of users × items."""
        scale = usual_weight(weights.data)
        matrix = weigh(weights, weighting, scale=scale)
        matrix = sparse.csr_array(matrix, copy=True)
        matrix.eliminate_zeros()
        sums = (np.asarray(matrix.sum(axis=axis, dtype=np.float64)).ravel() for axis in (1, 0))
        user_sums, item_sums = (np.where(total > 0, total, 1.0) for total in sums)
        return cls(matrix, scale, user_sums, item_sums)

    def factorise(
        self,
        *,
        user_power: float,
        item_power: float,
        n_components: int,
        on_progress: Callable[[float], None] | None = None,
    ) -> "Factors":
        """Normalise and decompose; the largest singular value becomes 1.

        Parameters
        ----------
        user_power, item_power : float
            a and b of `SpectralSettings`.
        n_components : int
            From 0 on; at most `most_components` are taken.
        on_progress : callable, optional
        """
        left = sparse.diags_array(self.user_sums**-user_power, dtype=np.float32)
        right = sparse.diags_array(self.item_sums**-item_power, dtype=np.float32)
        matrix = sparse.csr_array(left @ self.matrix @ right).astype(np.float32)
        rank = min(n_components, most_components(matrix.shape))
        found = linalg.truncated_svd(
            matrix,
            max(1, rank),
            tolerance=_TOLERANCE,
            on_progress=on_progress,
        )
        largest = float(found.singular_values[0]) or 1.0
        matrix.data /= np.float32(largest)
        components = found.components[:rank]
        # Nothing is known of an item without interactions, and rounding would pass for it.
        components[:, np.bincount(matrix.indices, minlength=matrix.shape[1]) == 0] = 0.0
        squares = np.bincount(
            matrix.indices,
            weights=matrix.data.astype(np.float64) ** 2,
            minlength=matrix.shape[1],
        )
        return Factors(matrix, largest, components, found.singular_values[:rank] / largest, squares)


@dataclass(frozen=True)
class Factors:
    """A normalised matrix and its leading singular triplets.

    Attributes
    ----------
    matrix : scipy.sparse.csr_array of float32, shape (n_users, n_items)
        A, divided by its largest singular value.
    largest : float
        What it was divided by.
    components : ndarray of float32, shape (k, n_items)
    singular_values : ndarray of float64, shape (k,)
        Those of A as it stands here: the first is 1.
    squares : ndarray of float64, shape (n_items,)
        The diagonal of AᵀA.
    """

    matrix: sparse.csr_array
    largest: float
    components: np.ndarray
    singular_values: np.ndarray
    squares: np.ndarray

    def strength(self, ridge: float) -> float:
        """Return λ: a ridge times the mean diagonal of AᵀA over items with interactions."""
        interacted = self.squares[self.squares > 0]
        return ridge * (float(interacted.mean()) if len(interacted) else 1.0)

    def filter(self, *, ridge: float, n_components: int) -> tuple[float, np.ndarray]:
        """Return the filter as a factor of AᵀA and what each component adds to that.

        With x the squares of singular values, and λ the ridge in units of the
        mean diagonal of AᵀA: x / (x + λ) on the components, and beyond them the
        line through 0 and the last of these, nothing where they are all that
        the matrix has. Without components it goes through the largest.

        Parameters
        ----------
        ridge : float
            Above zero.
        n_components : int
            From 0 on; at most those that there are.

        Returns
        -------
        tail : float
        gains : ndarray of float64, shape (min(k, n_components),)
        """
        values = self.singular_values[:n_components]
        strength = self.strength(ridge)
        squares = values**2
        is_whole = len(values) and (
            len(values) == min(self.matrix.shape) or values[-1] <= _NEGLIGIBLE
        )
        # Where nothing is beyond, a difference of large numbers would be left of it.
        tail = 0.0 if is_whole else 1.0 / (float(squares[-1] if len(squares) else 1.0) + strength)
        gains = squares / (squares + strength) - squares * tail
        return tail, np.where(values > _NEGLIGIBLE, gains, 0.0)

    def uplift(self, tail: float, gains: np.ndarray, *, power: float) -> np.ndarray:
        """Return the factor by which an item is made up for what it explains of itself.

        (1 - F_jj)^-power, F the filtered AᵀA; 1 - F_jj is taken as 0.02 where
        it is less.

        Parameters
        ----------
        tail : float
        gains : ndarray, shape (m,)
            As `filter` gives them.
        power : float

        Returns
        -------
        ndarray of float64, shape (n_items,)
        """
        components = self.components[: len(gains)]
        explained = np.einsum("ki,ki,k->i", components, components, gains, dtype=np.float64)
        left = 1.0 - (tail * self.squares + explained)
        return np.asarray(np.maximum(left, _LEAST_LEFT) ** -power)

    def explained_variance_ratio(self) -> np.ndarray:
        """Return scikit-learn's explained variance ratios of the components."""
        n_users = self.matrix.shape[0]
        projected = linalg.SparseOperator(self.matrix) @ self.components.T
        means = projected.mean(axis=0, dtype=np.float64)
        squares = self.singular_values**2 / n_users
        item_means = np.asarray(self.matrix.mean(axis=0, dtype=np.float64)).ravel()
        total = float(np.sum(self.matrix.data.astype(np.float64) ** 2)) / n_users
        total -= float(item_means @ item_means)
        if total <= 1e-12 * max(1.0, float(squares.sum())):
            return np.zeros(len(squares))
        return np.asarray(np.clip((squares - means**2) / total, 0.0, 1.0))
