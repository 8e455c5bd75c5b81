"""What a user has done, as a version takes it in: from the snapshot, the table, or a request."""

import functools
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy import sparse

from reckeeper import clock, matrix, storage
from reckeeper.policy import PolicyWatch
from reckeeper.ranking import entries_where, without_taste
from reckeeper.registry import ActiveModel
from reckeeper.serving.asked import UNTYPED, Told
from reckeeper.snapshot import Origin, Rows, Snapshot


class UserHistories:
    """The histories of users for one version, weighed as in its training.

    Parameters
    ----------
    model : ActiveModel
    snapshot : Snapshot or None
        Where most of them are; None where there is none that can be used.
    policy : PolicyWatch
        Asked for the weights of types where the version does not say with
        which it was trained.
    """

    def __init__(
        self, model: ActiveModel, snapshot: Snapshot | None, *, policy: PolicyWatch
    ) -> None:
        self.snapshot = snapshot
        self._model = model
        self._policy = policy
        # Numbers of items: those of the version, then those of the snapshot, then of nobody.
        self._n_own = len(model.artifact.items)
        self._n_others = 0 if snapshot is None else len(snapshot.items)
        self._by_type: tuple[int | None, np.ndarray, np.ndarray | None] | None = None
        self._keys = np.empty(0, dtype=np.int64)
        if snapshot is not None:
            own = pa.array(model.artifact.items.ids, pa.large_string())
            found = pc.fill_null(pc.index_in(snapshot.items.to_arrow(), value_set=own), -1)
            place = found.to_numpy().astype(np.int64)
            self._keys = np.where(place < 0, self._n_own + np.arange(len(place)), place)
            listing = [matrix.LISTINGS.get(name, 0) for name in snapshot.types]
            self._listing = np.array(listing, dtype=np.int8) if any(listing) else None

    @property
    def origin(self) -> Origin | None:
        """What the snapshot was made of."""
        return None if self.snapshot is None else self.snapshot.origin

    def is_left_out(self, user_id: str) -> bool:
        """Say whether the version was trained without a user, whatever the user had done."""
        patterns = _left_out_by(self._model)
        return bool(patterns) and not matrix.left_in(matrix.IdIndex([user_id]), patterns)[0]

    def in_snapshot(self, user_id: str, *, newer: pa.RecordBatch | None = None) -> "Past":
        """Return the history of a user in the snapshot.

        Parameters
        ----------
        user_id : str
        newer : pyarrow.RecordBatch, optional
            What the table has of the user since, as of `storage.interactions.of_user`.
        """
        assert self.snapshot is not None
        rows = self._of_rows(self.snapshot, self.snapshot.of_user(user_id))
        return self._past(rows if newer is None else rows.and_then(self._of_batch(newer)))

    def of_many(self, user_ids: Sequence[str]) -> "Group":
        """Return the histories of users in the snapshot, a row each, as `in_snapshot` has them."""
        assert self.snapshot is not None
        if not self._is_summed_alone:
            pasts = [self.in_snapshot(user_id).group for user_id in user_ids]
            return Group.stacked(pasts, n_items=self._n_own)
        rows, bounds = self.snapshot.of_users(user_ids)
        entries = self._of_rows(self.snapshot, rows)
        n_keys = self._n_own + self._n_others
        user_index = np.repeat(np.arange(len(user_ids)), np.diff(bounds))
        # Each pair of user and item is summed as one user's items are.
        entries = entries._replace(keys=user_index * n_keys + entries.keys)
        summed = self._summed(entries)
        user_index, keys = np.divmod(summed.keys, n_keys)
        indptr = np.searchsorted(user_index, np.arange(len(user_ids) + 1))
        whole = sparse.csr_array((summed.weights, keys, indptr), shape=(len(user_ids), n_keys))
        places = np.where(np.arange(n_keys) < self._n_own, np.arange(n_keys), -1)
        histories = matrix.Histories.of_times(whole, summed.latest_at)
        histories = histories.renamed(places, n_items=self._n_own)
        row = np.repeat(np.arange(len(user_ids)), histories.lengths)
        pairs = row * n_keys + histories.weights.indices
        return Group.of(histories, entries.are_seen(pairs))

    @property
    def _is_summed_alone(self) -> bool:
        """Whether what an item weighs follows from the interactions with it alone."""
        metadata = self._model.artifact.metadata
        capped = metadata.data.get("max_interactions_per_user")
        return capped is None and bool(metadata.latest_at)

    def in_table(self, connection: storage.Connection, user_id: str) -> "Past":
        """Return the history of a user in the table."""
        return self.of_interactions(storage.interactions.of_user(connection, user_id))

    def of_interactions(self, interactions: pa.RecordBatch) -> "Past":
        """Return the history that all interactions of a user make."""
        return self._past(self._of_batch(interactions))

    def told(self, told: Told) -> "Past":
        """Return the history that a request tells; without times none of it is old."""
        return self._past(self._of_told(told), has_times=told.has_times)

    def unknown_in(self, past: "Past", *, include_seen: bool = False) -> list[str]:
        """Return the items of a history that the version does not know and that are not listed.

        Those that count as seen, and with `include_seen` those alone that weigh nothing:
        dismissed, or seen without taste.
        """
        in_snapshot = [] if self.snapshot is None else self.snapshot.items
        n_named = self._n_own + self._n_others
        others = past.negative_others if include_seen else past.others
        return [
            past.names[key] if key >= n_named else in_snapshot[key - self._n_own]
            for key in others.tolist()
        ]

    @property
    def _type_weights(self) -> Mapping[str, float]:
        weights: Mapping[str, float] | None = self._model.artifact.metadata.data.get("weights")
        return {**(self._policy.weights() if weights is None else weights), UNTYPED: 1.0}

    def _count_as_seen(self, types: Sequence[str]) -> np.ndarray | None:
        """Say by which interaction types an item counts as seen; None: by any."""
        seen_types = self._policy.current().policy.recommendations.seen_types
        if seen_types is None:
            return None
        return np.array([name in (*seen_types, UNTYPED) for name in types], dtype=bool)

    def _of_rows(self, snapshot: Snapshot, rows: Rows) -> "_Entries":
        of_type, is_seen = self._weights_in(snapshot)
        return _Entries(
            self._keys.take(rows.item_index),
            of_type.take(rows.type_index) * rows.weight,
            rows.occurred_at,
            None if self._listing is None else self._listing.take(rows.type_index),
            None if is_seen is None else is_seen.take(rows.type_index),
            {},
        )

    def _weights_in(self, snapshot: Snapshot) -> tuple[np.ndarray, np.ndarray | None]:
        """Return what each type of the snapshot weighs, and whether it counts as seen."""
        revision = self._policy.revision
        if self._by_type is None or self._by_type[0] != revision:
            weights, is_seen = self._type_weights, self._count_as_seen(snapshot.types)
            of_type = np.array([weights.get(name, 0.0) for name in snapshot.types])
            self._by_type = revision, of_type, is_seen
        return self._by_type[1:]

    def _of_batch(self, batch: pa.RecordBatch) -> "_Entries":
        items, types = (
            batch.column(name).dictionary_encode() for name in ("item_id", "interaction_type")
        )
        keys, names = self._keyed(items.dictionary.to_pylist())
        return self._weighed(
            keys[items.indices.to_numpy()],
            names,
            types=types,
            weight=batch.column("weight").to_numpy(),
            occurred_at=batch.column("occurred_at").to_numpy(),
        )

    def _of_told(self, told: Told) -> "_Entries":
        n = len(told.item_ids)
        keys, names = self._keyed(told.item_ids)
        types = [UNTYPED] * n if told.interaction_types is None else told.interaction_types
        return self._weighed(
            keys,
            names,
            types=pa.array(types, pa.string()).dictionary_encode(),
            weight=np.ones(n) if told.weights is None else np.array(told.weights, dtype=np.float64),
            occurred_at=np.array(told.occurred_at, dtype=np.int64),
        )

    def _weighed(
        self,
        keys: np.ndarray,
        names: Mapping[int, str],
        *,
        types: pa.DictionaryArray,
        weight: np.ndarray,
        occurred_at: np.ndarray,
    ) -> "_Entries":
        type_weights, known = self._type_weights, types.dictionary.to_pylist()
        codes = types.indices.to_numpy()
        of_type = np.array([type_weights.get(name, 0.0) for name in known], dtype=np.float64)
        listing = np.array([matrix.LISTINGS.get(name, 0) for name in known], dtype=np.int8)
        is_seen = self._count_as_seen(known)
        return _Entries(
            keys,
            of_type[codes] * weight,
            occurred_at,
            listing[codes],
            None if is_seen is None else is_seen[codes],
            names,
        )

    def _keyed(self, item_ids: Sequence[str]) -> tuple[np.ndarray, dict[int, str]]:
        """Return the number of each item, and the ids of those that have none of their own."""
        keys = self._model.artifact.items.find_each(item_ids)
        places = np.flatnonzero(keys < 0).tolist()
        others = list(dict.fromkeys(item_ids[place] for place in places))
        n_named = self._n_own + self._n_others
        numbers = n_named + np.arange(len(others))
        if self.snapshot is not None:
            found = self.snapshot.items.find_each(others)
            numbers = np.where(found < 0, numbers, self._n_own + found)
        number_of = dict(zip(others, numbers.tolist(), strict=True))
        keys[places] = [number_of[item_ids[place]] for place in places]
        return keys, {number: each for each, number in number_of.items() if number >= n_named}

    def _summed(self, entries: "_Entries", *, has_times: bool = True) -> matrix.SummedRow:
        metadata = self._model.artifact.metadata
        data = metadata.data if has_times else {}
        return matrix.sum_row(
            entries.keys,
            weight=entries.weight,
            occurred_at=entries.occurred_at,
            listing=entries.listing,
            latest_at=metadata.latest_at or None,
            half_life_days=data.get("half_life_days"),
            window_days=data.get("window_days"),
            max_interactions_per_user=data.get("max_interactions_per_user"),
        )

    def _past(self, entries: "_Entries", *, has_times: bool = True) -> "Past":
        summed = self._summed(entries, has_times=has_times)
        # A model that knows no order is not told of any.
        times = summed.latest_at if self._model.artifact.model.is_ordered else None
        history = matrix.Histories.of_row(summed.keys, summed.weights, times, n_items=self._n_own)
        n = history.weights.nnz  # the keys ascend
        others, is_negative = summed.keys[n:], summed.weights[n:] <= 0
        is_seen = entries.are_seen(others)
        return Past(
            history,
            entries.occurred_at,
            Group.of(history, entries.are_seen(history.weights.indices)),
            others if is_seen is None else others[is_seen | is_negative],
            others[is_negative],
            entries.names,
        )


class Everybody:
    """Who has interactions in an installation, and what they have done so far.

    Parameters
    ----------
    connection : storage.Connection
    snapshot : Snapshot or None
        One that `snapshot.opened` gives: of another generation it is not used.
    policy : PolicyWatch
    """

    def __init__(
        self, connection: storage.Connection, snapshot: Snapshot | None, *, policy: PolicyWatch
    ) -> None:
        self._connection = connection
        self._policy = policy
        generation = storage.installation.generation(connection)
        is_current = snapshot is not None and snapshot.origin.generation == generation
        self._snapshot = snapshot if is_current else None

    @functools.cached_property
    def users(self) -> list[str]:
        """Their ids, ascending."""
        if self._snapshot is None:
            return sorted(storage.interactions.users(self._connection))
        watermark = self._snapshot.origin.watermark
        newer = storage.interactions.users_first_after(self._connection, watermark)
        merged = {visitor for visitor, _, _ in self._merges}
        return sorted({*self._snapshot.users, *newer} - merged)

    def known_to(self, model: ActiveModel) -> set[str]:
        """Return the ids of those who had interactions that a version could have seen."""
        newer = storage.interactions.users_first_after(self._connection, model.watermark)
        users = matrix.IdIndex(self.users)
        is_in = matrix.left_in(users, _left_out_by(model)).tolist()
        return set(itertools.compress(users.ids, is_in)) - set(newer)

    def histories(self, model: ActiveModel, user_ids: Sequence[str]) -> "Group":
        """Return their histories for a version, a row each, and what of them is not listed."""
        one = UserHistories(model, self._snapshot, policy=self._policy)
        groups = [self._past(one, user_id).group for user_id in user_ids]
        return Group.stacked(groups, n_items=len(model.artifact.items))

    def _past(self, one: UserHistories, user_id: str) -> "Past":
        if self._snapshot is None or user_id in self._changed:
            return one.in_table(self._connection, user_id)
        return one.in_snapshot(user_id)

    @functools.cached_property
    def _changed(self) -> frozenset[str]:
        """Those who are not in the table as they are in the snapshot."""
        assert self._snapshot is not None
        newer = storage.interactions.users_after(
            self._connection, self._snapshot.origin.watermark, limit=None
        )
        accounts = (account for _, account, _ in self._merges)
        return frozenset({user_id for _, user_id in newer} | set(accounts))

    @functools.cached_property
    def _merges(self) -> list[tuple[str, str, int]]:
        assert self._snapshot is not None
        return storage.merges.since(self._connection, self._snapshot.origin.made_at - clock.DAY)


@dataclass(frozen=True)
class Group:
    """Histories, and what of them is not listed.

    Attributes
    ----------
    histories : Histories
    out : scipy.sparse.csr_array, shape of the histories' weights, or None
        Its stored entries count as seen, or weigh nothing; None: all of the histories do.
    """

    histories: matrix.Histories
    out: sparse.csr_array | None

    @classmethod
    def of(cls, histories: matrix.Histories, is_seen: np.ndarray | None) -> "Group":
        """Take histories of which some entries count as seen; None: all."""
        weights = histories.weights
        out = None if is_seen is None else entries_where(weights, is_seen | (weights.data <= 0))
        return cls(histories, out)

    @classmethod
    def stacked(cls, parts: Sequence["Group"], *, n_items: int) -> "Group":
        """Put groups of the same items one under the other."""
        histories = matrix.Histories.stacked([each.histories for each in parts], n_items=n_items)
        outs = [each.histories.weights if each.out is None else each.out for each in parts]
        if all(each.out is None for each in parts):
            return cls(histories, None)
        return cls(histories, sparse.vstack(outs, format="csr"))

    def __len__(self) -> int:
        return len(self.histories)

    def __getitem__(self, rows: slice | np.ndarray) -> "Group":
        """Return some of the rows, as of `Histories`."""
        return Group(self.histories[rows], None if self.out is None else self.out[rows])

    def unlisted(self, *, include_seen: bool) -> sparse.csr_array:
        """Return the entries that are in no list; with `include_seen` what weighs nothing."""
        weights = self.histories.weights
        if include_seen:
            return without_taste(weights)
        return weights if self.out is None else self.out


class Past(NamedTuple):
    """A history of one row, and when its interactions occurred, whatever they weigh.

    `others` are the numbers of its items that the version does not know and that are not listed,
    `negative_others` those of them that weigh nothing, and `names` has those that the snapshot
    does not have either: see `UserHistories.unknown_in`.
    """

    history: matrix.Histories
    occurred_at: np.ndarray
    group: Group
    others: np.ndarray
    negative_others: np.ndarray
    names: Mapping[int, str]

    def is_later_than(self, moment: int | None) -> bool:
        """Say whether any of it occurred after a moment; None is before all."""
        return moment is None or bool((self.occurred_at > moment).any())


class _Entries(NamedTuple):
    """Interactions of a user in the order of the table: see `matrix.sum_row`."""

    keys: np.ndarray
    weight: np.ndarray
    occurred_at: np.ndarray
    listing: np.ndarray | None
    is_seen: np.ndarray | None
    names: Mapping[int, str]

    def are_seen(self, keys: np.ndarray) -> np.ndarray | None:
        """Say which items count as seen; None: all do."""
        return None if self.is_seen is None else np.isin(keys, self.keys[self.is_seen])

    @property
    def _listings(self) -> np.ndarray:
        return np.zeros(len(self.keys), dtype=np.int8) if self.listing is None else self.listing

    def and_then(self, newer: "_Entries") -> "_Entries":
        is_seen = None
        if self.is_seen is not None and newer.is_seen is not None:
            is_seen = np.concatenate([self.is_seen, newer.is_seen])
        return _Entries(
            np.concatenate([self.keys, newer.keys]),
            np.concatenate([self.weight, newer.weight]),
            np.concatenate([self.occurred_at, newer.occurred_at]),
            np.concatenate([self._listings, newer._listings]),
            is_seen,
            {**self.names, **newer.names},
        )


def _left_out_by(model: ActiveModel) -> list[str]:
    """Return which users a version was trained without; its file may say anything."""
    told = model.artifact.metadata.data.get("left_out_users")
    return [text for text in told if isinstance(text, str)] if isinstance(told, list) else []


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
    others: dict[str, int] = {}
    keys = []
    for item_id in item_ids:
        own = items.find(item_id)
        keys.append(len(items) + others.setdefault(item_id, len(others)) if own is None else own)
    summed = matrix.sum_row(
        np.array(keys, dtype=np.int64),
        weight=np.ones(len(keys)),
        occurred_at=np.array(occurred_at, dtype=np.int64),
        listing=None,
    )
    return matrix.Histories.of_row(
        summed.keys, summed.weights, summed.latest_at, n_items=len(items)
    )
