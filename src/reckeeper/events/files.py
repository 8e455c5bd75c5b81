"""The way in for tables of any size, in bounded memory: CSV, Parquet, and queries."""

import contextlib
import csv
import dataclasses
import functools
import itertools
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from reckeeper import audit, clock, storage
from reckeeper import catalogue as catalogues
from reckeeper import policy as policies
from reckeeper.config import Settings
from reckeeper.errors import Action, ConflictError, DataError, NotFoundError, StorageError
from reckeeper.events.formats import (
    MOVIELENS,
    CatalogueFormat,
    FileFormat,
    Preset,
    check_catalogue,
    find_columns,
)
from reckeeper.events.item_rows import ItemRow, check_items, check_objects
from reckeeper.events.rows import Checked, RowCheck
from reckeeper.tabular import (
    Chunk,
    Query,
    RefusedLine,
    Source,
    fingerprint,
    is_json_lines,
    open_query,
    open_source,
    read_json_lines,
)

__all__ = [
    "MOVIELENS",
    "CatalogueFormat",
    "FileFormat",
    "ImportReport",
    "Preset",
    "Progress",
    "Query",
    "RefusedLine",
    "Undone",
    "fingerprint",
    "import_file",
    "import_items",
    "undo",
]

_UNDO_ROWS = 20_000
_CATALOGUE_ROWS = 5_000
_REFUSED_SHOWN = 5
_DATABASE_SECONDS = 60.0


@dataclass(frozen=True)
class Progress:
    """How far an import has come; `bytes_total` is 0 where nobody knows it."""

    rows: int
    bytes_done: int
    bytes_total: int


@dataclass(frozen=True, kw_only=True)
class ImportReport:
    """What became of the rows.

    Attributes
    ----------
    import_id : int
    accepted : int
        New interactions.
    duplicates : int
        Rows that are there already, as from an earlier import of the same file.
    without_taste : int
        Rows of weight 0, as those with a rating under the least: seen, and not liked.
    refused : int
        Rows that are not valid, of the catalogue too.
    items : int
        Catalogue items that are new or changed.
    first_refused : list of RefusedLine
        A few of them.
    refused_report : Path or None
        The CSV file that lists them all, where there are any.
    """

    import_id: int
    accepted: int
    duplicates: int
    without_taste: int
    refused: int
    items: int
    first_refused: list[RefusedLine]
    refused_report: Path | None


def import_file(
    database: storage.Database,
    origin: Path | Query,
    *,
    format: FileFormat,
    settings: Settings,
    actor: str,
    catalogue: Path | None = None,
    catalogue_format: CatalogueFormat | None = None,
    refused_report: Path | None = None,
    before_first_row: Callable[[], None] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> ImportReport:
    """Read a CSV (plain or gzip) or Parquet file, or a query's result, into `user_interactions`.

    Rows are checked one by one by the rules of the message; bad ones are left
    out and reported. A second import, or one after a crash, adds only what is
    not there yet: a row is known by its column ``event_id``. Without one, a
    row of a file is known by the file's content and its line; a query's,
    where there is a time, by user, item, type, weight and time, so that rows
    which are equal in all of these are one event; without either by its
    number in the result of this very query, which must then order its rows.
    Memory is bounded by the batch, not by what is read.

    Parameters
    ----------
    database : storage.Database
        Where the rows go; a query may ask this same one.
    origin : Path or Query
        A query runs once, in a transaction that is not to write.
    format : FileFormat
    settings : Settings
        The policy while none is stored, and where reports go.
    actor : str
        Name in the audit trail.
    catalogue : Path, optional
        A file of items, which are added or replaced.
    catalogue_format : CatalogueFormat, optional
    refused_report : Path, optional
        Where refused rows are listed; by default, and only if there are any,
        ``<data_dir>/imports/<import_id>-refused.csv``.
    before_first_row : callable, optional
        Called once, when a first sound row was found and before anything of
        it is written; the place to remove demo data.
    on_progress : callable, optional
        Called after each batch.

    Raises
    ------
    DataError
        A file cannot be read, is empty, or lacks a column; the message lists
        those that it has. Or a query is not accepted. If that shows only in
        the middle, the message names the import that holds the rows before it.
    StorageError
        A query's database cannot be reached, or was lost in the middle; or
        ours did not answer for a minute.
    ConflictError
        The import was undone while it ran.
    """
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(
            open_query(origin) if isinstance(origin, Query) else _opened(origin, format)
        )
        with database.read() as connection:
            types = policies.current(connection, settings).policy.weights
        columns = find_columns(source, format, types=types)
        catalogue_format = catalogue_format or CatalogueFormat()
        items_source = None
        if catalogue is not None:
            items_source = stack.enter_context(_opened(catalogue, catalogue_format))
            check_catalogue(items_source, catalogue_format)
        chunks = _chunks(source, columns)
        rows = RowCheck(
            source, columns=columns, format=format, types=types, fingerprint=source.fingerprint()
        )
        with database.write() as connection:
            import_id = storage.imports.begin(
                connection, source=source.name, fingerprint=rows.fingerprint
            )
        report = refused_report or settings.data_dir / "imports" / f"{import_id}-refused.csv"
        refused = stack.enter_context(_RefusedRows(report, even_if_none=refused_report is not None))
        run = _Import(
            database=database,
            import_id=import_id,
            refused=refused,
            before_first_row=before_first_row,
        )
        checked = (rows.check(chunk, arrived_at=run.started_at) for chunk in chunks)
        with _naming(import_id):
            for batch in stack.enter_context(contextlib.closing(_ahead(checked))):
                run.write(batch)
                if on_progress is not None:
                    on_progress(Progress(run.rows, source.bytes_done, source.bytes_total))
            if items_source is not None:
                for rows_of_items, wrong, _ in _item_batches(items_source, catalogue_format):
                    run.write_items(rows_of_items, wrong, file=items_source.short_name)
        return run.finish(source=source.name, actor=actor)


def _opened(
    path: Path, format: FileFormat | CatalogueFormat
) -> contextlib.AbstractContextManager[Source]:
    return open_source(
        path,
        delimiter=format.delimiter,
        has_quotes=format.has_quotes,
        has_header=not isinstance(format, FileFormat) or format.has_header,
    )


def _chunks(source: Source, columns: Mapping[str, str]) -> Iterator[Chunk]:
    """Return the chunks of a source.

    Raises
    ------
    DataError
        There is none.
    """
    chunks = source.chunks(list(dict.fromkeys(columns.values())))
    first = next(chunks, None)
    if first is None:
        raise DataError(f"{source.name} has column names but no rows: there is nothing to import.")
    return itertools.chain([first], chunks)


def _ahead(batches: Iterator[Checked]) -> Generator[Checked, None, None]:
    """Give the batches, each made in another thread while the one before it is written."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="import-reader") as reader:
        upcoming = reader.submit(next, batches, None)
        while (batch := upcoming.result()) is not None:
            upcoming = reader.submit(next, batches, None)
            yield batch


def import_items(
    database: storage.Database,
    path: Path,
    *,
    format: CatalogueFormat,
    settings: Settings,
    actor: str,
    refused_report: Path | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> ImportReport:
    """Read a file of items, CSV (plain or gzip), JSON lines or Parquet, into the catalogue.

    A column that the file has takes the place of what is there, all that are
    attributes together; what it has no column for stays as it is. Rows are
    checked one by one; bad ones are left out and reported.

    Parameters
    ----------
    database, settings, actor, refused_report, on_progress
        As of `import_file`.
    path : Path
    format : CatalogueFormat
        A title column by the usual name may be missing.

    Raises
    ------
    DataError
        The file cannot be read, or lacks a column. If that shows only in the
        middle, the message names the import that holds the rows before it.
    StorageError
        The database did not answer for a minute.
    ConflictError
        The import was undone while it ran.
    """
    with contextlib.ExitStack() as stack:
        if is_json_lines(path):
            batches = _object_batches(path, format)
        else:
            source = stack.enter_context(_opened(path, format))
            check_catalogue(source, format, is_alone=True)
            batches = _item_batches(source, format)
        with database.write() as connection:
            import_id = storage.imports.begin(
                connection, source=str(path), fingerprint=fingerprint(path)
            )
        report = refused_report or settings.data_dir / "imports" / f"{import_id}-refused.csv"
        refused = stack.enter_context(_RefusedRows(report, even_if_none=refused_report is not None))
        run = _Import(
            database=database,
            import_id=import_id,
            refused=refused,
            before_first_row=None,
        )
        n_bytes = path.stat().st_size
        with _naming(import_id):
            for rows, wrong, bytes_done in batches:
                run.write_items(rows, wrong, file=path.name)
                if on_progress is not None:
                    on_progress(Progress(run.rows, bytes_done, n_bytes))
        return run.finish(source=str(path), actor=actor)


_ItemBatches = Iterator[tuple[list[ItemRow], list[RefusedLine], int]]


def _item_batches(source: Source, format: CatalogueFormat) -> _ItemBatches:
    for chunk in source.chunks(source.columns):
        yield (*check_items(chunk, format=format, file=source.short_name), source.bytes_done)


def _object_batches(path: Path, format: CatalogueFormat) -> _ItemBatches:
    for objects in read_json_lines(path):
        yield (*check_objects(objects, format=format, file=path.name), objects.bytes_done)


@contextlib.contextmanager
def _naming(import_id: int) -> Iterator[None]:
    """Name the import in an error of the ``with`` block, so that it can be undone."""
    try:
        yield
    except (DataError, StorageError) as exc:
        raise type(exc)(
            f"{exc.message} What was read before that is import {import_id}.",
            details={"import_id": import_id},
            action=Action("undo_import", {"import_id": import_id}),
        ) from exc


@dataclass(frozen=True)
class Undone:
    """What an undo took out."""

    interactions: int
    items: int


def undo(
    database: storage.Database,
    import_id: int,
    *,
    actor: str,
    on_progress: Callable[[int], None] | None = None,
) -> Undone:
    """Take out the interactions and catalogue items that an import brought.

    In several transactions, so that others write in between; after a crash
    the same call takes out the rest. Models that were trained on the rows
    keep what they learned until the next retrain.

    Parameters
    ----------
    database : storage.Database
    import_id : int
    actor : str
        Name in the audit trail.
    on_progress : callable, optional
        Called with the number of interactions taken out so far.

    Raises
    ------
    NotFoundError
        There is no import of this number.
    ConflictError
        It has been undone already.
    """

    def begin(connection: storage.Connection) -> str:
        row = storage.imports.get(connection, import_id)
        if row is None:
            raise NotFoundError(f"There is no import {import_id}.", action=Action("list_imports"))
        if row.status == storage.imports.UNDONE:
            raise ConflictError(f"Import {import_id} has been undone already.")
        storage.imports.set_status(connection, import_id, storage.imports.UNDOING)
        return row.source

    def end(connection: storage.Connection) -> int:
        items = storage.items.delete_imported(connection, import_id)
        row = storage.imports.get(connection, import_id)
        if row is not None and row.status != storage.imports.UNDONE:
            storage.imports.set_status(connection, import_id, storage.imports.UNDONE)
            audit.record(
                connection,
                actor=actor,
                action="undo_import",
                subject=f"import {import_id}",
                source=source,
                interactions=interactions,
                items=items,
            )
        return items

    take_out = functools.partial(
        storage.interactions.delete_imported, import_id=import_id, limit=_UNDO_ROWS
    )
    source = database.retrying(begin, seconds=_DATABASE_SECONDS)
    interactions = 0
    while deleted := database.retrying(take_out, seconds=_DATABASE_SECONDS):
        interactions += deleted
        if on_progress is not None:
            on_progress(interactions)
    return Undone(interactions, database.retrying(end, seconds=_DATABASE_SECONDS))


class _Import:
    """One import while it runs: writes batches and counts."""

    def __init__(
        self,
        *,
        database: storage.Database,
        import_id: int,
        refused: "_RefusedRows",
        before_first_row: Callable[[], None] | None,
    ) -> None:
        self._database = database
        self._import_id = import_id
        self._refused = refused
        self._before_first_row = before_first_row
        self.started_at = clock.now()
        self.rows = 0
        self._n_counted = 0
        self._n_without_taste = 0
        self._items = 0

    def write(self, batch: "Checked") -> None:
        if batch.interactions:
            self._about_to_write()
        self._append(batch.interactions, batch.refused)
        self._n_without_taste += batch.n_without_taste
        self.rows += len(batch.interactions) + len(batch.refused)

    def write_items(
        self, rows: Sequence[ItemRow], refused: Sequence[RefusedLine], *, file: str
    ) -> None:
        refused = [*refused]
        for start in range(0, len(rows), _CATALOGUE_ROWS):
            part = rows[start : start + _CATALOGUE_ROWS]
            self._about_to_write()
            put = functools.partial(self._put, part=part, file=file)
            n_new, disagreeing = self._database.retrying(put, seconds=_DATABASE_SECONDS)
            self._items += n_new
            refused += disagreeing
        self._append([], refused)
        self.rows += len(rows)

    def finish(self, *, source: str, actor: str) -> ImportReport:
        def complete(connection: storage.Connection) -> dict[str, int]:
            row = storage.imports.get(connection, self._import_id)
            if row is not None and row.status == storage.imports.COMPLETE:
                return self._counts(row)  # a try was committed, and the answer to it was lost
            counts = self._counts(self._running(connection))
            storage.imports.set_status(connection, self._import_id, storage.imports.COMPLETE)
            audit.record(
                connection,
                actor=actor,
                action="import",
                subject=f"import {self._import_id}",
                source=source,
                **counts,
            )
            return counts

        counts = self._database.retrying(complete, seconds=_DATABASE_SECONDS)
        return ImportReport(
            import_id=self._import_id,
            **counts,
            first_refused=self._refused.first,
            refused_report=self._refused.path if self._refused.is_written else None,
        )

    def _about_to_write(self) -> None:
        if self._before_first_row is not None:
            self._before_first_row()
            self._before_first_row = None

    def _counts(self, row: storage.Import) -> dict[str, int]:
        return {
            "accepted": row.accepted,
            "duplicates": row.duplicates,
            "refused": row.refused,
            "without_taste": self._n_without_taste,
            "items": self._items,
        }

    def _append(self, interactions: list[tuple[Any, ...]], refused: "list[RefusedLine]") -> None:
        def append(connection: storage.Connection) -> None:
            row = self._running(connection)
            # Otherwise a try was committed, and the answer to it was lost.
            if row.accepted + row.duplicates + row.refused == self._n_counted:
                storage.imports.append(
                    connection, self._import_id, interactions, refused=len(refused)
                )

        self._database.retrying(append, seconds=_DATABASE_SECONDS)
        self._n_counted += len(interactions) + len(refused)
        self._refused.add(refused)

    def _put(
        self, connection: storage.Connection, part: Sequence[ItemRow], file: str
    ) -> tuple[int, list[RefusedLine]]:
        """Store what rows say; return how many items are new or changed, and rows refused."""
        self._running(connection)
        refused: list[RefusedLine] = []

        def refuse(index: int, error: DataError) -> None:
            field = str((error.details or {}).get("field", ""))
            reason = error.message.removesuffix(". Nothing was stored.").removeprefix(f"{field} ")
            line, change = part[index]
            refused.append(RefusedLine(file, line, field, change.item_id, reason))

        done = catalogues.apply(
            connection,
            [row.change for row in part],
            import_id=self._import_id,
            on_refused=refuse,
        )
        return done.created + done.changed, refused

    def _running(self, connection: storage.Connection) -> storage.Import:
        row = storage.imports.get(connection, self._import_id)
        if row is None or row.status != storage.imports.RUNNING:
            raise ConflictError(
                f"Import {self._import_id} was undone while it ran, and has stopped. "
                "Run it again if you want it."
            )
        return row


class _RefusedRows:
    """The report of refused rows, written as they come."""

    def __init__(self, path: Path, *, even_if_none: bool) -> None:
        self.path = path
        self.count = 0
        self.first: list[RefusedLine] = []
        self.is_written = False
        self._even_if_none = even_if_none
        self._stack = contextlib.ExitStack()
        self._writer: Any = None

    def __enter__(self) -> Self:
        if self._even_if_none:
            self._begin()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    def add(self, lines: Sequence[RefusedLine]) -> None:
        if not lines:
            return
        if self._writer is None:
            self._begin()
        self._writer.writerows(dataclasses.astuple(line) for line in lines)
        self.first.extend(lines[: _REFUSED_SHOWN - len(self.first)])
        self.count += len(lines)

    def _begin(self) -> None:
        try:
            if not self._even_if_none:
                self.path.parent.mkdir(parents=True, exist_ok=True)
            file = self._stack.enter_context(self.path.open("w", newline="", encoding="utf-8"))
        except OSError as exc:
            raise DataError(
                f"The report of refused rows cannot be written to {self.path}: {exc.strerror}. "
                "Name another file."
            ) from exc
        self.is_written = True
        self._writer = csv.writer(file)
        self._writer.writerow(field.name for field in dataclasses.fields(RefusedLine))
