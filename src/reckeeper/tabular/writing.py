"""Writing a table: Parquet, whole or not at all."""

from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
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
