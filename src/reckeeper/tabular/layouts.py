"""Tables that are laid out otherwise: matrices, lists of ids, and names with types in them."""

import dataclasses
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from reckeeper.errors import DataError, alternatives
from reckeeper.tabular.columns import is_text
from reckeeper.tabular.files import FileSource
from reckeeper.tabular.forms import WHITE_SPACE, Form
from reckeeper.tabular.lines import lines_of
from reckeeper.tabular.source import CHUNK_ROWS, Chunk, RefusedLine, Source
from reckeeper.tabular.streams import unpacked
from reckeeper.tabular.translation import Translated

_CELLS_AT_ONCE = 2_000_000
_IDS_AT_ONCE = 500_000
_MOST_LINE_BYTES = 64 * 1024 * 1024

_NOTHING = r"^\s*[+-]?0*(?:[.,]0*)?\s*$"
"""A cell that is empty, or 0."""

_BETWEEN_IDS = bytes.maketrans(b',;|"', b"    ")
_TYPED = re.compile(r"(?P<name>.+):(?P<type>token|float|token_seq|float_seq)")


class _Derived:
    """A source that gives another one's rows in another way."""

    def __init__(self, source: Source) -> None:
        self.name = source.name
        self.short_name = source.short_name
        self.database_id = source.database_id
        self.has_header = source.has_header
        self.unit = source.unit
        self.bytes_total = source.bytes_total
        self.columns = source.columns
        self.late = source.late
        self._source = source

    @property
    def form(self) -> Form | None:
        """What the file was found to be."""
        return self._source.form

    @property
    def bytes_done(self) -> int:
        """How much of it was read."""
        return self._source.bytes_done

    def fingerprint(self) -> str:
        """Return that of the file."""
        return self._source.fingerprint()


class Matrix(_Derived):
    """A matrix as rows: users down, items across, and a row for each cell with something in it.

    A cell that is empty or 0 is nothing.

    Raises
    ------
    DataError
        There is no such column of users, or two of one item.
    """

    def __init__(self, source: Source, form: Form) -> None:
        super().__init__(source)
        users = source.columns[0] if form.users is None else form.users
        if users not in source.columns:
            raise DataError(
                f"{source.name} has no column {users!r}{alternatives(users, source.columns)}."
            )
        self._users = users
        self._items = [name for name in source.columns if name != users]
        if not self._items:
            raise DataError(
                f"{source.name} has one column, and a matrix has one for each item. Is the "
                "delimiter right?"
            )
        if len(set(source.columns)) < len(source.columns):
            twice = next(name for name in self._items if source.columns.count(name) > 1)
            raise DataError(f"{source.name} has two columns of the item {twice!r}: join them.")
        self._null_words = form.null_words
        self.columns = [form.users or "user_id", "item_id", "weight"]

    def chunks(self, wanted: Sequence[str], *, at_most: int = CHUNK_ROWS) -> Iterator[Chunk]:
        """Give the cells with something in them."""
        n_users = max(1, _CELLS_AT_ONCE // len(self._items))
        for matrix in self._source.chunks([self._users, *self._items], at_most=n_users):
            broken = matrix.broken
            for places in self._alike(matrix):
                rows, columns, cells = self._filled(matrix, places)
                for start in range(0, len(rows), at_most):
                    part = slice(start, start + at_most)
                    values = (
                        matrix.columns[self._users].take(pa.array(rows[part])),
                        pa.array(self._items).take(pa.array(columns[part])),
                        cells[part],
                    )
                    named = dict(zip(self.columns, values, strict=True))
                    yield Chunk(
                        {name: named[name] for name in wanted},
                        matrix.lines[rows[part]],
                        broken,
                        columns[part],
                    )
                    broken = []
            if broken:
                empty = {name: pa.nulls(0) for name in wanted}
                yield Chunk(empty, np.empty(0, np.int64), broken)

    def _alike(self, matrix: Chunk) -> list[list[int]]:
        """Return the places of the items whose columns have one type."""
        found: dict[pa.DataType, list[int]] = {}
        for place, name in enumerate(self._items):
            found.setdefault(matrix.columns[name].type, []).append(place)
        return list(found.values())

    def _filled(self, matrix: Chunk, places: list[int]) -> tuple[np.ndarray, np.ndarray, pa.Array]:
        """Return row and column of each cell with something in it, and what that is."""
        cells = pa.concat_arrays([matrix.columns[self._items[place]] for place in places])
        at = np.flatnonzero(_has_something(cells, self._null_words))
        columns, rows = np.divmod(at, max(1, len(matrix.lines)))
        columns = np.array(places)[columns]
        order = np.lexsort((columns, rows))
        return rows[order], columns[order], cells.take(pa.array(at[order]))


def _has_something(cells: pa.Array, null_words: Sequence[str]) -> np.ndarray:
    kind = cells.type
    if pa.types.is_null(kind):
        is_filled = pa.array(np.zeros(len(cells), dtype=bool))
    elif pa.types.is_boolean(kind):
        is_filled = cells
    elif pa.types.is_floating(kind):
        cells = cells.cast(pa.float64())  # half floats have no comparison
        is_filled = pc.and_(pc.not_equal(cells, 0), pc.invert(pc.is_nan(cells)))
    elif pa.types.is_integer(kind):
        is_filled = pc.not_equal(cells, pa.scalar(0, kind))
    elif pa.types.is_decimal(kind):
        is_filled = pc.not_equal(cells, 0)
    elif is_text(kind):
        words = pa.array([word.encode() for word in null_words], pa.binary()).cast(kind)
        is_nothing = pc.or_(
            pc.match_substring_regex(cells, _NOTHING), pc.is_in(cells, value_set=words)
        )
        is_filled = pc.invert(is_nothing)
    else:
        is_filled = cells.is_valid()
    filled: np.ndarray = pc.fill_null(is_filled, False).to_numpy(zero_copy_only=False)
    return filled


class ListSource(FileSource):
    """A file with a user's ids in each line: the user's own, then those of items.

    Without a delimiter, white space, commas, semicolons, vertical bars and quotation marks stand
    between ids.
    """

    def __init__(self, path: Path, form: Form, name: str | None) -> None:
        super().__init__(path, form, name)
        self.bytes_done = 0
        self.columns = ["user_id", "item_id"]

    def chunks(self, wanted: Sequence[str], *, at_most: int = CHUNK_ROWS) -> Iterator[Chunk]:
        """Give a row for each line, with a list of items."""
        users: list[bytes] = []
        items: list[bytes] = []
        ends, numbers = [0], list[int]()
        broken: list[RefusedLine] = []
        number = self.form.skip_lines or 0
        form = dataclasses.replace(self.form, delimiter=",")
        with unpacked(self.path, form.compression or "none", max_ratio=form.max_ratio) as content:
            for lines in lines_of(Translated(content, form), at_most=_MOST_LINE_BYTES):
                for line in lines:
                    number += 1
                    ids = self._ids(line)
                    if len(line) > _MOST_LINE_BYTES:
                        reason = f"is longer than {_MOST_LINE_BYTES:,} bytes"
                        broken.append(RefusedLine(self.short_name, number, "", "", reason))
                    elif ids:
                        users.append(ids[0])
                        items += ids[1:]
                        ends.append(len(items))
                        numbers.append(number)
                    if len(items) >= _IDS_AT_ONCE or len(users) + len(broken) >= at_most:
                        yield self._chunk(wanted, users, items, ends, numbers, broken)
                        users, items, ends, numbers, broken = [], [], [0], [], []
                self.bytes_done = content.bytes_done
        if users or broken:
            yield self._chunk(wanted, users, items, ends, numbers, broken)

    def _ids(self, line: bytes) -> list[bytes]:
        delimiter = self.form.delimiter
        if delimiter is None:
            return line.translate(_BETWEEN_IDS).split()
        if delimiter == WHITE_SPACE:
            return line.split()
        return [part for each in line.split(delimiter.encode()) if (part := each.strip())]

    def _chunk(
        self,
        wanted: Sequence[str],
        users: list[bytes],
        items: list[bytes],
        ends: list[int],
        lines: list[int],
        broken: list[RefusedLine],
    ) -> Chunk:
        lists = pa.LargeListArray.from_arrays(
            pa.array(ends, pa.int64()), pa.array(items, pa.binary())
        )
        columns = {"user_id": pa.array(users, pa.binary()), "item_id": lists}
        return Chunk(
            {name: columns[name] for name in wanted}, np.array(lines, dtype=np.int64), broken
        )


class Typed(_Derived):
    """A table with types in its names, as RecBole has it: ``user_id:token``, ``genre:token_seq``.

    What is a sequence becomes a list.
    """

    def __init__(self, source: Source) -> None:
        super().__init__(source)
        typed = [_TYPED.fullmatch(name) for name in source.columns]
        self.columns = [found["name"] for found in typed if found]
        self._full = dict(zip(self.columns, source.columns, strict=True))

    @staticmethod
    def fits(source: Source) -> bool:
        """Say whether all names have types."""
        return all(_TYPED.fullmatch(name) for name in source.columns)

    def chunks(self, wanted: Sequence[str], *, at_most: int = CHUNK_ROWS) -> Iterator[Chunk]:
        """Give the rows."""
        names = {name: self._full[name] for name in wanted}
        for chunk in self._source.chunks(list(names.values()), at_most=at_most):
            columns = {name: _sequence(chunk.columns[full], full) for name, full in names.items()}
            yield chunk._replace(columns=columns)


def _sequence(values: pa.Array, name: str) -> pa.Array:
    is_sequence = name.endswith("_seq") and pa.types.is_binary(values.type)
    return pc.split_pattern(values, b" ") if is_sequence else values
