"""Reading tables in chunks of columns: files of several kinds, and databases."""

import contextlib
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from reckeeper.errors import DataError
from reckeeper.tabular.arrow_files import ArrowSource, ParquetSource
from reckeeper.tabular.detection import detect
from reckeeper.tabular.forms import Form, Kind, Layout
from reckeeper.tabular.json_objects import ObjectSource
from reckeeper.tabular.layouts import ListSource, Matrix, Typed
from reckeeper.tabular.query import Query, Result
from reckeeper.tabular.source import CHUNK_ROWS, Chunk, RefusedLine, Source
from reckeeper.tabular.text import TextSource
from reckeeper.tabular.workbook import SheetSource


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
    named: Collection[str] = (),
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
        As of `detect`; of objects, these names are columns too where only later ones have them.
    named : collection of str
        Columns that are there if any object has them.

    Raises
    ------
    DataError
        It cannot be read, is empty, or does not begin with column names.
    """
    form = detect(path, form, known=known)
    with contextlib.ExitStack() as stack:
        if form.kind in (Kind.JSON_LINES, Kind.JSON) and form.layout is not Layout.LISTS:
            source: Source = ObjectSource(path, form, name, known=known, named=named)
        else:
            source = _opened(path, form, name, stack)
        if form.layout is Layout.WIDE:
            source = Matrix(source, form)
        yield source


def _opened(path: Path, form: Form, name: str | None, stack: contextlib.ExitStack) -> Source:
    if form.layout is Layout.LISTS:
        if form.kind is not Kind.TEXT:
            raise DataError(f"{path} is {form}: lists of ids are text, with a user in each line.")
        return ListSource(path, form, name)
    match form.kind:
        case Kind.PARQUET:
            return stack.enter_context(contextlib.closing(ParquetSource(path, form, name)))
        case Kind.ARROW:
            return ArrowSource(path, form, name)
        case Kind.WORKBOOK:
            return stack.enter_context(contextlib.closing(SheetSource(path, form, name)))
        case _:
            source = TextSource(path, form, name)
            return Typed(source) if Typed.fits(source) else source


class _QuerySource:
    has_header = False
    unit = "row"
    form: Form | None = None
    bytes_total = 0
    bytes_done = 0

    def __init__(self, query: Query, result: Result) -> None:
        self.name = query.name
        self.short_name = query.masked_url
        self.database_id: str | None = query.database_id
        self.columns = result.columns
        self.late: dict[str, int] = {}
        self._query = query
        self._result = result

    def fingerprint(self) -> str:
        return self._query.fingerprint

    def chunks(self, wanted: Sequence[str], *, at_most: int = CHUNK_ROWS) -> Iterator[Chunk]:
        # They come as Python objects, which weigh more than what is in a file.
        for rows in self._result.read(wanted, at_most=min(at_most, CHUNK_ROWS // 2)):
            broken = [RefusedLine(self.short_name, *unfit) for unfit in rows.unfit]
            yield Chunk(rows.columns, rows.numbers, broken)
