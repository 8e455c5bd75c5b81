"""Parts of what was measured: users by length of history or a column, items by popularity.

Each part is a `Quality` of its own. Those of two models on the same questions have the same parts,
and can be compared pair by pair.
"""

import itertools

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from reckeeper.evaluation.metrics import Quality

_LENGTHS = {"1-4": 1, "5-19": 5, "20-99": 20, "100+": 100}
"""The first length of each segment."""

_THIRDS = ("head", "middle", "tail")

_MOST_GROUPS = 12
"""Values of a column that are looked at on their own."""


def by_history_length(quality: Quality) -> dict[str, Quality]:
    """Return the quality by how many pairs the history of each question has.

    Returns
    -------
    dict of str to Quality
        ``1-4``, ``5-19``, ``20-99`` and ``100+``, those that there are. A user
        whose history grows may be in several.
    """
    begins = np.array(list(_LENGTHS.values()))
    segment = np.searchsorted(begins, quality.history_length, side="right") - 1
    return _parts(quality, segment, tuple(_LENGTHS))


def by_item_popularity(quality: Quality, popularity: np.ndarray) -> dict[str, Quality]:
    """Return how items are found that have a third each of all pairs.

    Parameters
    ----------
    quality : Quality
    popularity : ndarray of int, shape (n_items,)
        How many users have each item, in training.

    Returns
    -------
    dict of str to Quality
        ``head`` (the most popular items), ``middle`` and ``tail``, those that
        are asked for; see `Quality.on_items`.
    """
    order = np.argsort(-popularity, kind="stable")
    before = np.cumsum(popularity[order]) - popularity[order]
    third = np.empty(len(popularity), dtype=np.int64)
    third[order] = np.minimum(3 * before // max(int(popularity.sum()), 1), 2)
    parts = {name: quality.on_items(third == place) for place, name in enumerate(_THIRDS)}
    return {name: part for name, part in parts.items() if len(part.question_user)}


def by_column(values: pa.Array) -> dict[str, np.ndarray]:
    """Return which rows of a table have each value of a column.

    Numbers of many values are taken in quarters. Text may hold several
    values, separated by ``|``. Of many values the 12 most frequent stand on
    their own, and the others together. Empty where nearly every row has a
    value of its own, as titles have.

    Parameters
    ----------
    values : pyarrow.Array
        Of n rows.

    Returns
    -------
    dict of str to ndarray of bool, shape (n,)
        They overlap where text holds several values.
    """
    is_number = pa.types.is_integer(values.type) or pa.types.is_floating(values.type)
    if is_number and len(values.unique()) > _MOST_GROUPS:
        return _quarters(values.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False))
    texts = pc.fill_null(values.cast(pa.string()), "")
    parts = pc.split_pattern(texts, "|")
    row = pc.list_parent_indices(parts).to_numpy()
    encoded = pc.list_flatten(parts).dictionary_encode()
    names, codes = encoded.dictionary.to_pylist(), encoded.indices.to_numpy()
    counts = np.bincount(codes, minlength=len(names))
    frequent = np.argsort(-counts, kind="stable")
    if len(names) > _MOST_GROUPS:
        if 2 * len(names) > len(values):
            return {}
        frequent = frequent[:_MOST_GROUPS]
    groups = {}
    for code in frequent:
        groups[names[code] or "none given"] = within = np.zeros(len(values), dtype=bool)
        within[row[codes == code]] = True
    if len(names) > _MOST_GROUPS:
        groups["others"] = ~np.any(list(groups.values()), axis=0)
    return groups


def _quarters(numbers: np.ndarray) -> dict[str, np.ndarray]:
    known = numbers[np.isfinite(numbers)]
    bounds = np.unique(np.quantile(known, [0, 0.25, 0.5, 0.75, 1]))
    groups = {}
    for place, (low, high) in enumerate(itertools.pairwise(bounds)):
        is_last = place == len(bounds) - 2
        within = (numbers >= low) & ((numbers <= high) if is_last else (numbers < high))
        groups[f"{low:g} to {'' if is_last else 'below '}{high:g}"] = within
    if len(known) < len(numbers):
        groups["none given"] = ~np.isfinite(numbers)
    return groups


def _parts(quality: Quality, segment: np.ndarray, names: tuple[str, ...]) -> dict[str, Quality]:
    return {
        name: quality.part(segment == place)
        for place, name in enumerate(names)
        if (segment == place).any()
    }
