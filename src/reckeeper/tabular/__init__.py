"""Tables of other people in bounded memory: CSV, JSON lines, Parquet, queries on databases."""

from reckeeper.tabular.json_lines import Objects, is_json_lines, read_json_lines
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
    "Objects",
    "Query",
    "RefusedLine",
    "Source",
    "fingerprint",
    "is_json_lines",
    "open_query",
    "open_source",
    "read_json_lines",
    "rows_at",
]
