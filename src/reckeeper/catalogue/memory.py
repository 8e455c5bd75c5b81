"""The catalogue in memory: whoever asks waits for no database."""

import contextlib
import threading
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from pydantic_core import from_json

from reckeeper import storage
from reckeeper.errors import ReckeeperError
from reckeeper.periodic import Periodic
from reckeeper.telemetry import get_logger

_ALWAYS, _NEVER = np.iinfo(np.int64).min, np.iinfo(np.int64).max
_FIRST_ROOM = 1024

_log = get_logger(__name__)


class Description(NamedTuple):
    """What is said of an item; nothing of one that the catalogue does not have."""

    title: str | None
    attributes: dict[str, Any]
    categories: tuple[str, ...]


_NOTHING = Description(None, {}, ())


@dataclass(frozen=True)
class Standing:
    """Which of a model's items are available, from one moment until another.

    Attributes
    ----------
    revision : int
        Of the catalogue.
    since, until : int
        Microseconds since 1970 UTC: it holds from the first moment to just before the second,
        the next at which an item begins or ceases to be available.
    is_available : ndarray of bool, shape (n_items,), or None
        By the model's index; None: all are.
    """

    revision: int
    since: int
    until: int
    is_available: np.ndarray | None


class Catalogue:
    """The catalogue in memory, at most `every_seconds` behind the database.

    An item has a *place* that it keeps, and costs its texts in UTF-8 and about
    350 bytes. A refresh reads the revision alone, and where that has changed
    the rows that were changed since. Safe to share between threads. While the
    database cannot be read, what was read last stays, and `problem` says so.

    Parameters
    ----------
    database : storage.Database
    every_seconds : float
        Pause between two looks at the revision.
    """

    def __init__(self, database: storage.Database, *, every_seconds: float) -> None:
        self._database = database
        self._reading = Periodic(self.refresh, name="catalogue", every_seconds=every_seconds)
        self._refreshing = threading.Lock()
        self._rows = _Rows()

    @property
    def problem(self) -> str | None:
        """Why the last look failed, in a sentence; None if it succeeded."""
        problem = self._reading.problem
        return problem and f"The catalogue cannot be read; what was read last stays. {problem}"

    @property
    def revision(self) -> int:
        """Revision that is in memory; 0 before anything was read."""
        return self._rows.revision

    def start(self) -> None:
        """Read the catalogue, and what changes in it until `stop`."""
        with contextlib.suppress(ReckeeperError):  # the thread tries again, and reports it
            self.refresh()
        self._reading.start()

    def stop(self) -> None:
        """Follow it no longer."""
        self._reading.stop()

    def refresh(self) -> None:
        """Take in what was changed since the last time.

        Raises
        ------
        StorageError
            The database cannot be read.
        """
        with self._refreshing, self._database.read() as connection:
            revision = storage.items.revision_of(connection)
            rows = self._rows
            if revision == rows.revision:
                return
            if revision < rows.revision:  # another database, as from a backup
                rows = _Rows()
            if rows.revision:
                rows.remove(storage.items.removed_since(connection, rows.revision))
            for batch in storage.items.changed_since(connection, rows.revision):
                rows.put(batch)
            rows.revision = revision
            self._rows = rows
        _log.debug("catalogue_read", revision=revision)

    def follow_up(self) -> None:
        """Take in a change that this process has just made; a failure is left to the next look."""
        with contextlib.suppress(ReckeeperError):
            self.refresh()

    def describe(self, item_ids: Iterable[str]) -> list[Description]:
        """Say what the catalogue says of items, in the order given."""
        rows = self._rows
        return [rows.description(item_id) for item_id in item_ids]

    def is_available(self, item_id: str, moment: int) -> bool:
        """Say whether an item may be recommended at a moment; one that is not here may."""
        return self._rows.is_available(item_id, moment)

    def next_change(self, moment: int) -> int | None:
        """Return the next moment after one at which an item begins or ceases to be available."""
        rows = self._rows
        with rows.lock:
            change = rows.next_change(slice(rows.n_places), moment)
        return None if change == _NEVER else change

    def in_categories(self, categories: Collection[str]) -> list[str]:
        """Return the items that have any of some categories, in no order."""
        rows = self._rows
        with rows.lock:
            return rows.ids_in(categories)

    def akin(self, categories: Sequence[Sequence[str]]) -> list[tuple[str, float]]:
        """Return the items that share a category with others, and how much they share.

        Parameters
        ----------
        categories : sequence of sequence of str
            Those of each of the others.

        Returns
        -------
        list of (str, float)
            In no order. The categories in common divided by all that either
            has, added up over the others.
        """
        rows = self._rows
        with rows.lock:
            return rows.akin(categories)

    def shelf(self, item_ids: Sequence[str], index_of: Callable[[str], int | None]) -> "Shelf":
        """Return a view of the catalogue in the order of a model's items.

        Parameters
        ----------
        item_ids : sequence of str
            Unique; an item's index is its place.
        index_of : callable
            Returns the index of an id, None where it is not among `item_ids`.
        """
        return Shelf(lambda: self._rows, item_ids, index_of)


class Shelf:
    """The catalogue in the order of a model's items; see `Catalogue.shelf`.

    Costs 4 bytes an item, and a pass over them where something has changed.
    """

    def __init__(
        self,
        rows: "Callable[[], _Rows]",
        item_ids: Sequence[str],
        index_of: Callable[[str], int | None],
    ) -> None:
        self._current = rows
        self._item_ids = item_ids
        self._index_of = index_of
        self._placed: _Rows | None = None
        self._n_placed = 0
        self._places = np.empty(0, dtype=np.int32)
        self._standing: Standing | None = None

    def at(self, moment: int) -> Standing:
        """Return which items are available at a moment in microseconds since 1970 UTC."""
        rows, standing = self._current(), self._standing
        if (
            standing is not None
            and rows is self._placed
            and standing.revision == rows.revision
            and standing.since <= moment < standing.until
        ):
            return standing
        with rows.lock:
            revision = rows.revision
            places = self._places_in(rows)
            is_available = rows.are_available(places, moment)
            until = rows.next_change(places[places >= 0], moment)
        standing = Standing(revision, moment, until, None if is_available.all() else is_available)
        self._standing = standing
        return standing

    def in_categories(self, categories: Collection[str]) -> np.ndarray:
        """Return a mask of the items that have any of some categories."""
        rows = self._current()
        with rows.lock:
            return rows.are_in(self._places_in(rows), categories)

    def _places_in(self, rows: "_Rows") -> np.ndarray:
        """Return the place of each item, -1 where it has none; under the lock of `rows`."""
        if rows is not self._placed:
            found = map(rows.place_of, self._item_ids)
            self._places = np.fromiter(found, np.int32, count=len(self._item_ids))
            self._placed = rows
        else:
            for place in range(self._n_placed, rows.n_places):
                index = self._index_of(rows.id_at(place))
                if index is not None:
                    self._places[index] = place
        self._n_placed = rows.n_places
        return self._places


class _Rows:
    """The rows of the catalogue, by columns. An id keeps its place, also once its row is gone."""

    def __init__(self) -> None:
        self.revision = 0
        self.lock = threading.RLock()
        self._places: dict[str, int] = {}
        self._ids: list[str] = []
        self._titles: list[bytes | None] = []
        self._attributes: list[bytes] = []
        # Few combinations of categories are many items': each item has the number of its own.
        self._combinations: list[tuple[str, ...]] = [()]
        self._combination_of: dict[str, int] = {"[]": 0}
        self._combinations_with: dict[str, list[int]] = {}
        self._make_room(_FIRST_ROOM)

    @property
    def n_places(self) -> int:
        return len(self._ids)

    def id_at(self, place: int) -> str:
        return self._ids[place]

    def place_of(self, item_id: str) -> int:
        return self._places.get(item_id, -1)

    def put(self, batch: Sequence[storage.items.RawItem]) -> None:
        if not batch:
            return
        ids, titles, attributes, categories, available, begins, ends = zip(*batch, strict=True)
        with self.lock:
            places = [self._place_for(item_id) for item_id in ids]
            for place, title, text in zip(places, titles, attributes, strict=True):
                self._titles[place] = None if title is None else title.encode()
                self._attributes[place] = text.encode()
            self._combination[places] = [self._number_of(text) for text in categories]
            self._available[places] = available
            self._from[places] = [_ALWAYS if moment is None else moment for moment in begins]
            self._until[places] = [_NEVER if moment is None else moment for moment in ends]

    def remove(self, item_ids: Iterable[str]) -> None:
        nothing = storage.items.RawItem("", None, "{}", "[]", True, None, None)
        self.put([nothing._replace(item_id=each) for each in item_ids if each in self._places])

    def description(self, item_id: str) -> Description:
        place = self._places.get(item_id)
        if place is None:
            return _NOTHING
        title = self._titles[place]
        return Description(
            None if title is None else title.decode(),
            from_json(self._attributes[place]),
            self._combinations[int(self._combination[place])],
        )

    def is_available(self, item_id: str, moment: int) -> bool:
        place = self._places.get(item_id)
        if place is None:
            return True
        with self.lock:
            is_within = self._from[place] <= moment < self._until[place]
            return bool(self._available[place] and is_within)

    def are_available(self, places: np.ndarray, moment: int) -> np.ndarray:
        """Return a mask of the places; -1 is always available."""
        if not self._ids:
            return np.ones(len(places), dtype=bool)
        are = self._available[places] & (self._from[places] <= moment)
        are &= moment < self._until[places]
        return np.asarray(are | (places < 0))

    def next_change(self, places: np.ndarray | slice, moment: int) -> int:
        """Return the next moment after one at which an availability begins or ends."""
        is_available = self._available[places]
        change = _NEVER
        for moments in (self._from[places], self._until[places]):
            later = moments[is_available & (moments > moment)]
            change = min(change, int(later.min(initial=_NEVER)))
        return change

    def ids_in(self, categories: Collection[str]) -> list[str]:
        is_in = self.are_in(np.arange(self.n_places), categories)
        return [self._ids[place] for place in np.flatnonzero(is_in).tolist()]

    def akin(self, categories: Sequence[Sequence[str]]) -> list[tuple[str, float]]:
        shared = np.zeros(len(self._combinations))
        for wanted in map(set, categories):
            for number in {
                each for name in wanted for each in self._combinations_with.get(name, [])
            }:
                mine = self._combinations[number]
                shared[number] += len(wanted.intersection(mine)) / len(wanted.union(mine))
        of_places = shared[self._combination[: self.n_places]]
        places = np.flatnonzero(of_places)
        return [
            (self._ids[place], share)
            for place, share in zip(places.tolist(), of_places[places].tolist(), strict=True)
        ]

    def are_in(self, places: np.ndarray, categories: Collection[str]) -> np.ndarray:
        """Return a mask of the places whose items have any of some categories."""
        is_wanted = np.zeros(len(self._combinations), dtype=bool)
        for category in categories:
            is_wanted[self._combinations_with.get(category, [])] = True
        return np.asarray(is_wanted[self._combination[places]] & (places >= 0))

    def _place_for(self, item_id: str) -> int:
        place = self._places.get(item_id)
        if place is not None:
            return place
        place = len(self._ids)
        if place == len(self._available):
            self._make_room(2 * place)
        self._titles.append(None)
        self._attributes.append(b"{}")
        self._ids.append(item_id)
        self._places[item_id] = place
        return place

    def _make_room(self, n: int) -> None:
        def longer(column: str, kind: type, fill: object) -> np.ndarray:
            made: np.ndarray = np.full(n, fill, dtype=kind)
            held = getattr(self, column, made[:0])
            made[: len(held)] = held
            return made

        self._available = longer("_available", np.bool_, True)
        self._from = longer("_from", np.int64, _ALWAYS)
        self._until = longer("_until", np.int64, _NEVER)
        self._combination = longer("_combination", np.int32, 0)

    def _number_of(self, categories: str) -> int:
        number = self._combination_of.get(categories)
        if number is None:
            number = len(self._combinations)
            combination = tuple(from_json(categories))
            self._combinations.append(combination)
            self._combination_of[categories] = number
            for category in combination:
                self._combinations_with.setdefault(category, []).append(number)
        return number
