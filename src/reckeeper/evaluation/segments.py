"""Parts of what was measured: users by length of history or a column, items by popularity.

Each part is a `Quality` of its own. Those of two models on the same questions have the same parts,
and can be compared pair by pair.
"""

import numpy as np

from reckeeper.errors import DataError
from reckeeper.evaluation.metrics import Quality

_LENGTHS = {"1-4": 1, "5-19": 5, "20-99": 20, "100+": 100}
"""The first length of each segment."""

_THIRDS = ("head", "middle", "tail")


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


def by_user(quality: Quality, names: np.ndarray) -> dict[str, Quality]:
    """Return the quality by a column of a users' table.

    Parameters
    ----------
    quality : Quality
    names : ndarray of str, shape (n_users,)
        The segment of each user of the log; an empty one is left out.

    Raises
    ------
    DataError
        There are fewer names than users.
    """
    if len(names) <= quality.question_user.max(initial=-1):
        raise DataError(f"There are {len(names)} names of segments: give one for each user.")
    known, segment = np.unique(names.astype(str), return_inverse=True)
    parts = _parts(quality, segment[quality.question_user], tuple(known.tolist()))
    return {name: part for name, part in parts.items() if name}


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


def _parts(quality: Quality, segment: np.ndarray, names: tuple[str, ...]) -> dict[str, Quality]:
    return {
        name: quality.part(segment == place)
        for place, name in enumerate(names)
        if (segment == place).any()
    }
