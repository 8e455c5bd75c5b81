"""`svd`: the truncated singular value decomposition of the interaction matrix.

scikit-learn is imported where it fits and exports: a process that only answers
starts a second sooner without it, and in half the memory.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import ArpackError

from reckeeper import linalg
from reckeeper.errors import DataError
from reckeeper.matrix import Histories, InteractionMatrix
from reckeeper.recipes.base import Footprint, Recipe, Sizes
from reckeeper.recipes.checks import check_interactions, checked_array
from reckeeper.recipes.plan import TuningRun, TuningSplit
from reckeeper.recipes.settings import RecipeSettings, setting
from reckeeper.recipes.weighting import Weighting, usual_weight, weigh

if TYPE_CHECKING:
    from sklearn.decomposition import TruncatedSVD

_NO_LOADING = 1e-10
"""A loading of an item on a unit vector that is no larger is a rounding error."""

_NO_COSINE = math.sqrt(np.finfo(np.float64).eps)
"""A cosine that is no larger, or of a vector that is no longer, is a rounding error."""


@dataclass(frozen=True, kw_only=True)
class SvdSettings(RecipeSettings):
    """Settings of `Svd`, each documented by its field."""

    n_components: int = setting(
        10,
        low=1,
        high=16_384,
        help="Singular vectors asked for. A matrix that has fewer gives min(n_users, n_items) - 1, "
        "at least 1.",
    )
    weighting: Literal["binary", "log", "raw"] = setting(
        "raw",
        help="How a weight enters: in proportion; as log(1 + weight / mean weight); or as 1, which "
        "is best where a weight counts clicks.",
    )


class Svd(Recipe):
    """The rank-k approximation R V Vᵀ of a matrix R of users × items, weighted.

    Since a user's scores are a product with the user's own row, a row that
    training never saw is scored by the same formula. An item without a
    loading on any component lies outside what was learned: it neither gives
    nor gets a score.

    Parameters
    ----------
    settings : SvdSettings
    components : ndarray of float64, shape (k, n_items)
        Right singular vectors, one a row, signs as scikit-learn turns them.
    singular_values : ndarray of float64, shape (k,)
        In descending order.
    explained_variance_ratio : ndarray of float64, shape (k,)
        As scikit-learn's; zeros where R has no variance.
    weight_scale : float
        The mean weight, by which weights are divided before their logarithm.
    """

    name: ClassVar[str] = "svd"
    summary: ClassVar[str] = (
        "The plain singular value decomposition of the weights: well known, quick, and good as a "
        "first model."
    )
    decomposes: ClassVar[bool] = True
    settings_type: ClassVar[type[RecipeSettings]] = SvdSettings

    def __init__(
        self,
        settings: SvdSettings,
        *,
        components: np.ndarray,
        singular_values: np.ndarray,
        explained_variance_ratio: np.ndarray,
        weight_scale: float = 1.0,
    ) -> None:
        super().__init__(settings)
        self._weighting = settings.weighting
        self.weight_scale = weight_scale
        self.components = components
        self.singular_values = singular_values
        self.explained_variance_ratio = explained_variance_ratio
        is_outside = np.abs(components).max(axis=0) <= _NO_LOADING
        self._loadings = np.where(is_outside, 0.0, components) if is_outside.any() else components

    @classmethod
    def fit(
        cls,
        interactions: InteractionMatrix,
        *,
        settings: Mapping[str, Any],
        on_progress: Callable[[float], None] | None = None,
    ) -> Self:
        """Decompose exactly (ARPACK, to machine precision), in double precision.

        Parameters
        ----------
        interactions : InteractionMatrix
        settings : mapping
            Fields of `SvdSettings`.
        on_progress : callable, optional
            Called with 0 and with 1: ARPACK reports no steps.

        Raises
        ------
        NotEnoughDataError
            Fewer than two users or two items.
        DataError
            A setting is unknown or out of range, or a weight is not finite.

        Notes
        -----
        Deterministic: ARPACK starts from a seeded vector. Where it breaks down,
        our own kernel takes its place.
        """
        parsed = SvdSettings.parse(settings, recipe=cls.name)
        check_interactions(interactions)
        if on_progress is not None:
            on_progress(0.0)
        scale = usual_weight(interactions.weights.data)
        entering = _entering(interactions.weights, parsed.weighting, scale=scale)
        model = cls._decompose(entering, parsed, scale)
        if on_progress is not None:
            on_progress(1.0)
        return model

    @classmethod
    def _decompose(
        cls, weights: sparse.csr_array, settings: SvdSettings, weight_scale: float
    ) -> Self:
        from sklearn.decomposition import TruncatedSVD

        n_users, n_items = weights.shape
        rank = max(1, min(settings.n_components, n_users - 1, n_items - 1))
        if not weights.data.any():
            return cls(
                settings,
                components=np.eye(rank, n_items),
                singular_values=np.zeros(rank),
                explained_variance_ratio=np.zeros(rank),
                weight_scale=weight_scale,
            )
        # Divided by a power of two, which rounds nothing: squares stay finite,
        # and ARPACK's least eigenvalue, an absolute number, stays far below.
        _, exponent = math.frexp(np.abs(weights.data).max())
        scaled = sparse.csr_matrix(weights)  # shares the arrays
        scaled.data = np.ldexp(scaled.data, -exponent)
        svd = TruncatedSVD(n_components=rank, algorithm="arpack", random_state=0)
        # Where all users are alike, or so nearly that squares of the difference are
        # zero, scikit-learn divides rounding errors by zero.
        with np.errstate(divide="ignore", invalid="ignore"):
            try:
                svd.fit(scaled)
                components, values = svd.components_, svd.singular_values_
                ratio = svd.explained_variance_ratio_
            except ArpackError:
                components, values, ratio = _of_few_values(scaled, rank)
        varies = (weights.max(axis=0).toarray() != weights.min(axis=0).toarray()).any()
        if not varies or not np.isfinite(ratio).all():
            ratio = np.zeros(rank)
        return cls(
            settings,
            components=components,
            singular_values=np.ldexp(values, exponent),
            explained_variance_ratio=ratio,
            weight_scale=weight_scale,
        )

    @classmethod
    def candidates(cls, *, has_times: bool) -> list[dict[str, Any]]:
        """Return numbers of components, the default first."""
        return [{"n_components": n_components} for n_components in (10, 20, 50, 5, 100, 200)]

    @classmethod
    def tune(cls, splits: Sequence[TuningSplit], run: TuningRun) -> None:
        """Fit the largest candidate to each split: the others are its leading components.

        Each way in which weights may enter is tried where they differ.
        """
        ranks = [candidate["n_components"] for candidate in cls.candidates(has_times=False)]
        weights = [split.train.weights.data for split in splits]
        differ = any(len(data) and np.ptp(data[data > 0]) > 0 for data in weights)
        weightings: tuple[Weighting, ...] = ("raw", "log", "binary") if differ else ("raw",)
        judges = [split.judge() for split in splits]
        n_done = 0
        for weighting in weightings:
            largest = {"n_components": max(ranks), "weighting": weighting}
            began = run.seconds
            models = [cls.fit(split.train, settings=largest) for split in splits]
            run.expect_fit((run.seconds - began) / len(splits))
            for rank in ranks:
                ndcg = {
                    split.kind: judge.ndcg(model.leading(rank))
                    for split, judge, model in zip(splits, judges, models, strict=True)
                }
                run.add({"n_components": rank, "weighting": weighting}, ndcg)
                n_done += 1
                run.step(n_done / (len(ranks) * len(weightings)))

    @classmethod
    def footprint(cls, sizes: Sizes, *, settings: Mapping[str, Any]) -> Footprint:
        """Estimate what a fit holds: the matrix twice more, ARPACK's basis, the vectors."""
        parsed = SvdSettings.parse(settings, recipe=cls.name)
        side = min(sizes.n_users, sizes.n_items)
        rank = max(1, min(parsed.n_components, side - 1))
        basis = side * min(side, max(2 * rank + 1, 20))
        vectors = rank * (2 * side + 3 * sizes.n_users + 3 * sizes.n_items)
        return Footprint(24 * sizes.n_pairs + 8 * (basis + vectors), 8 * rank * sizes.n_items)

    def leading(self, n_components: int) -> "Svd":
        """Return the model of fewer components: singular vectors nest."""
        return Svd(
            SvdSettings(n_components=n_components, weighting=self._weighting),
            components=self.components[:n_components],
            singular_values=self.singular_values[:n_components],
            explained_variance_ratio=self.explained_variance_ratio[:n_components],
            weight_scale=self.weight_scale,
        )

    @property
    def explained_variance(self) -> float:
        """Sum of the explained variance ratios, in [0, 1]."""
        return float(np.clip(self.explained_variance_ratio.sum(), 0.0, 1.0))

    def score(self, histories: Histories) -> np.ndarray:
        """Return R V Vᵀ for rows R, weighted.

        Parameters
        ----------
        histories : Histories
            Of users known or not; their order makes no difference.

        Returns
        -------
        ndarray of float64, shape (n, n_items)
            Zeros where a row has only items that lie outside what was learned.
        """
        rows = _entering(histories.weights, self._weighting, scale=self.weight_scale)
        return np.asarray((rows @ self._loadings.T) @ self._loadings)

    def contributions(self, history: Histories, items: np.ndarray) -> np.ndarray:
        """Return the history's weights, times the products of its items' loadings."""
        row = _entering(history.weights, self._weighting, scale=self.weight_scale)
        products = self._loadings[:, row.indices].T @ self._loadings[:, items]
        return np.asarray(row.data[:, None] * products)

    def similar(self, item_index: int, *, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the items whose columns of the approximation point the same way.

        The similarity is the cosine of the items' loadings, each component
        scaled by its singular value: that of the columns of R V Vᵀ, so a
        component counts as much as it explains.

        Parameters
        ----------
        item_index : int
            In [0, n_items).
        n : int
            At least 1.

        Returns
        -------
        indices : ndarray of int64, shape (m,), m <= n
            The most similar first, of equal ones the smaller index; without
            the item itself, and without those that have nothing in common.
        cosines : ndarray of float64, shape (m,)
            In (0, 1].

        Notes
        -----
        O(n_items k); deterministic.
        """
        if not self.singular_values[0]:
            return np.empty(0, dtype=np.int64), np.empty(0)
        cosines = self._cosines(np.array([item_index]), slice(None))[0]
        cosines[item_index] = 0.0
        chosen = linalg.top_k(cosines, n, exclude=np.flatnonzero(cosines <= _NO_COSINE))
        return chosen, cosines[chosen]

    def likeness(self, items: np.ndarray) -> np.ndarray:
        """Return the cosines that `similar` goes by, where they are above zero."""
        if not self.singular_values[0]:
            return np.zeros((len(items), len(items)))
        cosines: np.ndarray = np.maximum(self._cosines(items, items), 0.0)
        np.fill_diagonal(cosines, 0.0)
        return cosines

    def _cosines(self, items: np.ndarray, others: np.ndarray | slice) -> np.ndarray:
        """Return the cosines of items with others; 0 where a column is only rounding errors."""
        shares = self.singular_values / self.singular_values[0]
        mine = (self._loadings[:, items] * shares[:, None] ** 2).T
        cosines: np.ndarray = mine @ self._loadings[:, others]
        lengths = self._lengths
        has_direction = lengths > _NO_COSINE
        products = lengths[items][:, None] * lengths[others]
        is_known = has_direction[items][:, None] & has_direction[others]
        np.divide(cosines, products, out=cosines, where=is_known)
        cosines[~is_known] = 0.0
        return np.asarray(np.minimum(cosines, 1.0))

    @cached_property
    def _lengths(self) -> np.ndarray:
        """Of the columns of the approximation, in units of the largest singular value."""
        squares = (self.singular_values / self.singular_values[0]) ** 2
        loadings = self._loadings
        return np.asarray(np.sqrt(np.einsum("kn,kn,k->n", loadings, loadings, squares)))

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Return components, singular values, explained variance ratios and the usual weight."""
        return {
            "components": self.components,
            "singular_values": self.singular_values,
            "explained_variance_ratio": self.explained_variance_ratio,
            "weight_scale": np.array([self.weight_scale]),
        }

    @classmethod
    def from_arrays(
        cls, arrays: Mapping[str, np.ndarray], *, settings: Mapping[str, Any], n_items: int
    ) -> Self:
        """Make the model again from `to_arrays`.

        Raises
        ------
        DataError
            An array is missing, or its shape, type or values cannot be.
        """
        parsed = SvdSettings.parse(settings, recipe=cls.name)
        components = checked_array(arrays, "components", dtype=np.float64, shape=(None, n_items))
        rank = len(components)
        if not rank:
            raise DataError("The array 'components' has no component.")
        values, ratio = (
            checked_array(arrays, name, dtype=np.float64, shape=(rank,))
            for name in ("singular_values", "explained_variance_ratio")
        )
        scale = checked_array(arrays, "weight_scale", dtype=np.float64, shape=(1,))
        if scale[0] <= 0:
            raise DataError(f"The array 'weight_scale' is {scale[0]}, not above zero.")
        return cls(
            parsed,
            components=components,
            singular_values=values,
            explained_variance_ratio=ratio,
            weight_scale=float(scale[0]),
        )

    def to_sklearn(self) -> "TruncatedSVD":
        """Return an equal, fitted `sklearn.decomposition.TruncatedSVD`."""
        from sklearn.decomposition import TruncatedSVD

        svd = TruncatedSVD(n_components=len(self.singular_values), algorithm="arpack")
        svd.components_ = self.components
        svd.singular_values_ = self.singular_values
        svd.explained_variance_ratio_ = self.explained_variance_ratio
        svd.n_features_in_ = self.components.shape[1]
        return svd

    def to_export(self, trained: InteractionMatrix) -> dict[str, Any]:
        """Return nothing where weights are raw: the `TruncatedSVD` gives all the numbers.

        Else ``weight_scale``: it takes ``weighted(rating_matrix)`` then, as
        the setting ``weighting`` says.
        """
        return {} if self._weighting == "raw" else {"weight_scale": self.weight_scale}


def _entering(rows: sparse.csr_array, weighting: Weighting, *, scale: float) -> sparse.csr_array:
    """Return rows as they are decomposed and scored: raw ones in their own unit."""
    if weighting == "raw":
        return rows
    return weigh(rows, weighting, scale=scale, dtype=np.float64)


def _of_few_values(
    weights: sparse.csr_matrix, rank: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Decompose a matrix with few different singular values, in whose Krylov spaces ARPACK ends.

    Such as that of many users who share no item. Our kernel finds the leading
    space in single precision; values and vectors in it are found in double.

    Returns
    -------
    components : ndarray of float64, shape (rank, n_items)
    singular_values, explained_variance_ratio : ndarray of float64, shape (rank,)
    """
    leading = linalg.truncated_svd(sparse.csr_array(weights), rank, tolerance=1e-6)
    basis, _ = np.linalg.qr(leading.components.T.astype(np.float64))
    scores, values, rotation = np.linalg.svd(weights @ basis, full_matrices=False)
    squares = weights.multiply(weights).mean(axis=0)
    variance = float((squares - np.square(weights.mean(axis=0))).sum())
    return rotation @ basis.T, values, (scores * values).var(axis=0) / variance
