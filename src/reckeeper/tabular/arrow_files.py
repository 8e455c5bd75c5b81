"""Files that keep columns as Arrow has them: Parquet, and Arrow's own (Feather)."""

import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from reckeeper.errors import DataError
from reckeeper.tabular.arrow_messages import unpacked_sizes
from reckeeper.tabular.arrow_names import Place, places_of
from reckeeper.tabular.columns import is_list, plain
from reckeeper.tabular.files import FileSource, one_line
from reckeeper.tabular.forms import Form
from reckeeper.tabular.parquet_pages import Page, pages_of
from reckeeper.tabular.plain_sizes import MOST_BYTES, parts_of, plain_bytes
from reckeeper.tabular.source import CHUNK_ROWS, MOST_COLUMNS, Chunk

_LISTS_AT_ONCE = CHUNK_ROWS // 20
"""Rows with lists in them that are read at once: each may be long."""

_ENOUGH = 0.7
"""Of the rows that may be read at once: those of small row groups are joined up to this."""

_BUFFER_BYTES = 1024 * 1024
_LENGTH_BYTES = 4
_MOST_UNPACKED = 128 * 1024 * 1024
"""Bytes of a page, of a part of a batch, or of a row."""

_MOST_OF_BATCH = 512 * 1024 * 1024
"""Bytes to which a batch of Arrow's own format unpacks, and all its dictionaries."""

_FILE_MARK = b"ARROW1"
_BINARY = {pa.string(): pa.binary(), pa.large_string(): pa.large_binary()}


# Arrow decodes names and what pandas wrote beside them only when they are asked for.
_UNSOUND = (pa.ArrowException, OSError, ValueError, MemoryError)


def _unreadable(path: Path, kind: str, exc: Exception) -> DataError:
    if isinstance(exc, pa.ArrowNotImplementedError):
        return DataError(
            f"{path} has a column of a type that cannot be read ({one_line(exc)}): leave it out, "
            "or write it as text."
        )
    return DataError(f"{path} is not a sound {kind} file: {one_line(exc)}.")


def _index_first(schema: pa.Schema) -> list[str]:
    """Return the names of columns; what was the index of a data frame stands last in the file."""
    told = schema.pandas_metadata
    index = told.get("index_columns") if isinstance(told, dict) else None
    return sorted(schema.names, key=lambda name: isinstance(index, list) and name not in index)


def _told(values: pa.Array) -> pa.Array:
    """Return values without what is only a way of keeping them; text that is none as bytes.

    Nothing has checked text in Parquet, and a value that is none must cost its row alone.
    """
    values = plain(values)
    if is_list(values.type):
        items = _told(values.values)
        mask = values.is_null() if values.null_count else None
        return pa.LargeListArray.from_arrays(values.offsets, items, mask=mask)
    binary = _BINARY.get(values.type)
    if binary is not None:
        try:
            values.validate(full=True)
        except pa.ArrowInvalid:
            return values.cast(binary)
    return values


class ParquetSource(FileSource):
    """A Parquet file, to be closed."""

    def __init__(self, path: Path, form: Form, name: str | None) -> None:
        super().__init__(path, form, name)
        self._rows_done = 0
        try:
            # A buffer: without one, whole column chunks are read at once.
            self._file = pq.ParquetFile(path, buffer_size=_BUFFER_BYTES, pre_buffer=False)
            schema = self._file.schema_arrow
            _see_that_it_is_narrow(schema, self.name)
            self.columns, self._places = places_of(schema, _index_first(schema))
            if names := _with_dictionaries(self._file.metadata):
                self._file.close()
                self._file = pq.ParquetFile(
                    path,
                    metadata=self._file.metadata,
                    read_dictionary=names,
                    buffer_size=_BUFFER_BYTES,
                    pre_buffer=False,
                )
        except _UNSOUND as exc:
            raise _unreadable(path, "Parquet", exc) from exc

    @property
    def bytes_done(self) -> int:
        """How much of the file was read."""
        n_rows = int(self._file.metadata.num_rows)
        return self.bytes_total * self._rows_done // max(1, n_rows)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def chunks(self, wanted: Sequence[str], *, at_most: int = CHUNK_ROWS) -> Iterator[Chunk]:
        """Give the rows, so many at a time."""
        places = {name: self._places[name] for name in wanted}
        has_lists = any(place.has_lists for place in places.values())
        n_rows = min(at_most, _LISTS_AT_ONCE if has_lists else CHUNK_ROWS)
        names = [place.parquet_name for place in places.values()]
        tops = {place.top for place in places.values()}
        self._rows_done = 0
        try:
            for batch in self._batches(names, n_rows):
                for part in parts_of(batch, tops):
                    _see_that_it_is_small(part, tops, self.path, self._rows_done)
                    lines = np.arange(self._rows_done, self._rows_done + part.num_rows) + 1
                    self._rows_done += part.num_rows
                    if part.num_rows:
                        yield Chunk(self._told(part, places), lines, [])
        except _UNSOUND as exc:
            raise DataError(
                f"{self.path} cannot be read beyond row {self._rows_done}: {one_line(exc)}."
            ) from exc

    def _batches(self, names: Sequence[str], n_rows: int) -> Iterator[pa.RecordBatch]:
        """Give most of so many rows at a time, joined to half of `MOST_BYTES` at most."""
        held: list[pa.RecordBatch] = []
        for group in range(self._file.num_row_groups):
            at_once = self._rows_at_once(group, names, n_rows)
            for batch in self._file.iter_batches(at_once, row_groups=[group], columns=names):
                if sum(one.nbytes for one in (*held, batch)) > MOST_BYTES // 2:
                    yield from _joined(held, n_rows)
                    held = []
                held.append(batch)
                if sum(one.num_rows for one in held) >= _ENOUGH * n_rows:
                    yield from _joined(held, n_rows)
                    held = []
        yield from _joined(held, n_rows)

    def _rows_at_once(self, group: int, names: Sequence[str], at_most: int) -> int:
        """Return how many rows of a row group are read at once, by the heads of its pages.

        Raises
        ------
        DataError
            A page unpacks to more than can be.
        """
        metadata, wanted, n_rows = self._file.metadata, {*names}, at_most
        with self.path.open("rb") as file:
            for number in range(metadata.num_columns):
                column = self._file.schema.column(number)
                parts = column.path.split(".")
                if wanted.isdisjoint(".".join(parts[:n]) for n in range(1, len(parts) + 1)):
                    continue
                chunk = metadata.row_group(group).column(number)
                pages = pages_of(file, chunk)
                is_delta = any("DELTA" in encoding for encoding in chunk.encodings)
                is_within = _is_text(column) and _is_nested(column)
                row_bytes = self._row_bytes(
                    column.path, pages, is_delta=is_delta, is_within=is_within
                )
                row_bytes = max(row_bytes, int(column.length or 0))
                n_rows = min(n_rows, max(1, int(MOST_BYTES // max(1, row_bytes))))
        return n_rows

    def _row_bytes(
        self, column: str, pages: Iterable[Page], *, is_delta: bool, is_within: bool
    ) -> float:
        """Return how many bytes a row may take, beyond what its dictionary gives.

        Where values are told by how they differ from those before them, each may be as long as
        a page; text within lists and structs, as long as a dictionary.
        """
        most = 0.0
        for page in pages:
            size = max(page.n_bytes, _LENGTH_BYTES * page.n_values if is_delta else 0)
            if size > _MOST_UNPACKED:
                raise DataError(
                    f"{self.path} has a page in its column {column!r} that unpacks to {size:,} "
                    f"bytes, and at most {_MOST_UNPACKED:,} are unpacked at once. Write it with "
                    "smaller pages, or without the column."
                )
            if is_delta:
                most = max(most, 2 * page.n_bytes)  # Arrow puts them together, and copies that
            elif is_within and page.is_dictionary:
                most = max(most, page.n_bytes)
            elif not page.is_dictionary:
                most = max(most, page.n_bytes / max(1, page.n_values))
        return most

    def _told(self, batch: pa.RecordBatch, places: Mapping[str, Place]) -> dict[str, pa.Array]:
        return {name: _told(place.of(batch.column(place.top))) for name, place in places.items()}


def _joined(batches: Sequence[pa.RecordBatch], n_rows: int) -> Iterator[pa.RecordBatch]:
    """Give the rows of batches, at most so many at a time."""
    if batches:
        whole = pa.concat_batches(batches) if len(batches) > 1 else batches[0]
        yield from (whole.slice(at, n_rows) for at in range(0, whole.num_rows, n_rows))


def _with_dictionaries(metadata: pq.FileMetaData) -> list[str]:
    """Return the columns of text that have dictionaries: these stay so until rows are made.

    Arrow cannot leave them so below lists and structs.
    """
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    return [
        metadata.schema.column(number).path
        for number in range(metadata.num_columns)
        if _is_text(metadata.schema.column(number))
        and not _is_nested(metadata.schema.column(number))
        and any(group.column(number).has_dictionary_page for group in groups)
    ]


def _is_text(column: pq.ColumnSchema) -> bool:
    return bool(column.physical_type == "BYTE_ARRAY")


def _is_nested(column: pq.ColumnSchema) -> bool:
    return bool(column.path != column.name)


def _see_that_it_is_narrow(schema: pa.Schema, name: str) -> None:
    if len(schema) > MOST_COLUMNS:
        raise DataError(
            f"{name} has {len(schema):,} columns, and at most {MOST_COLUMNS:,} can be read: write "
            "those that count to another file."
        )


def _see_that_it_is_small(
    rows: pa.RecordBatch, tops: Collection[str], path: Path, rows_done: int
) -> None:
    if rows.num_rows == 1 and sum(plain_bytes(rows.column(top)) for top in tops) > _MOST_UNPACKED:
        raise DataError(
            f"{path}: row {rows_done + 1} takes more than {_MOST_UNPACKED:,} bytes. Leave it out."
        )


class ArrowSource(FileSource):
    """Arrow's own format, as a file (Feather) or as a stream."""

    def __init__(self, path: Path, form: Form, name: str | None) -> None:
        super().__init__(path, form, name)
        self.bytes_done = 0
        with path.open("rb") as file:
            self._is_stream = file.read(len(_FILE_MARK)) != _FILE_MARK
        try:
            with pa.memory_map(str(path)) as file:
                open_ = pa.ipc.open_stream if self._is_stream else pa.ipc.open_file
                schema = open_(file).schema
                _see_that_it_is_narrow(schema, self.name)
                self._tops = list(schema.names)
                self.columns, self._places = places_of(schema, self._tops)
        except _UNSOUND as exc:
            raise _unreadable(path, "Arrow", exc) from exc

    def chunks(self, wanted: Sequence[str], *, at_most: int = CHUNK_ROWS) -> Iterator[Chunk]:
        """Give the rows, so many at a time."""
        places = {name: self._places[name] for name in wanted}
        has_lists = any(place.has_lists for place in places.values())
        n_rows = min(at_most, _LISTS_AT_ONCE if has_lists else CHUNK_ROWS)
        tops = {place.top for place in places.values()}
        rows_done = 0
        try:
            self._see_that_it_unpacks()
            for batch in self._batches(tops):
                batch.validate(full=True)  # nothing else has checked what stands in the file
                slices = (batch.slice(at, n_rows) for at in range(0, batch.num_rows, n_rows))
                for part in itertools.chain.from_iterable(parts_of(one, tops) for one in slices):
                    _see_that_it_is_small(part, tops, self.path, rows_done)
                    lines = np.arange(rows_done, rows_done + part.num_rows) + 1
                    rows_done += part.num_rows
                    columns = {
                        name: plain(place.of(part.column(place.top)))
                        for name, place in places.items()
                    }
                    yield Chunk(columns, lines, [])
        except _UNSOUND as exc:
            raise DataError(
                f"{self.path} cannot be read beyond row {rows_done}: {one_line(exc)}."
            ) from exc

    def _see_that_it_unpacks(self) -> None:
        of_dictionaries = 0
        for one in unpacked_sizes(self.path, is_stream=self._is_stream):
            of_dictionaries += one.n_bytes if one.is_dictionary else 0
            n_bytes = of_dictionaries if one.is_dictionary else one.n_bytes
            if one.largest > _MOST_UNPACKED or n_bytes > _MOST_OF_BATCH:
                raise DataError(
                    f"{self.path} has a batch that unpacks to {n_bytes:,} bytes, "
                    f"{one.largest:,} of them in one part: at most {_MOST_OF_BATCH:,} and "
                    f"{_MOST_UNPACKED:,} are unpacked at once. Write it with fewer rows in each "
                    "batch, or unpacked."
                )

    def _batches(self, tops: Collection[str]) -> Iterator[pa.RecordBatch]:
        places = [place for place, name in enumerate(self._tops) if name in tops]
        options = pa.ipc.IpcReadOptions(included_fields=places)
        with pa.memory_map(str(self.path)) as file:
            if self._is_stream:
                for batch in pa.ipc.open_stream(file, options=options):
                    yield batch
                    self.bytes_done = file.tell()
            else:
                reader = pa.ipc.open_file(file, options=options)
                for number in range(reader.num_record_batches):
                    yield reader.get_batch(number)
                    self.bytes_done = self.bytes_total * (number + 1) // reader.num_record_batches
