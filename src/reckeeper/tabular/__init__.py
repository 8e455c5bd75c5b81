"""Tables of other people, read in bounded memory: CSV, Parquet, and queries on their databases."""

from reckeeper.tabular.query import Query
from reckeeper.tabular.reading import (
    VALUE_SHOWN,
    Chunk,
    RefusedLine,
    Source,
    fingerprint,
    open_query,
    open_source,
    rows_at,
)

__all__ = [
    "VALUE_SHOWN",
    "Chunk",
    "Query",
    "RefusedLine",
    "Source",
    "fingerprint",
    "open_query",
    "open_source",
    "rows_at",
]
