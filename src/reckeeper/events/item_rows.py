"""The rows of a catalogue, of a table or of JSON lines, as changes to items."""

import json
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from reckeeper.catalogue import Change, stored_forms
from reckeeper.errors import DataError
from reckeeper.events import categories
from reckeeper.events.cells import Refusals, as_python, ids_of, is_textual, texts_of
from reckeeper.events.formats import CatalogueFormat
from reckeeper.events.times import TimeForm, times_of
from reckeeper.interactions import valid_id
from reckeeper.tabular import VALUE_SHOWN, Chunk, Objects, RefusedLine

_YES, _NO = {"true", "yes", "1"}, {"false", "no", "0"}


class ItemRow(NamedTuple):
    """What a line of a file says of an item."""

    line: int
    change: Change


class _Columns(NamedTuple):
    """The columns that a catalogue has; None for what it says nothing of."""

    item: str
    title: str | None
    category: str | None
    available: str | None
    begin: str | None
    end: str | None

    @classmethod
    def of(cls, format: CatalogueFormat, there: Collection[str]) -> "_Columns":
        def usual(name: str | None, default: str) -> str | None:
            return name or (default if default in there else None)

        return cls(
            format.item_column,
            format.title_column if format.title_column in there else None,
            usual(format.category_column, "categories"),
            usual(format.available_column, "available"),
            usual(format.from_column, "available_from"),
            usual(format.until_column, "available_until"),
        )


def category_column(format: CatalogueFormat, there: Collection[str]) -> str | None:
    """Return the column of categories, or of other lists, if there is one."""
    name = _Columns.of(format, there).category or format.list_column
    return name if name in there else None


def check_items(
    chunk: Chunk, *, format: CatalogueFormat, file: str, are_fractions: bool = False
) -> tuple[list[ItemRow], list[RefusedLine]]:
    """Sort the rows of a table of items into changes and refused ones.

    Where ids `are_fractions`, 13085.0 is 13085.
    """
    columns = _Columns.of(format, chunk.columns)
    refusals = Refusals(chunk, file=file)
    item_ids = ids_of(chunk, columns.item, refusals, are_fractions=are_fractions).to_pylist()
    times = _times(chunk, columns, refusals, format)
    values: dict[str, list[Any]] = {}
    for name, column in chunk.columns.items():
        if name not in ("", columns.item, columns.begin, columns.end):
            if is_textual(column.type):
                column = texts_of(column, name, refusals)
                has_nul = pc.fill_null(pc.match_substring(column, "\0"), False)
                refusals.refuse(has_nul, name, "has a NUL character")
            values[name] = _of_lists(column, name, refusals) or as_python(column)
    rows, refused = [], []
    for row in np.flatnonzero(refusals.is_good).tolist():
        told = {name: column[row] for name, column in values.items()}
        line = int(chunk.lines[row])
        made = _row(item_ids[row], told, columns, format, times=times, place=row)
        if isinstance(made, Change):
            rows.append(ItemRow(line, made))
        else:
            refused.append(RefusedLine(file, line, *made))
    return rows, sorted([*refusals.refused(), *refused], key=lambda line: line.line)


def _of_lists(column: pa.Array, name: str, refusals: Refusals) -> list[list[str | None] | None]:
    """Return lists of bytes as lists of text; nothing for any other type."""
    kind = column.type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
        return []
    if not (pa.types.is_binary(kind.value_type) or pa.types.is_large_binary(kind.value_type)):
        return []
    told: list[list[str | None] | None] = []
    is_broken = np.zeros(len(column), dtype=bool)
    for row, items in enumerate(column.to_pylist()):
        try:
            told.append(None if items is None else [_decoded(item) for item in items])
        except UnicodeDecodeError:
            is_broken[row] = True
            told.append(None)
    refusals.refuse(is_broken, name, "is not text in UTF-8")
    return told


def check_objects(
    objects: Objects, *, format: CatalogueFormat, file: str
) -> tuple[list[ItemRow], list[RefusedLine]]:
    """Sort the objects of JSON lines into changes and refused ones."""
    there = {name for told in objects.rows for name in told}
    columns = _Columns.of(format, there)
    moments = {
        name: pa.array([_text(told.get(name)) for told in objects.rows], pa.string())
        for name in (columns.begin, columns.end)
        if name is not None
    }
    lines = np.array(objects.lines, dtype=np.int64)
    refusals = Refusals(Chunk(moments, lines, objects.broken), file=file)
    times = _times(Chunk(moments, lines, []), columns, refusals, format)
    rows, refused = [], []
    for place in np.flatnonzero(refusals.is_good).tolist():
        line, told = objects.lines[place], objects.rows[place]
        made = _object_row(told, columns, format, times=times, place=place)
        if isinstance(made, Change):
            rows.append(ItemRow(line, made))
        else:
            refused.append(RefusedLine(file, line, *made))
    return rows, sorted([*refusals.refused(), *refused], key=lambda line: line.line)


_Times = Mapping[str, Sequence[int | None]]
_Problem = tuple[str, str, str]
"""Column, value and reason of a refused row."""


def _object_row(
    told: Mapping[str, Any],
    columns: _Columns,
    format: CatalogueFormat,
    *,
    times: _Times,
    place: int,
) -> Change | _Problem:
    try:
        item_id = valid_id(told.get(columns.item))
    except ValueError as exc:
        return columns.item, _shown(told.get(columns.item)), str(exc)
    given = {name: times[name] for name in times if _column(columns, name) in told}
    rest = {
        name: value
        for name, value in told.items()
        if name not in (columns.item, columns.begin, columns.end)
    }
    return _row(item_id, rest, columns, format, times=given, place=place)


def _row(
    item_id: str,
    told: Mapping[str, object],
    columns: _Columns,
    format: CatalogueFormat,
    *,
    times: _Times,
    place: int,
) -> Change | _Problem:
    """Return what a row says, its times apart; or what is wrong with it."""
    content: dict[str, object] = {}
    attributes: dict[str, object] = {}
    for name, value in told.items():
        if name == columns.title:
            words = " ".join(map(str, value)) if isinstance(value, list) else value
            content["title"] = None if words in ("", None) else str(words)
        elif name == columns.available:
            content["available"] = _truth(value)
        elif name == columns.category:
            content["categories"] = _listed(value, format)
        elif name == "attributes" and (whole := _object(value)) is not None:
            attributes |= {str(each): _json(part) for each, part in whole.items()}
        elif name != format.list_column:
            attributes[name] = _json(value)
        if name == format.list_column:
            attributes[name] = _listed(value, format)
    present = {name: value for name, value in attributes.items() if value not in ("", None)}
    if present or any(name not in columns for name in told):
        content["attributes"] = present
    try:
        given = stored_forms(content)
    except DataError as exc:
        field = str((exc.details or {}).get("field", "")).partition(".")[0]
        reason = exc.message.removeprefix(field).removesuffix(". Nothing was stored.").strip()
        column = _column(columns, field) or field
        return column, _shown(told.get(column)), reason
    if "available_from" in times:
        given["available_from"] = times["available_from"][place]
    if "available_until" in times:
        given["available_until"] = times["available_until"][place]
    return Change(item_id, given)


def _column(columns: _Columns, field: str) -> str | None:
    """Return the column that gives a field of an item."""
    named = {"title": columns.title, "categories": columns.category}
    named |= {"available": columns.available}
    return (named | {"available_from": columns.begin, "available_until": columns.end}).get(field)


def _times(
    chunk: Chunk, columns: _Columns, refusals: Refusals, format: CatalogueFormat
) -> dict[str, list[int | None]]:
    """Return the moments of each row, by the field that they give."""
    found: dict[str, list[int | None]] = {}
    for field, column in (("available_from", columns.begin), ("available_until", columns.end)):
        if column is not None:
            form = TimeForm(unit=format.time_unit)
            times, is_empty, _, _ = times_of(chunk, column, refusals, form=form)
            refusals.refuse((times < 0) & ~is_empty, column, "lies before 1970")
            is_late = times >= 253_402_300_800_000_000
            refusals.refuse(is_late & ~is_empty, column, "lies beyond the year 9999")
            found[field] = [
                None if empty else time
                for time, empty in zip(times.tolist(), is_empty.tolist(), strict=True)
            ]
    return found


def _truth(value: object) -> object:
    """Return whether a value says yes or no; as it is where it says neither."""
    word = str(value).strip().casefold()
    if value is None or word == "":
        return None
    return True if word in _YES else False if word in _NO else value


def _listed(value: object, format: CatalogueFormat) -> list[object]:
    if isinstance(value, list):
        return [_json(one) for one in value]
    if value in ("", None, format.empty_list):
        return []
    return categories.split(str(value), format.category_separator or "|")


def _object(value: object) -> Mapping[object, object] | None:
    """Return an object, or the one that a text says in JSON; None where it is neither."""
    found = _parsed(value) if isinstance(value, str) else value
    return found if isinstance(found, Mapping) else None


def _parsed(text: str) -> object:
    """Return the object that a text says in JSON, or None."""
    try:
        return json.loads(text) if text.startswith("{") else None
    except (ValueError, RecursionError):
        return None


def _json(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list):
        return [_json(one) for one in value]
    if isinstance(value, Mapping):
        return {str(name): _json(part) for name, part in value.items()}
    return value if value is None or isinstance(value, str | int | bool) else str(value)


def _decoded(value: bytes | None) -> str | None:
    return None if value is None else value.decode()


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _shown(value: object) -> str:
    return "" if value is None else str(value)[:VALUE_SHOWN]
