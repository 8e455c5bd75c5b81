"""Writing a table: Parquet or CSV, whole or not at all."""

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from reckeeper import durable
from reckeeper.errors import DataError

_GROUP_ROWS = 500_000
"""Rows of a group: so many are held before they are written."""


def check_output(path: Path) -> None:
    """See that a Parquet file can be written, before its content is made.

    Raises
    ------
    DataError
        It has another name, its folder is not there, or it is a folder.
    """
    if path.suffix.lower() not in {".parquet", ".pq"}:
        raise DataError(f"{path} would be Parquet: give it a name that ends in .parquet.")
    if not path.parent.is_dir():
        raise DataError(f"The folder {path.parent} does not exist: make it, or name another.")
    if path.is_dir():
        raise DataError(f"{path} is a folder: name a file in it.")


def write_parquet(path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> int:
    """Write batches as a Parquet file, which takes the place of what is there once it is whole.

    Parameters
    ----------
    path : Path
    schema : pyarrow.Schema
    batches : iterable of pyarrow.RecordBatch
        What it raises is raised here, and what is there stays.

    Returns
    -------
    int
        Rows written.

    Raises
    ------
    DataError
        The file cannot be written.
    """
    n_rows = n_held = 0
    held: list[pa.RecordBatch] = []
    try:
        with (
            durable.replaced_file(path) as temporary,
            pa.parquet.ParquetWriter(temporary, schema) as writer,
        ):
            for batch in batches:
                held.append(batch)
                n_held += batch.num_rows
                if n_held >= _GROUP_ROWS:
                    writer.write_table(pa.Table.from_batches(held, schema))
                    n_rows, n_held, held = n_rows + n_held, 0, []
            writer.write_table(pa.Table.from_batches(held, schema))
    except OSError as exc:
        raise DataError(
            f"{path} cannot be written: {exc.strerror or exc}. Name a file in a folder that may be "
            "written to and has room."
        ) from exc
    return n_rows + n_held


_PARQUET, _CSV, _PACKED = (".parquet", ".pq"), ".csv", ".csv.gz"


class TableFile:
    """A table to be written: CSV, CSV packed by gzip, or Parquet, as its name ends.

    Parameters
    ----------
    path : Path
        Ends in ``.csv``, ``.csv.gz``, ``.parquet`` or ``.pq``.

    Raises
    ------
    DataError
        It has another name, its folder is not there, or it is a folder.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._name = path.name.lower()
        if not self._name.endswith((_CSV, _PACKED, *_PARQUET)):
            raise DataError(
                f"{path} says not what it is to be: give it a name that ends in .csv, .csv.gz or "
                ".parquet."
            )
        if not path.parent.is_dir():
            raise DataError(f"The folder {path.parent} does not exist: make it, or name another.")
        if path.is_dir():
            raise DataError(f"{path} is a folder: name a file in it.")

    def write(self, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> int:
        """Write batches, and return how many rows; the file is there once it is whole.

        Raises
        ------
        DataError
            It cannot be written; what is there stays.
        """
        if self._name.endswith(_PARQUET):
            return write_parquet(self._path, schema, batches)
        n_rows = 0
        try:
            with (
                durable.replaced_file(self._path) as temporary,
                _csv_writer(temporary, schema, is_packed=self._name.endswith(_PACKED)) as writer,
            ):
                for batch in batches:
                    writer.write_batch(_as_text(batch))
                    n_rows += batch.num_rows
        except OSError as exc:
            raise DataError(
                f"{self._path} cannot be written: {exc.strerror or exc}. Name a file in a folder "
                "that may be written to and has room."
            ) from exc
        return n_rows


class _Writer(Protocol):
    def write_batch(self, batch: pa.RecordBatch) -> None: ...


@contextlib.contextmanager
def _csv_writer(path: Path, schema: pa.Schema, *, is_packed: bool) -> Iterator[_Writer]:
    texts = pa.schema(
        (field.name, pa.string() if pa.types.is_timestamp(field.type) else field.type)
        for field in schema
    )
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(pa.OSFile(str(path), "wb"))
        if is_packed:
            file = stack.enter_context(pa.CompressedOutputStream(file, "gzip"))
        yield stack.enter_context(pa.csv.CSVWriter(file, texts))


def _as_text(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Return a batch with its times as they are written: RFC 3339, in UTC."""
    columns = [
        pc.strftime(column, format="%Y-%m-%dT%H:%M:%SZ")
        if pa.types.is_timestamp(column.type)
        else column
        for column in batch.columns
    ]
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names)
