"""`notices`: what a webhook is to be told, kept until it was told."""

from collections.abc import Mapping

import sqlalchemy as sa

from reckeeper.clock import DAY, now
from reckeeper.storage.records import Notice, one
from reckeeper.storage.tables import notices


def insert(
    connection: sa.Connection, *, event: str, payload: Mapping[str, object], key: str | None = None
) -> int | None:
    """Add a notice that is due at once; return its number, None if one with its key is there."""
    if key is not None and has(connection, key):
        return None
    notice_id = connection.execute(
        sa.insert(notices)
        .values(
            at=now(), event=event, key=key, payload=dict(payload), attempts=0, next_attempt_at=now()
        )
        .returning(notices.c.notice_id)
    )
    return int(notice_id.scalar_one())


def get(connection: sa.Connection, notice_id: int) -> Notice | None:
    """Return a notice, or None."""
    query = sa.select(notices).where(notices.c.notice_id == notice_id)
    return one(Notice, connection.execute(query))


def has(connection: sa.Connection, key: str) -> bool:
    """Return whether there is a notice of a key, delivered or not."""
    found = connection.execute(sa.select(notices.c.notice_id).where(notices.c.key == key))
    return found.first() is not None


def first_due(connection: sa.Connection) -> Notice | None:
    """Return the oldest notice whose next attempt is due, or None."""
    query = sa.select(notices).where(_is_due())
    return one(Notice, connection.execute(query.order_by(notices.c.notice_id).limit(1)))


def take(connection: sa.Connection, notice: Notice, *, until: int) -> bool:
    """Put off a notice's next attempt for the present one; False if another process did.

    Parameters
    ----------
    connection : sqlalchemy.Connection
        From `Database.write`.
    notice : Notice
        As `first_due` gave it.
    until : int
        Microseconds since 1970: when it is due again should this process die.
    """
    taken = connection.execute(
        sa.update(notices)
        .where(
            notices.c.notice_id == notice.notice_id,
            notices.c.next_attempt_at == notice.next_attempt_at,
        )
        .values(next_attempt_at=until, attempts=notice.attempts + 1)
    )
    return taken.rowcount == 1


def drop_due(connection: sa.Connection) -> None:
    """Leave nothing to do of all notices that are due: there is nobody to tell."""
    connection.execute(sa.update(notices).where(_is_due()).values(next_attempt_at=None))


def _is_due() -> sa.ColumnElement[bool]:
    # No pause is longer than a day: more is by a clock that ran ahead, and was set right since.
    due = notices.c.next_attempt_at
    return sa.or_(due <= now(), due > now() + DAY)


def set_outcome(
    connection: sa.Connection,
    notice_id: int,
    *,
    delivered_at: int | None,
    next_attempt_at: int | None,
    last_error: str | None,
) -> None:
    """Note how the attempt on a notice went, and when the next one is due."""
    connection.execute(
        sa.update(notices)
        .where(notices.c.notice_id == notice_id)
        .values(delivered_at=delivered_at, next_attempt_at=next_attempt_at, last_error=last_error)
    )
