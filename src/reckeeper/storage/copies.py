"""The whole database as one file, and back: a file of SQLite's, or a dump of PostgreSQL's."""

import contextlib
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from reckeeper.config import Settings
from reckeeper.errors import ConfigError, ConflictError, StorageError
from reckeeper.storage import engine as engines
from reckeeper.storage.connections import settings_of
from reckeeper.storage.schema import VERSION_TABLE
from reckeeper.storage.tables import metadata

SQLITE, POSTGRESQL = "sqlite", "postgresql"

_PAGES = 10_000
_POLL_SECONDS = 0.2
_ERROR_CHARACTERS = 500

Progress = Callable[[int, int | None], None]
"""Is told how many bytes are done, and of how many, where that is known."""


def kind_of(settings: Settings) -> str:
    """Return which kind of database settings name: `SQLITE` or `POSTGRESQL`."""
    with _bare(settings) as engine:
        return str(engine.dialect.name)


def file_of(settings: Settings) -> Path | None:
    """Return the file of a database of SQLite, there or not; None for PostgreSQL."""
    with _bare(settings) as engine:
        return None if engines.is_postgresql(engine) else Path(str(engine.url.database))


def write(connection: sa.Connection, path: Path, *, on_progress: Progress) -> None:
    """Write what a connection sees of the database to a file; others may write meanwhile.

    Parameters
    ----------
    connection : sqlalchemy.Connection
        From `Database.read`, which has read something: the moment that it sees is copied.
    path : Path
        An empty file, for this user alone.
    on_progress : callable

    Raises
    ------
    StorageError
        The database is damaged, or PostgreSQL's programs did not do their part.
    ConfigError
        PostgreSQL's programs are not installed.
    """
    if engines.is_postgresql(connection):
        _dump(connection, path, on_progress)
    else:
        _copy(connection, path, on_progress)


def see_that_nothing_is_there(settings: Settings) -> None:
    """See that settings name a database that is not there, or has nothing of ours.

    Raises
    ------
    ConflictError
        There is one.
    StorageError, ConfigError
        It cannot be reached.
    """
    with _bare(settings) as engine:
        if not engines.is_postgresql(engine):
            path = Path(str(engine.url.database))
            names = [f"{path}{ending}" for ending in ("", "-wal", "-shm", "-journal")]
            found = [name for name in names if os.path.lexists(name)]
            where = found[0] if found else ""
        else:
            with engines.Database(engine, settings).read() as connection:
                tables = sa.inspect(connection).get_table_names(schema=settings.database_schema)
            found = sorted({*tables} & {*metadata.tables, VERSION_TABLE[POSTGRESQL]})
            where = (
                f"the table {found[0]} in schema {settings.database_schema!r} of the database "
                f"{settings.masked_database_url}"
                if found
                else ""
            )
    if found:
        raise ConflictError(
            f"There is a database already: {where}. A backup is restored where none is, and "
            "nothing was changed. Stop the processes and move it away, or name another place "
            "(RECKEEPER_DATA_DIR or DATABASE_URL)."
        )


def restore_dump(settings: Settings, path: Path) -> None:
    """Fill an empty database of PostgreSQL from a dump: all of it, or nothing.

    Raises
    ------
    StorageError
        It could not be done.
    ConfigError
        PostgreSQL's programs are not installed.
    """
    program = program_of("pg_restore")
    with _bare(settings) as engine:
        database = engines.Database(engine, settings)
        with database.write() as connection:
            if not sa.inspect(connection).has_schema(settings.database_schema):
                connection.execute(sa.schema.CreateSchema(settings.database_schema))
        with database.read() as connection:
            target, environ = _target(connection)
    command = [
        *(program, "--exit-on-error", "--single-transaction", "--no-owner", "--no-privileges"),
        *(f"--dbname={target}", str(path)),
    ]
    _finish("pg_restore", subprocess.Popen(command, env=environ, **_QUIET))


def program_of(name: str) -> str:
    """Return where one of PostgreSQL's programs is.

    Raises
    ------
    ConfigError
        It is not installed.
    """
    found = shutil.which(name)
    if found is None:
        raise ConfigError(
            f"{name} is not in PATH: install PostgreSQL's client programs, of the server's release "
            "or a later one (Debian: postgresql-client), then try again."
        )
    return found


def _copy(connection: sa.Connection, path: Path, on_progress: Progress) -> None:
    source: Any = connection.connection.driver_connection
    size = source.execute("PRAGMA page_size").fetchone()[0]

    def tell(_status: int, remaining: int, total: int) -> None:
        on_progress((total - remaining) * size, total * size)

    try:
        with contextlib.closing(sqlite3.connect(path)) as target:
            # Inside the transaction of `source` no other's write makes it begin again.
            source.backup(target, pages=_PAGES, progress=tell)
            # One file: it keeps a log again once it is opened as a database.
            target.execute("PRAGMA journal_mode=DELETE")
            found = target.execute("PRAGMA quick_check(1)").fetchone()[0]
    except sqlite3.Error as exc:
        raise StorageError(
            f"The database could not be copied: {exc}. See that it is whole, and that the disk of "
            f"{path.parent} is not full."
        ) from exc
    if found != "ok":
        raise StorageError(
            f"The database is damaged ({found}): no backup was made of it. Keep the last one that "
            "you have, and look at the disk."
        )


_QUIET: dict[str, Any] = {
    "stdin": subprocess.DEVNULL,
    "stdout": subprocess.DEVNULL,
    "stderr": subprocess.PIPE,
    "text": True,
}


def _dump(connection: sa.Connection, path: Path, on_progress: Progress) -> None:
    program = program_of("pg_dump")
    snapshot = connection.exec_driver_sql("SELECT pg_export_snapshot()").scalar_one()
    schema = settings_of(connection).database_schema
    target, environ = _target(connection)
    tables = (*metadata.tables, VERSION_TABLE[POSTGRESQL])
    command = [
        *(program, "--format=custom", "--no-owner", "--no-privileges", f"--snapshot={snapshot}"),
        *(f'--table="{schema}"."{table}"' for table in tables),
        *(f"--file={path}", f"--dbname={target}"),
    ]
    running = subprocess.Popen(command, env=environ, **_QUIET)
    _finish("pg_dump", running, lambda: on_progress(path.stat().st_size, None))


def _target(connection: sa.Connection) -> tuple[str, dict[str, str]]:
    """Return how PostgreSQL's programs reach the database: words that all may see, and the rest."""
    from psycopg.conninfo import make_conninfo

    # As they were given: what the driver adds may be of a later release than the programs.
    url = connection.engine.url
    words = {**url.query, **url.translate_connect_args(username="user", database="dbname")}
    password = words.pop("password", None)
    # The list of processes shows what is on a command line, and not the environment.
    secret = {} if password is None else {"PGPASSWORD": str(password)}
    return make_conninfo("", **words), os.environ | secret


def _finish(
    name: str, running: "subprocess.Popen[str]", tell: Callable[[], None] = lambda: None
) -> None:
    """Wait for a program; what it writes to its standard error is what went wrong."""
    said = None
    try:
        while said is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                said = running.communicate(timeout=_POLL_SECONDS)[1]
            tell()
    except BaseException:
        running.kill()
        running.wait()
        raise
    if running.returncode:
        lines = " ".join(said.split())[:_ERROR_CHARACTERS]
        raise StorageError(f"{name} failed: {lines}")


@contextlib.contextmanager
def _bare(settings: Settings) -> Iterator[sa.Engine]:
    """Give an engine on a database that may have no schema yet, or not be there."""
    engine = engines.make_engine(settings)
    try:
        yield engine
    finally:
        engine.dispose()
