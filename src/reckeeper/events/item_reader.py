"""Files of items, some rows at a time."""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from reckeeper.events import categories
from reckeeper.events.cells import as_python
from reckeeper.events.columns import find_items, find_titles
from reckeeper.events.formats import CatalogueFormat, check_catalogue
from reckeeper.events.item_rows import ItemRow, category_column, check_items, check_objects
from reckeeper.events.readings import are_whole, from_start
from reckeeper.tabular import Form, Kind, RefusedLine, Source, detect, open_source, read_objects


class Batch(NamedTuple):
    """Rows, those refused, and how many bytes were read by then."""

    rows: list[ItemRow]
    refused: list[RefusedLine]
    bytes_done: int


@contextlib.contextmanager
def open_items(
    path: Path, format: CatalogueFormat, *, is_alone: bool = False
) -> Iterator["ItemReader"]:
    """Open a file of items of any kind.

    Parameters
    ----------
    path : Path
    format : CatalogueFormat
    is_alone : bool
        Whether it comes without interactions.

    Raises
    ------
    DataError
        The file cannot be read, or lacks a column.
    """
    form = detect(path, format.form, known=format.names)
    if form.kind in (Kind.JSON_LINES, Kind.JSON):
        yield ItemReader(path, form, format, None)
        return
    with open_source(path, form, known=format.names) as source:
        format = _as_found(format, source.columns)
        check_catalogue(source, format, is_alone=is_alone)
        yield ItemReader(path, form, format, source)


def _as_found(format: CatalogueFormat, names: Sequence[str]) -> CatalogueFormat:
    """Return a format whose item and title have the names that people use, where theirs miss."""
    usual = CatalogueFormat()
    item, title = format.item_column, format.title_column
    if item == usual.item_column and item not in names and len(found := find_items(names)) == 1:
        item = found[0]
    others = [name for name in names if name != item]
    if (
        title == usual.title_column
        and title not in names
        and len(found := find_titles(others)) == 1
    ):
        title = found[0]
    return dataclasses.replace(format, item_column=item, title_column=title)


class ItemReader:
    """Reads a file of items, and finds out how categories are written in it.

    Parameters
    ----------
    path : Path
    form : Form
    format : CatalogueFormat
    source : Source or None
        None: objects are read.
    """

    def __init__(
        self, path: Path, form: Form, format: CatalogueFormat, source: Source | None
    ) -> None:
        self.short_name = path.name
        self.read_as = str(form)
        self.unit = form.unit
        self._path = path
        self._form = form
        self._format = format
        self._source = source
        self._is_told = format.category_separator is not None

    def batches(self) -> Iterator[Batch]:
        """Give the rows, some at a time; `read_as` is complete when the first are there."""
        if self._source is None:
            yield from self._of_objects()
            return
        are_fractions = None
        for chunk in self._source.chunks(self._source.columns):
            self._look_at(chunk.columns)
            if are_fractions is None:
                again = from_start(self._path, self._form)
                are_fractions = are_whole(chunk, self._format.item_column, again=again)
            rows, refused = check_items(
                chunk, format=self._format, file=self.short_name, are_fractions=are_fractions
            )
            yield Batch(rows, refused, self._source.bytes_done)

    def _of_objects(self) -> Iterator[Batch]:
        for objects in read_objects(self._path, self._form):
            if objects.rows and not self._is_told:
                names = {name for row in objects.rows for name in row}
                self._look_at({name: [row.get(name) for row in objects.rows] for name in names})
            rows, refused = check_objects(objects, format=self._format, file=self.short_name)
            yield Batch(rows, refused, objects.bytes_done)

    def _look_at(self, columns: Mapping[str, Sequence[object] | pa.Array]) -> None:
        """Find out how categories are written in the first rows that have some."""
        name = category_column(self._format, columns)
        if self._is_told or name is None:
            return
        self._is_told = True
        values = columns[name]
        values = as_python(values) if isinstance(values, pa.Array) else values
        texts = [
            value.decode(errors="replace") if isinstance(value, bytes) else value
            for value in values
            if value != self._format.empty_list
        ]
        separator = categories.separator_of(texts)
        self._format = dataclasses.replace(self._format, category_separator=separator)
        is_split = any(
            isinstance(text, str) and len(categories.split(text, separator)) > 1 for text in texts
        )
        if is_split:
            between = "in lists" if separator == categories.JSON else f"with {separator} between"
            self.read_as += f"; categories {between}"
