"""What a user has done, as the active model takes it in: the row it was trained on, and more."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy import sparse

from reckeeper import matrix, storage
from reckeeper.interactions import WATCHLIST_ADD, WITHOUT_WEIGHT
from reckeeper.policy import PolicyWatch
from reckeeper.registry import ActiveModel


def history_of(
    connection: storage.Connection,
    model: ActiveModel,
    user_id: str,
    *,
    policy: PolicyWatch,
) -> tuple[matrix.Histories, bool]:
    """Return a user's history, with what is newer than the model.

    Parameters
    ----------
    connection : storage.Connection
    model : ActiveModel
    user_id : str
        Known to the model or not. An account has the histories of the visitors
        who were merged into it, and such a visitor none.
    policy : PolicyWatch
        Asked for the weights of types where the model does not say with which
        it was trained.

    Returns
    -------
    Histories
        One row, with weights as in training. Items that the model does not
        know are not in it, and count as steps.
    bool
        Whether anything in it is newer than the model.
    """
    trained = model.artifact.matrix
    if storage.merges.account_of(connection, user_id) is not None:
        return _as_history({}, n_items=len(trained.items)), False
    visitors = [
        visitor_id
        for visitor_id in storage.merges.visitors_of(connection, user_id)
        if trained.users.find(visitor_id) is not None
    ]
    newer = storage.interactions.of_user(connection, user_id, after=model.watermark)
    if model.seen_until is not None:
        newer = newer.filter(pc.greater(newer.column("occurred_at"), model.seen_until))
    if not (newer.num_rows or visitors):
        return trained_history(trained, user_id), False

    metadata = model.artifact.metadata
    weights = metadata.data.get("weights")
    if weights is None:
        weights = policy.weights()

    def summed(interactions: pa.RecordBatch) -> _Row:
        built = matrix.row_of_history(
            interactions,
            type_weights=weights,
            half_life_days=metadata.data.get("half_life_days"),
            latest_at=metadata.latest_at or None,
        )
        keys = [_key(trained.items, item_id) for item_id in built.items.ids]
        return _row(keys, built.weights.data, built.latest_at)

    if visitors and model.seen_until is None:
        # Trained as several, and one since: it is summed as one.
        whole = summed(storage.interactions.of_user(connection, user_id))
        return _as_history(whole, n_items=len(trained.items)), True
    row = _trained_row(trained, user_id)
    for more in (*(_trained_row(trained, visitor) for visitor in visitors), summed(newer)):
        for key, pair in more.items():
            row[key] = row[key].and_then(pair) if key in row else pair
    # A removal or a dismissal takes from what was trained, and one that was trained from what
    # came late; a sum is clipped at zero only when all is added. Where any of these may be,
    # the items are summed again.
    intertwined = pc.or_(
        pc.is_in(newer.column("interaction_type"), pa.array([WATCHLIST_ADD, *WITHOUT_WEIGHT])),
        pc.less_equal(newer.column("occurred_at"), metadata.latest_at),
    )
    if min(weights.values(), default=0.0) < 0:
        intertwined = pa.array([True] * newer.num_rows)
    if pc.any(intertwined).as_py():
        whole = summed(storage.interactions.of_user(connection, user_id))
        for item_id in newer.filter(intertwined).column("item_id").unique().to_pylist():
            key = _key(trained.items, item_id)
            if key in whole:
                row[key] = whole[key]
            else:
                row.pop(key, None)  # all that there was is a dismissal that was taken back
    return _as_history(row, n_items=len(trained.items)), True


def history_of_items(
    items: matrix.IdIndex, item_ids: Sequence[str], occurred_at: Sequence[int]
) -> matrix.Histories:
    """Return a history that somebody tells, as one row.

    Parameters
    ----------
    items : IdIndex
        Those of the model.
    item_ids : sequence of str
        Each weighs 1, and one that comes again 1 more.
    occurred_at : sequence of int
        When each was done, in any unit; the latest time of an item counts.
    """
    row: _Row = {}
    for item_id, time in zip(item_ids, occurred_at, strict=True):
        key, pair = _key(items, item_id), _Pair(1.0, time)
        row[key] = row[key].and_then(pair) if key in row else pair
    return _as_history(row, n_items=len(items))


class _Pair(NamedTuple):
    """What a user did with an item: summed weight, and the latest time where it is known."""

    weight: float
    latest_at: int | None

    def and_then(self, newer: "_Pair") -> "_Pair":
        weight = self.weight + newer.weight
        if self.latest_at is None or newer.latest_at is None:
            return _Pair(weight, None)
        return _Pair(weight, max(self.latest_at, newer.latest_at))


_Row = dict[int | str, _Pair]
"""By the model's index of an item, or by the id of one that it does not know."""


def _key(items: matrix.IdIndex, item_id: str) -> int | str:
    index = items.find(item_id)
    return item_id if index is None else index


def _row(keys: Sequence[int | str], weights: np.ndarray, latest_at: np.ndarray | None) -> _Row:
    times = [None] * len(keys) if latest_at is None else latest_at.tolist()
    return {
        key: _Pair(weight, time)
        for key, weight, time in zip(keys, weights.tolist(), times, strict=True)
    }


def trained_history(trained: matrix.InteractionMatrix, user_id: str) -> matrix.Histories:
    """Return what a model was trained on of a user, as one row."""
    user_index = trained.users.find(user_id)
    if user_index is None:
        return matrix.Histories(sparse.csr_array((1, len(trained.items))))
    return trained.histories_of(slice(user_index, user_index + 1))


def _trained_row(trained: matrix.InteractionMatrix, user_id: str) -> _Row:
    user_index = trained.users.find(user_id)
    if user_index is None:
        return {}
    start, stop = trained.weights.indptr[user_index : user_index + 2].tolist()
    latest_at = None if trained.latest_at is None else trained.latest_at[start:stop]
    keys = trained.weights.indices[start:stop].tolist()
    return _row(keys, trained.weights.data[start:stop], latest_at)


def _as_history(row: _Row, *, n_items: int) -> matrix.Histories:
    known = sorted(key for key in row if isinstance(key, int))
    pairs = [row[key] for key in known] + [row[key] for key in row if isinstance(key, str)]
    n, n_all = len(known), len(pairs)
    weights = np.array([pair.weight for pair in pairs], dtype=np.float64)
    whole = sparse.csr_array((weights, np.arange(n_all), [0, n_all]), shape=(1, n_all))
    times = [pair.latest_at for pair in pairs if pair.latest_at is not None]
    latest_at = np.array(times, dtype=np.int64) if len(times) == n_all else None
    n_later = matrix.Histories.of_times(whole, latest_at).n_later
    mine = sparse.csr_array((weights[:n], known, [0, n]), shape=(1, n_items))
    return matrix.Histories(mine, None if n_later is None else n_later[:n])
