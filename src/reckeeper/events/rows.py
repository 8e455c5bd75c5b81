"""The rules of the message, a column at a time: rows of a table, checked."""

import contextlib
import hashlib
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from reckeeper.errors import DataError
from reckeeper.events.formats import FileFormat, accepted_types, no_weight
from reckeeper.interactions import (
    CONTROL_CHARACTERS,
    MAX_CLOCK_SKEW,
    MAX_ID_CHARACTERS,
    MAX_WEIGHT,
)
from reckeeper.tabular import VALUE_SHOWN, Chunk, RefusedLine, Source, rows_at

_PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
_YEAR_1990 = 631_152_000_000_000
_YEAR_10000 = 253_402_300_800
_LATEST_DAY = 22_000_000
_BOUNDS = (1e11, 1e14, 1e17)
_SIZES = tuple(zip(_PER_SECOND, (*_BOUNDS, np.inf), strict=True))
"""Each unit, and what a number in it is below."""

_NUMBER = r"^\s*[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,4})?\s*$"
_WHOLE = r"^[+-]?\d{1,18}$"
# The forms that the message takes, and with the offset or the time of day left out; and those that
# PostgreSQL (+00), BigQuery (UTC) and Go (+0000 UTC) write.
_TIME = (
    r"^(?P<year>\d{4})-(?P<month>\d{2})-(?P<day>\d{2})"
    r"(?:[Tt _](?P<hour>\d{2}):(?P<minute>\d{2})"
    r"(?::(?P<second>\d{2})(?:[.,](?P<fraction>\d{1,9}))?)?"
    r"(?:[Zz]| UTC| ?(?P<sign>[+-])(?P<offset_hour>\d{2})(?::?(?P<offset_minute>\d{2}))?"
    r"(?: [A-Z]{3,5})?)?)?$"
)


_TRUE, _FALSE = pa.array(["True", "true", "TRUE"]), pa.array(["False", "false", "FALSE"])
"""1 and 0, where numbers are asked for: a rating may be a truth value."""


class Checked(NamedTuple):
    """A chunk's rows as `imports.append` takes them, how many weigh nothing, and those refused."""

    interactions: list[tuple[Any, ...]]
    n_without_taste: int
    refused: list[RefusedLine]


class Refusals:
    """Which rows of a chunk are good, and the first thing wrong with each of the others."""

    def __init__(self, chunk: Chunk, *, file: str) -> None:
        self.is_good = np.ones(len(chunk.lines), dtype=bool)
        self._chunk = chunk
        self._file = file
        self._reasons: dict[int, RefusedLine] = {}

    def refuse(self, bad: Any, column: str, reason: str) -> None:
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
    # Python's own times cannot hold all that Arrow's can.
    plain = (value.cast(pa.string()) if pa.types.is_temporal(value.type) else value).as_py()
    if isinstance(plain, bytes):
        plain = plain.decode(errors="backslashreplace")
    return "" if plain is None else str(plain)[:VALUE_SHOWN]


class RowCheck:
    """Sorts rows into interactions and refused ones, by the rules of `events.parse`.

    A row's event id is what its own column says; without one, in a database
    and with a time, a hash of its values; else its line behind `fingerprint`.
    Words that stand for nothing count as nothing.

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
    """

    def __init__(
        self,
        source: Source,
        *,
        columns: Mapping[str, str],
        format: FileFormat,
        types: Mapping[str, float],
        fingerprint: str,
    ) -> None:
        self.fingerprint = fingerprint
        self._source = source
        self._columns = columns
        self._format = format
        self._default_time = _default_time(format)
        self._accepted = accepted_types(types)

    def check(self, chunk: Chunk, *, arrived_at: int) -> Checked:
        """Sort the rows of a chunk, which arrived at a moment in microseconds since 1970."""
        judged = self.judge(chunk, arrived_at=arrived_at)
        chosen = np.flatnonzero(judged.refusals.is_good)
        # In the order of the index on user_id: fewer of its pages are touched.
        chosen = chosen[pc.sort_indices(judged.users.take(pa.array(chosen))).to_numpy()]
        values = judged.values(chosen)
        if judged.event_ids is not None:
            given_names = judged.event_ids.take(pa.array(chosen)).to_pylist()
            names: Iterable[str] = _of_parts(given_names, chunk, chosen)
        elif self._source.database_id is not None and "occurred_at" in self._columns:
            given = judged.times.astype(object)[chosen]
            given[judged.is_timeless[chosen]] = None
            database_id = itertools.repeat(self._source.database_id)
            names = map(_name_of_values, database_id, *values[:-1], given)
        else:
            names = self._names_of_lines(chunk, chosen)
        interactions = list(zip(names, *values, strict=True))
        n_without_taste = int(np.count_nonzero(judged.weights[chosen] == 0))
        return Checked(interactions, n_without_taste, judged.refusals.refused())

    def judge(self, chunk: Chunk, *, arrived_at: int) -> "Judged":
        """Return what the rows of a chunk say, as they stand, and which of them are refused."""
        refusals = Refusals(chunk, file=self._source.short_name)
        chunk = chunk._replace(
            columns={
                name: _without_words(values, self._format.null_words)
                for name, values in chunk.columns.items()
            }
        )
        columns, n_rows = self._columns, len(chunk.lines)
        users = ids_of(chunk, columns["user_id"], refusals)
        items = ids_of(chunk, columns["item_id"], refusals)
        kinds = self._kinds(chunk, refusals)
        weights = np.ones(n_rows)
        if "weight" in columns:
            weights = _weights(chunk, columns["weight"], refusals)
        times, is_timeless = np.full(n_rows, arrived_at), np.ones(n_rows, dtype=bool)
        if "occurred_at" in columns:
            times, is_timeless = _occurred_at(
                chunk,
                columns["occurred_at"],
                refusals,
                format=self._format,
                default=arrived_at if self._default_time is None else self._default_time,
                arrived_at=arrived_at,
            )
        event_ids = ids_of(chunk, columns["event_id"], refusals) if "event_id" in columns else None
        if self._format.min_rating is not None:
            is_low = _ratings(chunk, columns["rating"], refusals) < self._format.min_rating
            weights[is_low] = 0.0
        if kinds is None:
            kinds = pa.repeat(self._format.interaction_type, n_rows)
        return Judged(users, items, kinds, weights, times, is_timeless, event_ids, refusals)

    def _kinds(self, chunk: Chunk, refusals: "Refusals") -> pa.Array | None:
        if "interaction_type" not in self._columns:
            return None
        name = self._columns["interaction_type"]
        kinds = texts_of(chunk.columns[name], name, refusals)
        refusals.refuse(pc.equal(pc.fill_null(kinds, ""), ""), name, "is empty")
        known = pc.is_in(kinds, value_set=pa.array(self._accepted))
        refusals.refuse(pc.invert(known), name, no_weight(self._accepted))
        return kinds

    def _names_of_lines(self, chunk: Chunk, chosen: np.ndarray) -> list[str]:
        lines = pc.utf8_lpad(pa.array(chunk.lines[chosen]).cast(pa.string()), 12, "0")
        prefix = f"import-{self.fingerprint[:16]}-"
        names: list[str] = pc.binary_join_element_wise(prefix, lines, "").to_pylist()
        return _of_parts(names, chunk, chosen)


def _of_parts(names: list[str], chunk: Chunk, chosen: np.ndarray) -> list[str]:
    """Return names of lines as names of rows, where a line holds several."""
    if chunk.parts is None:
        return names
    parts = chunk.parts[chosen].tolist()
    return [f"{name}-{part}" if part else name for name, part in zip(names, parts, strict=True)]


class Judged(NamedTuple):
    """What the rows of a chunk say, one after the other; of refused ones too."""

    users: pa.Array
    items: pa.Array
    kinds: pa.Array
    weights: np.ndarray
    times: np.ndarray
    is_timeless: np.ndarray
    event_ids: pa.Array | None
    refusals: Refusals

    def values(self, chosen: np.ndarray) -> list[list[Any]]:
        """Return user, item, type, weight and time of some rows, each as a list."""
        taken = pa.array(chosen)
        return [
            *(values.take(taken).to_pylist() for values in (self.users, self.items, self.kinds)),
            self.weights[chosen].tolist(),
            self.times[chosen].tolist(),
        ]


def _name_of_values(*values: Any) -> str:
    # No id has a control character in it, so the texts of two rows are not the same by chance.
    text = "\0".join("" if value is None else str(value) for value in values)
    return f"row-{hashlib.sha256(text.encode()).hexdigest()[:32]}"


def _without_words(values: pa.Array, words: Sequence[str]) -> pa.Array:
    """Return values with nothing in place of the words that stand for it."""
    if not words or not is_textual(values.type) or pa.types.is_null(values.type):
        return values
    if pa.types.is_string_view(values.type) or pa.types.is_binary_view(values.type):
        values = values.cast(pa.large_binary())
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
    except pa.ArrowInvalid:
        texts = [_decoded(value) for value in values.to_pylist()]
        decoded = pa.array(texts, pa.string())
        broken = pc.and_(pc.is_null(decoded), pc.is_valid(values))
        refusals.refuse(broken, column, "is not text in UTF-8")
        return decoded
    except pa.ArrowNotImplementedError as exc:
        raise DataError(
            f"The column {column!r} has the type {values.type}, which is not text: convert it."
        ) from exc


def _decoded(value: bytes | None) -> str | None:
    with contextlib.suppress(UnicodeDecodeError):
        return None if value is None else value.decode()
    return None


def is_textual(kind: pa.DataType) -> bool:
    """Return whether a type is text, bytes or nothing."""
    tests = (
        pa.types.is_string,
        pa.types.is_large_string,
        pa.types.is_string_view,
        pa.types.is_binary,
        pa.types.is_large_binary,
        pa.types.is_binary_view,
        pa.types.is_null,
    )
    return any(test(kind) for test in tests)


def ids_of(chunk: Chunk, column: str, refusals: Refusals) -> pa.Array:
    """Return ids in their stored form: text as it is, whole numbers in decimal."""
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


def _weights(chunk: Chunk, column: str, refusals: Refusals) -> np.ndarray:
    numbers, is_empty = _numbers(chunk, column, refusals)
    weights = np.where(is_empty, 1.0, numbers)
    refusals.refuse(weights < 0, column, "must be 0 or greater")
    refusals.refuse(weights > MAX_WEIGHT, column, f"must be at most {MAX_WEIGHT:.0f}")
    return weights


def _ratings(chunk: Chunk, column: str, refusals: Refusals) -> np.ndarray:
    ratings, is_empty = _numbers(chunk, column, refusals)
    refusals.refuse(is_empty, column, "is empty")
    return ratings


def _default_time(format: FileFormat) -> int | None:
    """Return what an empty time is taken for; None: the time of the import, or nothing."""
    given = format.default_time
    if given in (None, "now"):
        return None
    times, is_time = _parse_times(pa.array([given]))
    if not is_time[0] or times[0] < 0:
        raise DataError(
            f"The default time {given!r} is no time since 1970: write now, or a time such as "
            "2025-12-04T23:42:15Z."
        )
    return int(times[0])


def _occurred_at(
    chunk: Chunk,
    column: str,
    refusals: Refusals,
    *,
    format: FileFormat,
    default: int,
    arrived_at: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Return microseconds since 1970 UTC, and a mask of the rows that have no time."""
    unit = format.time_unit
    given, is_empty, is_number = times_of(chunk, column, refusals, unit=unit)
    if format.default_time is None:
        refusals.refuse(is_empty, column, "is empty: --default-time says when that is, such as now")
    times = np.where(is_empty, default, given)
    read = "whatever its unit" if unit is None else f"read in {unit} since 1970"
    refusals.refuse(times < 0, column, "lies before 1970")
    if not format.allow_old:
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
    return times, is_empty


def _numbers(chunk: Chunk, column: str, refusals: Refusals) -> tuple[np.ndarray, np.ndarray]:
    """Return finite numbers, 0 where one was refused, and a mask of the empty values."""
    values = chunk.columns[column]
    if pa.types.is_boolean(values.type):
        values = values.cast(pa.int8())
    if is_textual(values.type):
        texts = texts_of(values, column, refusals)
        texts = pc.if_else(pc.is_in(texts, value_set=_TRUE), "1", texts)
        texts = pc.if_else(pc.is_in(texts, value_set=_FALSE), "0", texts)
        is_empty = pc.equal(pc.utf8_trim_whitespace(pc.fill_null(texts, "")), "")
        texts = pc.if_else(pc.or_kleene(is_empty, pc.is_null(texts)), "0", texts)
        is_number = pc.match_substring_regex(texts, _NUMBER)
        refusals.refuse(pc.invert(is_number), column, "is not a number")
        digits = pc.utf8_trim_whitespace(pc.if_else(is_number, texts, "0"))
        numbers = digits.cast(pa.float64()).to_numpy()
    elif (
        pa.types.is_integer(values.type)
        or pa.types.is_floating(values.type)
        or pa.types.is_decimal(values.type)
    ):
        is_empty = values.is_null(nan_is_null=True)
        numbers = pc.fill_null(values.cast(pa.float64(), safe=False), 0.0).to_numpy()
    else:
        raise DataError(
            f"The column {column!r} has the type {values.type}, not numbers: convert it."
        )
    empty = is_empty.to_numpy(zero_copy_only=False)
    is_finite = np.isfinite(numbers)
    refusals.refuse(~is_finite & ~empty, column, "is not a finite number")
    return np.where(is_finite, numbers, 0.0), empty


def times_of(
    chunk: Chunk, column: str, refusals: Refusals, *, unit: str | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return microseconds since 1970 UTC, a mask of the empty values, and one of numbers."""
    values = chunk.columns[column]
    none = np.zeros(len(values), dtype=bool)
    if is_textual(values.type):
        return _times_of_text(texts_of(values, column, refusals), column, refusals, unit=unit)
    if pa.types.is_date(values.type):
        values = values.cast(pa.timestamp("us"))
    if pa.types.is_timestamp(values.type):
        numbers = pc.fill_null(values.cast(pa.int64()), 0).to_numpy()
        return _micros(numbers, values.type.unit), _mask(values.is_null()), none
    if pa.types.is_integer(values.type) or pa.types.is_floating(values.type):
        is_empty = _mask(values.is_null(nan_is_null=True))
        numbers = pc.fill_null(values, 0).to_numpy()
        return _micros(np.where(is_empty, 0, numbers), unit), is_empty, ~is_empty
    raise DataError(f"The column {column!r} has the type {values.type}, not times: convert it.")


def _times_of_text(
    texts: pa.Array, column: str, refusals: Refusals, *, unit: str | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    texts = pc.utf8_trim_whitespace(pc.fill_null(texts, ""))
    is_empty = _mask(pc.equal(texts, ""))
    times = np.zeros(len(texts), dtype=np.int64)
    is_whole = _mask(pc.match_substring_regex(texts, _WHOLE))
    times[is_whole] = _micros(rows_at(texts, is_whole).cast(pa.int64()).to_numpy(), unit)
    rest = ~is_whole & ~is_empty
    is_number = is_whole.copy()
    if rest.any():
        is_number[rest] = _mask(pc.match_substring_regex(rows_at(texts, rest), _NUMBER))
        fractional = is_number & ~is_whole
        times[fractional] = _micros(rows_at(texts, fractional).cast(pa.float64()).to_numpy(), unit)
        written = rest & ~is_number
        times[written], is_time = _parse_times(rows_at(texts, written))
        wrong = np.zeros(len(texts), dtype=bool)
        wrong[written] = ~is_time
        refusals.refuse(
            wrong,
            column,
            "is not a time: write 2025-12-04T23:42:15Z, or a number of seconds since 1970",
        )
    return times, is_empty, is_number


def _parse_times(texts: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Return microseconds, UTC where no offset stands, and a mask of what is a time."""
    parts = pc.extract_regex(texts, _TIME)
    is_time = _mask(pc.is_valid(parts))

    def number(name: str) -> np.ndarray:
        digits = pc.fill_null(pc.struct_field(parts, name), "")
        numbers: np.ndarray = (
            pc.if_else(pc.equal(digits, ""), "0", digits).cast(pa.int64()).to_numpy()
        )
        return numbers

    year, month, day = number("year"), number("month"), number("day")
    hour, minute, second = number("hour"), number("minute"), number("second")
    offset_hour, offset_minute = number("offset_hour"), number("offset_minute")
    months = ((year - 1970) * 12 + month - 1).astype("datetime64[M]")
    first_day = months.astype("datetime64[D]").astype(np.int64)
    next_month = (months + 1).astype("datetime64[D]").astype(np.int64)
    is_time = is_time & (year >= 1) & (month >= 1) & (month <= 12)
    is_time &= (day >= 1) & (first_day + day <= next_month)
    is_time &= (hour <= 23) & (minute <= 59) & (second <= 59)
    is_time &= (offset_hour <= 23) & (offset_minute <= 59)
    digits = pc.fill_null(pc.struct_field(parts, "fraction"), "")
    fraction = pc.utf8_rpad(pc.utf8_slice_codeunits(digits, 0, 6), 6, "0")
    sign = pc.fill_null(pc.struct_field(parts, "sign"), "")
    east = np.where(_mask(pc.equal(sign, "+")), 1, -1) * (offset_hour * 60 + offset_minute)
    seconds = ((first_day + day - 1) * 24 + hour) * 3600 + (minute - east) * 60 + second
    micros: np.ndarray = seconds * 1_000_000 + fraction.cast(pa.int64()).to_numpy()
    return micros, is_time


def _micros(numbers: np.ndarray, unit: str | None) -> np.ndarray:
    """Convert times in a unit to microseconds; what lies beyond year 9999 stays beyond it.

    Without one, each number says by its size which it is: those of a moment since 1990 in two
    units are apart by far. Eight digits that are a date are that day, in UTC.
    """
    if unit is None:
        sizes = np.abs(numbers.astype(np.float64))
        times = np.zeros(len(numbers), dtype=np.int64)
        for (unit_of_size, below), least in zip(_SIZES, (0.0, *_BOUNDS), strict=True):
            has_it = (sizes >= least) & (sizes < below)
            if has_it.any():
                times[has_it] = _micros(numbers[has_it], unit_of_size)
        if (sizes < _LATEST_DAY).any():
            is_day, days = _days(numbers)
            times[is_day] = days
        return times
    per_second = _PER_SECOND[unit]
    if numbers.dtype.kind == "f":
        bounded = np.clip(numbers, -per_second, _YEAR_10000 * per_second)
        return np.asarray(np.rint(bounded * (1_000_000 / per_second)), dtype=np.int64)
    if numbers.dtype == np.uint64:
        numbers = np.minimum(numbers, np.uint64(2**63 - 1))
    latest = min(_YEAR_10000 * per_second, 2**63 - 1)
    bounded = np.clip(numbers.astype(np.int64), -per_second, latest)
    if per_second > 1_000_000:
        return bounded // (per_second // 1_000_000)
    return bounded * (1_000_000 // per_second)


def _days(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return which numbers are dates such as 20240131, and their midnights in microseconds."""
    is_day = (numbers >= 19_000_000) & (numbers < _LATEST_DAY) & (numbers == np.trunc(numbers))
    whole = np.where(is_day, numbers, 0).astype(np.int64)
    year, month, day = whole // 10_000, whole // 100 % 100, whole % 100
    is_day &= (month >= 1) & (month <= 12) & (day >= 1)
    months = ((year - 1970) * 12 + month - 1).astype("datetime64[M]")
    first = months.astype("datetime64[D]").astype(np.int64)
    is_day &= first + day <= (months + 1).astype("datetime64[D]").astype(np.int64)
    return is_day, ((first + day - 1) * 86_400_000_000)[is_day]


def _mask(values: pa.Array) -> np.ndarray:
    mask: np.ndarray = values.to_numpy(zero_copy_only=False)
    return mask
