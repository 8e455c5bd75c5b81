"""Parts of users and items whose figures are looked at on their own."""

from collections.abc import Mapping

import numpy as np

from reckeeper.evaluation.metrics import Quality

_LENGTHS = (1, 5, 20, 100)
"""Where each segment of history lengths begins."""

_THIRDS = ("head", "middle", "tail")


def by_history_length(quality: Quality) -> dict[str, np.ndarray]:
    """Return which questions are asked from histories of 1–4, 5–19, 20–99 and 100+ pairs.

    Returns
    -------
    dict of str to ndarray of bool, shape (n_questions,)
        For `Quality.part`. Segments without a question are left out.
    """
    segments = {}
    for begin, end in zip(_LENGTHS, (*_LENGTHS[1:], None), strict=True):
        within = quality.history_length >= begin
        if end is not None:
            within &= quality.history_length < end
        if within.any():
            segments[f"{begin}+" if end is None else f"{begin}–{end - 1}"] = within
    return segments


def by_popularity(popularity: np.ndarray) -> dict[str, np.ndarray]:
    """Return which items are head, middle and tail: each has a third of what users have.

    Parameters
    ----------
    popularity : ndarray of int, shape (n_items,)
        How many users have each item; items of equal popularity stay
        together.

    Returns
    -------
    dict of str to ndarray of bool, shape (n_items,)
        For `Quality.on_items`; ``tail`` has the items that nobody has too.
    """
    order = np.argsort(-popularity, kind="stable")
    more_popular = np.cumsum(popularity[order]) - popularity[order]
    # Of equal ones the first decides: sorted descending, it is found from the left.
    first = np.searchsorted(-popularity[order], -popularity)
    third = np.minimum(3 * more_popular[first] // max(int(popularity.sum()), 1), 2)
    third[popularity == 0] = 2
    segments = {name: third == place for place, name in enumerate(_THIRDS)}
    return {name: within for name, within in segments.items() if within.any()}


def of_questions(qualities: Mapping[str, Quality], which: np.ndarray) -> dict[str, Quality] | None:
    """Return the part of some questions of several models, or None where there is none."""
    if not which.any():
        return None
    return {model: quality.part(which) for model, quality in qualities.items()}


def of_items(qualities: Mapping[str, Quality], which: np.ndarray) -> dict[str, Quality] | None:
    """Return how several models find some items, or None where no question asks for one."""
    parts = {model: quality.on_items(which) for model, quality in qualities.items()}
    return None if any(not len(part.found) for part in parts.values()) else parts
