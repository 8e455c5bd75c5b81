"""What a table is to those who read it: names of columns, and rows in chunks."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import pyarrow as pa

from reckeeper.tabular.forms import Form

CHUNK_ROWS = 50_000
"""Most rows in a chunk, and so in one transaction: other writers wait about half a second."""

MOST_COLUMNS = 30_000
"""Of a file: more take minutes, and are none."""

VALUE_SHOWN = 100
"""Characters of a bad value that are shown."""


@dataclass(frozen=True)
class RefusedLine:
    """Why a row was refused; `line` counts what its file's `Source.unit` says."""

    file: str
    line: int
    column: str
    value: str
    reason: str


class Chunk(NamedTuple):
    """Some rows, each with its line, and those that could not even be split into columns.

    Where a line holds several rows, `parts` has the place of each in it, from 0 on.
    """

    columns: dict[str, pa.Array]
    lines: np.ndarray
    broken: list[RefusedLine]
    parts: np.ndarray | None = None


class Source(Protocol):
    """What is read: its column names, and its rows in chunks.

    Attributes
    ----------
    name : str
        The file's path, or the masked URL of a database with the query.
    short_name : str
        The file's name, or the masked URL.
    database_id : str or None
        What names the database; None for a file. A file's rows keep their
        places, a query's need not.
    columns : list of str
    has_header : bool
        Whether the first line was taken for the names of the columns.
    unit : str
        What is counted to say where a row stands: ``line``, ``row`` or ``element``.
    bytes_total : int
        Size of the file; 0 if nobody knows how much there will be.
    late : dict of str to int
        Columns that the first rows do not have, each with the first row that has it; 0: it lies
        farther on than was sought, and the column cannot be read.
    """

    name: str
    short_name: str
    database_id: str | None
    columns: list[str]
    has_header: bool
    unit: str
    bytes_total: int
    late: dict[str, int]

    @property
    def form(self) -> Form | None:
        """What a file was found to be; None for a query."""
        ...

    @property
    def bytes_done(self) -> int:
        """How much has been read, of `bytes_total`."""
        ...

    def fingerprint(self) -> str:
        """Return the SHA-256 of the file's content, or of database and query, in hexadecimal."""
        ...

    def chunks(self, wanted: Sequence[str], *, at_most: int = CHUNK_ROWS) -> Iterator[Chunk]:
        """Give the rows, so many at a time; `wanted` columns must be there."""
        ...


def rows_at(values: pa.Array, mask: np.ndarray) -> pa.Array:
    """Return the values where a mask is true."""
    return values if mask.all() else values.filter(pa.array(mask))
