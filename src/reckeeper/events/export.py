"""The way out: interactions and the catalogue as files that an import reads again."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from reckeeper import storage
from reckeeper.tabular import TableFile

INTERACTIONS = pa.schema(
    [
        ("event_id", pa.string()),
        ("user_id", pa.string()),
        ("item_id", pa.string()),
        ("interaction_type", pa.string()),
        ("weight", pa.float64()),
        ("occurred_at", pa.timestamp("us", "UTC")),
    ]
)
ITEMS = pa.schema(
    [
        ("item_id", pa.string()),
        ("title", pa.string()),
        ("categories", pa.string()),
        ("available", pa.bool_()),
        ("available_from", pa.timestamp("us", "UTC")),
        ("available_until", pa.timestamp("us", "UTC")),
        ("attributes", pa.string()),
    ]
)
"""Categories and attributes are JSON, which an import of items reads."""


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """Which interactions are written; times are microseconds since 1970 UTC, `until` excluded."""

    since: int | None = None
    until: int | None = None
    users: Sequence[str] = ()
    types: Sequence[str] = ()

    @property
    def is_all(self) -> bool:
        """Whether none is left out."""
        return self == Chosen()


def export_interactions(
    database: storage.Database,
    path: Path,
    chosen: Chosen | None = None,
    *,
    on_progress: Callable[[int, int], None] | None = None,
) -> int:
    """Write interactions as they are at one moment, in the order in which they came.

    Memory is bounded by a batch. An import of the file stores the same
    interactions, and those that are there already only once.

    Parameters
    ----------
    database : storage.Database
    path : Path
        Its name says what it becomes: see `TableFile`. It is there once it is whole.
    chosen : Chosen, optional
        Default: all.
    on_progress : callable, optional
        Called after each batch with how many rows are written, and of how many; 0 if nobody
        knows.

    Returns
    -------
    int
        Rows written.

    Raises
    ------
    DataError
        The file cannot be written.
    """
    chosen = chosen or Chosen()
    file = TableFile(path)
    with database.read() as connection:
        total = storage.interactions.count(connection) if chosen.is_all else 0
        batches = storage.activity.rows(connection, **vars(chosen))
        return file.write(
            INTERACTIONS,
            _counted((_batch(INTERACTIONS, rows) for rows in batches), total, on_progress),
        )


def export_items(
    database: storage.Database,
    path: Path,
    *,
    on_progress: Callable[[int, int], None] | None = None,
) -> int:
    """Write the catalogue as it is at one moment; see `export_interactions`."""
    file = TableFile(path)
    with database.read() as connection:
        batches = (
            _batch(ITEMS, [_described(item) for item in rows])
            for rows in storage.items.changed_since(connection, 0)
        )
        return file.write(ITEMS, _counted(batches, 0, on_progress))


def _counted(
    batches: Iterator[pa.RecordBatch],
    total: int,
    on_progress: Callable[[int, int], None] | None,
) -> Iterator[pa.RecordBatch]:
    n_rows = 0
    for batch in batches:
        yield batch
        n_rows += batch.num_rows
        if on_progress is not None:
            on_progress(n_rows, total)


def _described(item: storage.items.RawItem) -> tuple[object, ...]:
    return (
        *(item.item_id, item.title, _plain(item.categories), item.available),
        *(item.available_from, item.available_until, _plain(item.attributes)),
    )


def _plain(content: str) -> str:
    """Return JSON as people write it, without escapes of letters."""
    return json.dumps(json.loads(content), ensure_ascii=False)


def _batch(schema: pa.Schema, rows: Sequence[Sequence[object]]) -> pa.RecordBatch:
    columns = zip(*rows, strict=True)
    arrays = [
        pa.array(column, pa.int64()).cast(field.type)
        if pa.types.is_timestamp(field.type)
        else pa.array(column, field.type)
        for column, field in zip(columns, schema, strict=True)
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)
