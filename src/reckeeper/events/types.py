"""Which interaction types a file has, before it is imported."""

import contextlib
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from reckeeper.errors import DataError
from reckeeper.tabular import Form, open_source

_MOST_TYPES = 1_000


def count_types(
    path: Path, form: Form, column: str, *, most_rows: int = 1_000_000
) -> dict[str, int]:
    """Return the words in a column and how often each is there, the most frequent first.

    Parameters
    ----------
    path : Path
    form : Form
        What the file is, as `preview` found it.
    column : str
    most_rows : int
        So many rows are looked at. A column with more than a thousand words in them is no
        column of types: what was found up to there is returned.
    """
    found: Counter[str] = Counter()
    n_rows = 0
    # What cannot be read is for the import to refuse.
    with (
        contextlib.suppress(DataError, pa.ArrowException),
        open_source(path, form, named=[column]) as source,
    ):
        for chunk in source.chunks([column]):
            values = chunk.columns[column].cast(pa.string())
            for pair in pc.value_counts(values).to_pylist():
                if pair["values"]:
                    found[pair["values"].strip()] += pair["counts"]
            n_rows += len(chunk.lines)
            if n_rows >= most_rows or len(found) > _MOST_TYPES:
                break
    return dict(found.most_common(_MOST_TYPES))
