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
from typing import Any, TypeVar

import sqlalchemy as sa
import tenacity
from sqlalchemy.dialects import postgresql, sqlite

from reckeeper.config import Settings
from reckeeper.errors import Action, ConfigError, SchemaError, StorageError
from reckeeper.storage.tables import metadata
from reckeeper.telemetry import get_logger

SCHEMA_REVISION = "0004"
"""The migration that this release needs; a test holds it against the scripts."""

BUSY_TIMEOUT_SECONDS = 60
"""How long a writer waits for the others, and how long one may keep them waiting."""

START_SECONDS = 30.0
"""How long a database that does not answer is waited for when it is opened."""

_SLOW_SECONDS = 2.0
_BUSY_RETRY_SECONDS = 30

VERSION_TABLE = {"sqlite": "alembic_version", "postgresql": "reckeeper_alembic_version"}
"""Where Alembic keeps the revision; in PostgreSQL others may use the same schema."""

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
        self._engine = engine.execution_options(reckeeper_settings=settings)
        self._writer = self._engine.execution_options(reckeeper_writes=True)
        self._reader = self._engine
        self._unreached_at = -math.inf
        if is_postgresql(engine):
            # Whatever the defaults of the role are: a writer must see what came before its lock.
            self._writer = self._writer.execution_options(isolation_level="READ COMMITTED")
            self._reader = self._engine.execution_options(
                isolation_level="REPEATABLE READ", postgresql_readonly=True
            )

    @contextlib.contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """Give a connection on which all reads see one moment."""
        with self._translated(), self._reader.begin() as connection:
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
            be there all the same.
        """
        callbacks: dict[str, Callable[[], None]] = {}
        with self._translated(), self._writer.begin() as connection:
            yield connection.execution_options(reckeeper_after_commit=callbacks)
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

    def close(self) -> None:
        """Close all connections; a later use opens them again."""
        self._engine.dispose()

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        began = time.monotonic()
        was_reached = True
        try:
            with _translated(self._engine):
                yield
        except StorageError as exc:
            was_reached = not is_unreachable(exc)
            raise
        finally:
            # One that is held still raises nothing.
            if not was_reached or time.monotonic() - began > _SLOW_SECONDS:
                self._unreached_at = time.monotonic()


def settings_of(connection: sa.Connection) -> Settings:
    """Return the settings with which the database of a connection was opened."""
    settings: Settings = connection.get_execution_options()["reckeeper_settings"]
    return settings


def after_commit(connection: sa.Connection, name: str, callback: Callable[[], None]) -> None:
    """Have something called once the writes of a transaction are on disk.

    Parameters
    ----------
    connection : sqlalchemy.Connection
        From `Database.write`. If its block fails, nothing is called.
    name : str
        Where several are given under one name, only the last is called.
    callback : callable
        Must handle its own errors: the change stands whatever becomes of it.
    """
    connection.get_execution_options()["reckeeper_after_commit"][name] = callback


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
        return StorageError(
            f"The database did not answer as it should: {reason}. Nothing was written; see that "
            "its file (in RECKEEPER_DATA_DIR, or DATABASE_URL) is a database, and that file and "
            "folder are there, writable and on a disk that is not full; then try again."
        )
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


def is_unreachable(exc: BaseException) -> bool:
    """Return whether an error of `Database` may pass by itself: nobody home, no room, a lock."""
    cause = exc.__cause__ if isinstance(exc, StorageError) else exc
    if isinstance(cause, sa.exc.TimeoutError):
        return True
    reason = cause.orig if isinstance(cause, sa.exc.DBAPIError) else cause
    if isinstance(reason, sqlite3.Error):
        return _is_locked(reason)
    return _is_lost(reason) or _has_state(reason, _PASSING)


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
        _keep_log(engine)  # a copy that was restored may have lost it
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
            settings.data_dir.mkdir(parents=True, exist_ok=True)
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
            _keep_log(engine)
        else:
            _when_reached(engine, lambda: _see_that_it_answers(database))
        with database.write() as connection:
            before = _revision_on(connection)
            if before is not None and before > SCHEMA_REVISION:
                raise _too_new(shown, before)
            if before is None:
                _see_that_it_is_free(connection, settings, shown)
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


def _see_that_it_is_free(connection: sa.Connection, settings: Settings, shown: str) -> None:
    """Make the schema if it is not there; raise if it holds tables of others by our names."""
    if is_postgresql(connection):
        schema = settings.database_schema
        if not sa.inspect(connection).has_schema(schema):
            connection.execute(sa.schema.CreateSchema(schema))
            return
        # Tables and views of every kind; they share their names with indexes and types.
        relations = sa.text(
            "SELECT relname FROM pg_class JOIN pg_namespace AS space ON space.oid = relnamespace "
            "WHERE space.nspname = :schema"
        )
        names = set(connection.execute(relations, {"schema": schema}).scalars())
        where = f"schema {schema!r} of the database {shown}"
        remedy, action = (
            "Name another schema for Reckeeper (RECKEEPER_DATABASE_SCHEMA=reckeeper; it is made "
            "if need be), then migrate again. What is there can be imported.",
            Action("import_query"),
        )
    else:
        inspector = sa.inspect(connection)
        names = set(inspector.get_table_names())
        where = f"database {shown}"
        remedy = "Name another file in DATABASE_URL, then migrate again."
        action = Action("migrate")
    taken = sorted(names & set(metadata.tables))
    if taken:
        raise SchemaError(
            f"The {where} has a table {taken[0]!r} already that Reckeeper did not make: it was "
            f"left as it is. {remedy}",
            action=action,
        )


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


# SQLite does not wait for its lock here, as it does elsewhere.
@tenacity.retry(
    retry=tenacity.retry_if_exception(lambda exc: _is_locked(exc.__cause__)),
    wait=tenacity.wait_random(0.01, 0.1),
    stop=tenacity.stop_after_delay(BUSY_TIMEOUT_SECONDS),
    reraise=True,
)
def _keep_log(engine: sa.Engine) -> None:
    """Let the database keep a write-ahead log from now on; it remembers that."""
    with _translated(engine), contextlib.closing(engine.raw_connection()) as connection:
        connection.cursor().execute("PRAGMA journal_mode=WAL")


def _is_locked(exc: BaseException | None) -> bool:
    locked = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
    return isinstance(exc, sqlite3.OperationalError) and exc.sqlite_errorcode in locked


def _embedded_file(settings: Settings) -> Path:
    return settings.data_dir / "reckeeper.sqlite3"


def _revision(database: Database) -> str | None:
    with database.read() as connection:
        return _revision_on(connection)


def _revision_on(connection: sa.Connection) -> str | None:
    """Read what Alembic has written, without it: importing it takes longer than a command."""
    # In PostgreSQL not another schema's on the search path.
    schema = settings_of(connection).database_schema if is_postgresql(connection) else None
    name = VERSION_TABLE[connection.dialect.name]
    if not sa.inspect(connection).has_table(name, schema=schema):
        return None
    versions = sa.table(name, sa.column("version_num", sa.String), schema=schema)
    return connection.execute(sa.select(versions.c.version_num)).scalar_one_or_none()


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
    engine = sa.create_engine(
        url,
        pool_size=20,
        max_overflow=40,
        pool_use_lifo=True,  # each that is used has a cache of its own
        connect_args={"timeout": BUSY_TIMEOUT_SECONDS},
    )
    sa.event.listen(engine, "connect", _on_connect)
    sa.event.listen(engine, "begin", _on_begin)
    return engine


def _postgresql_engine(url: sa.URL, settings: Settings, *, n_processes: int) -> sa.Engine:
    try:
        from reckeeper.storage import postgres
    except ModuleNotFoundError as exc:
        raise ConfigError(
            f"DATABASE_URL={settings.masked_database_url!r} needs the extra for PostgreSQL: "
            "pip install 'reckeeper[postgres]'."
        ) from exc
    return postgres.make_engine(url, settings, n_processes=n_processes)


def _on_connect(dbapi_connection: Any, _record: Any) -> None:
    dbapi_connection.isolation_level = None  # sqlite3 begins no transaction by itself
    cursor = dbapi_connection.cursor()
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA fullfsync=ON")  # on macOS a sync alone stops at the drive's cache
    cursor.execute("PRAGMA foreign_keys=ON")
    # 64 MiB of log before it is worked in: index pages that many rows touch are written once.
    cursor.execute("PRAGMA wal_autocheckpoint=16384")
    cursor.execute("PRAGMA cache_size=-65536")
    cursor.close()


def _on_begin(connection: sa.Connection) -> None:
    writes = connection.get_execution_options().get("reckeeper_writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
