"""Files that keep columns as Arrow has them: Parquet, and Arrow's own (Feather)."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from reckeeper.errors import DataError
from reckeeper.tabular.arrow_names import Place, places_of
from reckeeper.tabular.columns import is_list, plain
from reckeeper.tabular.files import FileSource, one_line
from reckeeper.tabular.forms import Form
from reckeeper.tabular.source import CHUNK_ROWS, Chunk

_LISTS_AT_ONCE = CHUNK_ROWS // 20
"""Rows with lists in them that are read at once: each may be long."""

_FEW = 100
_MOST_BYTES = 64 * 1024 * 1024
"""Of the rows that are read at once, if they are as long as the first."""

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
            self._file = pa.parquet.ParquetFile(path, buffer_size=1024 * 1024, pre_buffer=False)
            schema = self._file.schema_arrow
            self.columns, self._places = places_of(schema, _index_first(schema))
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
        try:
            for few in self._file.iter_batches(batch_size=_FEW, columns=names):
                n_rows = _rows_at_once(self._told(few, places), n_rows)
                break
            for batch in self._file.iter_batches(batch_size=n_rows, columns=names):
                lines = np.arange(self._rows_done, self._rows_done + batch.num_rows) + 1
                self._rows_done += batch.num_rows
                if batch.num_rows:
                    yield Chunk(self._told(batch, places), lines, [])
        except _UNSOUND as exc:
            raise DataError(
                f"{self.path} cannot be read beyond row {self._rows_done}: {one_line(exc)}."
            ) from exc

    def _told(self, batch: pa.RecordBatch, places: Mapping[str, Place]) -> dict[str, pa.Array]:
        return {name: _told(place.of(batch.column(place.top))) for name, place in places.items()}


def _rows_at_once(few: Mapping[str, pa.Array], at_most: int) -> int:
    """Return how many rows are read at once: a value that stands there often may be long."""
    n_bytes: int = sum(column.nbytes for column in few.values())
    n_rows = max((len(column) for column in few.values()), default=0)
    return max(1, min(at_most, n_rows * _MOST_BYTES // max(1, n_bytes)))


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
                self._tops = list(schema.names)
                self.columns, self._places = places_of(schema, self._tops)
        except _UNSOUND as exc:
            raise _unreadable(path, "Arrow", exc) from exc

    def chunks(self, wanted: Sequence[str], *, at_most: int = CHUNK_ROWS) -> Iterator[Chunk]:
        """Give the rows, so many at a time."""
        places = {name: self._places[name] for name in wanted}
        has_lists = any(place.has_lists for place in places.values())
        n_rows = min(at_most, _LISTS_AT_ONCE if has_lists else CHUNK_ROWS)
        rows_done = 0
        try:
            for batch in self._batches({place.top for place in places.values()}):
                batch.validate(full=True)  # nothing else has checked what stands in the file
                for start in range(0, batch.num_rows, n_rows):
                    part = batch.slice(start, n_rows)
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
