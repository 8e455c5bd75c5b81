"""The interaction matrix: external ids, dense indices, weights."""

import bisect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from scipy import sparse

WATCHLIST_ADD = "watchlist_add"
WATCHLIST_REMOVE = "watchlist_remove"


class IdIndex:
    """External ids, and the dense index that each has.

    Parameters
    ----------
    ids : sequence of str
        Unique and in ascending order; the index of an id is its place.
    """

    def __init__(self, ids: Sequence[str]) -> None:
        self.ids = list(ids)

    def __len__(self) -> int:
        return len(self.ids)

    def find(self, external_id: str) -> int | None:
        """Return the dense index of an id, or None if it is not here; O(log n)."""
        index = bisect.bisect_left(self.ids, external_id)
        return index if index < len(self.ids) and self.ids[index] == external_id else None


@dataclass(frozen=True)
class InteractionMatrix:
    """What users did, summed by user and item.

    Attributes
    ----------
    users, items : IdIndex
        The rows and the columns.
    weights : scipy.sparse.csr_array of float64, shape (n_users, n_items)
        Sums of effective weights, none negative, columns ascending in each
        row. A stored zero is a pair that was seen and weighs nothing: an
        addition that was taken back, a negative sum.
    n_interactions : int
        Interactions that went in.
    """

    users: IdIndex
    items: IdIndex
    weights: sparse.csr_array
    n_interactions: int


def build(
    batches: Iterable[pa.RecordBatch],
    *,
    type_weights: Mapping[str, float],
    on_batch: Callable[[int], None] | None = None,
) -> InteractionMatrix:
    """Sum interactions by user and item.

    An interaction counts its type's weight times its own. A removal from the
    watchlist takes back the additions of that pair up to its time, and
    nothing else; a type without a weight counts zero. Sums below zero become
    zero, after all has been added.

    Parameters
    ----------
    batches : iterable of pyarrow.RecordBatch
        Columns ``user_id``, ``item_id``, ``interaction_type``, ``weight`` and
        ``occurred_at`` (microseconds). Of two with the same time the later
        one in the iteration is the later one.
    type_weights : mapping of str to float
        Weight of each interaction type.
    on_batch : callable, optional
        Called after each batch with the number of interactions so far.

    Returns
    -------
    InteractionMatrix
        Ids in ascending order of code points, so that equal interactions in
        any order give the same rows and columns. 0 × 0 without interactions.

    Notes
    -----
    Holds 16 bytes an interaction and the unique ids; deterministic.
    """
    user_codes: dict[str, int] = {}
    item_codes: dict[str, int] = {}
    users: list[np.ndarray] = []
    items: list[np.ndarray] = []
    weights: list[np.ndarray] = []
    listings: list[_Listings] = []
    n_interactions = 0
    for batch in batches:
        types = batch.column("interaction_type").dictionary_encode()
        names = types.dictionary.to_pylist()
        codes = types.indices.to_numpy()
        per_type = np.array([type_weights.get(name, 0.0) for name in names], dtype=np.float64)
        users.append(_encode(batch.column("user_id"), user_codes))
        items.append(_encode(batch.column("item_id"), item_codes))
        weights.append(per_type[codes] * batch.column("weight").to_numpy())
        if WATCHLIST_ADD in names or WATCHLIST_REMOVE in names:
            listings.append(_Listings.of(batch, codes, names, offset=n_interactions))
        n_interactions += batch.num_rows
        if on_batch is not None:
            on_batch(n_interactions)
    if not n_interactions:
        return InteractionMatrix(IdIndex([]), IdIndex([]), sparse.csr_array((0, 0)), 0)

    sorted_users, user_of_code = _sorted(user_codes)
    sorted_items, item_of_code = _sorted(item_codes)
    row = user_of_code[np.concatenate(users)]
    column = item_of_code[np.concatenate(items)]
    weight = np.concatenate(weights)
    if any(part.is_removal.any() for part in listings):
        weight[_taken_back(listings, row, column, n_items=len(sorted_items))] = 0.0
    shape = (len(sorted_users), len(sorted_items))
    summed = sparse.coo_array((weight, (row, column)), shape=shape).tocsr()
    summed.sort_indices()
    np.maximum(summed.data, 0.0, out=summed.data)
    return InteractionMatrix(IdIndex(sorted_users), IdIndex(sorted_items), summed, n_interactions)


def row_of_history(
    history: pa.RecordBatch, *, items: IdIndex, type_weights: Mapping[str, float]
) -> dict[int, float]:
    """Sum one user's interactions by dense item index, as `build` does.

    Items that `items` does not know are left out.
    """
    built = build([history], type_weights=type_weights)
    row: dict[int, float] = {}
    for item_id, weight in zip(built.items.ids, built.weights.data.tolist(), strict=True):
        index = items.find(item_id)
        if index is not None:
            row[index] = weight
    return row


@dataclass(frozen=True)
class _Listings:
    """Watchlist changes of one batch: where they stand, when, and which way."""

    position: np.ndarray
    occurred_at: np.ndarray
    is_removal: np.ndarray

    @classmethod
    def of(
        cls, batch: pa.RecordBatch, codes: np.ndarray, names: list[str], *, offset: int
    ) -> "_Listings":
        is_listing = np.array([name in (WATCHLIST_ADD, WATCHLIST_REMOVE) for name in names])
        is_removal = np.array([name == WATCHLIST_REMOVE for name in names])
        position = np.flatnonzero(is_listing[codes])
        return cls(
            position + offset,
            batch.column("occurred_at").to_numpy()[position],
            is_removal[codes[position]],
        )


def _taken_back(
    listings: list[_Listings], row: np.ndarray, column: np.ndarray, *, n_items: int
) -> np.ndarray:
    """Return the positions of the additions that a later removal takes back."""
    position = np.concatenate([part.position for part in listings])
    occurred_at = np.concatenate([part.occurred_at for part in listings])
    is_removal = np.concatenate([part.is_removal for part in listings])
    in_time = np.lexsort((position, occurred_at))
    position, is_removal = position[in_time], is_removal[in_time]
    pair = row[position].astype(np.int64) * n_items + column[position]
    pairs, pair_code = np.unique(pair, return_inverse=True)
    last_removal = np.full(len(pairs), -1)
    rank = np.arange(len(position))
    np.maximum.at(last_removal, pair_code[is_removal], rank[is_removal])
    return position[~is_removal & (rank < last_removal[pair_code])]


def _encode(ids: pa.Array, codes: dict[str, int]) -> np.ndarray:
    encoded = ids.dictionary_encode()
    code_of = np.array(
        [codes.setdefault(name, len(codes)) for name in encoded.dictionary.to_pylist()],
        dtype=np.int32,
    )
    dense: np.ndarray = code_of[encoded.indices.to_numpy()]
    return dense


def _sorted(codes: dict[str, int]) -> tuple[list[str], np.ndarray]:
    ids = list(codes)
    order = sorted(range(len(ids)), key=ids.__getitem__)
    index_of_code = np.empty(len(ids), dtype=np.int32)
    index_of_code[order] = np.arange(len(ids), dtype=np.int32)
    return [ids[code] for code in order], index_of_code
