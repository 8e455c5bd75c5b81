"""A recipe as somebody would add it: one file, and an entry in the table of recipes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from scipy import sparse

from reckeeper.matrix import Histories, InteractionMatrix
from reckeeper.recipes import Footprint, Recipe, RecipeSettings, Sizes, setting
from reckeeper.recipes.checks import check_interactions, checked_csr


@dataclass(frozen=True, kw_only=True)
class TogetherSettings(RecipeSettings):
    """Settings of `Together`, each documented by its field."""

    damping: float = setting(
        0.5, low=0, high=1, help="Power of the number of users that an item's column is divided by."
    )


class Together(Recipe):
    """Items that the same users have, counted."""

    name: ClassVar[str] = "together"
    summary: ClassVar[str] = "Items that the same users have, counted."
    settings_type: ClassVar[type[RecipeSettings]] = TogetherSettings

    def __init__(self, settings: TogetherSettings, *, counts: sparse.csr_array) -> None:
        super().__init__(settings)
        self.counts = counts

    @classmethod
    def fit(
        cls,
        interactions: InteractionMatrix,
        *,
        settings: Mapping[str, Any],
        on_progress: Callable[[float], None] | None = None,
    ) -> Self:
        """Count pairs of items."""
        parsed = TogetherSettings.parse(settings, recipe=cls.name)
        check_interactions(interactions)
        tell = on_progress or (lambda _: None)
        tell(0.0)
        has = cls._has(interactions.weights)
        n_users = np.maximum(has.sum(axis=0), 1.0)
        counts = sparse.csr_array(has.T @ has @ sparse.diags_array(n_users**-parsed.damping))
        counts.setdiag(0.0)
        counts.eliminate_zeros()
        counts.sort_indices()
        tell(1.0)
        return cls(parsed, counts=counts)

    @classmethod
    def candidates(cls, *, has_times: bool) -> list[dict[str, Any]]:
        """Return a few dampings."""
        return [{"damping": damping} for damping in (0.5, 0.0, 1.0)]

    @classmethod
    def footprint(cls, sizes: Sizes, *, settings: Mapping[str, Any]) -> Footprint:
        """Estimate by a dense count of all pairs of items."""
        TogetherSettings.parse(settings, recipe=cls.name)
        model = 16 * sizes.n_items**2
        return Footprint(16 * sizes.n_pairs + 2 * model, model)

    def score(self, histories: Histories) -> np.ndarray:
        """Add up the counts of a row's items."""
        return np.asarray((self._has(histories.weights) @ self.counts).toarray())

    def similar(self, item_index: int, *, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the items that most users have with it."""
        counts = self.counts[[item_index]]
        order = np.argsort(-counts.data, kind="stable")[:n]
        return counts.indices[order].astype(np.int64), counts.data[order]

    def to_export(self, trained: InteractionMatrix) -> dict[str, Any]:
        """Return the counts."""
        return {"counts": sparse.csr_matrix(self.counts)}

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Return the counts."""
        return {
            "counts.indptr": self.counts.indptr.astype(np.int64),
            "counts.indices": self.counts.indices.astype(np.int32),
            "counts.data": self.counts.data,
        }

    @classmethod
    def from_arrays(
        cls, arrays: Mapping[str, np.ndarray], *, settings: Mapping[str, Any], n_items: int
    ) -> Self:
        """Make the model again from `to_arrays`."""
        parsed = TogetherSettings.parse(settings, recipe=cls.name)
        counts = checked_csr(arrays, "counts", dtype=np.float64, shape=(n_items, n_items))
        return cls(parsed, counts=counts)

    @staticmethod
    def _has(rows: sparse.csr_array) -> sparse.csr_array:
        return sparse.csr_array(
            ((rows.data > 0).astype(np.float64), rows.indices, rows.indptr), shape=rows.shape
        )
