"""What `spectral` lets people set."""

from dataclasses import dataclass
from typing import Literal

from reckeeper.recipes.settings import RecipeSettings, setting

_LEAST_NEIGHBOURS = 200
_ENTRIES = 10_000_000

DEFAULT_ORDER = 0.5
"""What order counts where the data show that it helps."""


@dataclass(frozen=True, kw_only=True)
class SpectralSettings(RecipeSettings):
    """Settings of `Spectral`, each documented by its field."""

    weighting: Literal["binary", "log", "raw"] = setting(
        "binary",
        help="How a weight enters: as 1; as log(1 + weight / mean weight); or in proportion.",
    )
    n_components: int = setting(
        256,
        low=0,
        high=16_384,
        help="Singular vectors on which the filter is exact; 0 leaves the co-occurrence alone, and "
        "is fast. A matrix that has fewer gives all it has, a large one half its smaller side.",
    )
    user_power: float = setting(
        0.25,
        low=-1,
        high=1,
        help="How much less the items of a user with a long history count together: each is "
        "divided by the length to this power.",
    )
    item_power: float = setting(
        0.15, low=-1, high=1, help="The same for items, in what is decomposed."
    )
    history_power: float = setting(
        0.15,
        low=-1,
        high=1.5,
        help="How much less a popular item in a history says: it is divided by the number of its "
        "users to this power.",
    )
    popularity_power: float = setting(
        0.05,
        low=-1,
        high=1.5,
        help="How much popular items are favoured: scores are multiplied by the number of users "
        "to this power.",
    )
    ridge: float = setting(
        15.0,
        low=1e-3,
        high=1e6,
        help="Regularisation, in units of what an item shares with itself on average. More leans "
        "on the main directions of taste, less on what single items have in common.",
    )
    diagonal_power: float = setting(
        1.0,
        low=0,
        high=2,
        help="How much an item is made up for being explained by itself. 1 is the linear "
        "autoencoder whose items must do without themselves (EASE), 0 the plain ridge.",
    )
    n_neighbours: int | None = setting(
        None,
        low=1,
        high=100_000,
        help="Entries that each item keeps of the whole model, largest first, below zero or "
        "above; null: 200, in a small catalogue as many as make ten million in all.",
    )
    order: float | None = setting(
        None,
        low=0,
        high=10,
        help="How much it counts what came after what, beside what goes together; 0 leaves order "
        "and recency out. null: 0.5 where a check on the newest part of the data finds that it "
        "helps, else 0.",
    )
    recency: float = setting(
        3.0,
        low=0.1,
        high=1000,
        help="Where order counts: how far back in a history an item weighs half, in steps. A step "
        "is a time at which the user did something.",
    )
    order_popularity: float = setting(
        0.2,
        low=-0.5,
        high=1,
        help="How much less popular items count as what comes next: they are divided by the number "
        "of their users to this power.",
    )


def n_neighbours(settings: SpectralSettings, n_items: int) -> int:
    """Return how many entries each item keeps of W."""
    return settings.n_neighbours or max(_LEAST_NEIGHBOURS, _ENTRIES // max(1, n_items))
