"""`timeline`: which version was active from when on, who switched, and why."""

import sqlalchemy as sa

from reckeeper.clock import now
from reckeeper.storage.records import TimelineEntry, every, one
from reckeeper.storage.tables import models, timeline

_later = timeline.alias("later")
_ENTRIES = sa.select(
    timeline,
    sa.select(_later.c.at)
    .where(_later.c.entry_id > timeline.c.entry_id)
    .order_by(_later.c.entry_id)
    .limit(1)
    .scalar_subquery()
    .label("until"),
)


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

    `version` is the one that is active from now on; None: none is.
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


def latest(connection: sa.Connection) -> TimelineEntry | None:
    """Return the last entry, or None before the first."""
    rows = page(connection, limit=1)
    return rows[0] if rows else None


def get(connection: sa.Connection, entry_id: int) -> TimelineEntry | None:
    """Return an entry, or None."""
    return one(TimelineEntry, connection.execute(_ENTRIES.where(timeline.c.entry_id == entry_id)))


def page(
    connection: sa.Connection, *, limit: int, before: int | None = None
) -> list[TimelineEntry]:
    """Return up to `limit` entries with numbers below `before`, the latest first."""
    query = _ENTRIES.order_by(timeline.c.entry_id.desc()).limit(limit)
    if before is not None:
        query = query.where(timeline.c.entry_id < before)
    return every(TimelineEntry, connection.execute(query))


def of_version(connection: sa.Connection, version: int) -> list[TimelineEntry]:
    """Return the entries of a version, the latest first."""
    query = _ENTRIES.where(timeline.c.version == version)
    return every(TimelineEntry, connection.execute(query.order_by(timeline.c.entry_id.desc())))


def before(connection: sa.Connection) -> TimelineEntry | None:
    """Return the entry to which a roll back leads now, or None.

    Entries are walked back by `back_to`, past versions that are deleted and
    past the active one.
    """
    current = latest(connection)
    entry = current
    while entry is not None and entry.back_to is not None:
        entry = get(connection, entry.back_to)
        assert current is not None
        if entry is None or entry.version in (None, current.version):
            continue
        is_there = connection.execute(
            sa.select(models.c.version).where(
                models.c.version == entry.version, models.c.deleted_at.is_(None)
            )
        ).first()
        if is_there is not None:
            return entry
    return None
