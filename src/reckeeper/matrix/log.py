"""The interaction log and the matrix that it sums to: ids ↔ dense indices, weights, times."""

import bisect
import dataclasses
import functools
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy import sparse

from reckeeper.errors import DataError
from reckeeper.interactions import DISMISS, DISMISS_UNDO, WATCHLIST_ADD, WATCHLIST_REMOVE
from reckeeper.matrix.histories import Histories, of_rows

ADDITION, REMOVAL, DISMISSAL, UNDOING = 1, -1, 2, -2
"""The values of `InteractionLog.listing`; 0 is all else."""

LISTINGS = {
    WATCHLIST_ADD: ADDITION,
    WATCHLIST_REMOVE: REMOVAL,
    DISMISS: DISMISSAL,
    DISMISS_UNDO: UNDOING,
}
"""Which interaction types have one."""

_MANY = 1_000
"""From so many ids on they are found by their hashes, in half the time."""


class IdIndex:
    """External ids, and the dense index that each has.

    Parameters
    ----------
    ids : sequence of str
        Unique; the index of an id is its place. Ascending, but in a canonical log.
    """

    def __init__(self, ids: Sequence[str]) -> None:
        self.ids = list(ids)

    @classmethod
    def of_number(cls, n: int) -> "IdIndex":
        """Return an index whose ids nobody asks for."""
        return cls([""] * n)

    def __len__(self) -> int:
        return len(self.ids)

    def find(self, external_id: str) -> int | None:
        """Return the dense index of an id, or None; O(log n), of ascending ids alone."""
        index = bisect.bisect_left(self.ids, external_id)
        return index if index < len(self.ids) and self.ids[index] == external_id else None

    def find_each(self, external_ids: Sequence[str]) -> np.ndarray:
        """Return what `find` gives for each id, -1 for None: int64, shape (n,)."""
        n, ids = len(external_ids), self.ids
        if n < _MANY or not ids:
            one_by_one = (self._place_of(external_id) for external_id in external_ids)
            return np.fromiter(one_by_one, np.int64, n)
        hashes, places = self._by_hash
        wanted = np.fromiter(map(hash, external_ids), np.int64, n)
        at = np.searchsorted(hashes[:-1], wanted)
        likely = np.where(hashes[at] == wanted, places[at], -1).tolist()
        found = [
            place if place < 0 or ids[place] == external_id else self._place_of(external_id)
            for place, external_id in zip(likely, external_ids, strict=True)
        ]
        return np.array(found, dtype=np.int64)

    def _place_of(self, external_id: str) -> int:
        place = self.find(external_id)
        return -1 if place is None else place

    @functools.cached_property
    def _by_hash(self) -> tuple[np.ndarray, np.ndarray]:
        """The hashes of all ids, ascending, and the index that each is of: 16 bytes an id."""
        hashes = np.fromiter(map(hash, self.ids), np.int64, len(self.ids))
        order = np.argsort(hashes)
        return hashes[order], order

    def places_in(self, other: "IdIndex") -> np.ndarray:
        """Return the dense index in `other` of each id, -1 where it is not there.

        Returns
        -------
        ndarray of int64, shape (n,)
        """
        mine, theirs = pa.array(self.ids, pa.string()), pa.array(other.ids, pa.string())
        found = pc.fill_null(pc.index_in(mine, value_set=theirs), -1)
        return np.asarray(found.to_numpy().astype(np.int64))


@dataclass(frozen=True)
class InteractionMatrix:
    """What users did, summed by user and item.

    Attributes
    ----------
    users, items : IdIndex
        The rows and the columns.
    weights : scipy.sparse.csr_array of float64, shape (n_users, n_items)
        Sums of effective weights, none negative, columns ascending in each
        row. A stored zero is a pair that was seen without taste: it came with
        weight 0, was dismissed, an addition was taken back, a sum is negative.
    n_interactions : int
        Interactions that went in.
    latest_at : ndarray of int64, shape (nnz,), or None
        Microseconds UTC of the latest interaction of each stored pair, of
        whatever type, in the order of ``weights.data``. None where the data
        has no times.
    """

    users: IdIndex
    items: IdIndex
    weights: sparse.csr_array
    n_interactions: int
    latest_at: np.ndarray | None = None

    @classmethod
    def without_users(cls, items: IdIndex) -> "InteractionMatrix":
        """Return the matrix of nobody."""
        return cls(IdIndex([]), items, sparse.csr_array((0, len(items))), 0)

    @property
    def popularity(self) -> np.ndarray:
        """How many users have each item, a weight above zero: int64, shape (n_items,)."""
        liked = self.weights.indices[self.weights.data > 0]
        return np.bincount(liked, minlength=len(self.items))

    @property
    def has_taste(self) -> bool:
        """Whether any pair weighs more than zero."""
        return bool((self.weights.data > 0).any())

    @property
    def histories(self) -> Histories:
        """The rows as what models are scored from, by the latest times; the weights are shared.

        The steps are counted each time: see `Histories.of_times` for what it takes.
        """
        return Histories.of_times(self.weights, self.latest_at)

    def histories_of(self, rows: slice | np.ndarray) -> Histories:
        """Return some of the rows, with the order of each by the latest time of its pairs.

        Parameters
        ----------
        rows : slice, or ndarray of int or bool
            Which, or their places, in the order wanted.
        """
        return Histories.of_times(self.weights[rows], self.latest_of(rows))

    def latest_of(self, rows: slice | np.ndarray) -> np.ndarray | None:
        """Return the latest times of the pairs of some rows, in the order of ``weights[rows]``."""
        return None if self.latest_at is None else of_rows(self.latest_at, self.weights, rows)


@dataclass(frozen=True)
class Pairs:
    """The distinct pairs of a user and an item, in ascending order of user, then item.

    Attributes
    ----------
    user_index, item_index : ndarray of int32, shape (n_pairs,)
    of_row : ndarray of int32, shape (n,)
        For each interaction of the log, the place of its pair.
    """

    user_index: np.ndarray
    item_index: np.ndarray
    of_row: np.ndarray


@dataclass(frozen=True)
class InteractionLog:
    """Interactions with their ids encoded: one row each, in the order read.

    Attributes
    ----------
    users, items : IdIndex
        Ids in ascending order of code points.
    user_index, item_index : ndarray of int32, shape (n,)
    weight : ndarray of float64, shape (n,)
        Effective weight: the type's weight times the interaction's own.
    occurred_at : ndarray of int64, shape (n,), or None
        Microseconds UTC; None where the data has no times.
    listing : ndarray of int8, shape (n,)
        1 for an addition to the watchlist, -1 for a removal, 2 for a
        dismissal, -2 for what takes dismissals back, 0 for all else.

    Notes
    -----
    25 bytes an interaction, 17 without times.
    """

    users: IdIndex
    items: IdIndex
    user_index: np.ndarray
    item_index: np.ndarray
    weight: np.ndarray
    occurred_at: np.ndarray | None
    listing: np.ndarray

    def __len__(self) -> int:
        return len(self.user_index)

    def part(self, keep: np.ndarray | slice) -> "InteractionLog":
        """Return some of the interactions, with the users and items of the whole log.

        Parameters
        ----------
        keep : ndarray of bool, shape (n,), or of int, or slice
            Which, or their places, in the order wanted. A slice copies nothing.
        """
        return dataclasses.replace(
            self,
            user_index=self.user_index[keep],
            item_index=self.item_index[keep],
            weight=self.weight[keep],
            occurred_at=None if self.occurred_at is None else self.occurred_at[keep],
            listing=self.listing[keep],
        )

    def fingerprint(self) -> str:
        """Return a hash of what the interactions are, whatever their order.

        It covers each interaction: its user's and its item's id, its
        effective weight, its time and its listing; a double counts twice.

        Returns
        -------
        str
            32 hexadecimal digits, the same on every machine.

        Notes
        -----
        The sum modulo 2^128, in two halves, of a hash of each interaction:
        two logs that are not made to collide do not. Not meant to withstand
        somebody who can choose interactions. 20 million take about 3 s, in
        blocks.
        """
        of_user, of_item = _hashes(self.users.ids), _hashes(self.items.ids)
        total = np.zeros(2, dtype=np.uint64)
        for start in range(0, len(self), _BLOCK):
            block = slice(start, start + _BLOCK)
            fields = [
                # Adding zero makes -0.0, which is equal to 0.0, the same bits.
                (self.weight[block] + 0.0).view(np.uint64),
                self.listing[block].astype(np.int64).view(np.uint64),
            ]
            if self.occurred_at is not None:
                fields.append(self.occurred_at[block].view(np.uint64))
            for half in range(2):
                hashed = mixed(of_user[self.user_index[block], half])
                for field in (of_item[self.item_index[block], half], *fields):
                    hashed = mixed(hashed ^ field)
                total[[half]] += hashed.sum(dtype=np.uint64)  # as an array: it wraps around
        whole = f"{len(self)} {self.occurred_at is not None} {total[0]} {total[1]}"
        return hashlib.blake2b(whole.encode(), digest_size=16).hexdigest()

    def has_taste(self) -> bool:
        """Say whether the sum of any pair is above zero; O(n)."""
        if not (self.weight > 0).any():
            return False
        is_plain = not (self.listing < 0).any() and not (self.listing == DISMISSAL).any()
        return (is_plain and not (self.weight < 0).any()) or self.matrix().has_taste

    def pairs(self) -> Pairs:
        """Return the distinct pairs, whatever they weigh; O(n)."""
        by_pair, starts = self.by_pair()
        is_start = np.zeros(len(self), dtype=np.int32)
        is_start[starts] = 1
        of_row = np.empty(len(self), dtype=np.int32)
        of_row[by_pair] = np.cumsum(is_start, dtype=np.int32) - 1
        first = by_pair[starts]
        return Pairs(self.user_index[first], self.item_index[first], of_row)

    def matrix(self, keep: np.ndarray | None = None) -> InteractionMatrix:
        """Sum the interactions, all or some, by user and item.

        A removal from the watchlist takes back the additions of that pair up
        to its time, and nothing else. A dismissal takes the weight from all of
        that pair up to its time, that time included, unless it is taken back
        then or later. Sums below zero become zero, after all has been added.
        All of this looks at the interactions that are kept and at no others:
        what is left out leaves no trace.

        Parameters
        ----------
        keep : ndarray of bool, shape (n,), optional
            Which interactions count; all, if not given.

        Returns
        -------
        InteractionMatrix
            With the users and items of the whole log, whatever is kept: rows
            and columns may be empty.

        Raises
        ------
        DataError
            `keep` is not a boolean an interaction.

        Notes
        -----
        O(n), about 3 s and 1.2 GB at 20 million interactions; deterministic.
        Where an addition and a removal have the same time, or none has a time,
        the later one in the log is the later one.
        """
        if keep is None:
            rows = np.arange(len(self), dtype=np.int32)
        elif keep.dtype == np.bool_ and keep.shape == (len(self),):
            rows = np.flatnonzero(keep).astype(np.int32)
        else:
            raise DataError(
                f"keep has shape {keep.shape} and type {keep.dtype}: give one boolean for each "
                f"of the {len(self)} interactions."
            )
        by_pair, starts = self.by_pair(rows)
        summed, latest_at = self.sums(by_pair, starts)
        first = by_pair[starts]
        indptr = np.zeros(len(self.users) + 1, dtype=np.int32)
        np.cumsum(np.bincount(self.user_index[first], minlength=len(self.users)), out=indptr[1:])
        entries = (summed, self.item_index[first], indptr)
        weights = sparse.csr_array(entries, shape=(len(self.users), len(self.items)))
        weights.has_canonical_format = True
        return InteractionMatrix(self.users, self.items, weights, len(rows), latest_at)

    def sums(self, by_pair: np.ndarray, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Sum rows that are sorted by pair, the earlier first; see `matrix`.

        Parameters
        ----------
        by_pair : ndarray of int, shape (n,)
            Rows of the log.
        starts : ndarray of int, shape (n_pairs,)
            Which of them begin a new pair.

        Returns
        -------
        ndarray of float64, shape (n_pairs,)
            None negative.
        ndarray of int64, shape (n_pairs,), or None
            The latest time of each; None where the log has no times.
        """
        weight = self.weight[by_pair]
        if self.listing.any():
            listing = self.listing[by_pair]
            if (listing == REMOVAL).any():
                weight[self._is_taken_back(np.sort(by_pair))[by_pair]] = 0.0
            if (listing == DISMISSAL).any():
                weight[self._is_dismissed(by_pair, starts)] = 0.0
        times = None if self.occurred_at is None else self.occurred_at[by_pair]
        return sums_of_runs(weight, times, starts)

    def by_user(self) -> np.ndarray:
        """Return the rows sorted by user, and those of a user as they are; int, shape (n,)."""
        n = len(self)
        entries = (np.arange(n, dtype=np.int32), self.user_index, np.arange(n + 1, dtype=np.int32))
        return sparse.csr_array(entries, shape=(n, len(self.users))).tocsc().data

    def by_pair(self, rows: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Sort rows of the log, all if none are given, by user and item; the earlier first.

        Returns
        -------
        ndarray of int32, shape (n,)
            The rows.
        ndarray of int, shape (n_pairs,)
            Which of them begin a new pair.
        """
        rows = np.arange(len(self), dtype=np.int32) if rows is None else rows
        users, items = self.user_index[rows], self.item_index[rows]
        is_later_item = (users[1:] == users[:-1]) & (items[1:] >= items[:-1])
        if not (is_later_item | (users[1:] > users[:-1])).all():
            # A transposition of a sparse matrix is a stable counting sort: first by item, of a
            # matrix with one entry a row; then by user. It beats a comparison sort.
            n = len(rows)
            entries = (rows, items, np.arange(n + 1, dtype=np.int32))
            by_item = sparse.csr_array(entries, shape=(n, len(self.items))).tocsc()
            entries = (by_item.data, self.user_index[by_item.data], by_item.indptr)
            shape = len(self.users), len(self.items)
            rows = sparse.csc_array(entries, shape=shape).tocsr().data
            users, items = self.user_index[rows], self.item_index[rows]
        is_start = np.ones(len(rows), dtype=bool)
        is_start[1:] = (users[1:] != users[:-1]) | (items[1:] != items[:-1])
        return rows, np.flatnonzero(is_start)

    def _is_taken_back(self, rows: np.ndarray) -> np.ndarray:
        """Return for each row of the log whether a later removal among `rows` takes it back."""
        listed = rows[np.abs(self.listing[rows]) == ADDITION]
        if self.occurred_at is not None:
            listed = listed[np.argsort(self.occurred_at[listed], kind="stable")]
        is_removal = self.listing[listed] == REMOVAL
        pair = self.user_index[listed].astype(np.int64) * len(self.items) + self.item_index[listed]
        pairs, pair_code = np.unique(pair, return_inverse=True)
        last_removal = np.full(len(pairs), -1)
        rank = np.arange(len(listed))
        np.maximum.at(last_removal, pair_code[is_removal], rank[is_removal])
        taken_back = np.zeros(len(self), dtype=bool)
        taken_back[listed[~is_removal & (rank < last_removal[pair_code])]] = True
        return taken_back

    def _is_dismissed(self, rows: np.ndarray, starts: np.ndarray) -> np.ndarray:
        """Return for each of `rows`, which are in order of pair, whether a dismissal covers it."""
        n_rows_of_pair = np.diff(starts, append=len(rows))
        dismissed_until = self._latest(rows, starts, DISMISSAL)
        is_in_force = dismissed_until > self._latest(rows, starts, UNDOING)
        dismissed = np.repeat(is_in_force, n_rows_of_pair)
        if self.occurred_at is not None:
            until = np.repeat(dismissed_until[is_in_force], n_rows_of_pair[is_in_force])
            dismissed[dismissed] = self.occurred_at[rows[dismissed]] <= until
        return dismissed

    def _latest(self, rows: np.ndarray, starts: np.ndarray, listing: int) -> np.ndarray:
        """Return the time of each pair's latest interaction of a kind, -1 where there is none."""
        places = np.flatnonzero(self.listing[rows] == listing)
        latest = np.full(len(starts), -1)
        times = 0 if self.occurred_at is None else self.occurred_at[rows[places]]
        np.maximum.at(latest, np.searchsorted(starts, places, side="right") - 1, times)
        return latest


def read_log(
    batches: Iterable[pa.RecordBatch],
    *,
    type_weights: Mapping[str, float],
    on_batch: Callable[[int], None] | None = None,
) -> InteractionLog:
    """Encode interactions, so that they can be split and summed.

    Parameters
    ----------
    batches : iterable of pyarrow.RecordBatch
        Columns ``user_id``, ``item_id``, ``interaction_type``, ``weight`` and,
        where the data has times, ``occurred_at`` (int64 microseconds UTC).
    type_weights : mapping of str to float
        Weight of each interaction type; a type without one weighs zero.
    on_batch : callable, optional
        Called after each batch with the number of interactions so far.

    Returns
    -------
    InteractionLog
        Ids in ascending order of code points, so that equal interactions in
        any order give the same users and items.

    Raises
    ------
    DataError
        Some interactions have a time and others have none.

    Notes
    -----
    Holds what the log holds and the unique ids, each column twice for a
    moment at the end; deterministic.
    """
    user_codes: dict[str, int] = {}
    item_codes: dict[str, int] = {}
    columns: tuple[list[np.ndarray], ...] = ([], [], [], [], [])
    users, items, weights, times, listings = columns
    n_interactions = n_timed = 0
    for batch in batches:
        types = batch.column("interaction_type").dictionary_encode()
        names = types.dictionary.to_pylist()
        codes = types.indices.to_numpy()
        per_type = np.array([type_weights.get(name, 0.0) for name in names], dtype=np.float64)
        listing = np.array([LISTINGS.get(name, 0) for name in names], dtype=np.int8)
        users.append(_encode(batch.column("user_id"), user_codes))
        items.append(_encode(batch.column("item_id"), item_codes))
        weights.append(per_type[codes] * batch.column("weight").to_numpy())
        listings.append(listing[codes])
        n_interactions += batch.num_rows
        if "occurred_at" in batch.schema.names:
            occurred_at = batch.column("occurred_at").drop_null()
            times.append(np.array(occurred_at))  # a view would keep the whole batch
            n_timed += len(occurred_at)
        if on_batch is not None:
            on_batch(n_interactions)
    if 0 < n_timed < n_interactions:
        raise DataError(
            f"{n_interactions - n_timed} of {n_interactions} interactions have no time: "
            "give each one its time, or leave out the times of all."
        )

    sorted_users, user_of_code = _sorted(user_codes)
    sorted_items, item_of_code = _sorted(item_codes)
    return InteractionLog(
        IdIndex(sorted_users),
        IdIndex(sorted_items),
        user_of_code[_joined(users, np.int32)],
        item_of_code[_joined(items, np.int32)],
        _joined(weights, np.float64),
        _joined(times, np.int64) if n_timed == n_interactions else None,
        _joined(listings, np.int8),
    )


_BLOCK = 1 << 20
"""Interactions that are hashed at a time."""


def _hashes(ids: Sequence[str]) -> np.ndarray:
    """Return 128 bits an id, shape (n, 2), uint64."""
    hashed = b"".join(hashlib.blake2b(name.encode(), digest_size=16).digest() for name in ids)
    return np.frombuffer(hashed, dtype="<u8").astype(np.uint64).reshape(-1, 2)


def mixed(values: np.ndarray) -> np.ndarray:
    """Spread every bit over all 64; the finaliser of SplitMix64 (Steele et al., OOPSLA 2014)."""
    mixed = values + np.uint64(0x9E3779B97F4A7C15)
    mixed ^= mixed >> np.uint64(30)
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(27)
    mixed *= np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return mixed


def sums_of_runs(
    weight: np.ndarray, times: np.ndarray | None, starts: np.ndarray
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the sum of the weights of each run, none negative, and its latest time.

    Parameters
    ----------
    weight : ndarray of float64, shape (n,)
    times : ndarray of int64, shape (n,), or None
    starts : ndarray of int, shape (n_runs,)
        Where the runs begin.
    """
    if len(starts) < len(weight):
        weight = np.add.reduceat(weight, starts)
        times = None if times is None else np.maximum.reduceat(times, starts)
    return np.maximum(weight, 0.0), times


def _joined(parts: list[np.ndarray], dtype: type[np.generic]) -> np.ndarray:
    """Join the parts of a column and let go of them."""
    whole = np.concatenate([np.empty(0, dtype=dtype), *parts])
    parts.clear()
    return whole


def _encode(ids: pa.Array, codes: dict[str, int]) -> np.ndarray:
    encoded = ids.dictionary_encode()
    code_of = np.array(
        [codes.setdefault(name, len(codes)) for name in encoded.dictionary.to_pylist()],
        dtype=np.int32,
    )
    return np.asarray(code_of[encoded.indices.to_numpy()])


def _sorted(codes: dict[str, int]) -> tuple[list[str], np.ndarray]:
    ids = list(codes)
    order = sorted(range(len(ids)), key=ids.__getitem__)
    index_of_code = np.empty(len(ids), dtype=np.int32)
    index_of_code[order] = np.arange(len(ids), dtype=np.int32)
    return [ids[code] for code in order], index_of_code
