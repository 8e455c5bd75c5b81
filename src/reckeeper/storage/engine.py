"""The database: opening it, its transactions, its schema."""

import contextlib
import sqlite3
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
import tenacity
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext

from reckeeper.config import Settings
from reckeeper.errors import ConfigError, SchemaError, StorageError

SCHEMA_REVISION = "0003"
"""The migration that this release needs; a test holds it against the scripts."""

BUSY_TIMEOUT_SECONDS = 60


def now() -> int:
    """Return the present time in microseconds since 1970-01-01 UTC."""
    return time.time_ns() // 1000


def rfc3339(moment: int) -> str:
    """Return a time in microseconds since 1970 as ``2025-12-04T23:42:15.123456Z``."""
    seconds, rest = divmod(moment, 1_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:06d}Z"


class Database:
    """A database with the schema of this release.

    Safe to share between threads. Several processes may open the same one:
    readers see a snapshot and never wait, writers wait for each other.

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

    @contextlib.contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """Give a connection on which all reads see one moment."""
        with _translated(), self._engine.begin() as connection:
            yield connection

    @contextlib.contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """Give a connection whose writes are on disk when the block has ended.

        An exception in the block takes all of them back. What `after_commit`
        was given is called last, with the writers' lock free again.

        Raises
        ------
        StorageError
            The database refused, or stayed locked for a minute.
        """
        callbacks: dict[str, Callable[[], None]] = {}
        with _translated(), self._writer.begin() as connection:
            yield connection.execution_options(reckeeper_after_commit=callbacks)
        for callback in callbacks.values():
            callback()

    def close(self) -> None:
        """Close all connections; a later use opens them again."""
        self._engine.dispose()


def settings_of(connection: sa.Connection) -> Settings:
    """Return the settings with which the database of a connection was opened."""
    settings: Settings = connection.get_execution_options()["reckeeper_settings"]
    return settings


def after_commit(connection: sa.Connection, name: str, callback: Callable[[], None]) -> None:
    """Have something called once the writes of a transaction are on disk.

    Parameters
    ----------
    connection : sqlalchemy.Connection
        Of `Database.write`. If its block fails, nothing is called.
    name : str
        Of several given under one name, only the last is called.
    callback : callable
        Must handle its own errors: the change stands whatever becomes of it.
    """
    connection.get_execution_options()["reckeeper_after_commit"][name] = callback


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except sa.exc.TimeoutError as exc:
        raise StorageError(
            "All connections to the database are in use: there are too many requests at once. "
            "Try again in a moment."
        ) from exc
    except (sa.exc.DBAPIError, sqlite3.Error) as exc:
        reason = exc.orig if isinstance(exc, sa.exc.DBAPIError) else exc
        raise StorageError(
            f"The database did not answer as it should: {reason}. Nothing was written; see that "
            "its file (in RECKEEPER_DATA_DIR, or DATABASE_URL) is a database, and that file and "
            "folder are there, writable and on a disk that is not full; then try again."
        ) from exc


def open_database(settings: Settings) -> Database:
    """Open the database that `settings` name.

    Raises
    ------
    SchemaError
        It has no schema yet, an older one, or one of a later release.
    ConfigError
        Its URL names a kind of database that is not supported.
    """
    engine = _engine(settings)
    file = Path(str(engine.url.database))
    if not file.exists():  # SQLite would make it
        raise SchemaError(
            f"There is no database {file} yet: run `reckeeper migrate` with the same settings "
            "(RECKEEPER_DATA_DIR or DATABASE_URL names the place), then start again."
        )
    database = Database(engine, settings)
    revision = _revision(database)
    if revision != SCHEMA_REVISION:
        database.close()
        shown = settings.masked_database_url or str(_embedded_file(settings))
        if revision is None or revision < SCHEMA_REVISION:
            found = "no schema yet" if revision is None else "an older schema"
            raise SchemaError(
                f"The database {shown} has {found}: run `reckeeper migrate` with the same "
                "settings, then start again."
            )
        raise SchemaError(
            f"The database {shown} has schema {revision}, made by a later release of Reckeeper "
            f"(this one knows {SCHEMA_REVISION}): upgrade Reckeeper."
        )
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
        The schema is of a later release.
    """
    if settings.is_embedded:
        try:
            settings.data_dir.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise ConfigError(
                f"RECKEEPER_DATA_DIR={str(settings.data_dir)!r} cannot be made: {exc.strerror}. "
                "Name a folder that this user may write to."
            ) from exc
    database = Database(_engine(settings), settings)
    try:
        _keep_log(database._engine)
        with database.write() as connection:
            before = MigrationContext.configure(connection).get_current_revision()
            if before is not None and before > SCHEMA_REVISION:
                raise SchemaError(
                    f"The database has schema {before}, made by a later release of Reckeeper "
                    f"(this one knows {SCHEMA_REVISION}): upgrade Reckeeper."
                )
            if before != SCHEMA_REVISION:
                config = Config()
                config.set_main_option("script_location", "reckeeper.storage:migrations")
                config.attributes["connection"] = connection
                command.upgrade(config, SCHEMA_REVISION)
        return before
    finally:
        database.close()


# SQLite does not wait for its lock here, as it does elsewhere.
@tenacity.retry(
    retry=tenacity.retry_if_exception(lambda exc: _is_locked(exc.__cause__)),
    wait=tenacity.wait_random(0.01, 0.1),
    stop=tenacity.stop_after_delay(BUSY_TIMEOUT_SECONDS),
    reraise=True,
)
def _keep_log(engine: sa.Engine) -> None:
    """Let the database keep a write-ahead log from now on; it remembers that."""
    with _translated(), contextlib.closing(engine.raw_connection()) as connection:
        connection.cursor().execute("PRAGMA journal_mode=WAL")


def _is_locked(exc: BaseException | None) -> bool:
    locked = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
    return isinstance(exc, sqlite3.OperationalError) and exc.sqlite_errorcode in locked


def _embedded_file(settings: Settings) -> Path:
    return settings.data_dir / "reckeeper.sqlite3"


def _revision(database: Database) -> str | None:
    with database.read() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def _engine(settings: Settings) -> sa.Engine:
    if settings.database_url is None:
        url = sa.URL.create("sqlite", database=str(_embedded_file(settings)))
    else:
        try:
            url = sa.make_url(settings.database_url)
        except sa.exc.ArgumentError as exc:
            raise ConfigError(
                f"DATABASE_URL={settings.masked_database_url!r} is not a database URL. "
                "Write it as sqlite:////path/to/file.db, or unset it."
            ) from exc
    is_sqlite = url.drivername in {"sqlite", "sqlite+pysqlite"}
    if not is_sqlite or not url.database or url.database == ":memory:":
        raise ConfigError(
            f"DATABASE_URL={settings.masked_database_url!r} cannot be used: this release keeps "
            "its data in an SQLite file. Write it as sqlite:////path/to/file.db, or unset it."
        )
    if not Path(url.database).parent.is_dir() and not settings.is_embedded:
        raise ConfigError(
            f"DATABASE_URL={settings.masked_database_url!r} names a file in a folder that does "
            "not exist: make the folder, or correct the path."
        )
    engine = sa.create_engine(
        url, pool_size=20, max_overflow=40, connect_args={"timeout": BUSY_TIMEOUT_SECONDS}
    )
    sa.event.listen(engine, "connect", _on_connect)
    sa.event.listen(engine, "begin", _on_begin)
    return engine


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
