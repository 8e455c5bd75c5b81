"""The rules of the message, a column at a time: rows of a table, checked."""

import dataclasses
import hashlib
import itertools
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from reckeeper.errors import DataError
from reckeeper.events.cells import Refusals, ids_of, texts_of, without_words
from reckeeper.events.formats import FileFormat, accepted_types, no_weight
from reckeeper.events.identities import Occurrences, RowKeys, keys_of, names_of
from reckeeper.events.numbers import numbers_of
from reckeeper.events.readings import Reading, time_form
from reckeeper.events.repeats import Known, lines_of
from reckeeper.events.times import parse_time, times_of
from reckeeper.interactions import MAX_CLOCK_SKEW, MAX_WEIGHT
from reckeeper.tabular import Chunk, RefusedLine, Source

_YEAR_1990 = 631_152_000_000_000


class Checked(NamedTuple):
    """A chunk's rows as `imports.append` takes them, how many weigh nothing, and those refused.

    `unit` says what the lines of these count, as `Source.unit` does.
    """

    interactions: list[tuple[Any, ...]]
    n_without_taste: int
    refused: list[RefusedLine]
    unit: str


class RowCheck:
    """Sorts rows into interactions and refused ones, by the rules of `events.parse`.

    A row's event id is what its own column says. Without one, where there is a time, it is a
    hash of user, item, type, weight and time, and of several rows of a file that are equal in
    these the number of each; else, its line behind `fingerprint`. Words that stand for nothing
    count as nothing.

    Parameters
    ----------
    source : Source
    columns : mapping of str to str
        As `find_columns` returns them.
    format : FileFormat
    types : mapping of str to float
        The accepted interaction types.
    fingerprint : str
        Fingerprint of the source.
    reading : Reading, optional
        How values are read where one alone does not say it.
    by_lines : bool
        Whether rows are known by their lines although they have times.
    occurrences : Occurrences, optional
        Counts the equal rows of a file; without it, its rows are known by their lines.
    """

    def __init__(
        self,
        source: Source,
        *,
        columns: Mapping[str, str],
        format: FileFormat,
        types: Mapping[str, float],
        fingerprint: str,
        reading: Reading | None = None,
        by_lines: bool = False,
        occurrences: Occurrences | None = None,
    ) -> None:
        self.fingerprint = fingerprint
        self._source = source
        self._columns = columns
        self._format = format
        self._reading = reading or Reading(times=time_form(format))
        self._default_time = _default_time(format)
        self._accepted = accepted_types(types)
        self._by_lines = by_lines
        self._occurrences = occurrences
        self._n_twice = 0

    @property
    def notes(self) -> list[str]:
        """What should be known of how rows were read, by now."""
        if not self._n_twice:
            return []
        return [
            f"{self._columns['occurred_at']}: {self._n_twice:,} times are of an hour that the "
            f"clocks in {self._format.timezone} show twice; they are taken as of the first."
        ]

    def close(self) -> None:
        """Give back what the equal rows of a file took, after the last of them."""
        if self._occurrences is not None:
            self._occurrences.close()

    def check(self, chunk: Chunk, *, arrived_at: int, by_users: bool = True) -> Checked:
        """Sort the rows of a chunk, which arrived at a moment in microseconds since 1970.

        They are in the order of their users, of whose index fewer pages are touched then; or, if
        not `by_users`, in that of their event ids, as far as these begin with times.
        """
        judged = self.judge(chunk, arrived_at=arrived_at)
        self._n_twice += judged.n_twice
        chosen = np.flatnonzero(judged.refusals.is_good)
        if by_users:
            chosen = chosen[pc.sort_indices(judged.users.take(pa.array(chosen))).to_numpy()]
        elif self._occurrences is not None:
            chosen = chosen[np.argsort(judged.times[chosen], kind="stable")]
        judged = judged.at(chosen)
        values = judged.values()
        names = self._names(judged, values, chunk, chosen)
        interactions = list(zip(names, *values, strict=True))
        n_without_taste = int(np.count_nonzero(judged.weights == 0))
        refused = judged.refusals.refused()
        return Checked(interactions, n_without_taste, refused, self._source.unit)

    def known(self, head: Chunk, *, arrived_at: int) -> list[Known]:
        """Return the sound rows of a file's beginning, with the event ids that they will have."""
        judged = self.judge(head, arrived_at=arrived_at)
        chosen = np.flatnonzero(judged.refusals.is_good)
        judged = judged.at(chosen)
        values = judged.values()
        if self._occurrences is None:
            names = self._names(judged, values, head, chosen)
        else:
            names = names_of(judged.keys(), np.ones(len(chosen), np.int64))
        return [Known(*row) for row in zip(names, *values, strict=True)]

    def judge(self, chunk: Chunk, *, arrived_at: int) -> "Judged":
        """Return what the rows of a chunk say, as they stand, and which of them are refused."""
        refusals = Refusals(chunk, file=self._source.short_name)
        chunk = chunk._replace(
            columns={
                name: without_words(values, self._format.null_words)
                for name, values in chunk.columns.items()
            }
        )
        columns, n_rows = self._columns, len(chunk.lines)
        users = self._ids(chunk, "user_id", refusals)
        items = self._ids(chunk, "item_id", refusals)
        kinds = self._kinds(chunk, refusals)
        weights = np.ones(n_rows)
        if "weight" in columns:
            weights = self._weights(chunk, refusals)
        own_weights = weights
        times, is_timeless = np.full(n_rows, arrived_at), np.ones(n_rows, dtype=bool)
        n_twice = 0
        if "occurred_at" in columns:
            times, is_timeless, n_twice = self._times(chunk, refusals, arrived_at=arrived_at)
        event_ids = self._ids(chunk, "event_id", refusals) if "event_id" in columns else None
        if self._format.min_rating is not None:
            is_low = self._ratings(chunk, refusals) < self._format.min_rating
            weights = np.where(is_low, 0.0, weights)
        return Judged(
            *(users, items, kinds, weights, own_weights, times, is_timeless, event_ids),
            *(n_twice, refusals),
        )

    def _ids(self, chunk: Chunk, part: str, refusals: Refusals) -> pa.Array:
        column = self._columns[part]
        return ids_of(chunk, column, refusals, are_fractions=part in self._reading.whole)

    def _kinds(self, chunk: Chunk, refusals: Refusals) -> pa.Array | str:
        if "interaction_type" not in self._columns:
            return self._format.interaction_type
        name = self._columns["interaction_type"]
        kinds = texts_of(chunk.columns[name], name, refusals)
        refusals.refuse(pc.equal(pc.fill_null(kinds, ""), ""), name, "is empty")
        known = pc.is_in(kinds, value_set=pa.array(self._accepted))
        refusals.refuse(pc.invert(known), name, no_weight(self._accepted))
        return kinds

    def _weights(self, chunk: Chunk, refusals: Refusals) -> np.ndarray:
        column = self._columns["weight"]
        decimal = self._reading.decimals.get("weight")
        numbers, is_empty = numbers_of(chunk, column, refusals, decimal=decimal)
        weights = np.where(is_empty, 1.0, numbers)
        refusals.refuse(weights < 0, column, "must be 0 or greater")
        refusals.refuse(weights > MAX_WEIGHT, column, f"must be at most {MAX_WEIGHT:.0f}")
        return weights

    def _ratings(self, chunk: Chunk, refusals: Refusals) -> np.ndarray:
        column = self._columns["rating"]
        decimal = self._reading.decimals.get("rating")
        ratings, is_empty = numbers_of(chunk, column, refusals, decimal=decimal)
        refusals.refuse(is_empty, column, "is empty")
        return ratings

    def _times(
        self, chunk: Chunk, refusals: Refusals, *, arrived_at: int
    ) -> tuple[np.ndarray, np.ndarray, int]:
        """Return microseconds since 1970 UTC, which are no times, and how many are doubtful."""
        column, form = self._columns["occurred_at"], self._reading.times
        if form.zone is not None and pa.types.is_timestamp(chunk.columns[column].type):
            _see_that_it_has_no_zone(column, self._source)
        given, is_empty, is_number, is_twice = times_of(chunk, column, refusals, form=form)
        if self._format.default_time is None:
            reason = "is empty: --default-time says when that is, such as now"
            refusals.refuse(is_empty, column, reason)
        default = arrived_at if self._default_time is None else self._default_time
        times = np.where(is_empty, default, given)
        read = "whatever its unit" if form.unit is None else f"read in {form.unit} since 1970"
        refusals.refuse(times < 0, column, "lies before 1970")
        if not self._format.allow_old:
            is_old = (times < _YEAR_1990) & ~is_empty
            refusals.refuse(
                is_old & is_number,
                column,
                f"is a number that lies before 1990, {read}: --time-unit names another unit, and "
                "--allow-old takes it",
            )
            refusals.refuse(is_old, column, "lies before 1990: --allow-old takes it")
        latest = arrived_at + MAX_CLOCK_SKEW
        reason = "lies more than a day in the future: check that the clock is right"
        refusals.refuse(
            (times > latest) & is_number, column, f"{reason}, and the time unit (it is {read})"
        )
        refusals.refuse(times > latest, column, reason)
        return times, is_empty, int(np.count_nonzero(is_twice))

    def _names(
        self, judged: "Judged", values: list[list[Any]], chunk: Chunk, chosen: np.ndarray
    ) -> Iterable[str]:
        """Return the event ids of rows."""
        if judged.event_ids is not None:
            return _of_parts(judged.event_ids.to_pylist(), chunk, chosen)
        if self._occurrences is not None:
            keys = judged.keys()
            return names_of(keys, self._occurrences.count(keys))
        is_query = self._source.database_id is not None
        if is_query and "occurred_at" in self._columns and not self._by_lines:
            given = judged.times.astype(object)
            given[judged.is_timeless] = None
            database_id = itertools.repeat(self._source.database_id)
            return map(_name_of_values, database_id, *values[:-1], given)
        return _of_parts(self._names_of_lines(chunk.lines[chosen]), chunk, chosen)

    def _names_of_lines(self, lines: np.ndarray) -> list[str]:
        numbers = pc.utf8_lpad(pa.array(lines).cast(pa.string()), 12, "0")
        beginning = lines_of(self.fingerprint)
        names: list[str] = pc.binary_join_element_wise(beginning, numbers, "").to_pylist()
        return names


def _of_parts(names: list[str], chunk: Chunk, chosen: np.ndarray) -> list[str]:
    """Return names of lines as names of rows, where a line holds several."""
    if chunk.parts is None:
        return names
    parts = chunk.parts[chosen].tolist()
    return [f"{name}-{part}" if part else name for name, part in zip(names, parts, strict=True)]


class Judged(NamedTuple):
    """What the rows of a chunk say, one after the other; of refused ones too.

    `kinds` is one type where all rows have it. `own_weights` are those that rows have whatever
    their ratings are.
    """

    users: pa.Array
    items: pa.Array
    kinds: pa.Array | str
    weights: np.ndarray
    own_weights: np.ndarray
    times: np.ndarray
    is_timeless: np.ndarray
    event_ids: pa.Array | None
    n_twice: int
    refusals: Refusals

    def at(self, chosen: np.ndarray) -> "Judged":
        """Return what some rows say, in their order."""
        taken = pa.array(chosen)
        return self._replace(
            users=self.users.take(taken),
            items=self.items.take(taken),
            kinds=self.kinds if isinstance(self.kinds, str) else self.kinds.take(taken),
            weights=self.weights[chosen],
            own_weights=self.own_weights[chosen],
            times=self.times[chosen],
            is_timeless=self.is_timeless[chosen],
            event_ids=None if self.event_ids is None else self.event_ids.take(taken),
        )

    def values(self) -> list[list[Any]]:
        """Return user, item, type, weight and time of the rows, each as a list."""
        kinds, n_rows = self.kinds, len(self.times)
        return [
            self.users.to_pylist(),
            self.items.to_pylist(),
            [kinds] * n_rows if isinstance(kinds, str) else kinds.to_pylist(),
            self.weights.tolist(),
            self.times.tolist(),
        ]

    def keys(self) -> RowKeys:
        """Return keys of the rows, by what they say of themselves."""
        kinds = pa.array([self.kinds]) if isinstance(self.kinds, str) else self.kinds
        parts = (self.users, self.items, kinds, self.own_weights, self.times, self.is_timeless)
        return keys_of(*parts)


def _see_that_it_has_no_zone(column: str, source: Source) -> None:
    if source.database_id is not None:
        raise DataError(
            f"The times in {column!r} come from a database, and those without a zone were read as "
            "UTC: convert them in the query (AT TIME ZONE), and leave --timezone out."
        )


def _name_of_values(*values: Any) -> str:
    # No id has a control character in it, so the texts of two rows are not the same by chance.
    text = "\0".join("" if value is None else str(value) for value in values)
    return f"row-{hashlib.sha256(text.encode()).hexdigest()[:32]}"


def _default_time(format: FileFormat) -> int | None:
    """Return what an empty time is taken for; None: the time of the import, or nothing."""
    given = format.default_time
    if given is None or given == "now":
        return None
    time = parse_time(given, dataclasses.replace(time_form(format), pattern=None))
    if time is None or time < 0:
        raise DataError(
            f"The default time {given!r} is no time since 1970: write now, or a time such as "
            "2025-12-04T23:42:15Z."
        )
    return time
