"""Reading tables in chunks of columns: from CSV (plain or gzip), Parquet, and databases."""

import collections
import contextlib
import csv
import gzip
import hashlib
import io
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from reckeeper.errors import DataError
from reckeeper.tabular.query import Query, Result
from reckeeper.tabular.source import CHUNK_ROWS, VALUE_SHOWN, Chunk, RefusedLine, Source, rows_at

# Arrow reads up to 32 of them ahead.
_BLOCK_BYTES = 1024 * 1024
_HEADER_BYTES = 1024 * 1024
_MOST_BROKEN = 100_000


def fingerprint(path: Path) -> str:
    """Return the SHA-256 of a file's content, unpacked if gzip packed it, in hexadecimal."""
    with path.open("rb") as file:
        if file.peek(2).startswith(b"\x1f\x8b"):
            with contextlib.suppress(OSError, EOFError, zlib.error), gzip.open(file) as unpacked:
                return hashlib.file_digest(unpacked, "sha256").hexdigest()
            file.seek(0)  # it is not whole
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def open_query(query: Query) -> Iterator[Source]:
    """Run a query on a database.

    Raises
    ------
    DataError
        The query is not accepted, or gives no rows.
    StorageError
        The database cannot be reached, or the connection was lost.
    """
    with query.open() as result:
        yield _QuerySource(query, result)


@contextlib.contextmanager
def open_source(
    path: Path, *, delimiter: str, has_quotes: bool | None = None, has_header: bool = True
) -> Iterator[Source]:
    """Open a file by what it begins with: Parquet, gzip, else CSV.

    Parameters
    ----------
    path : Path
    delimiter : str
        Of CSV.
    has_quotes : bool, optional
        Whether quotation marks in CSV hold values together. By default they do, unless tabs
        stand between the values and more rows can be read without.
    has_header : bool
        Whether CSV begins with the names of its columns; else they are named 1, 2 and so on.

    Raises
    ------
    DataError
        It cannot be read, is empty, or does not begin with column names.
    """
    shown = str(path).encode(errors="backslashreplace").decode()
    if shown != str(path):
        raise DataError(f"The name of {shown} is not UTF-8: rename the file, then import it.")
    if path.exists() and not path.is_file():
        raise DataError(f"{path} is no regular file: an import reads one twice. Save it as one.")
    try:
        with path.open("rb") as file:
            start = file.read(4)
    except OSError as exc:
        raise DataError(f"{path} cannot be read: {exc.strerror}.") from exc
    if not start:
        raise DataError(f"{path} is empty: it has no column names and no rows.")
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(f"{path} is text in UTF-16: save it as UTF-8 and import it again.")
    if start.startswith(b"PK\x03\x04"):
        raise DataError(f"{path} is a ZIP archive: unpack it and import the file in it.")
    if start == b"PAR1":
        source = _ParquetSource(path)
        try:
            yield source
        finally:
            source.close()
        return
    with pa.OSFile(str(path)) as raw:
        is_packed = start.startswith(b"\x1f\x8b")
        yield _CsvSource(
            path,
            raw,
            delimiter=delimiter,
            has_quotes=has_quotes,
            has_header=has_header,
            gzipped=is_packed,
        )


class _Broken(NamedTuple):
    record: int
    n_lines: int
    reason: str
    text: str


class _FileSource:
    database_id: str | None = None
    has_header = False

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = str(path)
        self.short_name = path.name
        self.bytes_total = path.stat().st_size

    def fingerprint(self) -> str:
        return fingerprint(self.path)


class _CsvSource(_FileSource):
    def __init__(
        self,
        path: Path,
        raw: Any,
        *,
        delimiter: str,
        has_quotes: bool | None,
        has_header: bool,
        gzipped: bool,
    ) -> None:
        super().__init__(path)
        self._raw = raw
        self._delimiter = delimiter
        self._has_quotes = has_quotes
        self.has_header = has_header
        self._gzipped = gzipped
        self._broken: collections.deque[_Broken] = collections.deque()
        self._stream = raw
        self.columns, self._header_lines = self._header()

    @property
    def bytes_done(self) -> int:
        return int(self._raw.tell())

    def _header(self) -> tuple[list[str], int]:
        try:
            with gzip.open(self.path) if self._gzipped else self.path.open("rb") as file:
                start = file.read(_HEADER_BYTES)
        except (OSError, EOFError, zlib.error) as exc:
            raise DataError(f"{self.path} cannot be unpacked: {exc}.") from exc
        text = start.decode("utf-8-sig", errors="surrogateescape")
        if self._has_quotes is None:
            self._has_quotes = self._delimiter != "\t" or not _is_plainer(text)
        reader = self._reader(text)
        try:
            names: list[str] = next(reader, [])
            n_lines = reader.line_num
            "".join(names).encode()
            self._is_header_alone = len(start) < _HEADER_BYTES and next(reader, None) is None
        except (csv.Error, UnicodeEncodeError) as exc:
            raise DataError(
                f"{self.path} does not begin with a line of column names in UTF-8: it is neither "
                "CSV nor Parquet. Export it as one of these."
            ) from exc
        if not any(names):
            raise DataError(
                f"{self.path} begins with an empty line: column names must stand there."
            )
        if not self.has_header:
            self._is_header_alone = False
            return [str(number) for number in range(1, len(names) + 1)], 0
        return names, n_lines

    def _reader(self, text: str) -> Any:
        return _csv_reader(text, delimiter=self._delimiter, has_quotes=bool(self._has_quotes))

    def chunks(self, wanted: Sequence[str]) -> Iterator[Chunk]:
        if not self._is_header_alone:
            yield from _regrouped(self._blocks(wanted))

    def _blocks(self, wanted: Sequence[str]) -> Iterator[Chunk]:
        places = {name: self.columns.index(name) for name in wanted}
        record, line = 1 + self.has_header, 1 + self._header_lines
        try:
            for batch in self._batches():
                n_rows = batch.num_rows
                broken: list[_Broken] = []
                while self._broken and self._broken[0].record < record + n_rows + len(broken):
                    broken.append(self._broken.popleft())
                n_lines = np.ones(n_rows + len(broken), dtype=np.int64)
                is_broken = np.zeros(len(n_lines), dtype=bool)
                is_broken[[one.record - record for one in broken]] = True
                n_lines[is_broken] = [one.n_lines for one in broken]
                n_breaks = _line_breaks(batch)
                n_lines[~is_broken] += n_breaks
                lines = line + np.cumsum(n_lines) - n_lines
                record += len(n_lines)
                line += int(n_lines.sum())
                is_filled = _is_filled(batch)
                swallowing = self._swallowing(batch, n_breaks, lines[~is_broken])
                is_filled[list(swallowing)] = False
                columns = {
                    name: rows_at(batch.column(at), is_filled) for name, at in places.items()
                }
                refused = [
                    self._refused(one, at)
                    for one, at in zip(broken, lines[is_broken].tolist(), strict=True)
                ]
                refused += swallowing.values()
                yield Chunk(columns, lines[~is_broken][is_filled], refused)
        except (pa.ArrowInvalid, OSError) as exc:
            what = _one_line(exc)
            if "straddling" in what:
                what = (
                    f"a row is longer than {_BLOCK_BYTES} bytes, or a quotation mark that begins "
                    "a value has no other that ends it"
                )
            raise DataError(f"{self.path} cannot be read beyond line {line - 1}: {what}.") from exc
        # Nothing follows these, so their records need no counting.
        while self._broken:
            part = [self._broken.popleft() for _ in range(min(CHUNK_ROWS, len(self._broken)))]
            refused = []
            for one in part:
                refused.append(self._refused(one, line))
                line += one.n_lines
            yield Chunk(
                {name: pa.array([], pa.binary()) for name in places}, np.empty(0, np.int64), refused
            )

    def _batches(self) -> Iterator[pa.RecordBatch]:
        # Names are places, since two columns may have one name; everything is
        # bytes, since a value that is not UTF-8 must cost its row alone.
        names = [str(place) for place in range(len(self.columns))]
        self._raw.seek(0)
        self._stream = pa.CompressedInputStream(self._raw, "gzip") if self._gzipped else self._raw
        reader = pa.csv.open_csv(
            self._stream,
            # One thread: records are numbered only then, and decoding is not what takes time.
            read_options=pa.csv.ReadOptions(
                use_threads=False,
                block_size=_BLOCK_BYTES,
                column_names=names,
                skip_rows_after_names=int(self.has_header),
            ),
            parse_options=pa.csv.ParseOptions(
                delimiter=self._delimiter,
                quote_char='"' if self._has_quotes else False,
                newlines_in_values=bool(self._has_quotes),
                ignore_empty_lines=False,
                invalid_row_handler=self._on_broken,
            ),
            convert_options=pa.csv.ConvertOptions(
                check_utf8=False, column_types=dict.fromkeys(names, pa.binary())
            ),
        )
        yield from reader

    def _swallowing(
        self, batch: pa.RecordBatch, n_breaks: np.ndarray, lines: np.ndarray
    ) -> dict[int, RefusedLine]:
        """Return the rows with a value in which whole rows seem to stand, by their places.

        A quotation mark that is not meant as one holds all together up to the next.
        """
        found: dict[int, RefusedLine] = {}
        if not self._has_quotes or len(self.columns) < 2:
            return found
        for row in np.flatnonzero(n_breaks).tolist():
            for place, column in enumerate(batch.columns):
                value = column[row].as_py() or b""
                n_lines = self._swallowed(value, place)
                if n_lines:
                    reason = (
                        f"reaches over {n_lines} lines that could be rows: is a quotation mark not "
                        "closed? --quote none reads them as they stand"
                    )
                    shown = value[:VALUE_SHOWN].decode(errors="backslashreplace")
                    found[row] = RefusedLine(
                        self.short_name, int(lines[row]), self.columns[place], shown, reason
                    )
                    break
        return found

    def _swallowed(self, value: bytes, place: int) -> int:
        """Return over how many lines a value reaches, if it looks like several rows; else 0.

        Where a mark in one row and a mark in a later one hold them together, both stand in the
        same column, and between them are whole rows.
        """
        delimiter = self._delimiter.encode()
        _, *within = value.split(b"\n")
        if not within or within[-1].count(delimiter) != place:
            return 0
        rows = within[:-1]
        if not rows and not (place > 1 or (place and delimiter == b"\t")):
            return 0  # two lines of a text may well have a comma
        is_whole = all(line.count(delimiter) == len(self.columns) - 1 for line in rows)
        return len(within) + 1 if is_whole else 0

    def _on_broken(self, row: Any) -> str:
        if len(self._broken) >= _MOST_BROKEN:
            return "error"
        n_lines = 1 + row.text.rstrip("\r\n").count("\n")
        reason = f"has {row.actual_columns} values, but there are {row.expected_columns} columns"
        if n_lines > 1:
            reason += f"; it reaches over {n_lines} lines: is a quotation mark not closed?"
        self._broken.append(_Broken(row.number, n_lines, reason, row.text[:VALUE_SHOWN]))
        return "skip"

    def _refused(self, broken: _Broken, line: int) -> RefusedLine:
        return RefusedLine(self.short_name, line, "", broken.text, broken.reason)


class _ParquetSource(_FileSource):
    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._rows_done = 0
        try:
            # A buffer: without one, whole column chunks are read at once.
            self._file = pa.parquet.ParquetFile(path, buffer_size=1024 * 1024, pre_buffer=False)
        except (pa.ArrowException, OSError) as exc:
            raise DataError(f"{path} is not a sound Parquet file: {_one_line(exc)}.") from exc
        self.columns = list(self._file.schema_arrow.names)

    @property
    def bytes_done(self) -> int:
        n_rows = int(self._file.metadata.num_rows)
        return self.bytes_total * self._rows_done // max(1, n_rows)

    def close(self) -> None:
        self._file.close()

    def chunks(self, wanted: Sequence[str]) -> Iterator[Chunk]:
        try:
            for batch in self._file.iter_batches(batch_size=CHUNK_ROWS, columns=list(wanted)):
                lines = np.arange(self._rows_done, self._rows_done + batch.num_rows) + 1
                self._rows_done += batch.num_rows
                if batch.num_rows:
                    yield Chunk({name: _plain(batch.column(name)) for name in wanted}, lines, [])
        except (pa.ArrowException, OSError) as exc:
            raise DataError(
                f"{self.path} cannot be read beyond row {self._rows_done}: {_one_line(exc)}."
            ) from exc


class _QuerySource:
    has_header = False
    bytes_total = 0
    bytes_done = 0

    def __init__(self, query: Query, result: Result) -> None:
        self.name = query.name
        self.short_name = query.masked_url
        self.database_id: str | None = query.database_id
        self.columns = result.columns
        self._query = query
        self._result = result

    def fingerprint(self) -> str:
        return self._query.fingerprint

    def chunks(self, wanted: Sequence[str]) -> Iterator[Chunk]:
        # They come as Python objects, which weigh more than what is in a file.
        for rows in self._result.read(wanted, at_most=CHUNK_ROWS // 2):
            broken = [RefusedLine(self.short_name, *unfit) for unfit in rows.unfit]
            yield Chunk(rows.columns, rows.numbers, broken)


def _one_line(exc: Exception) -> str:
    return str(exc).splitlines()[0].rstrip(".")


def _plain(values: pa.Array) -> pa.Array:
    return values.dictionary_decode() if pa.types.is_dictionary(values.type) else values


def _regrouped(chunks: Iterator[Chunk]) -> Iterator[Chunk]:
    """Join small chunks and cut large ones, so that they have most of `CHUNK_ROWS`."""
    held: list[Chunk] = []
    for chunk in chunks:
        held.append(chunk)
        if sum(len(one.lines) + len(one.broken) for one in held) > 0.7 * CHUNK_ROWS:
            yield from _slices(_joined(held))
            held = []
    if held:
        yield from _slices(_joined(held))


def _joined(chunks: list[Chunk]) -> Chunk:
    return Chunk(
        {
            name: pa.concat_arrays([one.columns[name] for one in chunks])
            for name in chunks[0].columns
        },
        np.concatenate([one.lines for one in chunks]),
        [line for one in chunks for line in one.broken],
    )


def _slices(chunk: Chunk) -> Iterator[Chunk]:
    """Cut rows into equal parts of at most `CHUNK_ROWS`; the broken ones go with the first."""
    n_rows = len(chunk.lines)
    n_parts = max(-(-n_rows // CHUNK_ROWS), 1 if chunk.broken else 0)
    for number in range(n_parts):
        start, stop = n_rows * number // n_parts, n_rows * (number + 1) // n_parts
        yield Chunk(
            {name: values.slice(start, stop - start) for name, values in chunk.columns.items()},
            chunk.lines[start:stop],
            chunk.broken if number == 0 else [],
        )


def _csv_reader(text: str, *, delimiter: str, has_quotes: bool) -> "Iterator[list[str]]":
    lines = io.StringIO(text, newline="")
    if has_quotes:
        return csv.reader(lines, delimiter=delimiter)
    return csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE)


def _is_plainer(text: str) -> bool:
    """Say whether more rows between tabs are whole where quotation marks mean nothing."""
    n_whole = []
    for has_quotes in (True, False):
        rows = _csv_reader(text, delimiter="\t", has_quotes=has_quotes)
        with contextlib.suppress(csv.Error):
            n_columns = len(next(rows, []))
            n_whole.append(sum(len(row) == n_columns for row in rows))
    return len(n_whole) == 2 and n_whole[1] > n_whole[0]


def _line_breaks(batch: pa.RecordBatch) -> np.ndarray:
    """Count the line breaks inside the values of each row."""
    total = np.zeros(batch.num_rows, dtype=np.int64)
    for column in batch.columns:
        content = column.buffers()[2]
        if content is not None and (np.frombuffer(content, np.uint8) == ord("\n")).any():
            total = total + pc.count_substring(column, "\n").to_numpy()
    return total


def _is_filled(batch: pa.RecordBatch) -> np.ndarray:
    """Return which rows are more than an empty line, or one of delimiters alone."""
    is_filled = np.zeros(batch.num_rows, dtype=bool)
    for column in batch.columns:
        is_filled |= pc.binary_length(column).to_numpy() > 0
        if is_filled.all():
            break
    return is_filled
