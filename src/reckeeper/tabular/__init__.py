"""Tables in bounded memory: other people's CSV, JSON lines, Parquet, queries; Parquet for them."""

from reckeeper.tabular.detection import detect
from reckeeper.tabular.forms import WHITE_SPACE, Form, Kind
from reckeeper.tabular.ids import read_ids
from reckeeper.tabular.json_lines import Objects, is_json_lines, read_json_lines
from reckeeper.tabular.query import Query
from reckeeper.tabular.reading import open_query, open_source
from reckeeper.tabular.source import VALUE_SHOWN, Chunk, RefusedLine, Source, rows_at
from reckeeper.tabular.streams import MAX_RATIO, fingerprint
from reckeeper.tabular.writing import check_output, write_parquet

__all__ = [
    "MAX_RATIO",
    "VALUE_SHOWN",
    "WHITE_SPACE",
    "Chunk",
    "Form",
    "Kind",
    "Objects",
    "Query",
    "RefusedLine",
    "Source",
    "check_output",
    "detect",
    "fingerprint",
    "is_json_lines",
    "open_query",
    "open_source",
    "read_ids",
    "read_json_lines",
    "rows_at",
    "write_parquet",
]
