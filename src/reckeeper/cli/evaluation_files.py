"""The files of `reckeeper evaluate`: interactions as an encoded log, and tables of ids."""

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from reckeeper import tabular
from reckeeper.errors import DataError, NotEnoughDataError
from reckeeper.events.cells import shown
from reckeeper.interactions import WITHOUT_WEIGHT
from reckeeper.matrix import IdIndex, InteractionLog
from reckeeper.matrix.log import LISTINGS

MAX_WEIGHT = 1e12
"""Largest weight of a row: squares of sums of these fit into single precision."""

_ZONE = r"(?:Z|[+-]\d{2}:?\d{2})$"


_PER_SECOND = {"s": 1e6, "ms": 1e3, "us": 1.0, "ns": 1e-3}
"""Microseconds in one of each unit."""


@dataclass(frozen=True, kw_only=True)
class Columns:
    """What the columns of a file mean, as `reckeeper import` has it.

    Attributes
    ----------
    user, item : str
    weight : str or None
        Usually ``weight``; 1 where there is none.
    time : str or None
        Usually ``timestamp`` or ``occurred_at``.
    time_unit : {"s", "ms", "us", "ns"} or None
        Of times that are numbers; None goes by the largest.
    type : str or None
        Usually ``interaction_type``.
    type_weights : mapping of str to float
        What an interaction of each type weighs; its own weight is multiplied.
    rating : str or None
        Looked at with `min_rating` alone; usually ``rating``.
    min_rating : float or None
        Rows with a lower rating weigh 0: seen, and not liked.
    delimiter, encoding : str or None
        Of text; None is told from the file, and a tab in one that ends in ``.tsv`` or
        ``.tsv.gz``.
    """

    user: str = "user_id"
    item: str = "item_id"
    weight: str | None = None
    time: str | None = None
    time_unit: str | None = None
    type: str | None = None
    type_weights: Mapping[str, float] = field(default_factory=dict)
    rating: str | None = None
    min_rating: float | None = None
    delimiter: str | None = None
    encoding: str | None = None

    def __post_init__(self) -> None:
        if self.time_unit not in (None, *_PER_SECOND):
            raise DataError(f"The time unit {self.time_unit!r} is not known: use s, ms, us or ns.")
        if self.rating is not None and self.min_rating is None:
            raise DataError("--rating-column is of use only with --min-rating: give both.")
        if self.min_rating is not None and not math.isfinite(self.min_rating):
            raise DataError(f"--min-rating {self.min_rating} is not a number.")
        self.form_of(Path())

    def form_of(self, path: Path) -> tabular.Form:
        """Return what is known of a file before it's opened."""
        is_tabbed = path.name.lower().endswith((".tsv", ".tsv.gz"))
        delimiter = self.delimiter or ("\t" if is_tabbed else None)
        return tabular.Form(delimiter=delimiter, encoding=self.encoding)

    @property
    def named(self) -> list[str]:
        """Names of columns that must be there."""
        given = (self.user, self.item, self.weight, self.time, self.type, self._ratings)
        return [name for name in given if name]

    @property
    def names(self) -> list[str]:
        """Names that columns probably have."""
        return [*self.named, *_USUAL, *_TIMES]

    @property
    def _ratings(self) -> str | None:
        return None if self.min_rating is None else self.rating or "rating"

    def find(self, source: tabular.Source, *, needs_times: bool = True) -> dict[str, str]:
        """Return the file's column for each part of an interaction: user, item and what else.

        Raises
        ------
        DataError
            One is missing, or there are several of its name.

        Notes
        -----
        A column that only late objects of JSON have is taken where it was named.
        """
        there = source.columns
        early = [name for name in there if name not in source.late]
        found = {"user": self.user, "item": self.item}
        times = [self.time] if self.time else [name for name in _TIMES if name in early][:1]
        if times and (needs_times or times[0] in there):
            found["time"] = times[0]
        named_parts = {"weight": self.weight, "type": self.type}
        for name, part in _USUAL.items():
            if (named := named_parts[part]) or name in early:
                found[part] = named or name
        if self._ratings:
            found["rating"] = self._ratings
        for part, name in found.items():
            if name not in there:
                raise DataError(
                    f"{source.name} has no column {name!r}; its columns are "
                    f"{', '.join(map(repr, there))}. It needs a first line, or a schema, with "
                    "user_id and item_id, and perhaps weight and timestamp; "
                    f"--{part}-column names another."
                )
            if there.count(name) > 1:
                raise DataError(f"{source.name} has several columns {name!r}: rename all but one.")
        return found


_TIMES = ("timestamp", "occurred_at")
_USUAL = {"weight": "weight", "interaction_type": "type"}
"""Names that have a meaning where a file has them, and what part of an interaction they are."""


def read_interactions(
    path: Path,
    *,
    columns: Columns | None = None,
    needs_times: bool = True,
    on_progress: Callable[[float], None] | None = None,
) -> tuple[InteractionLog, list[str]]:
    """Read a file of interactions whole, or refuse it whole for one bad row.

    Parameters
    ----------
    path : Path
        Any file that `reckeeper import` reads, with columns ``user_id``,
        ``item_id`` and perhaps ``weight`` (0 to 1e12, default 1) and
        ``timestamp``: a number since 1970, a timestamp, or RFC 3339, read as
        UTC where it has no offset. The largest number tells the unit of all:
        seconds below 1e11, milliseconds below 1e14, microseconds below 1e17,
        nanoseconds from there on. Ids that are integers become their decimal
        form, so that files whose ids differ in type agree.
    columns : Columns, optional
        What the columns mean, where they have other names.
    needs_times : bool
        Whether a column of times that `columns` names must be there.
    on_progress : callable, optional
        Called with the fraction done, in [0, 1].

    Returns
    -------
    log : InteractionLog
        Ids in ascending order of code points.
    ignored : list of str
        Names of the columns that mean nothing here; those that would, and only late objects of
        JSON have, with the option that takes them.

    Raises
    ------
    DataError
        The file cannot be read, or a column or a value in it cannot be used;
        the message names the place.
    NotEnoughDataError
        It has no rows.

    Notes
    -----
    Holds 24 bytes a row, 32 with times, and the unique ids.
    """
    columns = columns or Columns()
    users: list[pa.Array] = []
    items: list[pa.Array] = []
    weights: list[np.ndarray] = []
    listings: list[np.ndarray] = []
    times: list[np.ndarray] = []
    are_numbers = False
    with tabular.open_source(
        path, columns.form_of(path), known=columns.names, named=columns.named
    ) as source:
        found = columns.find(source, needs_times=needs_times)
        for at in _places(path, source, list(dict.fromkeys(found.values()))):
            users.append(_ids(at, found["user"]))
            items.append(_ids(at, found["item"]))
            weight, listing = _weights(at, found, columns)
            weights.append(weight)
            listings.append(listing)
            if "time" in found:
                name = found["time"]
                are_numbers = are_numbers if times else at.begins_with_a_number(name)
                times.append(_times(at, name, are_numbers=are_numbers))
            if on_progress is not None:
                on_progress(source.bytes_done / source.bytes_total)
        ignored = _ignored(source, found.values())
    if not users:
        raise NotEnoughDataError(f"{path} has column names and no rows. {_NOTHING_DONE}")
    user_ids, user_index = _encoded(users)
    item_ids, item_index = _encoded(items)
    log = InteractionLog(
        users=user_ids,
        items=item_ids,
        user_index=user_index,
        item_index=item_index,
        weight=np.concatenate(weights),
        occurred_at=_micros(times, are_numbers=are_numbers, unit=columns.time_unit)
        if times
        else None,
        listing=np.concatenate(listings),
    )
    return log, ignored


def _ignored(source: tabular.Source, used: Collection[str]) -> list[str]:
    """Return what columns mean nothing, and those that only late objects have and would."""
    names = [name for name in source.columns if name not in {*used, *_TIMES, *source.late}]
    for name, first in source.late.items():
        part = "time" if name in _TIMES else _USUAL.get(name)
        if part is not None and name not in used:
            where = f"before object {first:,}" if first else "among the first million"
            names.append(f"{name} (none {where} has it; --{part}-column {name} takes it)")
    return names


def read_table(
    path: Path, *, id_column: str, written: Columns | None = None
) -> dict[str, pa.Array]:
    """Read a table of users or items whole.

    Parameters
    ----------
    path : Path
        Any file that `reckeeper import` reads.
    id_column : str
    written : Columns, optional
        Which say how text is written.

    Returns
    -------
    dict of str to pyarrow.Array
        The columns; ids as text under the name of their column, first.

    Raises
    ------
    DataError
        The file cannot be read, has no such column, or an id twice.
    NotEnoughDataError
        It has no rows.
    """
    parts: dict[str, list[pa.Array]] = {}
    form = (written or Columns()).form_of(path)
    with tabular.open_source(path, form, known=[id_column], named=[id_column]) as source:
        names = [id_column, *(name for name in source.columns if name != id_column)]
        if source.columns.count(id_column) != 1 or len(set(names)) < len(source.columns):
            raise DataError(
                f"{path} must have one column {id_column!r}, and no name twice; its columns are "
                f"{', '.join(map(repr, source.columns))}."
            )
        for at in _places(path, source, names):
            ids = _ids(at, id_column).cast(pa.string())
            columns = {id_column: ids} | {name: at.raw(name) for name in names[1:]}
            for name, values in columns.items():
                parts.setdefault(name, []).append(values)
    if not parts:
        raise NotEnoughDataError(f"{path} has column names and no rows. {_NOTHING_DONE}")
    table = {name: pa.chunked_array(values).combine_chunks() for name, values in parts.items()}
    ids = table[id_column]
    if len(ids.unique()) < len(ids):
        raise DataError(f"{path} has an id twice in {id_column!r}: leave one row of each.")
    return table


def _places(path: Path, source: tabular.Source, wanted: list[str]) -> Iterator["_Place"]:
    """Give the chunks of a file; a line that is broken ends it."""
    for chunk in source.chunks(wanted):
        if chunk.broken:
            first = chunk.broken[0]
            raise DataError(f"{path}, {source.unit} {first.line}: {first.reason}. {_NOTHING_DONE}")
        yield _Place(path, chunk, source.unit)


_NOTHING_DONE = "Correct the file; nothing was computed."
_MISSING = "is missing"


class _Place:
    """A chunk of a file, and the errors that speak of a row in it."""

    def __init__(self, path: Path, chunk: tabular.Chunk, unit: str) -> None:
        self._path = path
        self._chunk = chunk
        self._unit = unit

    def values(self, column: str) -> pa.Array:
        """Return a column without missing values."""
        values = self._chunk.columns[column]
        self.refuse(column, _mask(values.is_null(nan_is_null=True)), _MISSING)
        return values

    def raw(self, column: str) -> pa.Array:
        """Return a column as it is; text that is not UTF-8 with what it has in its place."""
        values = self._chunk.columns[column]
        if not tabular.is_text(values.type):
            return values
        try:
            return values.cast(pa.string())
        except pa.ArrowInvalid:
            texts = [None if v is None else v.decode(errors="replace") for v in values.to_pylist()]
            return pa.array(texts, pa.string())

    def n_rows(self) -> int:
        """Return how many rows there are."""
        return len(self._chunk.lines)

    def refuse(self, column: str, is_bad: np.ndarray, reason: str) -> None:
        """Raise for the first bad row, if there is one."""
        if not is_bad.any():
            return
        row = int(np.argmax(is_bad))
        value = shown(self._chunk.columns[column][row])
        what = _MISSING if reason == _MISSING or value == "" else f"{value!r} {reason}"
        line = int(self._chunk.lines[row])
        raise DataError(f"{self._path}, {self._unit} {line}: {column} {what}. {_NOTHING_DONE}")

    def begins_with_a_number(self, column: str) -> bool:
        """Return whether the first value is a number, or text that is one."""
        values = self.values(column)
        can_be = _is_numeric(values.type) or tabular.is_text(values.type)
        return can_be and bool(_can_be_cast(values[:1], _floats).all())

    def type_error(self, column: str, wanted: str) -> DataError:
        kind = self._chunk.columns[column].type
        return DataError(
            f"{self._path}: the column {column!r} has the type {kind}, and must have {wanted}: "
            "convert it."
        )


def _ids(at: _Place, column: str) -> pa.DictionaryArray:
    """Return ids as text, encoded by a dictionary that may have one text twice."""
    values = at.values(column)
    if pa.types.is_nested(values.type):
        raise at.type_error(column, "ids: text or whole numbers")
    encoded = values.dictionary_encode()
    names = encoded.dictionary
    reason = "is not a whole number, and so not an id"
    is_bad = np.zeros(len(names), dtype=bool)
    if pa.types.is_floating(names.type):
        numbers = names.cast(pa.float64()).to_numpy()
        is_bad = (np.trunc(numbers) != numbers) | (np.abs(numbers) > 2.0**53)
        texts = pa.array(np.where(is_bad, 0, numbers).astype(np.int64)).cast(pa.string())
    elif pa.types.is_integer(names.type):
        texts = names.cast(pa.string())
    elif tabular.is_text(names.type):
        reason = "is not text in UTF-8"
        is_bad = pc.binary_length(names).to_numpy() == 0
        try:
            texts = names.cast(pa.string())
        except pa.ArrowInvalid:
            is_bad |= ~_can_be_cast(names, lambda name: name.cast(pa.string()))
            texts = None  # refused below
    else:
        raise at.type_error(column, "ids: text or whole numbers")
    if is_bad.any():
        at.refuse(column, is_bad[encoded.indices.to_numpy()], reason)
    return pa.DictionaryArray.from_arrays(encoded.indices, texts)


def _encoded(parts: list[pa.DictionaryArray]) -> tuple[IdIndex, np.ndarray]:
    """Return the ids in ascending order, and the place of each row's among them."""
    unified = pa.chunked_array(parts).unify_dictionaries()
    texts = unified.chunk(0).dictionary
    order = pc.sort_indices(texts)  # by bytes of UTF-8, which is by code points
    place = np.empty(len(texts), dtype=np.int32)
    place[order.to_numpy()] = np.arange(len(texts), dtype=np.int32)
    codes = np.concatenate([part.indices.to_numpy() for part in unified.chunks])
    return IdIndex(texts.take(order).to_pylist()), place[codes]


def _weights(
    at: _Place, found: Mapping[str, str], columns: Columns
) -> tuple[np.ndarray, np.ndarray]:
    """Return effective weights, and the listings that types make."""
    weights, listing = np.ones(at.n_rows()), np.zeros(at.n_rows(), dtype=np.int8)
    if "weight" in found:
        weights = _numbers(at, found["weight"], reason="is not a number")
        is_bad = (weights < 0) | (weights > MAX_WEIGHT)
        at.refuse(found["weight"], is_bad, f"does not lie between 0 and {MAX_WEIGHT:g}")
    if "rating" in found and columns.min_rating is not None:
        ratings = _numbers(at, found["rating"], reason="is not a number")
        weights = np.where(ratings < columns.min_rating, 0.0, weights)
    if "type" in found:
        kinds = _texts(at, found["type"]).dictionary_encode()
        names = kinds.dictionary.to_pylist()
        codes = kinds.indices.to_numpy()
        accepted = {*columns.type_weights, *WITHOUT_WEIGHT}
        is_unknown = np.array([name not in accepted for name in names], dtype=bool)
        at.refuse(
            found["type"], is_unknown[codes], f"has no weight: use {', '.join(sorted(accepted))}"
        )
        per_type = np.array([columns.type_weights.get(name, 0.0) for name in names])
        weights = weights * per_type[codes]
        listing = np.array([LISTINGS.get(name, 0) for name in names], dtype=np.int8)[codes]
    return weights, listing


def _times(at: _Place, column: str, *, are_numbers: bool) -> np.ndarray:
    """Return times as they are, if they are numbers, and else in microseconds."""
    values = at.values(column)
    if pa.types.is_timestamp(values.type) or pa.types.is_date(values.type):
        return _cast(at, column, _micros_of_moments, reason="lies beyond all years that are read")
    if are_numbers or not tabular.is_text(values.type):
        return _numbers(at, column, reason="is not a number, as the times before it are")
    reason = "is not a time such as 2025-12-04T23:42:15Z"
    return _cast(at, column, _micros_of_text, reason=reason)


_LATEST = 2.0**62
"""Microseconds, beyond all years."""


def _micros(times: list[np.ndarray], *, are_numbers: bool, unit: str | None) -> np.ndarray:
    """Join times, and tell the unit of numbers from the largest, if it is not given."""
    joined = np.concatenate(times)
    if not are_numbers:
        return joined
    largest = np.abs(joined).max()
    scales = ((1e11, 1e6), (1e14, 1e3), (1e17, 1.0))
    told = next((scale for bound, scale in scales if largest < bound), 1e-3)
    scale = _PER_SECOND[unit] if unit else told
    return np.rint(np.clip(joined * scale, -_LATEST, _LATEST)).astype(np.int64)


def _is_numeric(kind: pa.DataType) -> bool:
    tests = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal)
    return any(test(kind) for test in tests)


def _numbers(at: _Place, column: str, *, reason: str) -> np.ndarray:
    kind = at.values(column).type
    if not _is_numeric(kind) and not tabular.is_text(kind):
        raise at.type_error(column, "numbers")
    numbers = _cast(at, column, _floats, reason=reason)
    at.refuse(column, ~np.isfinite(numbers), "is not a finite number")
    return numbers


def _cast(
    at: _Place, column: str, cast: Callable[[pa.Array], np.ndarray], *, reason: str
) -> np.ndarray:
    values = at.values(column)
    try:
        return cast(values)
    except pa.ArrowInvalid:
        at.refuse(column, ~_can_be_cast(values, cast), reason)
        raise


def _can_be_cast(values: pa.Array, cast: Callable[[pa.Array], Any]) -> np.ndarray:
    """Return True of all values that can be cast but the first that cannot: it is what is told."""

    def goes_well(begin: int, end: int) -> bool:
        try:
            cast(values[begin:end])
        except pa.ArrowInvalid:
            return False
        return True

    can_be = np.ones(len(values), dtype=bool)
    begin, end = 0, len(values)
    if not goes_well(begin, end):
        while end - begin > 1:
            middle = (begin + end) // 2
            begin, end = (middle, end) if goes_well(begin, middle) else (begin, middle)
        can_be[begin] = False
    return can_be


def _texts(at: _Place, column: str) -> pa.Array:
    values = at.values(column)
    if not tabular.is_text(values.type):
        raise at.type_error(column, "interaction types: text")
    try:
        return values.cast(pa.string())
    except pa.ArrowInvalid:
        is_text = _can_be_cast(values, lambda some: some.cast(pa.string()))
        at.refuse(column, ~is_text, "is not text in UTF-8")
        raise


def _floats(values: pa.Array) -> np.ndarray:
    if tabular.is_text(values.type):
        values = pc.utf8_trim_whitespace(values.cast(pa.string()))
    floats: np.ndarray = values.cast(pa.float64(), safe=False).to_numpy()
    return floats


def _micros_of_text(values: pa.Array) -> np.ndarray:
    texts = pc.utf8_upper(pc.utf8_trim_whitespace(values.cast(pa.string())))
    has_zone = _mask(pc.match_substring_regex(texts, _ZONE))
    nanoseconds = np.empty(len(texts), dtype=np.int64)
    for mask, zone in ((has_zone, "UTC"), (~has_zone, None)):
        moments = texts.filter(pa.array(mask)).cast(pa.timestamp("ns", zone))
        nanoseconds[mask] = _integers(moments)
    return nanoseconds // 1000


def _micros_of_moments(values: pa.Array) -> np.ndarray:
    zone = values.type.tz if pa.types.is_timestamp(values.type) else None
    micros = pa.timestamp("us", zone)
    options = pc.CastOptions(target_type=micros, allow_time_truncate=True)
    return _integers(values.cast(options=options))


def _integers(moments: pa.Array) -> np.ndarray:
    integers: np.ndarray = moments.cast(pa.int64()).to_numpy()
    return integers


def _mask(values: pa.Array) -> np.ndarray:
    mask: np.ndarray = values.to_numpy(zero_copy_only=False)
    return mask
