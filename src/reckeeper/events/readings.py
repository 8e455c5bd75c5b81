"""How the values of a file are read where one alone does not say it: decided over a column."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from reckeeper.events import time_patterns
from reckeeper.events.cells import Refusals, head_of, is_textual, texts_of, without_words
from reckeeper.events.formats import FileFormat
from reckeeper.events.numbers import Decimal, decimal_of
from reckeeper.events.times import TimeForm, in_numbers, order_of
from reckeeper.events.zones import zone_named
from reckeeper.tabular import Chunk, Form, open_source, spread

Again = Callable[[Sequence[str]], Iterator[Chunk]]
"""Gives some columns of a file from its beginning on."""

_WHOLE_FLOAT = r"^(?:0|-?[1-9]\d{0,14})\.0+$"
_FEW = 1_000
_IDS = ("user_id", "item_id", "event_id")


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How the values of a file are read, which holds for all of it.

    Attributes
    ----------
    times : TimeForm
    decimals : mapping of str to Decimal
        What commas mean, by the part of an interaction.
    whole : frozenset of str
        The parts whose ids are whole numbers, written as fractions: 13085.0.
    notes : tuple of str
        What was decided, for people.
    """

    times: TimeForm = field(default_factory=TimeForm)
    decimals: Mapping[str, Decimal] = field(default_factory=dict)
    whole: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()


def time_form(format: FileFormat) -> TimeForm:
    """Return how times are written, as far as it was said.

    Raises
    ------
    DataError
        The format of times or the time zone cannot be used.
    """
    pattern = time_patterns.of_format(format.time_format) if format.time_format else None
    zone = zone_named(format.timezone) if format.timezone else None
    return TimeForm(unit=format.time_unit, pattern=pattern, zone=zone)


def from_start(path: Path, form: Form | None) -> Again:
    """Return what gives a file's rows from its beginning on."""

    def again(wanted: Sequence[str]) -> Iterator[Chunk]:
        with open_source(path, form, named=wanted) as source:
            for chunk in source.chunks(wanted):
                yield from spread(chunk, file=source.short_name)

    return again


def decide(
    first: Chunk, columns: Mapping[str, str], format: FileFormat, *, again: Again | None
) -> Reading:
    """Decide how a file's values are read.

    Parameters
    ----------
    first : Chunk
        The first rows: they decide, and what contradicts them later is refused.
    columns : mapping of str to str
        The column of each part of an interaction.
    format : FileFormat
    again : callable or None
        Where the first rows leave it open, or all have to agree, the others are asked by it;
        None: they cannot be, and it stays open.
    """
    asked = _Asked(first, format.null_words, again)
    notes: list[str] = []
    times = _times(asked, columns, format, notes)
    decimals = {
        part: decimal
        for part in ("weight", "rating")
        if part in columns
        and (decimal := _decimal(asked, columns[part], format.decimal, notes)) is not None
    }
    whole = frozenset(part for part in _IDS if part in columns and _is_whole(asked, columns[part]))
    notes += [
        f"{columns[part]}: ids such as 13085.0 are read as whole numbers." for part in sorted(whole)
    ]
    return Reading(times=times, decimals=decimals, whole=whole, notes=tuple(notes))


def are_whole(first: Chunk, column: str, *, again: Again) -> bool:
    """Say whether all ids in a column are whole numbers, written as fractions: 13085.0."""
    return _is_whole(_Asked(first, (), again), column)


class _Asked:
    """The texts of a column, of the first rows or of all; none where it is no text."""

    def __init__(self, first: Chunk, words: Sequence[str], again: Again | None) -> None:
        self._first = first
        self._words = words
        self._again = again
        self.is_whole = again is not None

    def first(self, column: str) -> pa.Array:
        """Return what stands in the first rows."""
        return self._texts(self._first, column)

    def few(self, column: str) -> pa.Array:
        """Return what stands in the very first rows: where it is of another form, all is."""
        return self._texts(head_of(self._first, _FEW), column)

    def all(self, column: str) -> Iterator[pa.Array]:
        """Give what stands in all rows, some at a time; in the first where no more is known."""
        for chunk in [self._first] if self._again is None else self._again([column]):
            yield self._texts(chunk, column)

    def _texts(self, chunk: Chunk, column: str) -> pa.Array:
        values = chunk.columns[column]
        if not is_textual(values.type):
            return pa.array([], pa.string())
        texts = texts_of(without_words(values, self._words), column, Refusals(chunk, file=""))
        return pc.utf8_trim_whitespace(texts.drop_null())


def _times(
    asked: _Asked, columns: Mapping[str, str], format: FileFormat, notes: list[str]
) -> TimeForm:
    form = time_form(format)
    if "occurred_at" not in columns or form.pattern is not None:
        return form
    column = columns["occurred_at"]
    if not len(in_numbers(asked.few(column))):
        return form
    found = in_numbers(asked.first(column))
    order = order_of(found)
    if order is None and asked.is_whole:
        order = next(filter(None, map(order_of, map(in_numbers, asked.all(column)))), None)
    if order is not None:
        notes.append(f"{column}: dates such as {found[0]} are read with the {order} first.")
    return dataclasses.replace(form, order=order)


def _decimal(asked: _Asked, column: str, given: str | None, notes: list[str]) -> Decimal | None:
    if given is not None:
        return Decimal(given)
    decimal = decimal_of(asked.first(column))
    if decimal is Decimal.OPEN and asked.is_whole:
        of_parts = map(decimal_of, asked.all(column))
        known = {one for one in of_parts if one in (Decimal.COMMA, Decimal.POINT)}
        decimal = known.pop() if len(known) == 1 else decimal
    if decimal is Decimal.COMMA:
        notes.append(f"{column}: commas are read as decimal commas.")
    elif decimal is Decimal.POINT:
        notes.append(f"{column}: commas are read as standing between thousands.")
    return decimal


def _is_whole(asked: _Asked, column: str) -> bool:
    """Say whether all ids of a column are whole numbers, written as fractions."""

    def agree(texts: pa.Array) -> bool:
        ids = texts.filter(pc.not_equal(texts, ""))
        return bool(pc.all(pc.match_substring_regex(ids, _WHOLE_FLOAT), min_count=0).as_py())

    few = asked.few(column)
    if not asked.is_whole or not pc.any(pc.not_equal(few, "")).as_py() or not agree(few):
        return False
    return all(map(agree, asked.all(column)))
