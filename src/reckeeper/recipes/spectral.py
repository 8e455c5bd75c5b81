"""`spectral`: a filter of the spectrum of item-item co-occurrence, collapsed into one matrix."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
from scipy import sparse

from reckeeper import linalg
from reckeeper.errors import DataError
from reckeeper.matrix import InteractionMatrix
from reckeeper.recipes.checks import check_interactions, checked_array, checked_csr
from reckeeper.recipes.footprint import Footprint
from reckeeper.recipes.settings import RecipeSettings, setting

if TYPE_CHECKING:
    from sklearn.decomposition import TruncatedSVD

_TOLERANCE = 0.05
_OVERSAMPLING = 1.5
"""Residual that the decomposition stops at. A filter sums over directions: that the last ones
are not resolved one by one costs nothing that a ranking shows."""

_NEGLIGIBLE = 1e-5
"""Singular values below this share of the largest are rounding: the matrix has no more directions,
and those that stand for them are arbitrary."""


@dataclass(frozen=True, kw_only=True)
class SpectralSettings(RecipeSettings):
    """Settings of `Spectral`, each documented by its field."""

    weighting: Literal["binary", "log", "raw"] = setting(
        "binary",
        help="How a weight enters: as 1; as log(1 + weight / mean weight); or in proportion.",
    )
    n_components: int = setting(
        512,
        low=0,
        high=16_384,
        help="Singular vectors; 0 leaves the co-occurrence alone, and is fast. A matrix that has "
        "fewer gives all it has, a large one half its smaller side.",
    )
    user_power: float = setting(
        0.5,
        low=0,
        high=1,
        help="How much less the items of a user with a long history count together: each is "
        "divided by the length to this power.",
    )
    item_power: float = setting(
        0.5, low=0, high=1, help="The same for items, in what is decomposed."
    )
    history_power: float = setting(
        0.5,
        low=0,
        high=1,
        help="How much less a popular item in a history says: it is divided by the number of its "
        "users to this power.",
    )
    popularity_power: float = setting(
        0.5,
        low=0,
        high=1.5,
        help="How much popular items are favoured: scores are multiplied by the number of users "
        "to this power.",
    )
    filter: Literal["sum", "ridge"] = setting(
        "sum",
        help="Form of the filter of the squared singular values x, the largest of them 1. sum: x "
        "and, on the components, mixing · x^(spectral_power / 2). ridge: x / (x + ridge), on "
        "the rest x / ridge: a closed-form linear autoencoder.",
    )
    mixing: float = setting(
        1.0, low=0, high=100, help="Weight of the components, in the filter sum."
    )
    spectral_power: float = setting(
        0.5, low=0, high=4, help="Power of the singular values, in the filter sum."
    )
    ridge: float = setting(0.3, low=1e-6, high=1e3, help="Regularisation, in the filter ridge.")
    n_neighbours: int | None = setting(
        None,
        low=1,
        high=100_000,
        help="Entries that each item keeps of the whole model; null: 200, in a small catalogue as "
        "many as make ten million in all.",
    )


_ENTRIES = 10_000_000
_LEAST_NEIGHBOURS = 200

_WHOLE = 1024
"""Rows or columns, whichever are fewer, up to which a matrix is decomposed whole."""


class Spectral:
    """A linear filter from a user's row to scores of all items.

    With A = D_u^-a X D_i^-b, X the weighted interactions, and D their row and
    column sums, a row scores x · D_i^-c f(AᵀA) D_i^d, f the filter: exact on
    the leading singular vectors of A, linear on the rest. All of it is one
    sparse matrix of items × items, so a row that training never saw is
    scored by the same product. Without decomposition this is item-based
    collaborative filtering; f as a low pass is GF-CF (Shen et al., CIKM
    2021), as a ridge the linear autoencoder (Steck, WWW 2019).

    Parameters
    ----------
    settings : SpectralSettings
    item_weights : scipy.sparse.csr_array of float32, shape (n_items, n_items)
        W; so many entries a row as the settings say, none on the diagonal.
    weight_scale : float
        The mean weight, by which weights are divided where they are not binary.
    singular_values : ndarray of float64, shape (k,)
        Of A, in descending order.
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
    is_personal: ClassVar[bool] = True
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
        self._settings = settings
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
        tail, gains = factors.filter(parsed)
        item_weights = linalg.item_filter(
            factors.matrix,
            components=factors.components[: len(gains)],
            gains=gains,
            scale=weighted.item_sums**parsed.popularity_power,
            tail=tail,
            n_neighbours=n_neighbours(parsed, interactions.weights.shape[1]),
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
    def footprint(
        cls,
        *,
        n_users: int,
        n_items: int,
        n_pairs: int,
        settings: Mapping[str, Any],
        n_threads: int,
    ) -> Footprint:
        """Estimate what a fit holds, in its decomposition or its collapse.

        The collapse, as a rule more, goes by the entries that are looked at:
        all, where most of a row is kept or the catalogue is small.
        """
        parsed = SpectralSettings.parse(settings, recipe=cls.name)
        k = min(parsed.n_components, most_components((n_users, n_items)))
        n_kept = min(n_neighbours(parsed, max(1, n_items)), n_items)
        model = 8 * n_items * n_kept + 4 * k * n_items
        sizes = {"n_rows": n_users, "n_columns": n_items, "n_entries": n_pairs}
        decomposition = linalg.svd.bytes_needed(
            **sizes, n_components=max(1, k), oversampling=_OVERSAMPLING
        )
        collapse = linalg.collapse.bytes_needed(
            **sizes, n_components=k, n_neighbours=n_kept, n_threads=n_threads
        )
        components = 4 * k * n_items
        variance = model + 4 * k * n_users
        # Weighted and normalised, the matrix is held twice more all the while.
        held = 16 * n_pairs
        return Footprint(held + max(decomposition, components + collapse, variance), model)

    @property
    def settings(self) -> dict[str, Any]:
        """The settings it was fitted with."""
        return dataclasses.asdict(self._settings)

    @property
    def explained_variance(self) -> float:
        """Sum of the explained variance ratios of the normalised matrix, in [0, 1]."""
        return float(np.clip(self.explained_variance_ratio.sum(), 0.0, 1.0))

    def score(self, rows: sparse.csr_array) -> np.ndarray:
        """Return weighted rows times W.

        Parameters
        ----------
        rows : scipy.sparse.csr_array, shape (n, n_items)
            Weights, of users known or not.

        Returns
        -------
        ndarray of float32, shape (n, n_items)
        """
        weighted = weigh(rows, self._settings.weighting, scale=self.weight_scale)
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


def most_components(shape: tuple[int, int]) -> int:
    """Return how many components a matrix is decomposed into at most.

    Beyond half of the smaller side, iterations no longer pay; a small matrix
    is decomposed whole.
    """
    side = min(shape)
    return side if side <= _WHOLE else side // 2


def n_neighbours(settings: SpectralSettings, n_items: int) -> int:
    """Return how many entries each item keeps of W."""
    return settings.n_neighbours or max(_LEAST_NEIGHBOURS, _ENTRIES // n_items)


def weigh(rows: sparse.csr_array, weighting: str, *, scale: float) -> sparse.csr_array:
    """Return rows of weights as they enter the model, in single precision.

    Parameters
    ----------
    rows : scipy.sparse.csr_array of float64
        From 0 on; stored zeros stay zeros.
    weighting : str
        ``binary``, ``log`` or ``raw``.
    scale : float
        Above zero; the weight that counts as usual.
    """
    if weighting == "binary":
        data = (rows.data > 0).astype(np.float32)
    else:
        # Beyond a million times the usual, or below a millionth, is no taste.
        share = np.clip(rows.data, 0.0, 1e6 * scale) / scale
        share[share < 1e-6] = 0.0
        data = (np.log1p(share) if weighting == "log" else share).astype(np.float32)
    return sparse.csr_array((data, rows.indices, rows.indptr), shape=rows.shape)


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
        positive = weights.data[weights.data > 0]
        # Divided first: the sum of huge weights may overflow.
        largest = positive.max(initial=0.0)
        scale = float(largest * np.mean(positive / largest)) if largest else 1.0
        matrix = weigh(weights, weighting, scale=scale or 1.0)
        matrix = sparse.csr_array(matrix, copy=True)
        matrix.eliminate_zeros()
        sums = (np.asarray(matrix.sum(axis=axis, dtype=np.float64)).ravel() for axis in (1, 0))
        user_sums, item_sums = (np.where(total > 0, total, 1.0) for total in sums)
        return cls(matrix, scale or 1.0, user_sums, item_sums)

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
            oversampling=_OVERSAMPLING,
            on_progress=on_progress,
        )
        largest = float(found.singular_values[0]) or 1.0
        matrix.data /= np.float32(largest)
        components = found.components[:rank]
        # Nothing is known of an item without interactions, and rounding would pass for it.
        components[:, np.bincount(matrix.indices, minlength=matrix.shape[1]) == 0] = 0.0
        return Factors(matrix, largest, components, found.singular_values[:rank] / largest)


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
        Of A as it stands here: the first is 1.
    """

    matrix: sparse.csr_array
    largest: float
    components: np.ndarray
    singular_values: np.ndarray

    def filter(self, settings: SpectralSettings) -> tuple[float, np.ndarray]:
        """Return the filter as a factor of AᵀA and what each component adds to that.

        Returns
        -------
        tail : float
        gains : ndarray of float64, shape (min(k, n_components),)
            Empty where the filter leaves the components alone.
        """
        values = self.singular_values[: settings.n_components]
        if settings.filter == "ridge":
            squares = values**2
            tail = 1.0 / settings.ridge
            return tail, squares / (squares + settings.ridge) - squares * tail
        if settings.mixing == 0:
            return 1.0, values[:0]
        gains = settings.mixing * values**settings.spectral_power
        return 1.0, np.where(values > _NEGLIGIBLE, gains, 0.0)

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
