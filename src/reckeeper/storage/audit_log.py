"""`audit_log`: rows are added, never changed. `audit` knows what their hashes mean."""

import json
from collections.abc import Generator

import sqlalchemy as sa

from reckeeper.errors import StorageError
from reckeeper.storage.records import AuditEntry, every, one
from reckeeper.storage.tables import audit_log

# Details as they stand in the table: somebody may have put there what is no JSON.
_ROW = [
    *(column for column in audit_log.c if column.name != "details"),
    sa.cast(audit_log.c.details, sa.Text).label("details"),
]


def insert(connection: sa.Connection, entry: AuditEntry) -> None:
    """Add an entry."""
    values = {**vars(entry), "details": json.loads(entry.details)}
    connection.execute(sa.insert(audit_log).values(values))


def last(connection: sa.Connection) -> AuditEntry | None:
    """Return the entry with the largest number, or None.

    Within a write nobody else can add one before the transaction ends.
    """
    query = sa.select(*_ROW).order_by(audit_log.c.entry_id.desc()).limit(1)
    return one(AuditEntry, connection.execute(query))


def hash_of(connection: sa.Connection, entry_id: int) -> str | None:
    """Return the hash of an entry; None where it has none, or is not there."""
    found = connection.execute(sa.select(audit_log.c.hash).where(audit_log.c.entry_id == entry_id))
    value: str | None = found.scalar()
    return value


def latest(connection: sa.Connection, *, limit: int, before: int | None = None) -> list[AuditEntry]:
    """Return up to `limit` entries with numbers below `before`, the latest first."""
    query = sa.select(*_ROW).order_by(audit_log.c.entry_id.desc()).limit(limit)
    if before is not None:
        query = query.where(audit_log.c.entry_id < before)
    return every(AuditEntry, connection.execute(query))


def last_at(connection: sa.Connection, *, action: str, actor: str | None = None) -> int | None:
    """Return the time of the last entry of an action, of one actor where one is named, or None."""
    query = sa.select(audit_log.c.at).where(audit_log.c.action == action)
    if actor is not None:
        query = query.where(audit_log.c.actor == actor)
    found = connection.execute(query.order_by(audit_log.c.entry_id.desc()).limit(1)).scalar()
    return None if found is None else int(found)


def in_order(connection: sa.Connection) -> Generator[AuditEntry, None, None]:
    """Yield all entries by number, in bounded memory.

    Raises
    ------
    StorageError
        The next entry cannot be read.
    """
    query = sa.select(*_ROW).order_by(audit_log.c.entry_id)
    try:
        with connection.execute(query, execution_options={"yield_per": 1000}) as result:
            for row in result.mappings():
                yield AuditEntry(**row)
    except sa.exc.DBAPIError as exc:
        raise StorageError(f"The audit trail cannot be read any further: {exc.orig}.") from exc
