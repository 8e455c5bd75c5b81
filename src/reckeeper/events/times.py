"""Times as people write them, a column at a time."""

import zoneinfo
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from reckeeper.errors import DataError
from reckeeper.events import time_patterns as patterns
from reckeeper.events.cells import Refusals, is_textual, mask_of, texts_of
from reckeeper.events.zones import in_utc
from reckeeper.tabular import Chunk, rows_at

_PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
_YEAR_10000 = 253_402_300_800
_LATEST_DAY = 22_000_000
_FIRST_SECOND, _LATEST_SECOND = 19_000_000_000_000, 22_000_000_000_000
_BOUNDS = (1e11, 1e14, 1e17)
_SIZES = tuple(zip(_PER_SECOND, (*_BOUNDS, np.inf), strict=True))
"""Each unit, and what a number in it is below."""

_TRUSTED = 20
"""So many dates that can only be read in one way outweigh one that contradicts: a mistake."""

_NUMBER = r"^\s*[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,4})?\s*$"
_WHOLE = r"^[+-]?\d{1,18}$"


class Order(StrEnum):
    """What comes first in a date such as 05/06/2013."""

    DAY = "day"
    MONTH = "month"


@dataclass(frozen=True, kw_only=True)
class TimeForm:
    """How the times of a column are written, which holds for all of it.

    Attributes
    ----------
    unit : {"s", "ms", "us", "ns"} or None
        Of numbers; None: told from the size of each.
    pattern : str or None
        A regular expression of all of them, whose groups are named as in `time_patterns`.
    order : Order or None
        Of dates such as 05/06/2013; None: not known, and they are refused.
    zone : ZoneInfo or None
        Where the clock hangs that showed times without a zone; None: UTC.
    """

    unit: str | None = None
    pattern: str | None = None
    order: Order | None = None
    zone: zoneinfo.ZoneInfo | None = None


class Times(NamedTuple):
    """Microseconds since 1970 UTC; which are empty, are numbers, or shown twice by the clock."""

    micros: np.ndarray
    is_empty: np.ndarray
    is_number: np.ndarray
    is_twice: np.ndarray


def order_of(texts: pa.Array) -> Order | None:
    """Tell from a column whether the day or the month comes first; None: it could be either.

    Between dots the day does, unless a number says that it cannot.
    """
    parts = _parts(texts, patterns.NUMERIC)
    first, second = _numbers(parts, "first"), _numbers(parts, "next")
    n_day = int(((first > 12) & (second <= 12)).sum())
    n_month = int(((second > 12) & (first <= 12)).sum())
    if n_day > _TRUSTED * n_month:
        return Order.DAY
    if n_month > _TRUSTED * n_day:
        return Order.MONTH
    has_dots = pc.equal(pc.struct_field(parts, "between"), ".")
    return Order.DAY if not n_day and pc.any(has_dots).as_py() else None


def in_numbers(texts: pa.Array) -> pa.Array:
    """Return those of some texts that are dates of numbers alone, such as 05/06/2013 10:30."""
    return texts.filter(pc.match_substring_regex(texts, patterns.NUMERIC))


def times_of(chunk: Chunk, column: str, refusals: Refusals, *, form: TimeForm) -> Times:
    """Return the times of a column; what is none is refused."""
    values = chunk.columns[column]
    none = np.zeros(len(values), dtype=bool)
    if is_textual(values.type):
        return _times_of_text(texts_of(values, column, refusals), column, refusals, form)
    if pa.types.is_timestamp(values.type) or pa.types.is_date(values.type):
        micros, is_empty = _micros_of_type(values), mask_of(values.is_null())
        if form.zone is None or getattr(values.type, "tz", None) is not None:
            return Times(micros, is_empty, none, none)
        micros, is_twice = _on_clock(micros, ~is_empty, column, refusals, form.zone)
        return Times(micros, is_empty, none, is_twice)
    if pa.types.is_integer(values.type) or pa.types.is_floating(values.type):
        is_empty = mask_of(values.is_null(nan_is_null=True))
        if pa.types.is_float16(values.type):
            values = values.cast(pa.float64())
        numbers = np.where(is_empty, 0, pc.fill_null(values, 0).to_numpy())
        micros, is_local = _micros_of_numbers(numbers, form.unit)
        is_twice = none
        if form.zone is not None:
            micros, is_twice = _on_clock(micros, is_local, column, refusals, form.zone)
        return Times(micros, is_empty, ~is_empty, is_twice)
    raise DataError(f"The column {column!r} has the type {values.type}, not times: convert it.")


def parse_time(text: str, form: TimeForm) -> int | None:
    """Return a time in microseconds since 1970 UTC, or None if it is none."""
    try:
        micros, is_time, is_local = _parse(pa.array([text]), form)
    except UnicodeEncodeError:  # half of a pair of surrogates
        return None
    if not is_time[0]:
        return None
    if form.zone is not None and is_local[0]:
        micros = in_utc(micros, form.zone).times
    return int(micros[0])


def _micros_of_type(values: pa.Array) -> np.ndarray:
    """Return microseconds of moments or dates, whatever they are; 0 where there is none."""
    if pa.types.is_date32(values.type):
        days = pc.fill_null(values.cast(pa.int32()), 0).to_numpy().astype(np.int64)
        return _micros(days * 86_400, "s")
    unit = "ms" if pa.types.is_date64(values.type) else values.type.unit
    return _micros(pc.fill_null(values.cast(pa.int64()), 0).to_numpy(), unit)


def _times_of_text(texts: pa.Array, column: str, refusals: Refusals, form: TimeForm) -> Times:
    texts = pc.utf8_trim_whitespace(pc.fill_null(texts, ""))
    is_empty = mask_of(pc.equal(texts, ""))
    times = np.zeros(len(texts), dtype=np.int64)
    is_local = np.zeros(len(texts), dtype=bool)
    is_number = np.zeros(len(texts), dtype=bool)
    if form.pattern is None:
        is_whole = mask_of(pc.match_substring_regex(texts, _WHOLE))
        digits = pc.utf8_ltrim(rows_at(texts, is_whole), "+")  # which Arrow takes of floats alone
        whole = digits.cast(pa.int64()).to_numpy()
        times[is_whole], is_local[is_whole] = _micros_of_numbers(whole, form.unit)
        is_number = is_whole.copy()
        rest = ~is_whole & ~is_empty
        if rest.any():
            is_number[rest] = mask_of(pc.match_substring_regex(rows_at(texts, rest), _NUMBER))
            part = is_number & ~is_whole
            times[part] = _micros(rows_at(texts, part).cast(pa.float64()).to_numpy(), form.unit)
    written = ~is_number & ~is_empty
    if written.any():
        found = rows_at(texts, written)
        times[written], is_time, is_local[written] = _parse(found, form)
        if not is_time.all():
            wrong = np.zeros(len(texts), dtype=bool)
            wrong[written] = ~is_time
            _refuse(texts, wrong, column, refusals, form)
            is_local &= ~wrong
    if form.zone is None or not is_local.any():
        return Times(times, is_empty, is_number, np.zeros(len(texts), dtype=bool))
    times, is_twice = _on_clock(times, is_local, column, refusals, form.zone)
    return Times(times, is_empty, is_number, is_twice)


def _on_clock(
    micros: np.ndarray,
    is_local: np.ndarray,
    column: str,
    refusals: Refusals,
    zone: zoneinfo.ZoneInfo,
) -> tuple[np.ndarray, np.ndarray]:
    """Return times in UTC, and which of them the clock shows twice; those never are refused."""
    on_clock = in_utc(micros, zone)
    refusals.refuse(
        on_clock.is_never & is_local,
        column,
        f"is a time that the clocks in {zone.key} never showed: they were set forward",
    )
    return np.where(is_local, on_clock.times, micros), on_clock.is_twice & is_local


def _refuse(
    texts: pa.Array, wrong: np.ndarray, column: str, refusals: Refusals, form: TimeForm
) -> None:
    if form.pattern is not None:
        refusals.refuse(wrong, column, "is not a time of the form that --time-format says")
        return
    is_numeric = wrong & mask_of(pc.match_substring_regex(texts, patterns.NUMERIC))
    if is_numeric.any():
        refusals.refuse(is_numeric, column, _numeric_reason(rows_at(texts, is_numeric), form))
    has_short_year = wrong & mask_of(pc.match_substring_regex(texts, patterns.SHORT_YEAR))
    refusals.refuse(
        has_short_year,
        column,
        "has a year of two digits: --time-format says how it is written, such as %d.%m.%y",
    )
    refusals.refuse(
        wrong,
        column,
        "is not a time: write 2025-12-04T23:42:15Z, or a number of seconds since 1970; "
        "--time-format names another form",
    )


def _numeric_reason(texts: pa.Array, form: TimeForm) -> str:
    if form.order is not None:
        return f"is no date with the {form.order} first, as those of the first rows are"
    days, months = (patterns.likely_format(texts[0].as_py(), order) for order in Order)
    return (
        f"could begin with the day or the month: --time-format '{days}' or --time-format "
        f"'{months}' says which"
    )


def _parse(texts: pa.Array, form: TimeForm) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return microseconds, as the clock shows them where no zone stands; which of the texts are
    times; and for which no zone stands.
    """
    if form.pattern is not None:
        return _moments(_parts(texts, form.pattern), texts)
    micros, is_time, is_local = _moments(_parts(texts, patterns.ISO), texts)
    others = [*patterns.OTHERS]
    if form.order is not None:
        others.append(patterns.numeric(form.order))
    for pattern in others:
        if is_time.all():
            break
        rest = np.flatnonzero(~is_time)
        left = texts.take(pa.array(rest))
        micros[rest], is_time[rest], is_local[rest] = _moments(_parts(left, pattern), left)
    return micros, is_time, is_local


def _parts(texts: pa.Array, pattern: str) -> pa.StructArray:
    return pc.extract_regex(texts, pattern)


def _numbers(parts: pa.StructArray, name: str, default: int = 0) -> np.ndarray:
    """Return what a group of a pattern found as numbers."""
    if parts.type.get_field_index(name) < 0:
        return np.full(len(parts), default, dtype=np.int64)
    digits = pc.fill_null(pc.struct_field(parts, name), "")
    filled = pc.if_else(pc.equal(digits, ""), str(default), digits)
    numbers: np.ndarray = filled.cast(pa.int64()).to_numpy()
    return numbers


def _words(parts: pa.StructArray, name: str) -> pa.Array | None:
    if parts.type.get_field_index(name) < 0:
        return None
    return pc.fill_null(pc.struct_field(parts, name), "")


def _moments(parts: pa.StructArray, texts: pa.Array) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return microseconds, and masks of what is a time, and of what has no zone."""
    is_time = mask_of(pc.is_valid(parts))
    year, month, day = _numbers(parts, "year"), _months(parts), _numbers(parts, "day", 1)
    if parts.type.get_field_index("short_year") >= 0:
        short = _numbers(parts, "short_year")
        year = np.where(short < 69, 2000, 1900) + short
    hour, minute, second = (_numbers(parts, name) for name in ("hour", "minute", "second"))
    is_time &= (hour <= 23) & (minute <= 59) & (second <= 59)
    half = _words(parts, "half")
    if half is not None:
        is_half, is_later = (
            mask_of(pc.not_equal(half, "")),
            mask_of(pc.is_in(half, value_set=pa.array(["p", "P"]))),
        )
        is_time &= ~is_half | ((hour >= 1) & (hour <= 12))
        hour = np.where(is_half, hour % 12 + 12 * is_later, hour)
    offset_hour, offset_minute = _numbers(parts, "offset_hour"), _numbers(parts, "offset_minute")
    is_time &= (offset_hour <= 23) & (offset_minute <= 59)
    months = ((year - 1970) * 12 + month - 1).astype("datetime64[M]")
    first_day = months.astype("datetime64[D]").astype(np.int64)
    next_month = (months + 1).astype("datetime64[D]").astype(np.int64)
    is_time &= (year >= 1) & (month >= 1) & (month <= 12)
    is_time &= (day >= 1) & (first_day + day <= next_month)
    sign = _words(parts, "sign")
    east = np.zeros(len(texts), dtype=np.int64)
    is_local = np.ones(len(texts), dtype=bool)
    if sign is not None:
        east = np.where(mask_of(pc.equal(sign, "+")), 1, -1) * (offset_hour * 60 + offset_minute)
        is_local = mask_of(pc.equal(sign, ""))
    seconds = ((first_day + day - 1) * 24 + hour) * 3600 + (minute - east) * 60 + second
    return (
        seconds * 1_000_000 + _fractions(parts),
        is_time,
        is_local & ~mask_of(pc.match_substring_regex(texts, patterns.UTC_AT_END)),
    )


def _months(parts: pa.StructArray) -> np.ndarray:
    words = _words(parts, "month_word")
    if words is None:
        return _numbers(parts, "month", 1)
    short = pc.utf8_lower(pc.utf8_slice_codeunits(words, 0, 3))
    places = pc.index_in(short, value_set=pa.array(patterns.MONTHS))
    months: np.ndarray = pc.fill_null(pc.add(places, 1), 0).cast(pa.int64()).to_numpy()
    return months


def _fractions(parts: pa.StructArray) -> np.ndarray:
    digits = _words(parts, "fraction")
    if digits is None:
        return np.zeros(len(parts), dtype=np.int64)
    millionths = pc.utf8_rpad(pc.utf8_slice_codeunits(digits, 0, 6), 6, "0")
    micros: np.ndarray = millionths.cast(pa.int64()).to_numpy()
    return micros


def _micros_of_numbers(numbers: np.ndarray, unit: str | None) -> tuple[np.ndarray, np.ndarray]:
    """Return microseconds, and which numbers are dates, and so on the clock of a place."""
    times = _micros(numbers, unit)
    is_date = np.zeros(len(numbers), dtype=bool)
    if unit is None and len(numbers):
        found = [_days(numbers)] if numbers.min() < _LATEST_DAY else []
        if numbers.max() >= _FIRST_SECOND and numbers.min() < _LATEST_SECOND:
            found.append(_seconds(numbers))
        for is_one, micros in found:
            is_date |= is_one
            times[is_one] = micros
    return times, is_date


def _micros(numbers: np.ndarray, unit: str | None) -> np.ndarray:
    """Convert times in a unit to microseconds; what lies beyond year 9999 stays beyond it.

    Without one, each number says by its size which it is: those of a moment since 1990 in two
    units are apart by far.
    """
    if unit is None:
        sizes = np.abs(numbers.astype(np.float64))
        times = np.zeros(len(numbers), dtype=np.int64)
        for (unit_of_size, below), least in zip(_SIZES, (0.0, *_BOUNDS), strict=True):
            has_it = (sizes >= least) & (sizes < below)
            if has_it.any():
                times[has_it] = _micros(numbers[has_it], unit_of_size)
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


def _seconds(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return which numbers are moments such as 20240131235959, and them in microseconds."""
    is_one = (numbers >= _FIRST_SECOND) & (numbers < _LATEST_SECOND)
    is_one &= numbers == np.trunc(numbers)
    whole = np.where(is_one, numbers, 0).astype(np.int64)
    of_day = whole % 1_000_000
    hour, minute, second = of_day // 10_000, of_day // 100 % 100, of_day % 100
    is_one &= (hour <= 23) & (minute <= 59) & (second <= 59)
    is_day, midnights = _days(np.where(is_one, whole // 1_000_000, 0))
    seconds = (hour * 60 + minute) * 60 + second
    return is_day, midnights + seconds[is_day] * 1_000_000
