"""`popularity`: what most users have, the same for everybody; baseline and fallback."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from reckeeper import clock
from reckeeper.errors import DataError
from reckeeper.matrix import Histories, InteractionMatrix
from reckeeper.recipes.base import Footprint, Recipe, Sizes
from reckeeper.recipes.checks import check_interactions, checked_array
from reckeeper.recipes.settings import RecipeSettings, setting


@dataclass(frozen=True, kw_only=True)
class PopularitySettings(RecipeSettings):
    """Settings of `Popularity`, each documented by its field."""

    half_life_days: float | None = setting(
        None,
        low=0.01,
        high=36_500,
        help="Days after which a user's latest interaction with an item counts half; null: "
        "however old it is, it counts whole.",
    )


class Popularity(Recipe):
    """How many users an item has, those of long ago counting less.

    An item's score is the sum, over the users whose weight for it is above
    zero, of 2^(-age / half-life). The age of a pair is the time from its
    latest interaction to the latest of all data.

    Parameters
    ----------
    settings : PopularitySettings
    item_scores : ndarray of float64, shape (n_items,)
        From 0 on.
    """

    name: ClassVar[str] = "popularity"
    summary: ClassVar[str] = (
        "What most users have, the same list for everybody; recent users may count more. Good "
        "where little is known of anybody, and what the others have to beat."
    )
    is_personal: ClassVar[bool] = False
    settings_type: ClassVar[type[RecipeSettings]] = PopularitySettings

    def __init__(self, settings: PopularitySettings, *, item_scores: np.ndarray) -> None:
        super().__init__(settings)
        self.item_scores = item_scores

    @classmethod
    def fit(
        cls,
        interactions: InteractionMatrix,
        *,
        settings: Mapping[str, Any],
        on_progress: Callable[[float], None] | None = None,
    ) -> Self:
        """Count users by item, in double precision.

        Parameters
        ----------
        interactions : InteractionMatrix
        settings : mapping
            Fields of `PopularitySettings`.
        on_progress : callable, optional
            Called with 0 and with 1.

        Raises
        ------
        NotEnoughDataError
            Fewer than two users or two items.
        DataError
            A setting is unknown or out of range, a weight is not finite, or
            a half-life is set and the data have no times.

        Notes
        -----
        O(pairs); deterministic.
        """
        parsed = PopularitySettings.parse(settings, recipe=cls.name)
        check_interactions(interactions)
        if on_progress is not None:
            on_progress(0.0)
        weights = interactions.weights
        counts = (weights.data > 0).astype(np.float64)
        if parsed.half_life_days is not None:
            if interactions.latest_at is None:
                raise DataError(
                    f"half_life_days is {parsed.half_life_days:g}, and these interactions have no "
                    "times. Give them their times, or set half_life_days to null."
                )
            newest = interactions.latest_at.max(initial=np.iinfo(np.int64).min)
            age_days = (newest - interactions.latest_at) / clock.DAY
            counts *= np.exp2(-age_days / parsed.half_life_days)
        item_scores = np.bincount(weights.indices, weights=counts, minlength=weights.shape[1])
        item_scores = item_scores.astype(np.float64)  # of nothing, numpy counts in integers
        if on_progress is not None:
            on_progress(1.0)
        return cls(parsed, item_scores=item_scores)

    @classmethod
    def candidates(cls, *, has_times: bool) -> list[dict[str, Any]]:
        """Return half-lives, none first; all are tried, since a fit takes next to no time."""
        half_lives = (None, 365.0, 90.0, 30.0, 7.0) if has_times else (None,)
        return [{"half_life_days": half_life} for half_life in half_lives]

    @classmethod
    def footprint(cls, sizes: Sizes, *, settings: Mapping[str, Any]) -> Footprint:
        """Estimate what a fit holds: a few numbers a pair, and afterwards one an item."""
        parsed = PopularitySettings.parse(settings, recipe=cls.name)
        numbers = 3 if parsed.half_life_days is None else 6
        return Footprint(8 * (numbers * sizes.n_pairs + sizes.n_items), 8 * sizes.n_items)

    def score(self, histories: Histories) -> np.ndarray:
        """Return the items' scores, once for each history.

        Parameters
        ----------
        histories : Histories
            What is in them makes no difference; one without interactions has
            the same scores as any other.

        Returns
        -------
        ndarray of float64, shape (n, n_items)
        """
        return np.tile(self.item_scores, (len(histories), 1))

    def to_export(self, trained: InteractionMatrix) -> dict[str, Any]:
        """Return ``item_scores``: every row of the predicted ratings."""
        return {"item_scores": self.item_scores}

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Return the items' scores."""
        return {"item_scores": self.item_scores}

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
        parsed = PopularitySettings.parse(settings, recipe=cls.name)
        item_scores = checked_array(arrays, "item_scores", dtype=np.float64, shape=(n_items,))
        if (item_scores < 0).any():
            raise DataError("The array 'item_scores' has values below zero.")
        return cls(parsed, item_scores=item_scores)
