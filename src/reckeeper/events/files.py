"""The way in for tables of any size, in bounded memory: CSV, Parquet, and queries."""

import contextlib
import dataclasses
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from reckeeper import policy as policies
from reckeeper import storage
from reckeeper.config import Settings
from reckeeper.events import origins
from reckeeper.events.formats import (
    MOVIELENS,
    CatalogueFormat,
    FileFormat,
    Preset,
)
from reckeeper.events.item_reader import open_items
from reckeeper.events.origins import STANDARD_INPUT, spooled
from reckeeper.events.refused import RefusedGroup
from reckeeper.events.rows import Checked
from reckeeper.events.running import ImportReport, Progress, begun
from reckeeper.events.undoing import Undone, undo
from reckeeper.events.weights import check_weights, store_weights
from reckeeper.tabular import (
    Query,
    RefusedLine,
    fingerprint,
)

__all__ = [
    "MOVIELENS",
    "STANDARD_INPUT",
    "CatalogueFormat",
    "FileFormat",
    "ImportReport",
    "Preset",
    "Progress",
    "Query",
    "RefusedGroup",
    "RefusedLine",
    "Undone",
    "fingerprint",
    "import_file",
    "import_items",
    "spooled",
    "undo",
]


def import_file(
    database: storage.Database,
    origin: Path | Sequence[Path] | Query,
    *,
    format: FileFormat,
    settings: Settings,
    actor: str,
    called: str | None = None,
    catalogue: Path | None = None,
    catalogue_format: CatalogueFormat | None = None,
    weights: Mapping[str, float] | None = None,
    refused_report: Path | None = None,
    before_first_row: Callable[[], None] | None = None,
    on_begun: Callable[[int], None] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    before_indexes: Callable[[float], None] | None = None,
) -> ImportReport:
    """Read files, or a query's result, into `user_interactions`.

    Rows are checked one by one by the rules of the message; bad ones are left
    out and reported. A second import, or one after a crash, adds only what is
    not there yet: a row is known by its column ``event_id``; without one, where
    there is a time, by user, item, type, weight and time. Rows of one file that
    are equal in all of these are several, those of a query are one. Without
    either, a row is known by the file's content and its line, or by its number
    in the result of this very query, which must then order its rows.
    Memory is bounded by the batch, not by what is read.

    Parameters
    ----------
    database : storage.Database
        Where the rows go; a query may ask this same one.
    origin : Path, sequence of Path, or Query
        Several files are one import, of which nothing is written before all of them were found
        sound as far as their first rows. A query runs once, in a transaction that is not to
        write.
    format : FileFormat
    settings : Settings
        The policy while none is stored, and where reports go.
    actor : str
        Name in the audit trail.
    called : str, optional
        What the list of imports calls it. Default: the path, or the masked URL with the query.
    catalogue : Path, optional
        A file of items, which are added or replaced.
    catalogue_format : CatalogueFormat, optional
    weights : mapping of str to float, optional
        Weights of interaction types: stored in the policy, before any row.
    refused_report : Path, optional
        Where refused rows are listed; by default, and only if there are any,
        ``<data_dir>/imports/<import_id>-refused.csv``.
    before_first_row : callable, optional
        Called once, when a first sound row was found and before anything of
        it is written; the place to remove demo data.
    on_begun : callable, optional
        Called with the import's number once there is one, before any row is read.
    on_progress : callable, optional
        Called after each batch; what it raises ends the import, which is then told as failed.
    before_indexes : callable, optional
        Called before indexes are made that were set aside, with about how many seconds others
        who write may have to wait for each.

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
        The import was undone while it ran; or the file was imported before, and is read
        otherwise now.
    """
    with contextlib.ExitStack() as stack:
        with database.read() as connection:
            types = {**policies.current(connection, settings).policy.weights, **(weights or {})}
        asked = origins.Asked(format, types, database, settings)
        read = stack.enter_context(origins.opened(origin, asked, called=called))
        catalogue_format = catalogue_format or CatalogueFormat()
        items = None
        if catalogue is not None:
            items = stack.enter_context(open_items(catalogue, catalogue_format))
        if weights:
            check_weights(
                weights, read.columns, interaction_type=format.interaction_type, name=read.name
            )
            store_weights(database, settings, weights, actor=actor)
        run = stack.enter_context(
            begun(
                database,
                source=called or read.name,
                fingerprint=read.fingerprint,
                settings=settings,
                actor=actor,
                refused_report=refused_report,
                before_first_row=before_first_row,
                on_begun=on_begun,
                before_indexes=before_indexes,
            )
        )
        run.bytes_total = read.bytes_total
        checked = read.checked(arrived_at=run.started_at, by_users=not run.does_without_lookups())
        run.notes = _notes(read)
        for batch in stack.enter_context(contextlib.closing(_ahead(checked))):
            run.bytes_done, run.notes = read.bytes_done, _notes(read)
            run.write(batch)
            if on_progress is not None:
                on_progress(Progress(run.rows, run.bytes_done, read.bytes_total))
        forms, run.notes = dict(read.forms), _notes(read)
        if items is not None:
            for part in items.batches():
                run.write_items(part.rows, part.refused, file=items.short_name, unit=items.unit)
            forms[items.short_name] = items.read_as
        report = run.finish(source=called or read.name, actor=actor)
        return dataclasses.replace(report, read_as=forms, columns=read.columns)


def _notes(read: origins.Origin) -> list[str]:
    return [*dict.fromkeys(read.notes)]


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
    on_begun: Callable[[int], None] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> ImportReport:
    """Read a file of items of any kind into the catalogue.

    A column that the file has takes the place of what is there, all that are
    attributes together; what it has no column for stays as it is. Rows are
    checked one by one; bad ones are left out and reported.

    Parameters
    ----------
    database, settings, actor, refused_report, on_begun, on_progress
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
        items = stack.enter_context(open_items(path, format, is_alone=True))
        run = stack.enter_context(
            begun(
                database,
                source=str(path),
                fingerprint=fingerprint(path, max_ratio=format.max_ratio),
                settings=settings,
                actor=actor,
                refused_report=refused_report,
                on_begun=on_begun,
            )
        )
        run.bytes_total = path.stat().st_size
        for part in items.batches():
            run.bytes_done = part.bytes_done
            run.write_items(part.rows, part.refused, file=items.short_name, unit=items.unit)
            if on_progress is not None:
                on_progress(Progress(run.rows, run.bytes_done, run.bytes_total))
        report = run.finish(source=str(path), actor=actor)
        return dataclasses.replace(report, read_as={items.short_name: items.read_as})
