"""How a model is fitted and how it scores: one file a recipe, one protocol."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

import numpy as np
from scipy import sparse

from reckeeper.errors import DataError
from reckeeper.matrix import InteractionMatrix
from reckeeper.recipes.footprint import Footprint
from reckeeper.recipes.popularity import Popularity
from reckeeper.recipes.settings import RecipeSettings
from reckeeper.recipes.spectral import Spectral
from reckeeper.recipes.svd import Svd

if TYPE_CHECKING:
    from sklearn.decomposition import TruncatedSVD


class Recipe(Protocol):
    """A fitted model: an algorithm with its settings and what it learned.

    Attributes
    ----------
    name : str
        The recipe's name in the registry and the API.
    summary : str
        What it is, in one sentence for people.
    decomposes : bool
        Whether it is a singular value decomposition.
    is_personal : bool
        Whether scores depend on the user; if not, every row has the same, one
        without interactions too.
    settings_type : type
        The frozen dataclass of its settings.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    decomposes: ClassVar[bool]
    is_personal: ClassVar[bool]
    settings_type: ClassVar[type[RecipeSettings]]

    @classmethod
    def fit(
        cls,
        interactions: InteractionMatrix,
        *,
        settings: Mapping[str, Any],
        on_progress: Callable[[float], None] | None = None,
    ) -> Self:
        """Fit to what users did; rows and columns may be empty.

        Parameters
        ----------
        interactions : InteractionMatrix
            Left as it is. A stored zero was seen and weighs nothing.
        settings : mapping
            Of JSON values; what is not in it has its default.
        on_progress : callable, optional
            Called with the fraction done, in [0, 1], never less than before
            and 1 at the end. What it raises ends the fit.

        Raises
        ------
        NotEnoughDataError
            Fewer than two users or two items.
        DataError
            A setting is unknown or out of range, or a weight is not finite.
        """
        ...

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
        """Estimate what a fit holds in memory, from sizes alone; rather too much than too little.

        Parameters
        ----------
        n_users, n_items, n_pairs : int
            Of the matrix: rows, columns and stored entries, from 0 on.
        settings : mapping
            As for `fit`.
        n_threads : int
            On how many cores it runs.

        Raises
        ------
        DataError
            A setting is unknown or out of range.
        """
        ...

    @property
    def explained_variance(self) -> float:
        """Share of the variance of the matrix, in [0, 1]; 0 where nothing is decomposed."""
        ...

    @property
    def settings(self) -> dict[str, Any]:
        """The settings it was fitted with, complete, as JSON values."""
        ...

    def score(self, rows: sparse.csr_array) -> np.ndarray:
        """Score all items for rows of weights, of users known or never seen.

        Parameters
        ----------
        rows : scipy.sparse.csr_array of float64, shape (n, n_items)

        Returns
        -------
        ndarray of float64 or float32, shape (n, n_items)
            Finite. A personal recipe gives a row zeros where none of its
            weights is above zero or it knows nothing of the row's items.
        """
        ...

    def similar(self, item_index: int, *, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the dense indices of the at most `n` most similar items, and how similar.

        Similarities are above zero and descend; the item itself is not among
        them. Empty where the recipe knows of none.
        """
        ...

    def to_sklearn(self) -> "TruncatedSVD | None":
        """Return the decomposition as scikit-learn's, for the pickle; None if there is none."""
        ...

    def to_export(self) -> dict[str, Any]:
        """Return what the pickle needs besides `to_sklearn` to give the same scores.

        Entries of the pickle's dict, of plain, numpy and scipy values, so that
        predicted ratings can be had where their table is too large to be in it.
        """
        ...

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Return what was learned, as named arrays."""
        ...

    @classmethod
    def from_arrays(
        cls, arrays: Mapping[str, np.ndarray], *, settings: Mapping[str, Any], n_items: int
    ) -> Self:
        """Make the model again from `to_arrays`; refuses what does not fit with `DataError`."""
        ...


RECIPES: dict[str, type[Recipe]] = {
    Svd.name: Svd,
    Spectral.name: Spectral,
    Popularity.name: Popularity,
}


def recipe_named(name: str) -> type[Recipe]:
    """Return the recipe of a name.

    Raises
    ------
    DataError
        There is none; the message lists those that there are.
    """
    try:
        return RECIPES[name]
    except KeyError:
        raise DataError(f"There is no recipe {name!r}: use one of {', '.join(RECIPES)}.") from None


def describe_recipes() -> list[dict[str, Any]]:
    """Describe every recipe and its settings, as JSON values.

    Returns
    -------
    list of dict
        ``name``, ``summary``, ``decomposes`` and ``settings``, a list of
        ``name``, ``default`` and ``help``.
    """
    return [
        {
            "name": recipe.name,
            "summary": recipe.summary,
            "decomposes": recipe.decomposes,
            "settings": recipe.settings_type.describe(),
        }
        for recipe in RECIPES.values()
    ]
