"""Text as a table: rows between line ends, values between delimiters."""

import collections
import contextlib
import csv
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from reckeeper.errors import DataError
from reckeeper.tabular import streams, translation
from reckeeper.tabular.files import FileSource, one_line, regrouped
from reckeeper.tabular.forms import Form
from reckeeper.tabular.source import (
    CHUNK_ROWS,
    MOST_COLUMNS,
    VALUE_SHOWN,
    Chunk,
    RefusedLine,
    rows_at,
)

_BLOCK_BYTES = 1024 * 1024
_MOST_BROKEN = 100_000
_END = "\U0010fefe"
"""In each column of a line behind the last; no text has the character."""
"""Arrow holds 8 kilobytes for each."""


_AS_THEY_STAND = "--quote none reads them as they stand"


class _Broken(NamedTuple):
    record: int
    n_lines: int
    reason: str
    text: str


class TextSource(FileSource):
    """A text file, of the form that was found or given."""

    def __init__(self, path: Path, form: Form, name: str | None) -> None:
        super().__init__(path, form, name)
        self._has_quotes = bool(form.has_quotes)
        self._has_escapes = bool(form.has_escapes) and self._has_quotes
        self._is_plain = translation.is_plain(form)
        self._delimiter = form.delimiter or ""
        self._sign = self._delimiter if self._is_plain else translation.SEPARATOR
        if translation.is_one_sign(self._delimiter):
            self._sign = self._delimiter
        self._skip_lines = form.skip_lines or 0
        self._end = b""
        self.has_header = form.has_header
        self._broken: collections.deque[_Broken] = collections.deque()
        self._done: Callable[[], int] = int
        self._stream: translation.Sound | translation.Translated | None = None
        self.columns, self._header_lines = self._header()
        if self._has_quotes:
            self._end = f"\n{self._sign.join([_END] * len(self.columns))}".encode()

    @property
    def bytes_done(self) -> int:
        """How much has been read, of `bytes_total`."""
        return self._done()

    def _header(self) -> tuple[list[str], int]:
        start = streams.start_of(self.path, self.form.compression or "")
        text = translation.text_of(start, self.form)
        self._offset = 0
        if self._skip_lines:
            text, _ = translation.without_lines(text, self._skip_lines)
            if not text:
                raise DataError(
                    f"{self.name} has nothing within its first {len(start):,} bytes behind the "
                    f"{self._skip_lines} lines to be left out."
                )
            self._offset = len(start) - len(text.encode("utf-8", "surrogateescape"))
        reader = translation.rows_of(
            text, self._delimiter, has_quotes=self._has_quotes, has_escapes=self._has_escapes
        )
        try:
            names: list[str] = next(reader, [])
            n_lines = reader.line_num
            "".join(names).encode()
            self._is_header_alone = len(start) < streams.START_BYTES and next(reader, None) is None
        except (csv.Error, UnicodeEncodeError) as exc:
            raise DataError(
                f"{self.name} does not begin with a line of column names in "
                f"{(self.form.encoding or '').upper()}: it is neither CSV nor Parquet. Export it "
                "as one of these."
            ) from exc
        if not any(names):
            wanted = "column names" if self.has_header else "a row, which says how many columns"
            raise DataError(
                f"{self.name} begins with an empty line: {wanted} must stand there. Take it "
                "out, or leave it out with --skip-lines."
            )
        if len(names) > MOST_COLUMNS:
            raise DataError(
                f"{self.name} has {len(names):,} columns, and at most {MOST_COLUMNS:,} can be "
                "read: does that really stand between values? --delimiter says what does."
            )
        if not self.has_header:
            self._is_header_alone = False
            return [str(number) for number in range(1, len(names) + 1)], 0
        return names, n_lines

    def chunks(self, wanted: Sequence[str], *, at_most: int = CHUNK_ROWS) -> Iterator[Chunk]:
        """Give the rows."""
        if not self._is_header_alone:
            yield from regrouped(self._blocks(wanted), at_most)

    def _blocks(self, wanted: Sequence[str]) -> Iterator[Chunk]:
        places = {name: self.columns.index(name) for name in wanted}
        record, line = 1 + self.has_header, 1 + self._skip_lines + self._header_lines
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
        except (pa.ArrowInvalid, OSError, DataError) as exc:
            if isinstance(exc, DataError) and not streams.is_damage(exc):
                raise
            what = one_line(exc.__cause__ or exc)
            if "straddling" in what:
                what = (
                    f"a row is longer than {_BLOCK_BYTES} bytes, or a quotation mark that begins "
                    "a value has no other that ends it"
                )
            raise DataError(f"{self.name} cannot be read beyond line {line - 1}: {what}.") from exc
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
        with self._opened() as readable, pa.PythonFile(readable, "r") as stream:
            try:
                with readable.awaited():
                    reader = self._reader(stream, names)
                while True:
                    with readable.awaited():
                        batch = next(reader, None)
                    if batch is None:
                        return
                    yield self._restored(self._without_end(batch))
            finally:
                readable.stop()

    def _without_end(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        last = batch.slice(max(0, batch.num_rows - 1))
        is_end = self._end and all(column.to_pylist() == [_END.encode()] for column in last.columns)
        return batch.slice(0, batch.num_rows - 1) if is_end else batch

    def _restored(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        if self._stream is None or not self._stream.is_restored_by_hand:
            return batch
        columns = [
            pa.array(map(translation.restored, column.to_pylist()), pa.binary())
            if translation.stands_in(column.buffers()[2])
            else column
            for column in batch.columns
        ]
        return pa.RecordBatch.from_arrays(columns, names=batch.schema.names)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[streams.Readable]:
        """Open what Arrow reads."""
        with streams.unpacked(
            self.path, self.form.compression or "", max_ratio=self.form.max_ratio
        ) as content:
            self._done = lambda: content.bytes_done
            if self._is_plain:
                content.skip(self._offset)
                self._stream = translation.Sound(content)
            else:
                self._stream = translation.Translated(content, self.form)
            yield streams.Readable(
                translation.Ended(self._stream, self._end, has_escapes=self._has_escapes)
            )
        self._done = lambda: self.bytes_total

    def _reader(self, stream: pa.NativeFile, names: list[str]) -> Iterator[pa.RecordBatch]:
        reader: Iterator[pa.RecordBatch] = pa.csv.open_csv(
            stream,
            # One thread: records are numbered only then, and decoding is not what takes time.
            read_options=pa.csv.ReadOptions(
                use_threads=False,
                block_size=_BLOCK_BYTES,
                column_names=names,
                skip_rows_after_names=int(self.has_header),
            ),
            parse_options=pa.csv.ParseOptions(
                delimiter=self._sign,
                quote_char='"' if self._has_quotes else False,
                escape_char="\\" if self._has_escapes else False,
                newlines_in_values=self._has_quotes,
                ignore_empty_lines=False,
                invalid_row_handler=self._on_broken,
            ),
            convert_options=pa.csv.ConvertOptions(
                check_utf8=False, column_types=dict.fromkeys(names, pa.binary())
            ),
        )
        return reader

    def _swallowing(
        self, batch: pa.RecordBatch, n_breaks: np.ndarray, lines: np.ndarray
    ) -> dict[int, RefusedLine]:
        """Return the rows with a value in which whole rows seem to stand, by their places.

        A quotation mark that is not meant as one holds all together up to the next, or up to the
        end.
        """
        found: dict[int, RefusedLine] = {}
        if not self._has_quotes:
            return found
        for row in np.flatnonzero(n_breaks).tolist():
            for place, column in enumerate(batch.columns):
                value = column[row].as_py() or b""
                reason = self._unsound(value, place)
                if reason:
                    value = value.removesuffix(self._end)
                    shown = value[:VALUE_SHOWN].decode(errors="backslashreplace")
                    found[row] = RefusedLine(
                        self.short_name, int(lines[row]), self.columns[place], shown, reason
                    )
                    break
        return found

    def _unsound(self, value: bytes, place: int) -> str:
        """Return why a value of several lines is none; nothing if it is one."""
        if value.endswith(self._end):
            return _not_closed(len(value.removesuffix(self._end).splitlines()))
        n_lines = self._swallowed(value, place)
        if not n_lines:
            return ""
        return (
            f"reaches over {n_lines} lines that could be rows: is a quotation mark not closed? "
            f"{_AS_THEY_STAND}"
        )

    def _swallowed(self, value: bytes, place: int) -> int:
        """Return over how many lines a value reaches, if it looks like several rows; else 0.

        Where a mark in one row and a mark in a later one hold them together, both stand in the
        same column, and between them are whole rows.
        """
        delimiter = self._sign.encode()
        _, *within = value.split(b"\n")
        if len(self.columns) < 2 or not within or within[-1].count(delimiter) != place:
            return 0
        rows = within[:-1]
        if not rows and not (place > 1 or (place and delimiter == b"\t")):
            return 0  # two lines of a text may well have a comma
        is_whole = all(line.count(delimiter) == len(self.columns) - 1 for line in rows)
        return len(within) + 1 if is_whole else 0

    def _on_broken(self, row: Any) -> str:
        if len(self._broken) >= _MOST_BROKEN:
            return "error"
        end = self._end.decode()
        is_open = bool(end) and row.text.endswith(end)
        text = row.text.removesuffix(end)
        n_lines = 1 + text.count("\n") + text.count("\r") - text.count("\r\n")
        reason = f"has {row.actual_columns} values, but there are {row.expected_columns} columns"
        if is_open:
            reason = _not_closed(len(text.encode().splitlines()))
        elif n_lines > 1:
            reason += f"; it reaches over {n_lines} lines: is a quotation mark not closed?"
        shown = translation.restored(text[:VALUE_SHOWN].encode()).decode(errors="backslashreplace")
        self._broken.append(_Broken(row.number, n_lines, reason, shown))
        return "skip"

    def _refused(self, broken: _Broken, line: int) -> RefusedLine:
        return RefusedLine(self.short_name, line, "", broken.text, broken.reason)


def _not_closed(n_lines: int) -> str:
    if n_lines < 2:
        return f"has a quotation mark that is not closed. {_AS_THEY_STAND}"
    return (
        f"reaches over {n_lines} lines, up to the end of the file: a quotation mark is not closed. "
        f"{_AS_THEY_STAND}"
    )


def _line_breaks(batch: pa.RecordBatch) -> np.ndarray:
    """Count the line breaks inside the values of each row."""
    total = np.zeros(batch.num_rows, dtype=np.int64)
    for column in batch.columns:
        content = column.buffers()[2]
        if content is None:
            continue
        signs = np.frombuffer(content, np.uint8)
        if (signs == ord("\n")).any():
            total = total + pc.count_substring(column, "\n").to_numpy()
        if (signs == ord("\r")).any():
            n_returns = pc.count_substring(column, "\r").to_numpy()
            total = total + n_returns - pc.count_substring(column, "\r\n").to_numpy()
    return total


def _is_filled(batch: pa.RecordBatch) -> np.ndarray:
    """Return which rows are more than an empty line, or one of delimiters alone."""
    is_filled = np.zeros(batch.num_rows, dtype=bool)
    for column in batch.columns:
        is_filled |= pc.binary_length(column).to_numpy() > 0
        if is_filled.all():
            break
    return is_filled
