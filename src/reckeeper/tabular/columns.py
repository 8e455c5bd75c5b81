"""Columns of a chunk: from Python's values, of Arrow's other types, and of lists."""

import contextlib
import datetime
import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from reckeeper.tabular.source import CHUNK_ROWS, VALUE_SHOWN, Chunk, RefusedLine, rows_at

_TYPES: dict[type, pa.DataType] = {
    str: pa.string(),
    int: pa.int64(),
    float: pa.float64(),
    bool: pa.bool_(),
    datetime.datetime: pa.timestamp("us"),
    datetime.date: pa.date32(),
}
_MOST_BITS = 256
_LARGEST_EXACT = 2**53
_UUID_BYTES = 16
_HEX = np.frombuffer(b"".join(b"%02x" % byte for byte in range(256)), np.uint8).reshape(256, 2)
_UUID_DASHES = (8, 13, 18, 23)


def column_of(values: Sequence[object]) -> tuple[pa.Array, dict[int, str]]:
    """Return Python's values as a column, and what is wrong with those that do not fit into it.

    What differs in type becomes text, whole floats as the whole numbers that they are; where one
    is a list, all are. A value that does not fit is null, and its place has a reason.
    """
    kinds = set(map(type, values)) - {type(None)}
    if not kinds:
        return pa.nulls(len(values)), {}
    if len(kinds) == 1 and (plain := _TYPES.get(next(iter(kinds)))) is not None:
        with contextlib.suppress(pa.ArrowInvalid, OverflowError, UnicodeEncodeError):
            return pa.array(values, plain), {}
    if list in kinds:
        return _lists(values)
    wrong: dict[int, str] = {}
    texts: list[str | None] = []
    for at, value in enumerate(values):
        text = None
        try:
            text = _text(value)
        except ValueError as exc:
            wrong[at] = str(exc)
        texts.append(text)
    return pa.array(texts, pa.string()), wrong


def chunk_of(
    values: Mapping[str, Sequence[object]],
    lines: Sequence[int],
    *,
    file: str,
    broken: Sequence[RefusedLine] = (),
) -> Chunk:
    """Return Python's values as a chunk; a row with one that does not fit is broken."""
    columns: dict[str, pa.Array] = {}
    misfits: dict[int, RefusedLine] = {}
    for name, of_column in values.items():
        columns[name], wrong = column_of(of_column)
        for at, reason in wrong.items():
            line = RefusedLine(file, lines[at], name, shown(of_column[at]), reason)
            misfits.setdefault(at, line)
    is_sound = np.ones(len(lines), dtype=bool)
    is_sound[list(misfits)] = False
    return Chunk(
        {name: rows_at(column, is_sound) for name, column in columns.items()},
        np.array(lines, dtype=np.int64)[is_sound],
        [*broken, *misfits.values()],
    )


def _lists(values: Sequence[object]) -> tuple[pa.Array, dict[int, str]]:
    ends, items, rows = [0], [], []
    for at, value in enumerate(values):
        of_row: list[object] = value if isinstance(value, list) else [value]
        items += [[] if isinstance(item, list) else item for item in of_row]
        rows += [at] * len(of_row)
        ends.append(len(items))
    nested = {at: "is a list of lists" for at, item in enumerate(items) if isinstance(item, list)}
    flat, wrong = column_of([None if at in nested else item for at, item in enumerate(items)])
    column = pa.LargeListArray.from_arrays(pa.array(ends, pa.int64()), flat)
    return column, {rows[at]: reason for at, reason in (wrong | nested).items()}


def _text(value: object) -> str | None:
    """Return a value as text.

    Raises
    ------
    ValueError
        It has no such form; the message says what it is.
    """
    match value:
        case None:
            return None
        case str():
            if not value.isascii():
                try:
                    value.encode()
                except UnicodeEncodeError:
                    raise ValueError("is not text in UTF-8") from None
            return value
        case bool():
            raise ValueError("is a truth value, where others are none")
        case int():
            if value.bit_length() > _MOST_BITS:
                raise ValueError("is too large a number")
            return str(value)
        case float():
            is_whole = math.isfinite(value) and abs(value) <= _LARGEST_EXACT and value.is_integer()
            return str(int(value)) if is_whole else str(value)
        case datetime.date():  # and a moment, which is one too
            return value.isoformat()
        case dict():
            raise ValueError("is an object: name a part of it, such as user.id")
    raise ValueError("is neither text nor a number nor a time")


def shown(value: object) -> str:
    """Return a value as it is shown with what is wrong with it."""
    text = "" if value is None else str(value)[:VALUE_SHOWN]
    return text if text.isascii() else text.encode(errors="backslashreplace").decode()


def plain(values: pa.Array) -> pa.Array:
    """Return values without what is only a way of keeping them; UUIDs as they are written."""
    kind = values.type
    if isinstance(kind, pa.BaseExtensionType):
        return plain(values.storage)
    if pa.types.is_dictionary(kind):
        return plain(values.dictionary).take(values.indices)
    if pa.types.is_run_end_encoded(kind):
        return plain(pc.run_end_decode(values))
    if pa.types.is_string_view(kind):
        return values.cast(pa.large_string())
    if pa.types.is_binary_view(kind):
        return values.cast(pa.large_binary())
    if pa.types.is_fixed_size_binary(kind) and kind.byte_width == _UUID_BYTES:
        return _uuids(values)
    if is_list(kind):
        return _plain_lists(values)
    return values


def is_text(kind: pa.DataType) -> bool:
    """Return whether a type, without what is only a way of keeping it, is text or bytes."""
    tests = (
        pa.types.is_string,
        pa.types.is_large_string,
        pa.types.is_binary,
        pa.types.is_large_binary,
    )
    return any(test(kind) for test in tests)


def is_list(kind: pa.DataType) -> bool:
    """Return whether a type is of lists."""
    tests = (
        pa.types.is_list,
        pa.types.is_large_list,
        pa.types.is_fixed_size_list,
        pa.types.is_list_view,
        pa.types.is_large_list_view,
    )
    return any(test(kind) for test in tests)


def _plain_lists(values: pa.Array) -> pa.Array:
    ends = np.concatenate([[0], np.cumsum(_lengths(values))])
    empty = values.is_null() if values.null_count else None
    items = plain(pc.list_flatten(values))
    return pa.LargeListArray.from_arrays(pa.array(ends, pa.int64()), items, mask=empty)


def _uuids(values: pa.Array) -> pa.Array:
    """Return 16 bytes each as 8-4-4-4-12 hexadecimal digits."""
    n_rows = len(values)
    raw = np.frombuffer(values.buffers()[1], np.uint8)[values.offset * _UUID_BYTES :]
    digits = _HEX[raw[: n_rows * _UUID_BYTES]].reshape(n_rows, 2 * _UUID_BYTES)
    written = np.full((n_rows, 2 * _UUID_BYTES + len(_UUID_DASHES)), ord("-"), np.uint8)
    is_digit = np.ones(written.shape[1], dtype=bool)
    is_digit[list(_UUID_DASHES)] = False
    written[:, is_digit] = digits
    ends = np.arange(n_rows + 1, dtype=np.int64) * written.shape[1]
    texts = pa.LargeStringArray.from_buffers(n_rows, pa.py_buffer(ends), pa.py_buffer(written))
    return pc.if_else(values.is_valid(), texts, None) if values.null_count else texts


def spread(chunk: Chunk, *, file: str) -> Iterator[Chunk]:
    """Give a chunk with a row for each item of its lists, in chunks of at most `CHUNK_ROWS`.

    Lists of one row go together, item by item: one that is longer than another is refused. A list
    without items is one row without a value.
    """
    lists = {name: column for name, column in chunk.columns.items() if is_list(column.type)}
    if not lists:
        yield chunk
        return
    lists = {name: plain(column) for name, column in lists.items()}
    lengths = {name: _lengths(column) for name, column in lists.items()}
    n_rows = np.maximum.reduce(list(lengths.values()))
    broken = [*chunk.broken]
    is_even = np.ones(len(n_rows), dtype=bool)
    for name, of_column in lengths.items():
        is_short = (of_column < n_rows) & (of_column > 0) & is_even
        for at in np.flatnonzero(is_short).tolist():
            reason = f"has {of_column[at]} values, and another list of its row {n_rows[at]}"
            value = shown(lists[name][at].as_py())
            broken.append(RefusedLine(file, int(chunk.lines[at]), name, value, reason))
        is_even &= ~is_short
    chosen = np.flatnonzero(is_even)
    n_rows = np.maximum(n_rows[chosen], 1)
    rows = np.repeat(chosen, n_rows)
    parts = np.arange(len(rows)) - np.repeat(np.cumsum(n_rows) - n_rows, n_rows)
    for start in range(0, max(len(rows), 1), CHUNK_ROWS):
        of_chunk, places = rows[start : start + CHUNK_ROWS], parts[start : start + CHUNK_ROWS]
        columns = {
            name: _items(lists[name], of_chunk, places, lengths[name])
            if name in lists
            else column.take(pa.array(of_chunk))
            for name, column in chunk.columns.items()
        }
        yield Chunk(columns, chunk.lines[of_chunk], broken if start == 0 else [], places)


def _lengths(column: pa.Array) -> np.ndarray:
    lengths: np.ndarray = pc.fill_null(pc.list_value_length(column), 0).to_numpy()
    return lengths


def _items(column: pa.Array, rows: np.ndarray, parts: np.ndarray, lengths: np.ndarray) -> pa.Array:
    """Return an item of each row's list; null where there is none."""
    starts = column.offsets.to_numpy()[:-1]
    return column.values.take(pa.array(starts[rows] + parts, mask=parts >= lengths[rows]))
