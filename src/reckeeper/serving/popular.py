"""The popular items: what those get of whom nothing is known, with a model or without one."""

import contextlib
import hashlib
import itertools
import threading
import time
import zlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from reckeeper import clock, matrix, storage
from reckeeper.catalogue import Catalogue, Shelf
from reckeeper.errors import ReckeeperError
from reckeeper.matrix import IdIndex
from reckeeper.periodic import Periodic
from reckeeper.policy import Policy, PolicyWatch, RecommendationPolicy
from reckeeper.serving.asked import UNTYPED

N_LATEST = 200_000
"""How many interactions are counted, the latest: a count of more would take seconds."""

PAUSE_SECONDS = 30.0
"""How long the table is left alone after a count of so many; after one of fewer in proportion."""

_N_AT_ONCE = 1_000


class PopularItems:
    """How many users have each item lately, and what the policy makes of that.

    A thread counts the table again where something has changed, so that no
    request waits for it: a table of `N_LATEST` interactions or more every
    `PAUSE_SECONDS`, which takes about 2% of a core, a small one at once. While
    the table cannot be read the last count stays, and `problem` says so.
    Without `start` the table is looked at whenever somebody asks.

    Parameters
    ----------
    database : storage.Database
    policy : PolicyWatch
        Asked for the interaction types that weigh something, for the users
        left out, and for its `recommendations`.
    catalogue : Catalogue
        Asked for what is new.
    every_seconds : float
        Pause between two looks.
    """

    def __init__(
        self,
        database: storage.Database,
        policy: PolicyWatch,
        catalogue: Catalogue,
        *,
        every_seconds: float,
    ) -> None:
        self._database = database
        self._policy = policy
        self._catalogue = catalogue
        self._counting = Periodic(self.refresh, name="popular", every_seconds=every_seconds)
        self._refreshing = threading.RLock()
        self._counted_of: tuple[int, int, int] | None = None
        self._counted: list[tuple[str, float]] = []
        self._next_at = 0.0
        self._state: _State | None = None
        self._followed: Board | None = None

    @property
    def problem(self) -> str | None:
        """Why the last look failed, in a sentence; None if it succeeded."""
        return self._counting.problem

    def start(self) -> None:
        """Count, and count again until `stop`."""
        with contextlib.suppress(ReckeeperError):  # the thread tries again, and reports it
            self.refresh()
        self._counting.start()

    def stop(self) -> None:
        """Count no longer."""
        self._counting.stop()

    def refresh(self, *, moment: int | None = None) -> None:
        """Take in what has changed in the table, the policy, the catalogue, or with the day.

        Parameters
        ----------
        moment : int, optional
            In microseconds since 1970 UTC. Default: now.

        Raises
        ------
        StorageError
            The table cannot be read; all else was taken in.
        ConfigError
            As of `PolicyWatch.current`.
        """
        stored = self._policy.current()
        with self._refreshing:
            try:
                self._count(stored.policy, stored.revision)
            finally:
                self._take_in(stored.policy, clock.now() if moment is None else moment)

    def board(self, items: IdIndex, scores: np.ndarray, *, is_whole: bool) -> "Board":
        """Make the board of a model.

        Parameters
        ----------
        items : IdIndex
            Those of the model; none without a model.
        scores : ndarray of float, shape (n_items,)
            How popular the model has them.
        is_whole : bool
            Whether these are the scores of a model that gives everybody the
            same: its lists are what is popular, and the table is not counted
            for it.
        """
        return Board(self, self._catalogue, items, scores, is_whole=is_whole)

    def follow(self, board: "Board") -> None:
        """Keep a board up to date in the background, in place of the one before it."""
        with self._refreshing:
            self._followed = board
            if self._state is not None:
                board.hold(self._state)

    def unlisted(self, history: pa.RecordBatch, *, include_seen: bool) -> set[str]:
        """Return the items of a history that must not be listed.

        All that count as seen, and those that were dismissed or seen without taste; with
        `include_seen` the latter alone.

        Parameters
        ----------
        history : pyarrow.RecordBatch
            Of one user, as of `storage.interactions.of_user` or `Told.batch`.
        include_seen : bool
        """
        policy = self._policy.current().policy
        row = matrix.build([history], type_weights={**policy.weights, UNTYPED: 1.0})
        seen_types = policy.recommendations.seen_types
        if seen_types is None and not include_seen:
            return set(row.items.ids)
        is_negative = row.weights.data <= 0
        unlisted = {row.items.ids[index] for index in row.weights.indices[is_negative].tolist()}
        if not include_seen:
            counts = pa.array([*(seen_types or ()), UNTYPED])
            is_seen = pc.is_in(history.column("interaction_type"), value_set=counts)
            unlisted |= {*history.filter(is_seen).column("item_id").to_pylist()}
        return unlisted

    def state(self) -> "_State":
        """Return what boards are made of."""
        if self._state is None or not self._counting.is_running:
            self.refresh()
        assert self._state is not None
        return self._state

    def _count(self, policy: Policy, revision: int) -> None:
        """Count the table, if it is another than it was, and it is time.

        It is always time where interactions were taken away: their items go at once.
        """
        days = policy.recommendations.popularity_half_life_days
        with self._database.read() as connection:
            last = storage.interactions.last_id(connection)
            counted_of = storage.installation.generation(connection), last, revision
            is_due = time.monotonic() >= self._next_at or (
                self._counted_of is not None and self._counted_of[0] != counted_of[0]
            )
            if counted_of == self._counted_of or not is_due:
                return
            left_out: list[str] = []
            if policy.left_out_users:
                users = IdIndex(storage.interactions.latest_users(connection, among=N_LATEST))
                stays = matrix.left_in(users, policy.left_out_users)
                left_out = [users.ids[place] for place in np.flatnonzero(~stays).tolist()]
            self._counted = storage.interactions.most_popular(
                connection,
                [name for name, weight in policy.weights.items() if weight > 0],
                among=N_LATEST,
                half_life=None if days is None else max(1, int(days * clock.DAY)),
                left_out=left_out,
            )
        self._counted_of = counted_of
        share = max(0, min(last, N_LATEST) - _N_AT_ONCE) / N_LATEST
        self._next_at = time.monotonic() + PAUSE_SECONDS * share

    def _take_in(self, policy: Policy, moment: int) -> None:
        settings = policy.recommendations
        day, new = None, []
        if settings.daily_variation or settings.new_items_share:
            day, begin = _day(moment, policy.timezone)
            if settings.new_items_share:
                new = self._catalogue.new_since(begin - int(settings.new_items_days * clock.DAY))
        before = self._state
        if before is not None:
            was = before.settings, before.day, before.new
            if before.counted is self._counted and was == (settings, day, new):
                return
        state = _State(next(_numbers), settings, self._counted, day, new)
        if self._followed is not None:
            self._followed.hold(state)
        self._state = state


@dataclass(frozen=True)
class _State:
    """What boards are made of: the count, the policy, and what is new on this day."""

    number: int
    settings: RecommendationPolicy
    counted: list[tuple[str, float]]
    day: int | None
    new: list[str]


_numbers = itertools.count(1)


class Board:
    """What is popular among the items of a model and those that came after it.

    Made by `PopularItems.board`.
    """

    def __init__(
        self,
        popular: PopularItems,
        catalogue: Catalogue,
        items: IdIndex,
        scores: np.ndarray,
        *,
        is_whole: bool,
    ) -> None:
        self._popular = popular
        self._catalogue = catalogue
        self._items = items
        self._scores = scores
        self._is_whole = is_whole
        self._making = threading.Lock()
        self._ranking: Ranking | None = None

    @property
    def ranking(self) -> "Ranking":
        """What is popular now."""
        return self.hold(self._popular.state())

    def hold(self, state: _State) -> "Ranking":
        """Return what is popular in a state, or in a later one that was held before."""
        ranking = self._ranking
        if ranking is None or ranking.number < state.number:
            with self._making:
                ranking = self._ranking
                if ranking is None or ranking.number < state.number:
                    ranking = self._ranking = self._made(state, ranking)
        return ranking

    def _made(self, state: _State, before: "Ranking | None") -> "Ranking":
        counted = dict(() if self._is_whole else state.counted)
        ids = _Ids.of(self._items, {*counted, *state.new})
        scores = np.zeros(len(ids))
        scores[: len(self._items)] = self._scores
        if counted:
            # What nobody has lately comes after all that somebody has, as the model has it.
            scores *= min(counted.values()) / (1.0 + scores.max(initial=0.0))
            scores[ids.places(list(counted))] = list(counted.values())
        if before is not None and before.ids.others.ids == ids.others.ids:
            shelf = before.shelf
        else:
            shelf = self._catalogue.shelf(list(ids), ids.find)
        return Ranking(ids, scores, shelf, state)


class Ranking:
    """Items by popularity, as the policy has it on one day.

    Attributes
    ----------
    number : int
        Another for each ranking of a process.
    shelf : Shelf
        The catalogue in the order of the items here: those of the model, and others.
    scores : ndarray of float64, shape (n_items,)
        How popular they are: how many users have them, those of long ago
        counting less.
    """

    def __init__(self, ids: "_Ids", scores: np.ndarray, shelf: Shelf, state: _State) -> None:
        self.number = state.number
        self.shelf = shelf
        self.scores = scores
        self.ids = ids
        self._settings = state.settings
        self._day = state.day
        self._order = np.argsort(-scores, kind="stable")
        if state.day is not None:
            hashes = (zlib.crc32(item_id.encode()) for item_id in ids)
            self._hashes = np.fromiter(hashes, np.uint64, count=len(ids))
            self._logarithms = np.log(np.maximum(scores, np.nextafter(0.0, 1.0)))
            self._new = np.sort(ids.places(state.new))

    def best(
        self, n: int, *, user_id: str | None, listable: np.ndarray | None, seen: Collection[str]
    ) -> np.ndarray:
        """Return the indices of up to `n` items, as a user's list of today has them.

        A longer list begins as a shorter one does.

        Parameters
        ----------
        n : int
        user_id : str or None
            Whose list it is; None: of somebody of whom no id is known.
        listable : ndarray of bool, shape (n_items,), or None
            Which items may be in it; None: all.
        seen : collection of str
            Items that are not in it.

        Notes
        -----
        With a daily variation of v, items are drawn one after the other with
        chances in proportion to score^(1/v), as log(score) + v * Gumbel noise
        sorts them. The noise of an item follows from its id, the user's and
        the day: it is the same in every process.
        """
        is_listed = np.ones(len(self.ids), dtype=bool) if listable is None else listable.copy()
        for item_id in seen:
            index = self.ids.find(item_id)
            if index is not None:
                is_listed[index] = False
        if self._day is None:
            return self._in_order(is_listed)[:n]
        seed = f"{self._day} {user_id or ''}".encode()
        by_popularity = self._in_order(is_listed)[:n]
        variation = self._settings.daily_variation
        if variation:
            left = np.flatnonzero(is_listed)
            noise = -np.log(-np.log(_uniform(self._hashes[left], seed)))
            by_popularity = left[_largest(self._logarithms[left] + variation * noise, n)]
        new = self._new[is_listed[self._new]]
        if not len(new):
            return by_popularity
        turns = np.argsort(_uniform(self._hashes[new], b"new " + seed), kind="stable")
        share = self._settings.new_items_share
        return _mixed(by_popularity.tolist(), new[turns].tolist(), n=n, share=share)

    def _in_order(self, is_listed: np.ndarray) -> np.ndarray:
        return np.asarray(self._order[is_listed[self._order]])


@dataclass(frozen=True)
class _Ids:
    """The ids of a model's items, and behind them others."""

    items: IdIndex
    others: IdIndex

    @classmethod
    def of(cls, items: IdIndex, wanted: Collection[str]) -> "_Ids":
        asked = IdIndex(sorted(wanted))
        is_other = asked.places_in(items) < 0
        return cls(items, IdIndex([asked.ids[at] for at in np.flatnonzero(is_other).tolist()]))

    def __len__(self) -> int:
        return len(self.items) + len(self.others)

    def __iter__(self) -> Iterator[str]:
        return itertools.chain(self.items.ids, self.others.ids)

    def __getitem__(self, index: int) -> str:
        n_items = len(self.items)
        return self.items.ids[index] if index < n_items else self.others.ids[index - n_items]

    def find(self, item_id: str) -> int | None:
        index = self.items.find(item_id)
        if index is None:
            place = self.others.find(item_id)
            index = None if place is None else len(self.items) + place
        return index

    def places(self, item_ids: Sequence[str]) -> np.ndarray:
        """Return the indices of ids that are all here."""
        asked = IdIndex(item_ids)
        places = asked.places_in(self.items)
        return np.where(places >= 0, places, len(self.items) + asked.places_in(self.others))


def _mixed(by_popularity: list[int], new: list[int], *, n: int, share: float) -> np.ndarray:
    """Give new items their share of the places, evenly: no item has two places."""
    others, fresh = iter(by_popularity), iter(new)
    listed: dict[int, None] = {}
    for place in range(n):
        is_for_new = int((place + 1) * share + 1e-9) > int(place * share + 1e-9)
        for item in itertools.chain(*((fresh, others) if is_for_new else (others, fresh))):
            if item not in listed:
                listed[item] = None
                break
    return np.array(list(listed), dtype=np.int64)


def _largest(keys: np.ndarray, n: int) -> np.ndarray:
    """Return the places of the n largest keys, the largest first."""
    if n < len(keys):
        best = np.argpartition(-keys, n)[:n]
        return np.asarray(best[np.argsort(-keys[best], kind="stable")])
    return np.argsort(-keys, kind="stable")


def _uniform(hashes: np.ndarray, seed: bytes) -> np.ndarray:
    """Return a number in (0, 1) for each hash, as random as the mixer of SplitMix64 makes it."""
    start = int.from_bytes(hashlib.blake2b(seed, digest_size=8).digest(), "little")
    mixed = hashes * np.uint64(0x9E3779B97F4A7C15) + np.uint64(start)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return np.asarray(((mixed >> np.uint64(11)).astype(np.float64) + 0.5) / 2.0**53)


def _day(moment: int, timezone: str) -> tuple[int, int]:
    """Return the number of a moment's day in a time zone, and when it begins."""
    local = clock.utc(moment).astimezone(ZoneInfo(timezone))
    midnight = datetime(local.year, local.month, local.day, tzinfo=local.tzinfo)
    return local.toordinal(), clock.microseconds(midnight)
