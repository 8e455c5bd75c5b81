"""The model of `spectral`: one sparse matrix, fitted, applied, and taken to and from files."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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
from reckeeper.recipes.spectral import deciding, order, tuning
from reckeeper.recipes.spectral.factors import Weighted, most_components
from reckeeper.recipes.spectral.parts import WHITENED, Ordered, Plain, collapsed, ordered_part
from reckeeper.recipes.spectral.settings import DEFAULT_ORDER, SpectralSettings, n_neighbours
from reckeeper.recipes.weighting import weigh

if TYPE_CHECKING:
    from sklearn.decomposition import TruncatedSVD

_KEPT = 50
"""Items that go together with an item, and that come next, which a model with order keeps."""


@dataclass(frozen=True)
class OrderInForce:
    """What a model has where order counts.

    Attributes
    ----------
    strength : float
        μ, above zero.
    recency : float
        h, above zero: the steps back at which an item weighs half.
    alike, following : scipy.sparse.csr_array of float32, shape (n_items, n_items)
        Of each item the largest entries of the plain part, and of what comes
        next; all above zero.
    """

    strength: float
    recency: float
    alike: sparse.csr_array
    following: sparse.csr_array


class Spectral(Recipe):
    """A linear model of items × items: what goes together, and what comes next.

    With A = D_u^-a X D_i^-b, X the weighted interactions, and D their row and
    column sums, the plain part is D_i^-c (F - diag F) D_i^d (1 - diag F)^-e.
    F = f(AᵀA) is the ridge, exact on the leading singular vectors of A and its
    secant on the rest. Without powers, with e = 1 and all singular vectors it
    is the linear autoencoder with a zero diagonal (EASE: Steck, WWW 2019).

    Where order counts, W = W_plain + μ z B: B has what came after what, less
    what comes after everything (`parts.Ordered`), and z makes its scores as
    large as the plain ones. An entry of a history is then weighed by
    1 / (1 + s / h), s the steps since.

    All of it is one sparse matrix, so a row that training never saw is scored
    by the same product.

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
    order : OrderInForce, optional
        None where order does not count.
    components : ndarray of float32, shape (k, n_items), optional
        Right singular vectors of A; there after a fit, not in the native file.
    """

    name: ClassVar[str] = "spectral"
    summary: ClassVar[str] = (
        "What goes together and, where order helps, what comes next: the best lists for most data, "
        "for known and new users alike."
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
        order: OrderInForce | None = None,
        components: np.ndarray | None = None,
    ) -> None:
        super().__init__(settings)
        self._weighting = settings.weighting
        self.item_weights = item_weights
        self.weight_scale = weight_scale
        self.singular_values = singular_values
        self.explained_variance_ratio = explained_variance_ratio
        self.order = order
        self.components = components

    @classmethod
    def fit(
        cls,
        interactions: InteractionMatrix,
        *,
        settings: Mapping[str, Any],
        on_progress: Callable[[float], None] | None = None,
    ) -> Self:
        """Decompose, count what came after what, and collapse, in single precision.

        Parameters
        ----------
        interactions : InteractionMatrix
        settings : mapping
            Fields of `SpectralSettings`. An order of null is none here:
            `decide` comes before.
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
        `linalg.collapse` for the memory. Deterministic on one machine.
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
        plain = Plain.of(weighted, factors, parsed)
        ordered = None
        if parsed.order and interactions.latest_at is not None:
            ordered = ordered_part(
                parsed,
                interactions.histories,
                weighted,
                factors,
                plain,
                on_progress=lambda fraction: report(0.4 + 0.1 * fraction),
            )
        item_weights = collapsed(
            plain,
            ordered,
            n_neighbours=n_neighbours(parsed, plain.n_items),
            on_progress=lambda fraction: report(0.5 + 0.5 * fraction),
        )
        return cls(
            parsed,
            item_weights=item_weights,
            weight_scale=weighted.scale,
            singular_values=factors.singular_values,
            explained_variance_ratio=factors.explained_variance_ratio(),
            order=None if ordered is None else _in_force(ordered, item_weights, parsed),
            components=factors.components,
        )

    @classmethod
    def tune(cls, splits: Sequence[TuningSplit], run: TuningRun) -> None:
        """Search along one setting after the other, from three starts; see `spectral.tuning`."""
        tuning.search(splits, run, cls.fit)

    @classmethod
    def decide(
        cls,
        newest: Callable[[], TuningSplit | None],
        *,
        settings: Mapping[str, Any],
        on_progress: Callable[[float], None] | None = None,
    ) -> Mapping[str, Any]:
        """Find out whether order helps, where it is left open; see `spectral.deciding`."""
        parsed = SpectralSettings.parse(settings, recipe=cls.name)
        if parsed.order is not None:
            return {}
        split = newest()
        helps = split is not None and deciding.order_helps(split, parsed, on_progress=on_progress)
        return {"order": DEFAULT_ORDER if helps else 0.0}

    @property
    def decided(self) -> dict[str, Any]:
        """The order in force, where the settings leave it open."""
        if self.settings["order"] is not None:
            return {}
        return {"order": 0.0 if self.order is None else self.order.strength}

    @classmethod
    def footprint(cls, sizes: Sizes, *, settings: Mapping[str, Any]) -> Footprint:
        """Estimate what a fit holds, in its decomposition or its collapse.

        The collapse, which usually needs more, goes by the entries that are
        looked at: all, where most of a row is kept or the catalogue is small.
        An order that is left to a check is taken as if it were on.
        """
        parsed = SpectralSettings.parse(settings, recipe=cls.name)
        n_items = sizes.n_items
        with_order = parsed.order != 0
        k = min(parsed.n_components, most_components((sizes.n_users, n_items)))
        n_kept = min(n_neighbours(parsed, n_items), n_items)
        of_order = 2 * 8 * n_items * min(_KEPT, n_items) if with_order else 0
        model = 8 * n_items * n_kept + 4 * k * n_items + of_order
        decomposition = linalg.svd.bytes_needed(
            n_rows=sizes.n_users,
            n_columns=n_items,
            n_entries=sizes.n_pairs,
            n_components=max(1, k),
        )
        follows = added = 0
        if with_order:
            follows = order.following_bytes(
                n_items=n_items, n_pairs=sizes.n_pairs, n_threads=sizes.n_threads
            )
            added = order.kept_bytes(n_items=n_items, n_pairs=sizes.n_pairs)
        rank = k + (WHITENED if with_order else 0)
        collapse = linalg.collapse.bytes_needed(
            n_rows=sizes.n_users,
            n_columns=n_items,
            n_entries=sizes.n_pairs,
            n_components=rank,
            n_neighbours=n_kept,
            n_threads=sizes.n_threads,
        )
        components = 4 * (k + 2 * rank) * n_items
        variance = model + added + 4 * k * sizes.n_users
        # A copy of what is counted, and one of W, are cut to what the model keeps of each.
        cutting = 2 * (added + 8 * n_items * n_kept) + components
        # Weighted and normalised, the matrix is held twice more all the while.
        held = 16 * sizes.n_pairs
        counting, collapse = components + follows, components + added + collapse
        most = max(decomposition, counting, collapse, cutting, variance)
        return Footprint(held + most, model)

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

    @property
    def is_ordered(self) -> bool:
        """Whether a history is weighed by recency."""
        return self.order is not None

    def score(self, histories: Histories) -> np.ndarray:
        """Return weighted rows times W; where order counts, weighed by recency too.

        Parameters
        ----------
        histories : Histories
            Of users known or not.

        Returns
        -------
        ndarray of float32, shape (n, n_items)
        """
        return linalg.dense_product(self._weighed(histories), self.item_weights)

    def n_terms(self, histories: Histories) -> np.ndarray:
        """Return how many entries the rows of W have that belong to each history."""
        rows, bounds = histories.weights, self.item_weights.indptr
        of_entries = bounds[rows.indices + 1] - bounds[rows.indices]
        return np.diff(np.concatenate([[0], np.cumsum(of_entries)])[rows.indptr])

    def sparse_score(self, histories: Histories) -> sparse.csr_array:
        """Return what `score` does, where W's rows have something."""
        return linalg.sparse_product(self._weighed(histories), self.item_weights)

    def _weighed(self, histories: Histories) -> sparse.csr_array:
        """Return rows as W takes them."""
        rows = weigh(histories.weights, self._weighting, scale=self.weight_scale)
        if self.order is not None and histories.n_later is not None:
            rows.data *= order.recency_of(histories.n_later, recency=self.order.recency)
        return rows

    def contributions(self, history: Histories, items: np.ndarray) -> np.ndarray:
        """Return the history's weights, times the rows of W that belong to them."""
        row = self._weighed(history)
        of_items = self.item_weights[row.indices][:, items].toarray()
        return np.asarray(row.data[:, None].astype(np.float64) * of_items)

    @property
    def _alike(self) -> sparse.csr_array:
        return self.item_weights if self.order is None else self.order.alike

    def similar(self, item_index: int, *, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the largest entries of the item's row of the plain part."""
        return _largest_of_row(self._alike, item_index, n)

    def likeness(self, items: np.ndarray) -> np.ndarray:
        """Return entries of the plain part, divided by the largest of their row."""
        rows = self._alike[items]
        largest = rows.max(axis=1).toarray().ravel().astype(np.float64)
        within = np.maximum(rows[:, items].toarray().astype(np.float64), 0.0)
        shares = np.divide(within, largest[:, None], out=within, where=largest[:, None] > 0)
        return np.maximum(shares, shares.T)

    def next(self, item_index: int, *, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the largest entries of the item's row of the ordered part."""
        if self.order is None:
            return super().next(item_index, n=n)
        return _largest_of_row(self.order.following, item_index, n)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Return W, the scale of the weights, singular values and explained variance ratios.

        And ``order``: μ and h, or zeros where order does not count; where it
        does, what goes together and what comes next of each item.
        """
        arrays = {
            **_csr_arrays("item_weights", self.item_weights),
            "weight_scale": np.array([self.weight_scale]),
            "singular_values": self.singular_values,
            "explained_variance_ratio": self.explained_variance_ratio,
            "order": np.zeros(2),
        }
        if self.order is not None:
            arrays["order"] = np.array([self.order.strength, self.order.recency])
            arrays |= _csr_arrays("alike", self.order.alike)
            arrays |= _csr_arrays("following", self.order.following)
        return arrays

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
        shape = (n_items, n_items)
        item_weights = checked_csr(arrays, "item_weights", dtype=np.float32, shape=shape)
        if scale[0] <= 0:
            raise DataError(f"The array 'weight_scale' is {scale[0]}, not above zero.")
        in_force = None
        of_order = checked_array(arrays, "order", dtype=np.float64, shape=(2,))
        if of_order.any():
            if (of_order <= 0).any():
                raise DataError(f"The array 'order' is {of_order.tolist()}, not above zero.")
            alike, following = (
                checked_csr(arrays, name, dtype=np.float32, shape=shape)
                for name in ("alike", "following")
            )
            in_force = OrderInForce(float(of_order[0]), float(of_order[1]), alike, following)
        return cls(
            parsed,
            item_weights=item_weights,
            weight_scale=float(scale[0]),
            singular_values=values,
            explained_variance_ratio=ratio,
            order=in_force,
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

    def to_export(self, trained: InteractionMatrix) -> dict[str, Any]:
        """Return ``item_weights``, W, with ``weight_scale`` and ``recency_weights``.

        Predicted ratings are ``weighted(rating_matrix) @ item_weights``; the
        setting ``weighting`` in the metadata says how weights enter. With
        order, what is weighted is multiplied by ``recency_weights`` first,
        entry by entry; None leaves it as it is.
        """
        recency_weights = None
        if self.order is not None:
            ones = weigh(trained.weights, "binary", scale=1.0)
            n_later = trained.histories.n_later
            recency_weights = sparse.csr_matrix(
                order.recent(ones, n_later, recency=self.order.recency)
            )
        return {
            "item_weights": sparse.csr_matrix(self.item_weights),
            "weight_scale": self.weight_scale,
            "recency_weights": recency_weights,
        }


def _in_force(
    ordered: Ordered, item_weights: sparse.csr_array, settings: SpectralSettings
) -> OrderInForce:
    """Keep the best of either part.

    What goes together is nearly always among what W keeps. What comes next is
    looked for among what did so most often.
    """
    assert settings.order is not None
    alike = item_weights.copy()
    alike.data -= ordered.at(item_weights)
    following = order.largest(ordered.added.copy(), 4 * _KEPT)
    following.data = ordered.at(following)
    return OrderInForce(
        settings.order,
        settings.recency,
        order.largest(alike, _KEPT),
        order.largest(following, _KEPT),
    )


def _largest_of_row(matrix: sparse.csr_array, index: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the places and values of a row's n largest entries above zero."""
    start, stop = matrix.indptr[index : index + 2]
    values = matrix.data[start:stop]
    best = np.argsort(-values, kind="stable")[:n]
    best = best[values[best] > 0]
    return matrix.indices[start:stop][best].astype(np.int64), values[best]


def _csr_arrays(name: str, matrix: sparse.csr_array) -> dict[str, np.ndarray]:
    return {
        f"{name}.indptr": matrix.indptr.astype(np.int64),
        f"{name}.indices": matrix.indices.astype(np.int32),
        f"{name}.data": matrix.data,
    }
