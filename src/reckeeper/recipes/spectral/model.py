"""The model of `spectral`: one sparse matrix, fitted, applied, and taken to and from files."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from scipy import sparse

from reckeeper import linalg
from reckeeper.errors import DataError
from reckeeper.matrix import Histories, InteractionMatrix
from reckeeper.recipes.base import Footprint, Recipe, Sizes
from reckeeper.recipes.checks import check_interactions, checked_array, checked_csr
from reckeeper.recipes.plan import TuningRun, TuningSplit
from reckeeper.recipes.settings import RecipeSettings
from reckeeper.recipes.spectral import tuning
from reckeeper.recipes.spectral.factors import OVERSAMPLING, Weighted, most_components, weigh
from reckeeper.recipes.spectral.settings import SpectralSettings, n_neighbours

if TYPE_CHECKING:
    from sklearn.decomposition import TruncatedSVD


class Spectral(Recipe):
    """A linear filter from a user's row to scores of all items.

    With A = D_u^-a X D_i^-b, X the weighted interactions, and D their row and
    column sums, a row x scores x · D_i^-c (F - diag F) D_i^d (1 - diag F)^-e.
    F = f(AᵀA) is the ridge, exact on the leading singular vectors of A and its
    secant on the rest. All of it is one sparse matrix of items × items, so a
    row that training never saw is scored by the same product. Without powers,
    with e = 1 and all singular vectors it is the linear autoencoder with a
    zero diagonal (EASE: Steck, WWW 2019).

    Parameters
    ----------
    settings : SpectralSettings
    item_weights : scipy.sparse.csr_array of float32, shape (n_items, n_items)
        W; so many entries a row as the settings say, none on the diagonal.
    weight_scale : float
        The mean weight, by which weights are divided where they are not binary.
    singular_values : ndarray of float64, shape (k,)
        Those of A, in descending order.
    explained_variance_ratio : ndarray of float64, shape (k,)
        As scikit-learn's, of A.
    components : ndarray of float32, shape (k, n_items), optional
        Right singular vectors of A; there after a fit, not in the native file.
    """

    name: ClassVar[str] = "spectral"
    summary: ClassVar[str] = (
        "Items that go together, through the spectrum of a normalised matrix; tune it to your data."
    )
    decomposes: ClassVar[bool] = True
    settings_type: ClassVar[type[RecipeSettings]] = SpectralSettings

    def __init__(
        self,
        settings: SpectralSettings,
        *,
        item_weights: sparse.csr_array,
        weight_scale: float,
        singular_values: np.ndarray,
        explained_variance_ratio: np.ndarray,
        components: np.ndarray | None = None,
    ) -> None:
        super().__init__(settings)
        self._weighting = settings.weighting
        self.item_weights = item_weights
        self.weight_scale = weight_scale
        self.singular_values = singular_values
        self.explained_variance_ratio = explained_variance_ratio
        self.components = components

    @classmethod
    def fit(
        cls,
        interactions: InteractionMatrix,
        *,
        settings: Mapping[str, Any],
        on_progress: Callable[[float], None] | None = None,
    ) -> Self:
        """Decompose and collapse, in single precision.

        Parameters
        ----------
        interactions : InteractionMatrix
        settings : mapping
            Fields of `SpectralSettings`.
        on_progress : callable, optional
            Called between the steps of the decomposition and of the collapse.

        Raises
        ------
        NotEnoughDataError
            Fewer than two users or two items.
        DataError
            A setting is unknown or out of range, or a weight is not finite.

        Notes
        -----
        O(n_items² k) for the collapse, which takes most of the time; see
        `linalg.item_filter` for the memory. Deterministic on one machine.
        """
        parsed = SpectralSettings.parse(settings, recipe=cls.name)
        check_interactions(interactions)
        report = on_progress or (lambda _: None)
        report(0.0)
        weighted = Weighted.of(interactions.weights, parsed.weighting)
        factors = weighted.factorise(
            user_power=parsed.user_power,
            item_power=parsed.item_power,
            n_components=parsed.n_components,
            on_progress=lambda fraction: report(0.4 * fraction),
        )
        tail, gains = factors.filter(ridge=parsed.ridge, n_components=parsed.n_components)
        uplift = factors.uplift(tail, gains, power=parsed.diagonal_power)
        item_weights = linalg.item_filter(
            factors.matrix,
            components=factors.components[: len(gains)],
            gains=gains,
            scale=weighted.item_sums**parsed.popularity_power * uplift,
            tail=tail,
            n_neighbours=n_neighbours(parsed),
            on_progress=lambda fraction: report(0.4 + 0.6 * fraction),
        )
        row_scale = weighted.item_sums**-parsed.history_power
        item_weights.data *= np.repeat(row_scale, np.diff(item_weights.indptr)).astype(np.float32)
        return cls(
            parsed,
            item_weights=item_weights,
            weight_scale=weighted.scale,
            singular_values=factors.singular_values,
            explained_variance_ratio=factors.explained_variance_ratio(),
            components=factors.components,
        )

    @classmethod
    def tune(cls, splits: Sequence[TuningSplit], run: TuningRun) -> None:
        """Search one setting after the other, from two starts; see `spectral.tuning`."""
        tuning.search(splits, run)

    @classmethod
    def footprint(cls, sizes: Sizes, *, settings: Mapping[str, Any]) -> Footprint:
        """Estimate what a fit holds, in its decomposition or its collapse.

        The collapse, which usually needs more, goes by the entries that are
        looked at: all, where most of a row is kept or the catalogue is small.
        """
        parsed = SpectralSettings.parse(settings, recipe=cls.name)
        n_items = sizes.n_items
        k = min(parsed.n_components, most_components((sizes.n_users, n_items)))
        n_kept = min(n_neighbours(parsed), n_items)
        model = 8 * n_items * n_kept + 4 * k * n_items
        decomposition = linalg.svd.bytes_needed(
            n_rows=sizes.n_users,
            n_columns=n_items,
            n_entries=sizes.n_pairs,
            n_components=max(1, k),
            oversampling=OVERSAMPLING,
        )
        collapse = linalg.collapse.bytes_needed(
            n_rows=sizes.n_users,
            n_columns=n_items,
            n_entries=sizes.n_pairs,
            n_components=k,
            n_neighbours=n_kept,
            n_threads=sizes.n_threads,
        )
        components = 4 * k * n_items
        variance = model + 4 * k * sizes.n_users
        # Weighted and normalised, the matrix is held twice more all the while.
        held = 16 * sizes.n_pairs
        return Footprint(held + max(decomposition, components + collapse, variance), model)

    @classmethod
    def largest_settings(cls, sizes: Sizes) -> Mapping[str, Any]:
        """Return the most components that the search takes."""
        return {"n_components": tuning.MAX_COMPONENTS}

    @classmethod
    def tuning_bytes(cls, sizes: Sizes, *, n_splits: int) -> int:
        """Estimate what the search holds, or the fit that follows."""
        largest = cls.footprint(sizes, settings=cls.largest_settings(sizes))
        return tuning.bytes_needed(sizes, largest, n_splits=n_splits)

    @property
    def explained_variance(self) -> float:
        """Sum of the explained variance ratios of the normalised matrix, in [0, 1]."""
        return float(np.clip(self.explained_variance_ratio.sum(), 0.0, 1.0))

    def score(self, histories: Histories) -> np.ndarray:
        """Return weighted rows times W.

        Parameters
        ----------
        histories : Histories
            Of users known or not.

        Returns
        -------
        ndarray of float32, shape (n, n_items)
        """
        weighted = weigh(histories.weights, self._weighting, scale=self.weight_scale)
        return np.asarray((weighted @ self.item_weights).toarray())

    def similar(self, item_index: int, *, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the largest entries of the item's row of W."""
        start, stop = self.item_weights.indptr[item_index : item_index + 2]
        values = self.item_weights.data[start:stop]
        order = np.argsort(-values, kind="stable")[:n]
        return self.item_weights.indices[start:stop][order].astype(np.int64), values[order]

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Return W, the scale of the weights, singular values and explained variance ratios."""
        return {
            "item_weights.indptr": self.item_weights.indptr.astype(np.int64),
            "item_weights.indices": self.item_weights.indices.astype(np.int32),
            "item_weights.data": self.item_weights.data,
            "weight_scale": np.array([self.weight_scale]),
            "singular_values": self.singular_values,
            "explained_variance_ratio": self.explained_variance_ratio,
        }

    @classmethod
    def from_arrays(
        cls, arrays: Mapping[str, np.ndarray], *, settings: Mapping[str, Any], n_items: int
    ) -> Self:
        """Make the model again from `to_arrays`, without its components.

        Raises
        ------
        DataError
            An array is missing, or its shape, type or values cannot be.
        """
        parsed = SpectralSettings.parse(settings, recipe=cls.name)
        values = checked_array(arrays, "singular_values", dtype=np.float64, shape=(None,))
        ratio = checked_array(
            arrays, "explained_variance_ratio", dtype=np.float64, shape=(len(values),)
        )
        scale = checked_array(arrays, "weight_scale", dtype=np.float64, shape=(1,))
        item_weights = checked_csr(
            arrays, "item_weights", dtype=np.float32, shape=(n_items, n_items)
        )
        if scale[0] <= 0:
            raise DataError(f"The array 'weight_scale' is {scale[0]}, not above zero.")
        return cls(
            parsed,
            item_weights=item_weights,
            weight_scale=float(scale[0]),
            singular_values=values,
            explained_variance_ratio=ratio,
        )

    def to_sklearn(self) -> "TruncatedSVD | None":
        """Return the decomposition of A as scikit-learn's.

        None for a model without components, or read from its native file,
        which does not carry them.
        """
        if self.components is None or not len(self.components):
            return None
        from sklearn.decomposition import TruncatedSVD

        svd = TruncatedSVD(n_components=len(self.components))
        svd.components_ = self.components
        svd.singular_values_ = self.singular_values
        svd.explained_variance_ratio_ = self.explained_variance_ratio
        svd.n_features_in_ = self.components.shape[1]
        return svd

    def to_export(self) -> dict[str, Any]:
        """Return ``item_weights``, W, and ``weight_scale``.

        Predicted ratings are ``weighted(rating_matrix) @ item_weights``; the
        setting ``weighting`` in the metadata says how weights enter.
        """
        return {
            "item_weights": sparse.csr_matrix(self.item_weights),
            "weight_scale": self.weight_scale,
        }
