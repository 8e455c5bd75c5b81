"""The file of an SQLite database: made, opened, and with a log."""

import contextlib
import os
import secrets
import shutil
import sqlite3
from pathlib import Path
from typing import Any
from urllib.parse import quote

import sqlalchemy as sa
import tenacity

from reckeeper.errors import SchemaError, StorageError

_LOCK_SECONDS = 60
_LITTLE_BYTES = 4 * 1024 * 1024
_PAGE_BYTES = 4096

FILE_MODE, FOLDER_MODE = 0o600, 0o700
"""Nobody but its user reads what people did."""


def make_engine(url: sa.URL, *, timeout_seconds: float) -> sa.Engine:
    """Return an engine for a file that is there: a connection never makes one.

    Parameters
    ----------
    url : sqlalchemy.URL
        With the file as its database.
    timeout_seconds : float
        How long a writer waits for others.
    """
    file = os.path.abspath(str(url.database))
    engine = sa.create_engine(
        url.set(database=file),
        pool_size=20,
        max_overflow=40,
        pool_use_lifo=True,  # each that is used has a cache of its own
        connect_args={"timeout": timeout_seconds, "uri": True},
    )

    def name_the_file(_dialect: object, _record: object, given: list[str], _named: object) -> None:
        given[0] = f"file:{quote(os.fsencode(file))}?mode=rw"

    sa.event.listen(engine, "do_connect", name_the_file)
    sa.event.listen(engine, "connect", _on_connect)
    sa.event.listen(engine, "begin", _on_begin)
    return engine


def make(path: Path) -> None:
    """Make an empty database with a log, unless a file is there; it appears whole.

    Raises
    ------
    OSError, sqlite3.Error
        It cannot be made.
    """
    if path.exists():
        return
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        os.close(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE_MODE))
        with contextlib.closing(sqlite3.connect(unfinished)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
        with contextlib.suppress(FileExistsError):
            os.link(unfinished, path)
    finally:
        for name in (unfinished, f"{unfinished}-wal", f"{unfinished}-shm"):
            Path(name).unlink(missing_ok=True)


def see_that_it_has_content(path: Path) -> None:
    """Refuse a file of 0 bytes, in which SQLite would begin anew without a word.

    Raises
    ------
    SchemaError
        It has none.
    """
    if path.is_file() and not path.stat().st_size:
        raise SchemaError(
            f"The database {path} is an empty file: what was in it is gone, or something else made "
            "it. Nothing was done. Restore it from a backup; to begin anew, delete the file, and "
            "those beside it that end in -wal and -shm."
        )


def failure(reason: object, path: Path) -> StorageError:
    """Say that a database did not do what was asked, and what to do."""
    if is_full(reason):
        return StorageError(
            f"The database cannot be written to: {reason}. Nothing was written. See that its disk "
            "has room and may be written to; then try again: it is found out by itself.",
            private=str(path),
        )
    return StorageError(
        f"The database did not answer as it should: {reason}. Nothing was written; see that "
        "its file (in RECKEEPER_DATA_DIR, or DATABASE_URL) is a database, and that file and "
        "folder are there, writable and on a disk that is not full; then try again."
    )


def has_room(path: Path) -> bool:
    """Return whether the disk has room for some more rows at least."""
    try:
        return shutil.disk_usage(path.parent).free > _LITTLE_BYTES
    except OSError:
        return False


def probe(engine: sa.Engine) -> bool:
    """Write something, and read it with another connection; False while somebody else writes.

    Raises
    ------
    sqlite3.Error, sqlalchemy.exc.DBAPIError
        It cannot be written.
    """
    with (
        contextlib.closing(engine.raw_connection()) as pooled,
        contextlib.closing(engine.raw_connection()) as other,
    ):
        connection, cursor = pooled.cursor(), other.cursor()
        (waits,) = connection.execute("PRAGMA busy_timeout").fetchone()
        connection.execute("PRAGMA busy_timeout=0")
        try:
            connection.execute("BEGIN IMMEDIATE")
            (number,) = connection.execute("PRAGMA user_version").fetchone()
            connection.execute(f"PRAGMA user_version={(number + 1) % 2**31}")
            connection.execute("COMMIT")
            (found,) = cursor.execute("PRAGMA user_version").fetchone()
        except sqlite3.Error as exc:
            if is_locked(exc):
                return False
            raise
        finally:
            with contextlib.suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            connection.execute(f"PRAGMA busy_timeout={waits}")
    return bool(found != number)


def _on_connect(dbapi_connection: Any, _record: Any) -> None:
    dbapi_connection.isolation_level = None  # sqlite3 begins no transaction by itself
    cursor = dbapi_connection.cursor()
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA fullfsync=ON")  # on macOS a sync alone stops at the drive's cache
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.execute("PRAGMA secure_delete=ON")
    (_, _, file), *_ = cursor.execute("PRAGMA database_list").fetchall()
    n_pages = _pages_of_log(Path(file))
    cursor.execute(f"PRAGMA wal_autocheckpoint={n_pages}")
    cursor.execute(f"PRAGMA journal_size_limit={n_pages * _PAGE_BYTES}")
    cursor.execute("PRAGMA cache_size=-65536")
    cursor.close()


def _pages_of_log(file: Path) -> int:
    """Return how much log there is before it is worked in: 64 MiB, and little of a small disk.

    Index pages that many rows touch are then written once.
    """
    try:
        room = shutil.disk_usage(file.parent).total // 16
    except OSError:
        room = 0
    return max(256, min(16384, room // _PAGE_BYTES))


def _on_begin(connection: sa.Connection) -> None:
    writes = connection.get_execution_options().get("reckeeper_writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


# SQLite does not wait for its lock here, as it does elsewhere.
@tenacity.retry(
    retry=tenacity.retry_if_exception(lambda exc: is_locked(exc)),
    wait=tenacity.wait_random(0.01, 0.1),
    stop=tenacity.stop_after_delay(_LOCK_SECONDS),
    reraise=True,
)
def keep_log(engine: sa.Engine) -> None:
    """Let the database keep a write-ahead log from now on; it remembers that."""
    with contextlib.closing(engine.raw_connection()) as connection:
        connection.cursor().execute("PRAGMA journal_mode=WAL")


def is_locked(exc: object) -> bool:
    """Return whether somebody else holds the lock that was waited for."""
    return _code(exc) in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


def is_full(exc: object) -> bool:
    """Return whether an error says that the disk has no room, or takes no writes."""
    return _code(exc) in {sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR}


def is_malformed(exc: object) -> bool:
    """Return whether an error says that what is in the database does not hold together."""
    return _code(exc) == sqlite3.SQLITE_CORRUPT


def _code(exc: object) -> int | None:
    """Return SQLite's number of an error; Python's own, as for what is no UTF-8, have none."""
    code = getattr(exc, "sqlite_errorcode", None)
    return code & 0xFF if isinstance(exc, sqlite3.Error) and code is not None else None
