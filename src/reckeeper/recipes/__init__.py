"""How a model is fitted, scores and is tuned: one base class, one file or folder a recipe."""

from typing import Any

from reckeeper.errors import DataError
from reckeeper.recipes.base import Footprint, Recipe, Sizes
from reckeeper.recipes.plan import Judge, Scorer, TuningRun, TuningSplit
from reckeeper.recipes.popularity import Popularity
from reckeeper.recipes.settings import RecipeSettings, setting
from reckeeper.recipes.spectral import Spectral
from reckeeper.recipes.svd import Svd

__all__ = [
    "RECIPES",
    "Footprint",
    "Judge",
    "Recipe",
    "RecipeSettings",
    "Scorer",
    "Sizes",
    "TuningRun",
    "TuningSplit",
    "describe_recipes",
    "recipe_named",
    "setting",
]

RECIPES: dict[str, type[Recipe]] = {recipe.name: recipe for recipe in (Svd, Spectral, Popularity)}
"""Every recipe by its name; a new one is added here and nowhere else."""


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
