"""Ids in a file: one a line, or a column of a table."""

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path

from reckeeper.errors import DataError, alternatives
from reckeeper.tabular.detection import detect
from reckeeper.tabular.forms import Form, Kind
from reckeeper.tabular.json_objects import read_objects
from reckeeper.tabular.reading import open_source

_DELIMITERS = {".csv": ",", ".tsv": "\t"}


def read_ids(path: Path, *, column: str) -> Iterator[tuple[int, object]]:
    """Yield the ids in a file, each with its line, or its row where there are no lines.

    Parquet, Arrow, JSON and what is called .csv or .tsv are tables; any other
    file has an id a line, where empty lines and `column` as the first are
    passed over. Text may be packed with gzip.

    Parameters
    ----------
    path : Path
    column : str
        Of a table.

    Raises
    ------
    DataError
        The file cannot be read, or has no such column.
    """
    suffixes = [suffix.lower() for suffix in path.suffixes]
    suffix = suffixes[-2] if suffixes[-1:] == [".gz"] and len(suffixes) > 1 else path.suffix.lower()
    if path.is_file() and not path.stat().st_size and suffix not in _DELIMITERS:
        return
    is_table = suffix in _DELIMITERS
    given = Form(delimiter=_DELIMITERS.get(suffix, ","), encoding=None if is_table else "utf-8")
    form = detect(path, given)
    if is_table or form.kind in (Kind.PARQUET, Kind.ARROW, Kind.WORKBOOK):
        yield from _of_table(path, column, form)
    elif form.kind in (Kind.JSON_LINES, Kind.JSON):
        yield from _of_objects(path, column, form)
    else:
        yield from _of_lines(path, column)


def _of_table(path: Path, column: str, form: Form) -> Iterator[tuple[int, object]]:
    with open_source(path, form) as source:
        if column not in source.columns:
            raise DataError(
                f"{path} has no column {column!r}{alternatives(column, source.columns)}."
            )
        for chunk in source.chunks([column]):
            for refused in chunk.broken:
                raise DataError(f"{path}, line {refused.line}, {refused.reason}.")
            values = [
                value.decode(errors="surrogateescape") if isinstance(value, bytes) else value
                for value in chunk.columns[column].to_pylist()
            ]
            yield from zip(chunk.lines.tolist(), values, strict=True)


def _of_objects(path: Path, column: str, form: Form) -> Iterator[tuple[int, object]]:
    for found in read_objects(path, form):
        for refused in found.broken:
            raise DataError(f"{path}, line {refused.line}, {refused.reason}.")
        for line, row in zip(found.lines, found.rows, strict=True):
            if column not in row:
                raise DataError(f"{path}, line {line}, has no {column!r}.")
            yield line, row[column]


def _of_lines(path: Path, column: str) -> Iterator[tuple[int, object]]:
    try:
        with path.open("rb") as file:
            is_packed = file.read(2) == b"\x1f\x8b"
        with gzip.open(path) if is_packed else path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
                if text and (number, text) != (1, column):
                    yield number, text
    except UnicodeDecodeError as exc:
        raise DataError(f"{path}, line {number}, is not UTF-8: save the file as UTF-8.") from exc
    except (OSError, EOFError, zlib.error) as exc:
        raise DataError(f"{path} cannot be read: {exc}.") from exc
