"""What users would see of two versions: their lists side by side, on a sample."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from reckeeper.errors import DataError
from reckeeper.matrix import InteractionMatrix
from reckeeper.ranking import Ranker, popularity_of
from reckeeper.registry import ActiveModel

MOST_USERS = 20_000
LONGEST = 100
N_LISTED = 10
"""Of the users and items that change most, so many are told."""

_SHOWN = (
    "version",
    "recipe",
    "settings",
    "data",
    "training_samples",
    "n_users",
    "n_items",
    "explained_variance",
    "metrics",
)
_N_RESAMPLES = 1000


def compare(
    first: ActiveModel,
    second: ActiveModel,
    *,
    first_row: Mapping[str, Any],
    second_row: Mapping[str, Any],
    k: int = 10,
    n_users: int = 2000,
    seed: int = 0,
) -> dict[str, Any]:
    """Compare two versions by the lists that they give to the same users.

    Users are drawn by lot from those whom both know. Each version ranks from
    the row that it was trained on and leaves out what that row has, as it
    would serve; interactions newer than a version play no part.

    Parameters
    ----------
    first, second : ActiveModel
        As `Registry.load` gives them; of the same data or not.
    first_row, second_row : mapping
        The same versions as `Registry.version` describes them.
    k : int
        Length of the lists, 1 to 100.
    n_users : int
        Users to draw, 1 to 20,000; all, where both know no more.
    seed : int
        Of the lot and of the interval; not negative.

    Returns
    -------
    dict
        JSON values. ``first`` and ``second``: what was trained on what, with
        its metrics; ``settings``: ``name``, ``first`` and ``second`` of those
        that differ, None where a recipe has no such setting. ``users``: how
        many ``both`` know, and ``only_first`` and ``only_second``;
        ``n_users``: drawn. ``sentence``: what came out, for people.

        ``overlap``: the mean share of a list that both versions give, in
        [0, 1], of two lists the longer being the whole, with a 95% interval
        (``low``, ``high``). ``most_changed``: up to 10 users with the least
        overlap, each with both lists. ``exposure``: up to 10 items each that
        ``gained`` and ``lost`` most, with the share of lists that they are in.
        ``coverage``: the share of a version's items that are in any list.
        ``popularity``: the mean, over all that is listed, of the share of
        users who have the item, counted for both in the data of the version
        that was trained on more interactions.

        Without a user whom both know, ``overlap``, ``coverage`` and
        ``popularity`` are None, the lists are empty, and the sentence says so.

    Raises
    ------
    DataError
        `k`, `n_users` or `seed` is out of range; ``details`` has the field.

    Notes
    -----
    Scores users in blocks, so that users × items is never held. Ids are
    compared, never indices: the same item may stand in another column there.
    The interval is a percentile bootstrap over users. Deterministic.
    """
    for field, value, most in (("k", k, LONGEST), ("n_users", n_users, MOST_USERS)):
        if not 1 <= value <= most:
            raise DataError(
                f"{field}: {value} cannot be used. Give a whole number from 1 to {most:,}.",
                details={"field": field},
            )
    if seed < 0:
        raise DataError(
            f"seed: {seed} cannot be used. Give a whole number from 0 on.",
            details={"field": "seed"},
        )
    random = np.random.default_rng(seed)
    matrices = first.artifact.matrix, second.artifact.matrix
    known = [set(matrix.users.ids) for matrix in matrices]
    common = sorted(known[0] & known[1])
    result: dict[str, Any] = {
        "first": {name: first_row[name] for name in _SHOWN},
        "second": {name: second_row[name] for name in _SHOWN},
        "settings": _differences(first_row["settings"], second_row["settings"]),
        "k": k,
        "n_users": min(n_users, len(common)),
        "users": {
            "both": len(common),
            "only_first": len(known[0]) - len(common),
            "only_second": len(known[1]) - len(common),
        },
        "overlap": None,
        "most_changed": [],
        "exposure": {"gained": [], "lost": []},
        "coverage": None,
        "popularity": None,
    }
    if not common:
        result["sentence"] = (
            f"Versions {first.version} and {second.version} have no user in common: what users "
            "would see of them cannot be compared."
        )
        return result

    drawn = np.sort(random.choice(len(common), size=result["n_users"], replace=False))
    user_ids = [common[place] for place in drawn.tolist()]
    item_ids, codes = _common_items(*matrices)
    lists = [
        _lists(model, user_ids, k=k, code_of_item=code)
        for model, code in zip((first, second), codes, strict=True)
    ]
    overlap = _overlap(lists[0], lists[1], n_items=len(item_ids))
    counts = [np.bincount(codes[codes >= 0], minlength=len(item_ids)) for codes in lists]
    shares = [count / len(user_ids) for count in counts]
    # Of equal data either will do; what is unknown to the larger is as rare as can be.
    larger = max((1, 0), key=lambda index: matrices[index].n_interactions)
    share_of_users = np.zeros(len(item_ids))
    share_of_users[codes[larger]] = popularity_of(matrices[larger]) / len(known[larger])

    result["overlap"] = _mean(overlap, random=random)
    result["most_changed"] = [
        {
            "user_id": user_ids[place],
            "overlap": float(overlap[place]),
            "first": _ids(lists[0][place], item_ids),
            "second": _ids(lists[1][place], item_ids),
        }
        for place in np.argsort(overlap, kind="stable")[:N_LISTED].tolist()
        if overlap[place] < 1
    ]
    result["exposure"] = {
        "gained": _gains(item_ids, shares, by=shares[1] - shares[0]),
        "lost": _gains(item_ids, shares, by=shares[0] - shares[1]),
    }
    result["coverage"] = {
        name: float(np.count_nonzero(count) / len(matrix.items))
        for name, count, matrix in zip(("first", "second"), counts, matrices, strict=True)
    }
    result["popularity"] = {
        name: float(count @ share_of_users / max(1, count.sum()))
        for name, count in zip(("first", "second"), counts, strict=True)
    }
    result["sentence"] = (
        f"On {len(user_ids):,} of the {len(common):,} users whom both know, the lists of {k} have "
        f"{result['overlap']['mean']:.1%} in common."
    )
    return result


def _differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {"name": name, "first": first.get(name), "second": second.get(name)}
        for name in dict.fromkeys([*first, *second])
        if first.get(name) != second.get(name)
    ]


def _common_items(
    first: InteractionMatrix, second: InteractionMatrix
) -> tuple[list[str], tuple[np.ndarray, np.ndarray]]:
    """Return all item ids, ascending, and the place among them of each version's items."""
    item_ids = sorted({*first.items.ids, *second.items.ids})
    place = {item_id: code for code, item_id in enumerate(item_ids)}
    first_codes, second_codes = (
        np.array([place[item_id] for item_id in matrix.items.ids], dtype=np.int64)
        for matrix in (first, second)
    )
    return item_ids, (first_codes, second_codes)


def _lists(
    model: ActiveModel, user_ids: list[str], *, k: int, code_of_item: np.ndarray
) -> np.ndarray:
    """Return users' lists as codes of items, shape (n_users, k), filled up with -1."""
    trained = model.artifact.matrix
    users = np.array([trained.users.find(user_id) for user_id in user_ids], dtype=np.int64)
    ranker = Ranker.of(model.artifact.model, trained)
    lists = np.empty((len(users), k), dtype=np.int64)
    for block, ranked in ranker.in_blocks(trained.weights, users, k=k):
        lists[block] = ranked.item_index
    return np.where(lists >= 0, code_of_item[lists], -1)


def _overlap(first: np.ndarray, second: np.ndarray, *, n_items: int) -> np.ndarray:
    """Return by user the share of the longer list that both have; 1 where both are empty."""
    row = np.arange(len(first))[:, None] * n_items
    in_both = np.isin(row + first, (row + second)[second >= 0]) & (first >= 0)
    longer = np.maximum((first >= 0).sum(axis=1), (second >= 0).sum(axis=1))
    return np.where(longer > 0, in_both.sum(axis=1) / np.maximum(longer, 1), 1.0)


def _mean(values: np.ndarray, *, random: np.random.Generator) -> dict[str, float]:
    """Return the mean with its 95% bootstrap interval."""
    # Few values are different: how often each is drawn is one draw of a multinomial.
    distinct, counts = np.unique(values, return_counts=True)
    drawn = random.multinomial(len(values), counts / len(values), size=_N_RESAMPLES)
    low, high = np.quantile(drawn @ distinct / len(values), [0.025, 0.975])
    return {"mean": float(values.mean()), "low": float(low), "high": float(high)}


def _ids(codes: np.ndarray, item_ids: list[str]) -> list[str]:
    return [item_ids[code] for code in codes.tolist() if code >= 0]


def _gains(
    item_ids: list[str], shares: list[np.ndarray], *, by: np.ndarray
) -> list[dict[str, Any]]:
    first, second = shares
    return [
        {
            "item_id": item_ids[code],
            "first": float(first[code]),
            "second": float(second[code]),
        }
        for code in np.argsort(-by, kind="stable")[:N_LISTED].tolist()
        if by[code] > 0
    ]
