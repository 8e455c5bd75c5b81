"""Sheets of Excel workbooks, row by row."""

import itertools
import re
import struct
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from reckeeper.errors import DataError, alternatives
from reckeeper.tabular.columns import chunk_of
from reckeeper.tabular.files import FileSource, one_line
from reckeeper.tabular.forms import Form
from reckeeper.tabular.source import CHUNK_ROWS, Chunk

_MOST_ROWS = 1_048_576
"""As Excel has it."""

_MOST_BYTES = 2 * 1024**3
_MOST_TAGS = 6_000_000
_WINDOW_BYTES = 8 * 1024**2
_SMALL_BYTES = 4 * 1024**2
"""A part of a workbook up to this is no danger, whatever is in it."""

_NO_TABLES = (".png", ".jpeg", ".jpg", ".gif", ".emf", ".wmf", ".bin")
_MOST_CELLS = 1_000_000
"""So many are held at once."""

_PIECE_BYTES = 1024 * 1024
_CONTENTS = "[Content_Types].xml"
_OPEN_DOCUMENT = {"mimetype", "content.xml"}
_STRINGS = re.compile(r"(?i)sharedstrings\.xml$")
_CELL_ERRORS = {"#N/A", "#NULL!", "#NAME?", "#NUM!", "#REF!", "#VALUE!", "#DIV/0!"}

# openpyxl checks little of what it reads: it fails in any of these ways where a workbook is broken.
_UNSOUND = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    NotImplementedError,
    OSError,
    RuntimeError,
    SyntaxError,  # of XML
    TypeError,
    ValueError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)


def is_workbook(path: Path) -> bool:
    """Say whether a ZIP archive is a workbook.

    Raises
    ------
    DataError
        It is one of another program.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except _UNSOUND:
        return False
    if _OPEN_DOCUMENT.issubset(names):
        raise DataError(f"{path} is an OpenDocument file: save it as .xlsx, or as CSV.")
    return _CONTENTS in names


class SheetSource(FileSource):
    """A sheet of a workbook; values of formulas are those that were last computed.

    The first row that is not empty has the names of the columns, or numbers take their place. To
    be closed.

    Raises
    ------
    DataError
        The workbook is broken, has no such sheet, or unpacks to far more than a table has.
    """

    def __init__(self, path: Path, form: Form, name: str | None) -> None:
        super().__init__(path, form, name)
        self.has_header = form.has_header
        self.bytes_done = 0
        # It takes a tenth of a second, which few files need.
        import openpyxl

        # It speaks of styles, charts and rules for input, which nobody asks for.
        warnings.filterwarnings("ignore", module="openpyxl")
        self._file = path.open("rb")  # of a path, openpyxl asks that it ends in .xlsx
        try:
            _check_size(path)
            self._book = openpyxl.load_workbook(self._file, read_only=True, data_only=True)
        except _UNSOUND as exc:
            self._file.close()
            raise DataError(f"{path} is no sound workbook (.xlsx): {one_line(exc)}.") from exc
        except DataError:
            self._file.close()
            raise
        try:
            self._sheet = self._chosen(form.sheet)
            self._n_rows = max(int(self._sheet.max_row or 0), 1)
            self._sheet.reset_dimensions()  # they may be wrong
            self._first_row = (form.skip_lines or 0) + 1
            self.columns = self._names()
        except DataError:
            self.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self._book.close()
        self._file.close()

    def _chosen(self, name: str | None) -> Any:
        sheets = {sheet.title: sheet for sheet in self._book.worksheets}
        if not sheets:
            raise DataError(f"{self.name} has no sheet with cells.")
        if name is not None and name not in sheets:
            raise DataError(
                f"{self.name} has no sheet {name!r}{alternatives(name, list(sheets))}: name one of "
                f"{', '.join(map(repr, sheets))} with --sheet."
            )
        return sheets[name] if name is not None else next(iter(sheets.values()))

    def _names(self) -> list[str]:
        for number, row in self._rows(self._first_row, None):
            names = ["" if value is None else str(value) for value in row]
            while names and not names[-1]:
                names.pop()
            if names:
                self._first_row = number + self.has_header
                if self.has_header:
                    return names
                return [str(place) for place in range(1, len(names) + 1)]
        raise DataError(f"{self.name}: the sheet {self._sheet.title!r} is empty.")

    def _rows(self, first: int, width: int | None) -> Iterator[tuple[int, Sequence[object]]]:
        """Give the rows, with their numbers."""
        number = first
        try:
            for row in self._sheet.iter_rows(min_row=first, max_col=width, values_only=True):
                if number > _MOST_ROWS:
                    raise DataError(f"{self.name} has more than {_MOST_ROWS:,} rows in a sheet.")
                yield number, row
                number += 1
        except _UNSOUND as exc:
            raise DataError(
                f"{self.name} cannot be read beyond row {number - 1} of the sheet "
                f"{self._sheet.title!r}: {one_line(exc)}."
            ) from exc

    def chunks(self, wanted: Sequence[str], *, at_most: int = CHUNK_ROWS) -> Iterator[Chunk]:
        """Give the rows that are not empty, so many at a time."""
        places = [self.columns.index(name) for name in wanted]
        rows = (
            (number, [row[place] for place in places])
            for number, row in self._rows(self._first_row, len(self.columns))
            if any(value not in (None, "") for value in row)
        )
        at_once = max(1, min(at_most, CHUNK_ROWS // 4, _MOST_CELLS // max(1, len(places))))
        while part := list(itertools.islice(rows, at_once)):
            yield self._chunk(part, wanted)

    def _chunk(self, rows: list[tuple[int, list[object]]], wanted: Sequence[str]) -> Chunk:
        lines = [number for number, _ in rows]
        self.bytes_done = self.bytes_total * min(lines[-1], self._n_rows) // self._n_rows
        values = {
            name: [_value(row[place]) for _, row in rows] for place, name in enumerate(wanted)
        }
        return chunk_of(values, lines, file=self.short_name)


def _value(value: object) -> object:
    """Return a cell's value; errors of formulas are nothing."""
    return None if isinstance(value, str) and value in _CELL_ERRORS else value


def _check_size(path: Path) -> None:
    """See that nothing in a workbook unpacks to what would not fit into memory.

    The texts that cells share are held whole, and all else a row at a time: so the texts may not
    be too many, and elsewhere rows must end often enough.

    Raises
    ------
    DataError
        It does.
    """
    with zipfile.ZipFile(path) as archive:
        parts = [part for part in archive.infolist() if not part.filename.endswith(_NO_TABLES)]
        if sum(part.file_size for part in parts) > _MOST_BYTES:
            raise DataError(
                f"{path} unpacks to more than {_MOST_BYTES / 1024**3:.3g} GiB: save it as CSV."
            )
        for part in parts:
            if part.file_size <= _SMALL_BYTES:
                continue
            is_text = _STRINGS.search(part.filename) is not None
            with archive.open(part) as file:
                if not (_has_few_tags(file) if is_text else _has_rows(file)):
                    raise DataError(
                        f"{path} has too much in its part {part.filename!r} to be read as a sheet: "
                        "save it as CSV."
                    )


def _has_few_tags(file: Any) -> bool:
    n_tags = 0
    while piece := file.read(_PIECE_BYTES):
        n_tags += piece.count(b"<")
        if n_tags > _MOST_TAGS:
            return False
    return True


def _has_rows(file: Any) -> bool:
    n_without = 0
    while piece := file.read(_PIECE_BYTES):
        n_without = 0 if b"</row>" in piece or b":row>" in piece else n_without + len(piece)
        if n_without > _WINDOW_BYTES:
            return False
    return True
