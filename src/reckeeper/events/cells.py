"""The cells of a chunk: as text, as ids, and which of them are refused."""

import contextlib
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from reckeeper.errors import DataError
from reckeeper.interactions import CONTROL_CHARACTERS, MAX_ID_CHARACTERS
from reckeeper.tabular import VALUE_SHOWN, Chunk, RefusedLine, is_text

UNFIT = (pa.ArrowException, ValueError, OverflowError, LookupError)
"""What Arrow raises of times that Python's cannot hold, and of zones that are not known."""


def head_of(chunk: Chunk, n: int) -> Chunk:
    """Return the first rows of a chunk, and what is broken among them."""
    columns = {name: values.slice(0, n) for name, values in chunk.columns.items()}
    last, is_all = chunk.lines[:n].max(initial=0), len(chunk.lines) < n
    broken = [line for line in chunk.broken if is_all or line.line <= last][:n]
    parts = None if chunk.parts is None else chunk.parts[:n]
    return Chunk(columns, chunk.lines[:n], broken, parts)


class Refusals:
    """Which rows of a chunk are good, and the first thing wrong with each of the others."""

    def __init__(self, chunk: Chunk, *, file: str) -> None:
        self.is_good = np.ones(len(chunk.lines), dtype=bool)
        self._chunk = chunk
        self._file = file
        self._reasons: dict[int, RefusedLine] = {}

    def refuse(self, bad: np.ndarray | pa.Array, column: str, reason: str) -> None:
        """Refuse the rows where `bad`, a mask, is true."""
        bad = bad.to_numpy(zero_copy_only=False) if isinstance(bad, pa.Array) else bad
        values = self._chunk.columns[column]
        for row in np.flatnonzero(bad & self.is_good).tolist():
            self._reasons[row] = RefusedLine(
                self._file, int(self._chunk.lines[row]), column, shown(values[row]), reason
            )
        self.is_good &= ~bad

    def refused(self) -> list[RefusedLine]:
        """Return what was refused, in the order of the lines."""
        found = [*self._chunk.broken, *self._reasons.values()]
        return sorted(found, key=lambda line: line.line)


def shown(value: pa.Scalar) -> str:
    """Return a value as people see it."""
    try:
        # Python's own times cannot hold all that Arrow's can.
        plain = (value.cast(pa.string()) if pa.types.is_temporal(value.type) else value).as_py()
    except UNFIT:
        return _moment(value)
    if isinstance(plain, list):
        return ", ".join(map(_text, plain))[:VALUE_SHOWN]
    return _text(plain)[:VALUE_SHOWN]


def _moment(value: pa.Scalar) -> str:
    """Return a moment of a zone that is not known as in UTC; anything else by its type."""
    kind = value.type
    if not pa.types.is_timestamp(kind) or not value.is_valid:
        return f"a value of {kind} that cannot be shown"[:VALUE_SHOWN]
    in_utc = pa.scalar(value.value, pa.timestamp(kind.unit)).cast(pa.string())
    return f"{in_utc.as_py()}Z"


def as_python(values: pa.Array) -> list[object]:
    """Return values as Python's; as people see them where Python's cannot hold one."""
    try:
        return values.to_pylist()  # type: ignore[no-any-return]
    except UNFIT:
        return [shown(value) if value.is_valid else None for value in values]


def _text(value: object) -> str:
    if isinstance(value, bytes):
        return value.decode(errors="backslashreplace")
    return "" if value is None else str(value)


def without_words(values: pa.Array, words: Sequence[str]) -> pa.Array:
    """Return values with nothing in place of the words that stand for it."""
    if not words or not is_textual(values.type) or pa.types.is_null(values.type):
        return values
    is_binary = pa.types.is_binary(values.type) or pa.types.is_large_binary(values.type)
    written = [word.encode() if is_binary else word for word in words]
    is_word = pc.is_in(values, value_set=pa.array(written, values.type))
    if not pc.any(is_word).as_py():
        return values
    return pc.if_else(is_word, pa.scalar(None, values.type), values)


def texts_of(values: pa.Array, column: str, refusals: Refusals) -> pa.Array:
    """Return text as valid UTF-8; what is not is refused, and null."""
    try:
        return values.cast(pa.string())
    except pa.ArrowInvalid as exc:
        if not is_textual(values.type):
            raise _no_text(column, values.type) from exc
        texts = [_decoded(value) for value in values.to_pylist()]
        decoded = pa.array(texts, pa.string())
        broken = pc.and_(pc.is_null(decoded), pc.is_valid(values))
        refusals.refuse(broken, column, "is not text in UTF-8")
        return decoded
    except pa.ArrowNotImplementedError as exc:
        raise _no_text(column, values.type) from exc


def _no_text(column: str, kind: pa.DataType) -> DataError:
    return DataError(f"The column {column!r} has the type {kind}, which is not text: convert it.")


def _decoded(value: bytes | None) -> str | None:
    with contextlib.suppress(UnicodeDecodeError):
        return None if value is None else value.decode()
    return None


def is_textual(kind: pa.DataType) -> bool:
    """Return whether a type is text, bytes or nothing."""
    return is_text(kind) or pa.types.is_null(kind)


def ids_of(
    chunk: Chunk, column: str, refusals: Refusals, *, are_fractions: bool = False
) -> pa.Array:
    """Return ids in their stored form: text as it is, whole numbers in decimal.

    Where text `are_fractions`, 13085.0 is 13085.
    """
    values = chunk.columns[column]
    if pa.types.is_floating(values.type):
        numbers = values.cast(pa.float64()).to_numpy(zero_copy_only=False)
        refusals.refuse(np.isnan(numbers), column, "is empty")
        refusals.refuse(numbers != np.trunc(numbers), column, "is not a whole number")
        refusals.refuse(np.abs(numbers) > 2**53, column, "is too large to be an exact number")
        values = pa.array(np.where(refusals.is_good, numbers, 0).astype(np.int64))
    if pa.types.is_decimal(values.type):
        values = values.cast(pa.decimal256(76, values.type.scale))
        is_fraction = pc.not_equal(pc.floor(values), values)
        refusals.refuse(pc.fill_null(is_fraction, False), column, "is not a whole number")
        ids = values.cast(pa.decimal256(76, 0), safe=False).cast(pa.string())
    elif pa.types.is_integer(values.type):
        ids = values.cast(pa.string())
    elif is_textual(values.type):
        ids = texts_of(values, column, refusals)
        if are_fractions:
            ids = pc.replace_substring_regex(ids, r"\.0+$", "")
    else:
        raise DataError(
            f"The column {column!r} has the type {values.type}: ids are text or whole numbers. "
            "Convert it."
        )
    n_characters = pc.fill_null(pc.utf8_length(ids), 0)
    refusals.refuse(pc.equal(n_characters, 0), column, "is empty")
    too_long = pc.greater(n_characters, MAX_ID_CHARACTERS)
    refusals.refuse(too_long, column, f"must have 1 to {MAX_ID_CHARACTERS} characters")
    control = pc.fill_null(pc.match_substring_regex(ids, CONTROL_CHARACTERS), False)
    refusals.refuse(control, column, "must have no control characters")
    return ids


def mask_of(values: pa.Array) -> np.ndarray:
    """Return truth values as NumPy has them."""
    mask: np.ndarray = values.to_numpy(zero_copy_only=False)
    return mask
