"""An import while it runs: what it writes, counts and reports."""

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reckeeper import audit, clock, machine, storage
from reckeeper import catalogue as catalogues
from reckeeper.config import Settings
from reckeeper.errors import Action, ConflictError, DataError, ReckeeperError, StorageError
from reckeeper.events.item_rows import ItemRow
from reckeeper.events.refused import RefusedGroup, RefusedRows
from reckeeper.events.rows import Checked
from reckeeper.periodic import Periodic
from reckeeper.tabular import RefusedLine

_CATALOGUE_ROWS = 5_000
_DATABASE_SECONDS = 60.0
_BEAT_SECONDS = 10.0
_TELLING_SECONDS = 5.0
_MANY_BYTES = 64 * 1024**2
_BYTES_A_ROW_THERE = 500
_MOST_THERE = 5_000_000


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
    refusals : list of RefusedGroup
        Why rows were refused: those of one file, column and reason together, their number and
        a few of them.
    columns : dict of str to str
        The column of each part of an interaction, in the first file.
    notes : list of str
        What should be known of how it was read.
    read_as : dict of str to str
        What each file was found to be, in words, by its name.
    """

    import_id: int
    accepted: int
    duplicates: int
    without_taste: int
    refused: int
    items: int
    first_refused: list[RefusedLine]
    refused_report: Path | None
    refusals: list[RefusedGroup]
    columns: dict[str, str]
    notes: list[str]
    read_as: dict[str, str]


@contextlib.contextmanager
def begun(
    database: storage.Database,
    *,
    source: str,
    fingerprint: str,
    settings: Settings,
    actor: str,
    refused_report: Path | None,
    before_first_row: Callable[[], None] | None = None,
    on_begun: Callable[[int], None] | None = None,
    before_indexes: Callable[[float], None] | None = None,
) -> Iterator["Running"]:
    """Begin an import, and run it within the ``with`` block; one that fails there says why.

    Parameters
    ----------
    database, settings, actor, refused_report, before_first_row, on_begun, before_indexes
        As of `files.import_file`.
    source, fingerprint : str
        Of what is read.
    """
    with database.write() as connection:
        import_id = storage.imports.begin(
            connection,
            source=source,
            fingerprint=fingerprint,
            actor=actor,
            holder=machine.process_name(),
        )
    report = refused_report or settings.data_dir / "imports" / f"{import_id}-refused.csv"
    with contextlib.ExitStack() as stack:
        stack.enter_context(_failing(database, import_id))
        refused = stack.enter_context(RefusedRows(report, even_if_none=refused_report is not None))
        run = Running(
            database=database,
            import_id=import_id,
            refused=refused,
            before_first_row=before_first_row,
            before_indexes=before_indexes,
        )
        stack.enter_context(Periodic(run.beat, name="import", every_seconds=_BEAT_SECONDS))
        if on_begun is not None:
            on_begun(import_id)
        yield run


@contextlib.contextmanager
def _failing(database: storage.Database, import_id: int) -> Iterator[None]:
    """Store why the ``with`` block failed; name the import in the error: it can be undone."""
    try:
        yield
    except BaseException as exc:
        told = exc.message if isinstance(exc, ReckeeperError) else _reason(exc)
        fail = functools.partial(storage.imports.fail, import_id=import_id, reason=told)
        with contextlib.suppress(StorageError):  # where it is silent, that is told in its place
            database.retrying(fail, seconds=_TELLING_SECONDS)
        if isinstance(exc, DataError | StorageError):
            raise type(exc)(
                f"{exc.message} What was read before that is import {import_id}.",
                details={"import_id": import_id},
                action=Action("undo_import", {"import_id": import_id}),
            ) from exc
        raise


def _reason(exc: BaseException) -> str:
    if isinstance(exc, KeyboardInterrupt):
        return "Somebody interrupted it. Importing again adds what is missing."
    return f"It failed by a mistake of ours: {type(exc).__name__}: {exc}"


class Running:
    """One import while it runs: writes batches and counts.

    Attributes
    ----------
    started_at : int
    rows : int
        So many have been looked at.
    bytes_done, bytes_total : int
        How far what is read has come, as whoever reads it says.
    notes : list of str
        What should be known of how it is read, as whoever reads it says.
    """

    def __init__(
        self,
        *,
        database: storage.Database,
        import_id: int,
        refused: RefusedRows,
        before_first_row: Callable[[], None] | None,
        before_indexes: Callable[[float], None] | None,
    ) -> None:
        self._database = database
        self._import_id = import_id
        self._refused = refused
        self._before_first_row = before_first_row
        self._before_indexes = before_indexes
        self._noted_at = time.monotonic()
        self.started_at = clock.now()
        self.bytes_done = self.bytes_total = 0
        self.rows = 0
        self.notes: list[str] = []
        self._n_counted = 0
        self._n_without_taste = 0
        self._items = 0
        self._has_begun = False
        self._has_set_aside = False
        self._is_making_indexes = False

    def write(self, batch: Checked) -> None:
        """Store a batch of interactions, and list those that were refused."""
        if batch.interactions:
            self._about_to_write()
        self._n_without_taste += batch.n_without_taste
        self._append(batch.interactions, batch.refused, batch.unit)
        self.rows += len(batch.interactions) + len(batch.refused)

    def write_items(
        self, rows: Sequence[ItemRow], refused: Sequence[RefusedLine], *, file: str, unit: str
    ) -> None:
        """Put items into the catalogue, and list those that were refused."""
        refused = [*refused]
        for start in range(0, len(rows), _CATALOGUE_ROWS):
            part = rows[start : start + _CATALOGUE_ROWS]
            self._about_to_write()
            put = functools.partial(self._put, part=part, file=file)
            n_new, disagreeing = self._database.retrying(put, seconds=_DATABASE_SECONDS)
            self._items += n_new
            refused += disagreeing
        self._append([], refused, unit)
        self.rows += len(rows)

    def finish(self, *, source: str, actor: str) -> ImportReport:
        """End the import, and tell what became of its rows."""

        def complete(connection: storage.Connection) -> dict[str, int]:
            row = storage.imports.get(connection, self._import_id)
            if row is not None and row.status == storage.imports.COMPLETE:
                return self._counts(row)  # a try was committed, and the answer to it was lost
            counts = self._counts(self._running(connection))
            storage.imports.note(connection, self._import_id, **self._found())
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

        with self._database.read() as connection:
            are_whole = storage.lookups.are_whole(connection)
            n_rows = storage.interactions.last_id(connection)
        if not are_whole:
            if self._before_indexes is not None:
                self._before_indexes(storage.lookups.SECONDS_A_MILLION * n_rows / 1e6)
            self._is_making_indexes = True
            storage.lookups.restore(self._database)
        counts = self._database.retrying(complete, seconds=_DATABASE_SECONDS)
        return ImportReport(
            import_id=self._import_id,
            **counts,
            first_refused=self._refused.first,
            refused_report=self._refused.path if self._refused.is_written else None,
            refusals=self._refused.groups(),
            columns={},
            notes=self.notes,
            read_as={},
        )

    def beat(self) -> None:
        """Give a sign of life where no batch has for some time.

        Not while indexes are made, since whoever writes waits for them.
        """
        if self._is_making_indexes:
            return
        if time.monotonic() - self._noted_at >= _BEAT_SECONDS:
            with self._database.write() as connection:
                storage.imports.note(connection, self._import_id)
            self._noted_at = time.monotonic()

    def _found(self) -> dict[str, object]:
        """Return what the table says of an import beside the counts that `append` keeps."""
        return {
            "without_taste": self._n_without_taste,
            "items": self._items,
            "bytes_done": self.bytes_done,
            "bytes_total": self.bytes_total,
            "refusals": [dataclasses.asdict(group) for group in self._refused.groups()],
            "report": str(self._refused.path) if self._refused.is_written else None,
            "notes": self.notes,
        }

    def _about_to_write(self) -> None:
        if self._has_begun:
            return
        self._has_begun = True
        if self._before_first_row is not None:
            self._before_first_row()
        if self.does_without_lookups():
            with self._database.write() as connection:
                storage.lookups.set_aside(connection)
            self._has_set_aside = True

    def _cache(self, connection: storage.Connection) -> contextlib.AbstractContextManager[None]:
        if self._has_set_aside:
            return storage.lookups.appending(connection)
        return contextlib.nullcontext()

    def does_without_lookups(self) -> bool:
        """Say whether some indexes are made at the end: what comes is much beside what is there."""
        if self.bytes_total < _MANY_BYTES:
            return False
        few = min(self.bytes_total // _BYTES_A_ROW_THERE, _MOST_THERE)
        with self._database.read() as connection:
            return storage.interactions.count_after(connection, 0, at_most=few) < few

    def _counts(self, row: storage.Import) -> dict[str, int]:
        return {
            "accepted": row.accepted,
            "duplicates": row.duplicates,
            "refused": row.refused,
            "without_taste": self._n_without_taste,
            "items": self._items,
        }

    def _append(
        self, interactions: list[tuple[Any, ...]], refused: list[RefusedLine], unit: str
    ) -> None:
        def append(connection: storage.Connection) -> None:
            row = self._running(connection)
            # Otherwise a try was committed, and the answer to it was lost.
            if row.accepted + row.duplicates + row.refused == self._n_counted:
                with self._cache(connection):
                    storage.imports.append(
                        connection,
                        self._import_id,
                        interactions,
                        refused=len(refused),
                        timeless=self.started_at,
                    )
                storage.imports.note(connection, self._import_id, **self._found())

        self._refused.add(refused, unit=unit)
        self._database.retrying(append, seconds=_DATABASE_SECONDS)
        self._n_counted += len(interactions) + len(refused)
        self._noted_at = time.monotonic()

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
