"""Two models on the same users, pair by pair."""

import numpy as np

from reckeeper.errors import DataError
from reckeeper.evaluation.confidence import intervals
from reckeeper.evaluation.metrics import Quality


def compare(
    first: Quality,
    second: Quality,
    *,
    seed: int = 0,
    n_resamples: int = 1000,
    level: float = 0.95,
) -> dict[str, dict[str, float]]:
    """Compare two models on the same users, pair by pair.

    Users differ more from each other than models do. Resampling the
    difference of each user leaves that out, and shows differences that two
    intervals side by side would hide.

    Parameters
    ----------
    first, second : Quality
        Both of the same users, with the same k.
    seed, n_resamples, level
        As of `Quality.summary`.

    Returns
    -------
    dict
        ``recall@k``, ``ndcg@k``, ``hit_rate@k``, ``map@k``: ``difference``
        (second - first), ``low`` and ``high``. An interval without 0 says
        that the models differ.

    Raises
    ------
    DataError
        Users or k are not the same, or a parameter is out of range.

    Notes
    -----
    Repeatable by seed.
    """
    if first.k != second.k:
        raise DataError(
            f"The lists have {first.k} items here and {second.k} there: measure both with the "
            "same k."
        )
    if not np.array_equal(first.user_index, second.user_index):
        raise DataError(
            f"The {len(first.user_index)} users of the one and the {len(second.user_index)} of the "
            "other are not the same: measure both on the same users."
        )
    ours, theirs = second.by_user(), first.by_user()
    differences = {name: ours[name] - theirs[name] for name in ours}
    ranges = intervals(differences, seed=seed, n_resamples=n_resamples, level=level)
    return {
        name: {"difference": float(values.mean()), "low": low, "high": high}
        for (name, values), (low, high) in zip(differences.items(), ranges, strict=True)
    }
