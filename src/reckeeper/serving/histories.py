"""What a user has done, as the active model takes it in: the row it was trained on, and more."""

from collections.abc import Mapping

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
        Known to the model or not.
    policy : PolicyWatch
        Asked for the weights of types where the model does not say with which
        it was trained.

    Returns
    -------
    Histories
        One row, with weights as in training.
    bool
        Whether anything in it is newer than the model.
    """
    trained = model.artifact.matrix
    row = _trained_row(trained, user_id)
    newer = storage.interactions.of_user(connection, user_id, after=model.watermark)
    if model.seen_until is not None:
        newer = newer.filter(pc.greater(newer.column("occurred_at"), model.seen_until))
    if not newer.num_rows:
        return _as_matrix(row, n_items=len(trained.items)), False

    metadata = model.artifact.metadata
    weights = metadata.data.get("weights")
    if weights is None:
        weights = policy.weights()

    def summed(interactions: pa.RecordBatch) -> dict[int, float]:
        return matrix.row_of_history(
            interactions,
            items=trained.items,
            type_weights=weights,
            half_life_days=metadata.data.get("half_life_days"),
            latest_at=metadata.latest_at or None,
        )

    for index, weight in summed(newer).items():
        row[index] = row.get(index, 0.0) + weight
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
        summed_again = newer.filter(intertwined).column("item_id").unique().to_pylist()
        for item_id in summed_again:
            known = trained.items.find(item_id)
            if known is not None and known in whole:
                row[known] = whole[known]
            elif known is not None:
                row.pop(known, None)  # all that there was is a dismissal that was taken back
    return _as_matrix(row, n_items=len(trained.items)), True


def _trained_row(trained: matrix.InteractionMatrix, user_id: str) -> dict[int, float]:
    user_index = trained.users.find(user_id)
    if user_index is None:
        return {}
    row = trained.weights[[user_index]]
    return dict(zip(row.indices.tolist(), row.data.tolist(), strict=True))


def _as_matrix(row: Mapping[int, float], *, n_items: int) -> matrix.Histories:
    indices = sorted(row)
    entries = ([row[index] for index in indices], indices, [0, len(indices)])
    return matrix.Histories(sparse.csr_array(entries, shape=(1, n_items), dtype=float))
