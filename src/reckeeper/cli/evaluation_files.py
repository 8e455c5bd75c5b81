"""The files of `reckeeper evaluate`: interactions read whole, as an encoded log."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from reckeeper.errors import DataError, NotEnoughDataError
from reckeeper.matrix import IdIndex, InteractionLog
from reckeeper.tabular import reading

MAX_WEIGHT = 1e12
"""Largest weight of a row: squares of sums of these fit into single precision."""

_COLUMNS = ("user_id", "item_id", "weight", "timestamp")
_ZONE = r"(?:Z|[+-]\d{2}:?\d{2})$"


def read_interactions(
    path: Path, *, with_times: bool, on_progress: Callable[[float], None] | None = None
) -> tuple[InteractionLog, list[str]]:
    """Read a file of interactions whole, or refuse it whole for one bad row.

    Parameters
    ----------
    path : Path
        Parquet, CSV, or CSV packed with gzip, with columns ``user_id``,
        ``item_id`` and perhaps ``weight`` (0 to 1e12, default 1) and
        ``timestamp``: a number since 1970, a timestamp, or RFC 3339, read as
        UTC where it has no offset. The largest number tells the unit of all:
        seconds below 1e11, milliseconds below 1e14, microseconds below 1e17,
        nanoseconds from there on. Ids that are integers become their decimal
        form, so that files whose ids differ in type agree.
    with_times : bool
        Whether times are wanted; if not, ``timestamp`` is not looked into.
    on_progress : callable, optional
        Called with the fraction done, in [0, 1].

    Returns
    -------
    log : InteractionLog
        Ids in ascending order of code points.
    ignored : list of str
        Names of the columns that mean nothing here.

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
    users: list[pa.Array] = []
    items: list[pa.Array] = []
    weights: list[np.ndarray] = []
    times: list[np.ndarray] = []
    are_numbers = False
    with reading.open_source(path, delimiter=",") as source:
        wanted = _wanted(source, with_times=with_times)
        for chunk in source.chunks(wanted):
            if chunk.broken:
                first = chunk.broken[0]
                raise DataError(f"{path}, line {first.line}: {first.reason}. {_NOTHING_DONE}")
            at = _Place(path, chunk)
            users.append(_ids(at, "user_id"))
            items.append(_ids(at, "item_id"))
            if "weight" in wanted:
                weights.append(_weights(at))
            if "timestamp" in wanted:
                are_numbers = are_numbers if times else at.begins_with_a_number("timestamp")
                times.append(_times(at, are_numbers=are_numbers))
            if on_progress is not None:
                on_progress(source.bytes_done / source.bytes_total)
        ignored = [name for name in source.columns if name not in _COLUMNS]
    if not users:
        raise NotEnoughDataError(f"{path} has column names and no rows. {_NOTHING_DONE}")
    user_ids, user_index = _encoded(users)
    item_ids, item_index = _encoded(items)
    log = InteractionLog(
        users=user_ids,
        items=item_ids,
        user_index=user_index,
        item_index=item_index,
        weight=np.concatenate(weights) if weights else np.ones(len(user_index)),
        occurred_at=_micros(times, are_numbers=are_numbers) if times else None,
        listing=np.zeros(len(user_index), dtype=np.int8),
    )
    return log, ignored


_NOTHING_DONE = "Correct the file; nothing was computed."
_MISSING = "is missing"


def _wanted(source: reading.Source, *, with_times: bool) -> list[str]:
    there = ", ".join(repr(name) for name in source.columns)
    for name in ("user_id", "item_id"):
        if name not in source.columns:
            raise DataError(
                f"{source.name} has no column {name!r}; its columns are {there}. It needs a first "
                "line, or a schema, with user_id and item_id, and perhaps weight and timestamp."
            )
    for name in _COLUMNS:
        if source.columns.count(name) > 1:
            raise DataError(f"{source.name} has several columns {name!r}: rename all but one.")
    wanted = _COLUMNS if with_times else _COLUMNS[:3]
    return [name for name in wanted if name in source.columns]


class _Place:
    """A chunk of a file, and the errors that speak of a row in it."""

    def __init__(self, path: Path, chunk: reading.Chunk) -> None:
        self._path = path
        self._chunk = chunk

    def values(self, column: str) -> pa.Array:
        """Return a column without missing values."""
        values = self._chunk.columns[column]
        if pa.types.is_string_view(values.type) or pa.types.is_binary_view(values.type):
            values = values.cast(pa.large_binary())
        self.refuse(column, _mask(values.is_null(nan_is_null=True)), _MISSING)
        return values

    def refuse(self, column: str, is_bad: np.ndarray, reason: str) -> None:
        """Raise for the first bad row, if there is one."""
        if not is_bad.any():
            return
        row = int(np.argmax(is_bad))
        value = self._chunk.columns[column][row].as_py()
        if isinstance(value, bytes):
            value = value.decode(errors="backslashreplace")
        if reason == _MISSING or value in (None, ""):
            what = _MISSING
        else:
            what = f"{str(value)[: reading.VALUE_SHOWN]!r} {reason}"
        line = int(self._chunk.lines[row])
        raise DataError(f"{self._path}, line {line}: {column} {what}. {_NOTHING_DONE}")

    def begins_with_a_number(self, column: str) -> bool:
        """Return whether the first value is a number, or text that is one."""
        values = self.values(column)
        is_time = pa.types.is_temporal(values.type)
        return not is_time and bool(_can_be_cast(values[:1], _floats).all())

    def type_error(self, column: str, wanted: str) -> DataError:
        kind = self._chunk.columns[column].type
        return DataError(
            f"{self._path}: the column {column!r} has the type {kind}, and must have {wanted}: "
            "convert it."
        )


def _ids(at: _Place, column: str) -> pa.DictionaryArray:
    """Return ids as text, encoded by a dictionary that may have one text twice."""
    encoded = at.values(column).dictionary_encode()
    names = encoded.dictionary
    reason = "is not a whole number, and so not an id"
    is_bad = np.zeros(len(names), dtype=bool)
    if pa.types.is_floating(names.type):
        numbers = names.to_numpy()
        is_bad = (np.trunc(numbers) != numbers) | (np.abs(numbers) > 2.0**53)
        texts = pa.array(np.where(is_bad, 0, numbers).astype(np.int64)).cast(pa.string())
    elif pa.types.is_integer(names.type):
        texts = names.cast(pa.string())
    elif _is_textual(names.type):
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


def _weights(at: _Place) -> np.ndarray:
    weights = _numbers(at, "weight", reason="is not a number")
    is_bad = (weights < 0) | (weights > MAX_WEIGHT)
    at.refuse("weight", is_bad, f"does not lie between 0 and {MAX_WEIGHT:g}")
    return weights


def _times(at: _Place, *, are_numbers: bool) -> np.ndarray:
    """Return times as they are, if they are numbers, and else in microseconds."""
    values = at.values("timestamp")
    if pa.types.is_timestamp(values.type) or pa.types.is_date(values.type):
        zone = values.type.tz if pa.types.is_timestamp(values.type) else None
        return _integers(values.cast(pa.timestamp("us", zone), safe=False))
    if are_numbers or not _is_textual(values.type):
        return _numbers(at, "timestamp", reason="is not a number, as the times before it are")
    reason = "is not a time such as 2025-12-04T23:42:15Z"
    return _cast(at, "timestamp", _micros_of_text, reason=reason)


def _micros(times: list[np.ndarray], *, are_numbers: bool) -> np.ndarray:
    """Join times, and tell the unit of numbers from the largest."""
    joined = np.concatenate(times)
    if not are_numbers:
        return joined
    largest = np.abs(joined).max()
    scales = ((1e11, 1e6), (1e14, 1e3), (1e17, 1.0))
    scale = next((scale for bound, scale in scales if largest < bound), 1e-3)
    return np.rint(joined * scale).astype(np.int64)


def _numbers(at: _Place, column: str, *, reason: str) -> np.ndarray:
    kind = at.values(column).type
    is_numeric = pa.types.is_integer(kind) or pa.types.is_floating(kind)
    if not is_numeric and not pa.types.is_decimal(kind) and not _is_textual(kind):
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
    """Return which values can be cast, each for itself; slow, and only for telling what is bad."""
    can_be = np.ones(len(values), dtype=bool)
    for row in range(len(values)):
        try:
            cast(values[row : row + 1])
        except pa.ArrowInvalid:
            can_be[row] = False
    return can_be


def _floats(values: pa.Array) -> np.ndarray:
    if _is_textual(values.type):
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


def _integers(moments: pa.Array) -> np.ndarray:
    integers: np.ndarray = moments.cast(pa.int64()).to_numpy()
    return integers


def _is_textual(kind: pa.DataType) -> bool:
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary)
    return any(test(kind) for test in (*tests, pa.types.is_large_binary))


def _mask(values: pa.Array) -> np.ndarray:
    mask: np.ndarray = values.to_numpy(zero_copy_only=False)
    return mask
