"""Reading tables in chunks of columns: files of several kinds, and databases."""

import contextlib
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from reckeeper.errors import DataError
from reckeeper.tabular.detection import detect
from reckeeper.tabular.files import FileSource, one_line, plain
from reckeeper.tabular.forms import Form, Kind
from reckeeper.tabular.query import Query, Result
from reckeeper.tabular.source import CHUNK_ROWS, Chunk, RefusedLine, Source
from reckeeper.tabular.text import TextSource


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
    path: Path,
    form: Form | None = None,
    *,
    name: str | None = None,
    known: Collection[str] = (),
) -> Iterator[Source]:
    """Open a file.

    Parameters
    ----------
    path : Path
    form : Form, optional
        What the file is; what is left open is found out by `detect`.
    name : str, optional
        What the file is called, where its path says nothing.
    known : collection of str
        As of `detect`.

    Raises
    ------
    DataError
        It cannot be read, is empty, or does not begin with column names.
    """
    form = detect(path, form, known=known)
    if form.kind is Kind.PARQUET:
        with contextlib.closing(_ParquetSource(path, form, name)) as source:
            yield source
    else:
        yield TextSource(path, form, name)


class _ParquetSource(FileSource):
    def __init__(self, path: Path, form: Form, name: str | None) -> None:
        super().__init__(path, form, name)
        self._rows_done = 0
        try:
            # A buffer: without one, whole column chunks are read at once.
            self._file = pa.parquet.ParquetFile(path, buffer_size=1024 * 1024, pre_buffer=False)
        except (pa.ArrowException, OSError) as exc:
            raise DataError(f"{path} is not a sound Parquet file: {one_line(exc)}.") from exc
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
                    yield Chunk({name: plain(batch.column(name)) for name in wanted}, lines, [])
        except (pa.ArrowException, OSError) as exc:
            raise DataError(
                f"{self.path} cannot be read beyond row {self._rows_done}: {one_line(exc)}."
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
