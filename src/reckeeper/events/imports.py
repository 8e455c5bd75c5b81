"""The imports that there were, as they are told: one whose process is gone has failed."""

import dataclasses

from reckeeper import clock, machine, storage
from reckeeper.errors import Action, NotFoundError

SILENT_SECONDS = 900.0
"""After which an import of another machine that gives no sign of life has failed.

While it makes indexes, and nobody else can write, it gives none.
"""

_AGAIN = "Importing again adds what is missing."


def all_imports(database: storage.Database) -> list[storage.Import]:
    """Return all imports, the latest first."""
    with database.read() as connection:
        return [_told(row) for row in storage.imports.all_imports(connection)]


def page(
    database: storage.Database, *, limit: int, before: int | None = None
) -> list[storage.Import]:
    """Return up to `limit` imports, the latest first, with numbers below `before`."""
    with database.read() as connection:
        rows = storage.imports.page(connection, limit=limit, before=before)
    return [_told(row) for row in rows]


def find_import(database: storage.Database, import_id: int) -> storage.Import:
    """Return an import.

    Raises
    ------
    NotFoundError
        There is none of this number.
    """
    with database.read() as connection:
        row = storage.imports.get(connection, import_id)
    if row is None:
        raise NotFoundError(f"There is no import {import_id}.", action=Action("list_imports"))
    return _told(row)


def restore_lookups(database: storage.Database) -> None:
    """Make the indexes that an import set aside and did not come to make: it was killed, say.

    Raises
    ------
    StorageError
        As of `storage.lookups.restore`.
    """
    with database.read() as connection:
        if storage.lookups.are_whole(connection):
            return
    if all(row.status != storage.imports.RUNNING for row in all_imports(database)):
        storage.lookups.restore(database)


def _told(row: storage.Import) -> storage.Import:
    reason = None
    if row.status == storage.imports.RUNNING:
        if row.holder is not None and machine.is_of_here(row.holder):
            if machine.is_gone(row.holder):
                reason = f"The process that ran it ended before it was done. {_AGAIN}"
        elif clock.now() - row.updated_at > SILENT_SECONDS * 1e6:
            reason = f"There has been no sign of life of it for {_minutes(row)}. {_AGAIN}"
    if reason is None:
        return row
    return dataclasses.replace(row, status=storage.imports.FAILED, reason=reason)


def _minutes(row: storage.Import) -> str:
    minutes = int((clock.now() - row.updated_at) / 60e6)
    return f"{minutes:,} minutes" if minutes < 300 else f"{minutes // 60:,} hours"
