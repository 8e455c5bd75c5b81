"""The database: opening it, its transactions, its schema.

SQLite and PostgreSQL keep the same promises: a read sees one moment, writers
wait for each other, what a write's block did is on disk when it has ended.
"""

import contextlib
import math
import re
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar, cast

import sqlalchemy as sa
import tenacity
from sqlalchemy.dialects import postgresql, sqlite

from reckeeper.config import Settings
from reckeeper.errors import Action, ConfigError, SchemaError, StorageError
from reckeeper.storage import installation, schema, soundness, sqlite_file
from reckeeper.storage.connections import settings_of
from reckeeper.storage.file_watch import FileWatch
from reckeeper.storage.soundness import Soundness
from reckeeper.storage.tombstones import Tombstones
from reckeeper.telemetry import get_logger

SCHEMA_REVISION = "0007"
"""The migration that this release needs; a test holds it against the scripts."""

BUSY_TIMEOUT_SECONDS = 60
"""How long a writer waits for the others, and how long one may keep them waiting."""

PROBE_SECONDS = 2.0
"""How often it is tried to write again after a write that failed for want of room."""

START_SECONDS = 30.0
"""How long a database that does not answer is waited for when it is opened."""

_SLOW_SECONDS = 2.0
_BUSY_RETRY_SECONDS = 30

T = TypeVar("T")

_log = get_logger(__name__)


class Database:
    """A database with the schema of this release.

    Safe to share between threads. Several processes may open the same one:
    readers see a snapshot and never wait, writers wait for each other. So
    numbers of rows are given in the order of the commits: who has seen one
    has seen all below it.

    Parameters
    ----------
    engine : sqlalchemy.Engine
        As `open_database` makes it.
    settings : Settings
        Those that name it; `settings_of` gives them to whoever has a connection.
    """

    def __init__(self, engine: sa.Engine, settings: Settings) -> None:
        self._engine = engine.execution_options(
            reckeeper_settings=settings, reckeeper_tombstones=Tombstones()
        )
        self._writer = self._engine.execution_options(reckeeper_writes=True)
        self._reader = self._engine
        self._unreached_at = -math.inf
        self._watch: FileWatch | None = None
        self._is_looked_through = False
        self._unwritten: str | None = None
        self._probe_at = -math.inf
        if not is_postgresql(engine):
            self._watch = FileWatch(Path(str(engine.url.database)), is_sound=self._is_sound)
        else:
            # Whatever the defaults of the role are: a writer must see what came before its lock.
            self._writer = self._writer.execution_options(isolation_level="READ COMMITTED")
            self._reader = self._engine.execution_options(
                isolation_level="REPEATABLE READ", postgresql_readonly=True
            )

    @contextlib.contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """Give a connection on which all reads see one moment."""
        with self._translated(), self._reader.begin() as connection:
            if self._watch is not None:
                self._watch.look(connection)
            yield connection

    @contextlib.contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """Give a connection whose writes are on disk when the block has ended.

        An exception in the block takes all of them back. What `after_commit`
        was given is called last, with the writers' lock free again.

        Raises
        ------
        StorageError
            The database refused, cannot be reached, or stayed locked for a
            minute. If the connection broke during the commit, the writes may
            be there all the same. An SQLite file is malformed, or not any
            longer the one that was opened.
        """
        callbacks: dict[str, Callable[[], None]] = {}
        self._see_that_it_may_be_written()
        with self._translated(writes=True), self._writer.begin() as connection:
            if self._watch is not None:
                self._watch.look(connection)
            yield connection.execution_options(reckeeper_after_commit=callbacks)
        self._unwritten = None
        if self._watch is not None:
            self._watch.check()
        for callback in callbacks.values():
            callback()

    def retrying(self, work: Callable[[sa.Connection], T], *, seconds: float) -> T:
        """Do something in a `write`, again with back-off while the database cannot be reached.

        Parameters
        ----------
        work : callable
            Takes the connection. It must do no harm when it is done twice: a
            commit whose answer was lost is repeated.
        seconds : float
            After which no other try is begun.

        Returns
        -------
        object
            What `work` returned.

        Raises
        ------
        StorageError
            As in `write`; a refusal at once.
        """
        for attempt in tenacity.Retrying(
            retry=tenacity.retry_if_exception(is_unreachable),
            wait=tenacity.wait_random_exponential(multiplier=0.1, max=2),
            stop=tenacity.stop_after_delay(seconds),
            reraise=True,
        ):
            with attempt, self.write() as connection:
                done = work(connection)
        return done

    def seconds_reached(self) -> float:
        """Return for how long the database has done at once what this process asked of it.

        What others did not write before that says nothing about them: they may
        not have reached it either.
        """
        return time.monotonic() - self._unreached_at

    @property
    def sqlite_file(self) -> Path | None:
        """The file of the database; None of PostgreSQL's."""
        return None if is_postgresql(self._engine) else Path(str(self._engine.url.database))

    @contextlib.contextmanager
    def raw(self) -> Iterator[sqlite3.Connection]:
        """Give SQLite's own connection, outside of any transaction."""
        with self._translated(), contextlib.closing(self._engine.raw_connection()) as connection:
            yield cast(sqlite3.Connection, connection.driver_connection)

    def close(self) -> None:
        """Close all connections; a later use opens them again."""
        self._engine.dispose()
        if self._watch is not None:
            self._watch.end()

    @property
    def problem(self) -> str | None:
        """Why nothing can be written, as far as was tried; None if it can."""
        refused = None if self._watch is None else self._watch.problem
        return refused or self._unwritten

    def probe(self) -> None:
        """Write and read something, at times, where the last write failed or the disk is full.

        What comes of it is the `problem`. It waits for nobody who writes.
        """
        if time.monotonic() < self._probe_at:
            return
        self._probe_at = time.monotonic() + PROBE_SECONDS
        path = None if self._watch is None else Path(str(self._engine.url.database))
        if self._unwritten is None and (path is None or sqlite_file.has_room(path)):
            return
        with contextlib.suppress(StorageError):
            if path is None:
                with self.write() as connection:
                    installation.touch(connection)
                return
            with self._translated(writes=True):
                if sqlite_file.probe(self._engine):
                    self._unwritten = None

    def look_through(self, *, seconds: float | None = soundness.START_SECONDS) -> Soundness:
        """Look for what does not hold together in an SQLite file; PostgreSQL sees to itself.

        Where something is found, nothing is written from then on.

        Parameters
        ----------
        seconds : float or None
            After which the rest is left out; None: never.

        Raises
        ------
        StorageError
            It cannot be opened at all.
        """
        self._is_looked_through = True
        if self._watch is None:
            return Soundness((), is_whole=True)
        with self._translated():
            found = soundness.look_through(self._engine, seconds=seconds)
        if found.findings:
            self._watch.condemn(found.findings[0])
        return found

    def see_that_sound(self) -> None:
        """Look through the file for a bounded time, at a start.

        Raises
        ------
        StorageError
            It is malformed.
        """
        if not self.look_through().is_whole:
            _log.info("database_not_looked_through", seconds=soundness.START_SECONDS)
        if self._watch is not None:
            self._watch.see_that_it_may_be_written()

    def _is_sound(self) -> bool:
        return not self.look_through().findings

    def _see_that_it_may_be_written(self) -> None:
        if self._watch is not None:
            if not self._is_looked_through:
                self.look_through()
            self._watch.see_that_it_may_be_written()

    @contextlib.contextmanager
    def _translated(self, *, writes: bool = False) -> Iterator[None]:
        began = time.monotonic()
        was_reached = True
        try:
            with _translated(self._engine):
                yield
        except StorageError as exc:
            was_reached = not is_unreachable(exc)
            if self._watch is not None and sqlite_file.is_malformed(_reason_of(exc)):
                self._watch.condemn(str(_reason_of(exc)))
                told = self._watch.problem or exc.message
                raise StorageError(told, private=exc.private) from exc.__cause__
            if writes and _is_full(exc):
                self._unwritten = exc.message
            raise
        finally:
            # One that is held still raises nothing.
            if not was_reached or time.monotonic() - began > _SLOW_SECONDS:
                self._unreached_at = time.monotonic()


def is_postgresql(connection: sa.Connection | sa.Engine) -> bool:
    """Return whether statements go to PostgreSQL, not to SQLite."""
    return connection.dialect.name == "postgresql"


def upsert(connection: sa.Connection, table: sa.Table) -> postgresql.Insert | sqlite.Insert:
    """Return an INSERT that can be given ``on_conflict_do_…``; both write it alike."""
    return postgresql.insert(table) if is_postgresql(connection) else sqlite.insert(table)


@contextlib.contextmanager
def _translated(engine: sa.Engine) -> Iterator[None]:
    try:
        yield
    except sa.exc.TimeoutError as exc:
        raise StorageError(
            "All connections to the database are in use: there are too many requests at once. "
            "Try again in a moment."
        ) from exc
    except _errors_of(engine) as exc:
        if not is_postgresql(engine) and is_unreachable(exc):
            raise StorageError(
                "Somebody else has been writing to the database for a minute, as an import of very "
                "many rows does at its end, when it makes indexes: about two seconds a million "
                "rows for each. Nothing was written: try again when it is done.",
                details={"retry_seconds": _BUSY_RETRY_SECONDS},
                action=Action("list_imports"),
            ) from exc
        raise _failed(exc, engine) from exc


def _errors_of(engine: sa.Engine) -> tuple[type[Exception], ...]:
    if not is_postgresql(engine):
        return (sa.exc.DBAPIError, sqlite3.Error)
    from reckeeper.storage import postgres

    return (sa.exc.DBAPIError, *postgres.ERRORS)


def _failed(exc: Exception, engine: sa.Engine) -> StorageError:
    reason = exc.orig if isinstance(exc, sa.exc.DBAPIError) else exc
    if not is_postgresql(engine):
        return sqlite_file.failure(reason, Path(str(engine.url.database)))
    shown = engine.get_execution_options()["reckeeper_settings"].masked_database_url
    lines = str(reason).strip().splitlines() or [type(reason).__name__]
    said = re.sub(r"\s+", " ", lines[0]).rstrip(".")
    if _has_state(reason, ("42501",)):
        schema = engine.get_execution_options()["reckeeper_settings"].database_schema
        told = (
            "The database does not allow its user what is needed. Have its owner GRANT CREATE, "
            f"USAGE ON SCHEMA {schema}, or name another schema (RECKEEPER_DATABASE_SCHEMA), which "
            "needs GRANT CREATE ON DATABASE; then migrate again."
        )
    elif _has_state(reason, (_READ_ONLY,)):
        told = (
            "The database takes no writes: it is a standby, or default_transaction_read_only is "
            "on. Nothing was written. Let it take writes, or name another (DATABASE_URL): it is "
            "found out by itself."
        )
    elif _is_lost(reason):
        told = (
            "The database cannot be reached. Check that it is running, and that DATABASE_URL names "
            "it; then try again."
        )
    else:
        told = (
            "The database did not do what was asked. Nothing was written; see what it says in its "
            "own log, then try again."
        )
    return StorageError(told, private=f"{shown}: {said}")


# SQLSTATE: connection exceptions, shutting down or starting, out of connections or disk,
# a lock that did not come, serialisation and deadlock, a transaction that was left alone.
_PASSING = ("08", "57P", "53", "55P03", "40", "25P03", "25P04")
_READ_ONLY = "25006"


def is_unreachable(exc: BaseException) -> bool:
    """Return whether an error of `Database` may pass by itself: nobody home, no room, a lock."""
    cause = exc.__cause__ if isinstance(exc, StorageError) else exc
    if isinstance(cause, sa.exc.TimeoutError):
        return True
    reason = cause.orig if isinstance(cause, sa.exc.DBAPIError) else cause
    if isinstance(reason, sqlite3.Error):
        return sqlite_file.is_locked(reason)
    return _is_lost(reason) or _has_state(reason, _PASSING)


def _is_full(exc: StorageError) -> bool:
    reason = _reason_of(exc)
    return sqlite_file.is_full(reason) or _has_state(reason, ("53100", _READ_ONLY))


def _reason_of(exc: StorageError) -> BaseException | None:
    return getattr(exc.__cause__, "orig", exc.__cause__)


def _is_lost(reason: object) -> bool:
    if not hasattr(reason, "sqlstate"):
        return False  # not from a driver of PostgreSQL
    from reckeeper.storage import postgres

    return postgres.is_lost(reason)


def _has_state(reason: object, states: tuple[str, ...]) -> bool:
    return (getattr(reason, "sqlstate", None) or "").startswith(states)


def open_database(settings: Settings, *, n_processes: int = 1) -> Database:
    """Open the database that `settings` name.

    One that cannot be reached is waited for, up to `START_SECONDS`.

    Parameters
    ----------
    settings : Settings
    n_processes : int
        How many that do the same share the connections which PostgreSQL allows.

    Raises
    ------
    SchemaError
        It has no schema yet, an older one, or one of a later release.
    ConfigError
        Its URL names a kind of database that is not supported.
    StorageError
        It cannot be reached.
    """
    engine = make_engine(settings, n_processes=n_processes)
    shown = settings.masked_database_url or str(_embedded_file(settings))
    if not is_postgresql(engine) and not Path(str(engine.url.database)).exists():
        # SQLite would make it.
        raise SchemaError(
            f"There is no database {engine.url.database} yet: make it with the same settings "
            "(RECKEEPER_DATA_DIR or DATABASE_URL names the place), then try again.",
            action=Action("migrate"),
        )
    if not is_postgresql(engine):
        sqlite_file.see_that_it_has_content(Path(str(engine.url.database)))
    database = Database(engine, settings)
    revision = _when_reached(engine, lambda: _revision(database))
    if revision != SCHEMA_REVISION:
        database.close()
        if revision is None or revision < SCHEMA_REVISION:
            found = "no schema yet" if revision is None else "an older schema"
            raise SchemaError(
                f"The database {shown} has {found}: migrate it with the same settings, then start "
                "again.",
                action=Action("migrate"),
            )
        raise _too_new(shown, revision)
    if not is_postgresql(engine):
        with _translated(engine):
            sqlite_file.keep_log(engine)  # a copy that was restored may have lost it
    return database


def migrate(settings: Settings) -> str | None:
    """Bring the database to the schema of this release; make it if need be.

    The whole runs in one transaction under the writers' lock: of two that
    migrate at once, the second finds nothing left to do.

    Returns
    -------
    str or None
        The revision that was there before.

    Raises
    ------
    SchemaError
        The schema is of a later release, or has tables of the same names that
        are somebody else's; nothing was changed.
    """
    if settings.is_embedded:
        try:
            settings.data_dir.mkdir(sqlite_file.FOLDER_MODE, parents=True, exist_ok=True)
        except OSError as exc:
            raise ConfigError(
                f"RECKEEPER_DATA_DIR={str(settings.data_dir)!r} cannot be made: {exc.strerror}. "
                "Name a folder that this user may write to."
            ) from exc
    engine = make_engine(settings)
    shown = settings.masked_database_url or str(_embedded_file(settings))
    database = Database(engine, settings)
    try:
        if not is_postgresql(engine):
            _make_file(engine)
        else:
            _when_reached(engine, lambda: _see_that_it_answers(database))
        with database.write() as connection:
            before = schema.revision_on(connection, settings_of(connection))
            if before is not None and before > SCHEMA_REVISION:
                raise _too_new(shown, before)
            if before is None:
                schema.see_that_it_is_free(connection, settings, shown)
            if before != SCHEMA_REVISION:
                _upgrade(connection)
        return before
    finally:
        database.close()


def _upgrade(connection: sa.Connection) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", "reckeeper.storage:migrations")
    config.attributes["connection"] = connection
    command.upgrade(config, SCHEMA_REVISION)


def _see_that_it_answers(database: Database) -> None:
    with database.read() as connection:
        connection.exec_driver_sql("SELECT 1")


def _too_new(shown: str, revision: str) -> SchemaError:
    return SchemaError(
        f"The database {shown} has schema {revision}, made by a later release of Reckeeper "
        f"(this one knows {SCHEMA_REVISION}): upgrade Reckeeper."
    )


def _when_reached(engine: sa.Engine, read: Callable[[], T]) -> T:
    """Read something, waiting while nobody answers; a refusal is raised at once."""

    def is_worth_waiting(exc: BaseException) -> bool:
        # A wrong password, user or name comes without an SQLSTATE too, but with words.
        said = str(exc.__cause__ or exc)
        return is_unreachable(exc) and not re.search(
            r"authentication failed|no password supplied|does not exist|no pg_hba", said
        )

    def tell(state: tenacity.RetryCallState) -> None:
        outcome = state.outcome
        assert outcome is not None
        if state.attempt_number == 1:
            _log.warning("waiting_for_the_database", error=_in_full(outcome.exception()))

    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception(is_worth_waiting),
        wait=tenacity.wait_random_exponential(multiplier=0.2, max=2),
        stop=tenacity.stop_after_delay(START_SECONDS),
        before_sleep=tell,
        reraise=True,
    )
    return retrying(read) if is_postgresql(engine) else read()


def _in_full(exc: BaseException | None) -> str:
    return exc.in_full if isinstance(exc, StorageError) else str(exc)


def _make_file(engine: sa.Engine) -> None:
    path = Path(str(engine.url.database))
    sqlite_file.see_that_it_has_content(path)
    with _translated(engine):
        try:
            sqlite_file.make(path)
            sqlite_file.keep_log(engine)
        except OSError as exc:
            raise ConfigError(
                f"The database {path} cannot be made: {exc.strerror}. Let this user write to its "
                "folder, or name another one (RECKEEPER_DATA_DIR, or DATABASE_URL)."
            ) from exc


def _embedded_file(settings: Settings) -> Path:
    return settings.data_dir / "reckeeper.sqlite3"


def _revision(database: Database) -> str | None:
    with database.read() as connection:
        return schema.revision_on(connection, settings_of(connection))


def make_engine(settings: Settings, *, n_processes: int = 1) -> sa.Engine:
    """Make the engine of the database that settings name, whatever is in it."""
    if settings.database_url is None:
        url = sa.URL.create("sqlite", database=str(_embedded_file(settings)))
    else:
        try:
            url = sa.make_url(settings.database_url)
        except (sa.exc.ArgumentError, ValueError) as exc:
            raise ConfigError(
                f"DATABASE_URL={settings.masked_database_url!r} is not a database URL. Write it as "
                "postgresql+psycopg://user:password@host:5432/name or sqlite:////path/to/file.db, "
                "or unset it."
            ) from exc
    if url.drivername in {"postgresql", "postgresql+psycopg"}:
        url = url.set(drivername="postgresql+psycopg")
        return _postgresql_engine(url, settings, n_processes=n_processes)
    is_sqlite = url.drivername in {"sqlite", "sqlite+pysqlite"}
    if not is_sqlite or not url.database or url.database == ":memory:":
        raise ConfigError(
            f"DATABASE_URL={settings.masked_database_url!r} cannot be used: Reckeeper keeps its "
            "data in PostgreSQL or in an SQLite file. Write it as "
            "postgresql+psycopg://user:password@host:5432/name or sqlite:////path/to/file.db, or "
            "unset it."
        )
    if not Path(url.database).parent.is_dir() and not settings.is_embedded:
        raise ConfigError(
            f"DATABASE_URL={settings.masked_database_url!r} names a file in a folder that does "
            "not exist: make the folder, or correct the path."
        )
    return sqlite_file.make_engine(url, timeout_seconds=BUSY_TIMEOUT_SECONDS)


def _postgresql_engine(url: sa.URL, settings: Settings, *, n_processes: int) -> sa.Engine:
    try:
        from reckeeper.storage import postgres
    except ModuleNotFoundError as exc:
        raise ConfigError(
            f"DATABASE_URL={settings.masked_database_url!r} needs the extra for PostgreSQL: "
            "pip install 'reckeeper[postgres]'."
        ) from exc
    return postgres.make_engine(url, settings, n_processes=n_processes)
