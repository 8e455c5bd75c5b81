"""How a model is fitted and how it scores: one file a recipe, one protocol."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

import numpy as np
from scipy import sparse

from reckeeper.errors import DataError
from reckeeper.recipes.svd import Svd

if TYPE_CHECKING:
    from sklearn.decomposition import TruncatedSVD


class Recipe(Protocol):
    """A fitted model: an algorithm with its settings and what it learned.

    Attributes
    ----------
    name : str
        The recipe's name in the registry and the API.
    decomposes : bool
        Whether it is a singular value decomposition.
    """

    name: ClassVar[str]
    decomposes: ClassVar[bool]

    @classmethod
    def fit(cls, weights: sparse.csr_array, *, settings: Mapping[str, Any]) -> Self:
        """Fit to a users × items matrix; see `InteractionMatrix.weights`."""
        ...

    @property
    def explained_variance(self) -> float:
        """Share of the variance of the matrix, in [0, 1]."""
        ...

    @property
    def settings(self) -> dict[str, Any]:
        """The settings it was fitted with, as JSON values."""
        ...

    def score(self, rows: sparse.csr_array) -> np.ndarray:
        """Score all items for rows of weights, shape (n, n_items) → the same, dense."""
        ...

    def to_sklearn(self) -> "TruncatedSVD":
        """Return the decomposition as scikit-learn's, for the pickle."""
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


RECIPES: dict[str, type[Recipe]] = {Svd.name: Svd}


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
