"""The catalogue in memory: whoever asks waits for no database."""

import contextlib
import difflib
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from pydantic_core import from_json

from reckeeper import storage
from reckeeper.catalogue.conditions import Condition, key_of
from reckeeper.catalogue.labels import Labels
from reckeeper.errors import NotFoundError, ReckeeperError
from reckeeper.periodic import Periodic
from reckeeper.telemetry import get_logger

_ALWAYS, _NEVER = np.iinfo(np.int64).min, np.iinfo(np.int64).max
_FIRST_ROOM = 1024

_FILTER_BYTES = 16 << 20
"""What the items of combinations of categories and conditions take that are kept for a model."""

_ATTRIBUTES_KEPT = 32
"""Attributes whose values are held by number, for conditions on them."""

_READ_AT_ONCE = 200
"""Items whose attributes are decoded together, while other threads wait for the interpreter."""

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

    def categories(self, item_ids: Iterable[str]) -> list[tuple[str, ...]]:
        """Return the categories of items, in the order given."""
        rows = self._rows
        with rows.lock:
            return [rows.categories_of(item_id) for item_id in item_ids]

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

    def new_since(self, moment: int) -> list[str]:
        """Return the items that are new since a moment, ascending, available yet or not.

        An item is new from its `available_from` on, and without one from when
        the catalogue got it.
        """
        rows = self._rows
        with rows.lock:
            return sorted(rows.ids_since(moment))

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


_Filter = tuple[frozenset[str], tuple[Condition, ...]]


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
        self._filtered: OrderedDict[_Filter, tuple[Standing, np.ndarray]] = OrderedDict()
        self._filtering = threading.Lock()

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

    def listable(
        self, categories: frozenset[str], where: tuple[Condition, ...], *, moment: int
    ) -> np.ndarray | None:
        """Return a mask of the available items with some categories and attributes.

        The same question again costs microseconds, until an item changes or its availability.

        Parameters
        ----------
        categories : frozenset of str
            Items have any of these; empty: whatever they have.
        where : tuple of Condition
            Each of them is met. An item that the catalogue does not have has no attributes.
        moment : int
            Microseconds since 1970 UTC.

        Returns
        -------
        ndarray of bool, shape (n_items,), or None
            Not to be changed; None: all are.

        Raises
        ------
        NotFoundError
            No item of the catalogue is in one of the categories.
        """
        standing = self.at(moment)
        if not (categories or where):
            return standing.is_available
        key = categories, where
        with self._filtering:
            found = self._filtered.get(key)
            if found is not None and found[0] is standing:
                self._filtered.move_to_end(key)
                return found[1]
        rows = self._current()
        rows.hold_labels([condition.attribute for condition in where])
        with rows.lock:
            places = self._places_in(rows)
            mask = rows.are_matching(places, categories, where)
            mask &= rows.are_available(places, moment)
            is_as_it_was = self._standing is standing and rows.revision == standing.revision
        if is_as_it_was:
            with self._filtering:
                self._filtered[key] = standing, mask
                self._filtered.move_to_end(key)
                while len(self._filtered) > max(1, _FILTER_BYTES // (len(mask) + 1)):
                    self._filtered.popitem(last=False)
        return mask

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
        self._categories = Labels(_FIRST_ROOM)
        # Of the attributes that conditions have asked for, the latest last.
        self._labels: OrderedDict[str, Labels] = OrderedDict()
        self._reading = threading.Lock()
        self._changed: list[int] | None = None  # places, while attributes are read without `lock`
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
        columns = zip(*batch, strict=True)
        ids, titles, attributes, categories, available, begins, ends, added = columns
        with self.lock:
            places = [self._place_for(item_id) for item_id in ids]
            for place, title, text in zip(places, titles, attributes, strict=True):
                self._titles[place] = None if title is None else title.encode()
                self._attributes[place] = text.encode()
            self._categories.numbers[places] = list(map(self._categories.number_of, categories))
            self._follow_labels(places, attributes)
            if self._changed is not None:
                self._changed += places
            self._available[places] = available
            self._from[places] = [_ALWAYS if moment is None else moment for moment in begins]
            self._added[places] = added
            self._until[places] = [_NEVER if moment is None else moment for moment in ends]

    def remove(self, item_ids: Iterable[str]) -> None:
        nothing = storage.items.RawItem("", None, "{}", "[]", True, None, None, _ALWAYS)
        self.put([nothing._replace(item_id=each) for each in item_ids if each in self._places])

    def description(self, item_id: str) -> Description:
        place = self._places.get(item_id)
        if place is None:
            return _NOTHING
        title = self._titles[place]
        return Description(
            None if title is None else title.decode(),
            from_json(self._attributes[place]),
            self._categories_at(place),
        )

    def categories_of(self, item_id: str) -> tuple[str, ...]:
        place = self._places.get(item_id)
        return () if place is None else self._categories_at(place)

    def _categories_at(self, place: int) -> tuple[str, ...]:
        categories = self._categories.values[int(self._categories.numbers[place])]
        return tuple(map(str, categories))

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
        shared = np.zeros(len(self._categories.values))
        for wanted in map(set, categories):
            for number in {each for name in wanted for each in self._categories.numbers_with(name)}:
                mine = self._categories.values[number]
                shared[number] += len(wanted.intersection(mine)) / len(wanted.union(mine))
        of_places = shared[self._categories.numbers[: self.n_places]]
        places = np.flatnonzero(of_places)
        return [
            (self._ids[place], share)
            for place, share in zip(places.tolist(), of_places[places].tolist(), strict=True)
        ]

    def ids_since(self, moment: int) -> list[str]:
        begin = np.where(self._from == _ALWAYS, self._added, self._from)[: self.n_places]
        return [self._ids[place] for place in np.flatnonzero(begin > moment).tolist()]

    def are_in(self, places: np.ndarray, categories: Collection[str]) -> np.ndarray:
        """Return a mask of the places whose items have any of some categories."""
        wanted = Condition("categories", any_of=frozenset(map(key_of, categories)))
        return self._are_met(places, self._categories, wanted)

    def are_matching(
        self, places: np.ndarray, categories: Collection[str], where: Sequence[Condition]
    ) -> np.ndarray:
        """Return a mask of the places whose items have any of some categories, and attributes."""
        is_matching = np.ones(len(places), dtype=bool)
        if categories:
            self._check(categories)
            is_matching &= self.are_in(places, categories)
        for condition in where:
            labels = self._labels.get(condition.attribute)
            if labels is None:  # so many others were asked for since it was read
                labels = self._labels_of([condition.attribute], self._attributes)[0]
            is_matching &= self._are_met(places, labels, condition)
        return is_matching

    def _are_met(self, places: np.ndarray, labels: Labels, condition: Condition) -> np.ndarray:
        return np.asarray(labels.are_met(condition)[labels.numbers[places]] & (places >= 0))

    def _check(self, categories: Collection[str]) -> None:
        """Refuse a category that no item has."""
        is_had = np.bincount(self._categories.numbers, minlength=len(self._categories.values)) > 0
        known = {
            category
            for number in np.flatnonzero(is_had).tolist()
            for category in self._categories.values[number]
        }
        for category in categories:
            if category not in known:
                near = difflib.get_close_matches(category[:64], map(str, known), n=1)
                meant = f" Did you mean {near[0]!r}?" if near else ""
                raise NotFoundError(
                    f"No item of the catalogue is in the category {category[:64]!r}.{meant} Check "
                    "its name, or give items the category.",
                    details={"field": "category"},
                )

    def hold_labels(self, attributes: Sequence[str]) -> None:
        """Have the values of some attributes, at most `_ATTRIBUTES_KEPT`, by their numbers.

        To read those of 50,000 items takes about 0.3 s of a core. It is not done under the lock,
        but for what is changed meanwhile.
        """
        if not attributes:
            return
        with self._reading:
            with self.lock:
                missing = [each for each in attributes if each not in self._labels]
                texts = self._attributes[:] if missing else []
                self._changed = [] if missing else None
            made = self._labels_of(missing, texts)
            with self.lock:
                changed = sorted(set(self._changed or ()))
                self._changed = None
                decoded = [from_json(self._attributes[place]) for place in changed]
                for attribute, labels in zip(missing, made, strict=True):
                    labels.make_room(len(self._available))
                    labels.put(changed, [each.get(attribute) for each in decoded])
                    self._labels[attribute] = labels
                for attribute in self._labels.keys() & attributes:
                    self._labels.move_to_end(attribute)
                while len(self._labels) > _ATTRIBUTES_KEPT:
                    self._labels.popitem(last=False)

    def _labels_of(self, attributes: Sequence[str], texts: Sequence[bytes]) -> list[Labels]:
        """Return the values of some attributes by their numbers, of the first so many places."""
        made = [Labels(len(self._available)) for _ in attributes]
        for start in range(0, len(texts) if made else 0, _READ_AT_ONCE):
            part = texts[start : start + _READ_AT_ONCE]
            decoded = from_json(b"[" + b",".join(part) + b"]")
            for attribute, labels in zip(attributes, made, strict=True):
                places = range(start, start + len(part))
                labels.put(places, [each.get(attribute) for each in decoded])
        return made

    def _follow_labels(self, places: Sequence[int], attributes: Sequence[str]) -> None:
        """Keep up with attributes that have changed; what has too many old values is made anew."""
        if not self._labels:
            return
        decoded = [from_json(text) for text in attributes]
        for attribute, labels in list(self._labels.items()):
            labels.put(places, [each.get(attribute) for each in decoded])
            if len(labels.values) > 2 * self.n_places + _FIRST_ROOM:
                del self._labels[attribute]

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
        self._added = longer("_added", np.int64, _ALWAYS)
        for labels in (self._categories, *self._labels.values()):
            labels.make_room(n)
