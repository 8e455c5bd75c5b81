"""Tables in bounded memory: other people's text, JSON, Parquet, queries; Parquet for them."""

from reckeeper.tabular.columns import is_text, spread
from reckeeper.tabular.detection import detect
from reckeeper.tabular.forms import WHITE_SPACE, Form, Kind, Layout, Written
from reckeeper.tabular.ids import read_ids
from reckeeper.tabular.json_objects import Objects, read_objects
from reckeeper.tabular.query import Query
from reckeeper.tabular.reading import open_query, open_source
from reckeeper.tabular.source import VALUE_SHOWN, Chunk, RefusedLine, Source, rows_at
from reckeeper.tabular.streams import fingerprint
from reckeeper.tabular.writing import TableFile, check_output, write_parquet

__all__ = [
    "VALUE_SHOWN",
    "WHITE_SPACE",
    "Chunk",
    "Form",
    "Kind",
    "Layout",
    "Objects",
    "Query",
    "RefusedLine",
    "Source",
    "TableFile",
    "Written",
    "check_output",
    "detect",
    "fingerprint",
    "is_text",
    "open_query",
    "open_source",
    "read_ids",
    "read_objects",
    "rows_at",
    "spread",
    "write_parquet",
]
