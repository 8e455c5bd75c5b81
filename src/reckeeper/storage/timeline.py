"""`timeline`: which version served from when on, who switched, and why."""

from typing import Any

import sqlalchemy as sa

from reckeeper.clock import now
from reckeeper.storage.tables import models, timeline


def insert(
    connection: sa.Connection,
    *,
    version: int | None,
    action: str,
    actor: str,
    reason: str | None = None,
    job_id: int | None = None,
    back_to: int | None = None,
) -> int:
    """Add an entry, dated now, and return its number.

    `version` is the one that serves from now on, None: nothing does.
    `back_to` is the entry that a roll back leads to from here.
    """
    entry_id = connection.execute(
        sa.insert(timeline)
        .values(
            at=now(),
            version=version,
            action=action,
            actor=actor,
            reason=reason,
            job_id=job_id,
            back_to=back_to,
        )
        .returning(timeline.c.entry_id)
    )
    return int(entry_id.scalar_one())


def latest(connection: sa.Connection) -> dict[str, Any] | None:
    """Return the entry of what serves now, or None before the first."""
    rows = page(connection, limit=1)
    return rows[0] if rows else None


def get(connection: sa.Connection, entry_id: int) -> dict[str, Any] | None:
    """Return an entry, or None."""
    rows = connection.execute(sa.select(timeline).where(timeline.c.entry_id == entry_id))
    row = rows.mappings().first()
    return None if row is None else dict(row)


def page(
    connection: sa.Connection, *, limit: int, before: int | None = None
) -> list[dict[str, Any]]:
    """Return up to `limit` entries with numbers below `before`, the latest first.

    Each has ``until``, when the next one began: None for the last.
    """
    columns = timeline.c
    query = sa.select(timeline).order_by(columns.entry_id.desc())
    if before is not None:
        query = query.where(columns.entry_id < before)
    rows = [dict(row) for row in connection.execute(query.limit(limit)).mappings()]
    first = rows[0]["entry_id"] if rows else 0
    later = connection.execute(
        sa.select(columns.at).where(columns.entry_id > first).order_by(columns.entry_id).limit(1)
    ).scalar()
    for row in rows:
        row["until"], later = later, row["at"]
    return rows


def of_version(connection: sa.Connection, version: int) -> list[dict[str, Any]]:
    """Return the entries of a version as `page` does, the latest first."""
    until = sa.func.lead(timeline.c.at).over(order_by=timeline.c.entry_id).label("until")
    entries = sa.select(timeline, until).subquery()
    rows = connection.execute(
        sa.select(entries).where(entries.c.version == version).order_by(entries.c.entry_id.desc())
    )
    return [dict(row) for row in rows.mappings()]


def before(connection: sa.Connection) -> dict[str, Any] | None:
    """Return the entry to which a roll back leads now, or None.

    Entries are walked back by `back_to`, past versions that are deleted and
    past the one that serves.
    """
    current = latest(connection)
    entry = current
    while entry is not None and entry["back_to"] is not None:
        entry = get(connection, entry["back_to"])
        assert current is not None
        if entry is None or entry["version"] in (None, current["version"]):
            continue
        is_there = connection.execute(
            sa.select(models.c.version).where(
                models.c.version == entry["version"], models.c.deleted_at.is_(None)
            )
        ).first()
        if is_there is not None:
            return entry
    return None
