"""What `spectral` lets people set."""

from dataclasses import dataclass
from typing import Literal

from reckeeper.recipes.settings import RecipeSettings, setting

_ENTRIES = 10_000_000
_LEAST_NEIGHBOURS = 200


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


def n_neighbours(settings: SpectralSettings, n_items: int) -> int:
    """Return how many entries each item keeps of W."""
    return settings.n_neighbours or max(_LEAST_NEIGHBOURS, _ENTRIES // n_items)
