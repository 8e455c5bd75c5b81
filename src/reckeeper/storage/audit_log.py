"""`audit_log`: rows are added, never changed. `audit` knows what their hashes mean."""

import json
from collections.abc import Generator, Mapping
from typing import Any

import sqlalchemy as sa

from reckeeper.errors import StorageError
from reckeeper.storage.tables import audit_log

# Details as they stand in the table: somebody may have put there what is no JSON.
_ROW = [
    *(column for column in audit_log.c if column.name != "details"),
    sa.cast(audit_log.c.details, sa.Text).label("details"),
]


def insert(connection: sa.Connection, entry: Mapping[str, Any]) -> None:
    """Add an entry; it has a value for every column."""
    connection.execute(sa.insert(audit_log).values(dict(entry)))


def last(connection: sa.Connection) -> dict[str, Any] | None:
    """Return the entry with the largest number, or None; details as `in_order` gives them.

    Within a write nobody else can add one before the transaction ends.
    """
    query = sa.select(*_ROW).order_by(audit_log.c.entry_id.desc()).limit(1)
    row = connection.execute(query).mappings().first()
    return None if row is None else dict(row)


def hash_of(connection: sa.Connection, entry_id: int) -> str | None:
    """Return the hash of an entry; None where it has none, or is not there."""
    found = connection.execute(sa.select(audit_log.c.hash).where(audit_log.c.entry_id == entry_id))
    value: str | None = found.scalar()
    return value


def latest(
    connection: sa.Connection, *, limit: int, before: int | None = None
) -> list[dict[str, Any]]:
    """Return up to `limit` entries with numbers below `before`, the latest first.

    Details that are no JSON any more come as the text that they are.
    """
    query = sa.select(*_ROW).order_by(audit_log.c.entry_id.desc()).limit(limit)
    if before is not None:
        query = query.where(audit_log.c.entry_id < before)
    rows = [dict(row) for row in connection.execute(query).mappings()]
    for row in rows:
        try:
            # NaN is no JSON, and becomes a text too.
            row["details"] = json.loads(row["details"], parse_constant=str)
        except (ValueError, RecursionError):
            continue
    return rows


def in_order(connection: sa.Connection) -> Generator[dict[str, Any], None, None]:
    """Yield all entries by number, in bounded memory; details are text.

    Raises
    ------
    StorageError
        The next entry cannot be read.
    """
    query = sa.select(*_ROW).order_by(audit_log.c.entry_id)
    try:
        with connection.execute(query, execution_options={"yield_per": 1000}) as result:
            for row in result.mappings():
                yield dict(row)
    except sa.exc.DBAPIError as exc:
        raise StorageError(f"The audit trail cannot be read on: {exc.orig}.") from exc
