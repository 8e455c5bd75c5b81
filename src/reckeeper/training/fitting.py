"""How every model is fitted: what its settings leave to the data is decided first."""

from collections.abc import Callable, Mapping

from reckeeper.matrix import InteractionLog, InteractionMatrix
from reckeeper.recipes import Recipe, recipe_named
from reckeeper.training import folds
from reckeeper.wire import JsonObject

_DECIDING = 0.3
"""The share of the progress that deciding takes where there is something to decide."""


def decide(
    recipe: str,
    settings: Mapping[str, object],
    log: Callable[[], InteractionLog],
    *,
    seed: int = 0,
    on_progress: Callable[[float], None] | None = None,
) -> JsonObject:
    """Find what settings leave to the data, on the newest part of it.

    Parameters
    ----------
    recipe : str
    settings : mapping
    log : callable
        Gives what the model may learn from, and nothing else; asked only where
        there is something to decide, since it may be a copy of millions. Of a
        large one, the interactions of users drawn by chance count.
    seed : int
        For what is drawn.
    on_progress : callable, optional
        Called with the fraction done where there is something to decide; what
        it raises ends it.

    Returns
    -------
    dict
        Settings by name, as JSON values; empty where none is left open.

    Raises
    ------
    DataError
        There is no such recipe, or a setting is unknown or out of range.
    """
    found = recipe_named(recipe).decide(
        lambda: folds.newest(folds.sampled(log(), seed=seed), seed=seed),
        settings=settings,
        on_progress=on_progress,
    )
    return dict(found)


def fit(
    recipe: str,
    settings: Mapping[str, object],
    log: Callable[[], InteractionLog],
    interactions: InteractionMatrix,
    *,
    seed: int = 0,
    on_progress: Callable[[float], None] | None = None,
) -> Recipe:
    """Decide what settings leave to the data, and fit.

    Parameters
    ----------
    recipe : str
    settings : mapping
        The model's stay these; what was decided is in its `decided`.
    interactions : InteractionMatrix
        The sums of what `log` gives.
    log, seed, on_progress
        As of `decide`.

    Raises
    ------
    NotEnoughDataError, DataError
        As of the recipe's `fit`.
    """
    report = on_progress or (lambda _: None)
    decided = decide(
        recipe, settings, log, seed=seed, on_progress=lambda done: report(_DECIDING * done)
    )
    begin = _DECIDING if decided else 0.0
    return recipe_named(recipe).fit_decided(
        interactions,
        settings=settings,
        decided=decided,
        on_progress=lambda done: report(begin + (1 - begin) * done),
    )
