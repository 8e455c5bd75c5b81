"""The indexes by user and by item, which are made afresh after very many rows.

Filled row by row they change nearly all of their pages with each batch, and the longer they are
the more that takes. Sorted once, at the end, they take a quarter of it.
Until then, what asks for a user or an item reads the whole table. SQLite's alone: PostgreSQL's
take it.
"""

import contextlib
from collections.abc import Iterator

import sqlalchemy as sa

from reckeeper.storage.engine import Database, is_postgresql
from reckeeper.storage.tables import user_interactions

_INDEXES = sorted(
    (
        each
        for each in user_interactions.indexes
        if each.columns.keys() in (["user_id"], ["item_id"])
    ),
    key=lambda index: str(index.name),
)

SECONDS_A_MILLION = 2.0
"""What an index takes for a million rows, on a slow machine; a quick one needs half of it."""

_APPENDING_KIB = 16 * 1024
_SORTING_KIB = 4 * 1024
"""What is sorted at a time; it takes this much once more. With 16 MiB it took a half longer."""


def set_aside(connection: sa.Connection) -> None:
    """Take the indexes out, until `restore`."""
    if not is_postgresql(connection):
        for index in _INDEXES:
            index.drop(connection, checkfirst=True)


def are_whole(connection: sa.Connection) -> bool:
    """Say whether none is missing, as after an import that was killed."""
    inspector = sa.inspect(connection)
    return all(inspector.has_index(user_interactions.name, str(index.name)) for index in _INDEXES)


def restore(database: Database) -> None:
    """Make what is missing, an index at a time; others who write wait for each.

    Notes
    -----
    About `SECONDS_A_MILLION` for each, in little memory and in temporary files.

    Raises
    ------
    StorageError
        The database did not do it: its disk is full, say.
    """
    for index in _INDEXES:
        with database.write() as connection, _cache(connection, _SORTING_KIB):
            index.create(connection, checkfirst=True)


def appending(connection: sa.Connection) -> contextlib.AbstractContextManager[None]:
    """Have SQLite keep fewer pages, within the block: without these indexes it needs few."""
    return _cache(connection, _APPENDING_KIB)


@contextlib.contextmanager
def _cache(connection: sa.Connection, kib: int) -> Iterator[None]:
    if is_postgresql(connection):
        yield
        return
    size = connection.exec_driver_sql("PRAGMA cache_size").scalar_one()
    connection.exec_driver_sql(f"PRAGMA cache_size = {-kib}")  # below zero it is no number of pages
    try:
        yield
    finally:
        connection.exec_driver_sql(f"PRAGMA cache_size = {int(size)}")
