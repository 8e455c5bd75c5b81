"""`notices`: what a webhook is to be told, kept until it was told."""

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from reckeeper.clock import now
from reckeeper.storage.tables import notices


def insert(
    connection: sa.Connection, *, event: str, payload: dict[str, Any], key: str | None = None
) -> int | None:
    """Add a notice that is due at once; return its number, None if one with its key is there."""
    if key is not None and has(connection, key):
        return None
    notice_id = connection.execute(
        sa.insert(notices)
        .values(at=now(), event=event, key=key, payload=payload, attempts=0, next_attempt_at=now())
        .returning(notices.c.notice_id)
    )
    return int(notice_id.scalar_one())


def get(connection: sa.Connection, notice_id: int) -> dict[str, Any] | None:
    """Return a notice, or None."""
    rows = connection.execute(sa.select(notices).where(notices.c.notice_id == notice_id))
    row = rows.mappings().first()
    return None if row is None else dict(row)


def has(connection: sa.Connection, key: str) -> bool:
    """Return whether there is a notice of a key, delivered or not."""
    found = connection.execute(sa.select(notices.c.notice_id).where(notices.c.key == key))
    return found.first() is not None


def first_due(connection: sa.Connection) -> dict[str, Any] | None:
    """Return the oldest notice whose next attempt is due, or None."""
    rows = connection.execute(
        sa.select(notices)
        .where(notices.c.next_attempt_at <= now())
        .order_by(notices.c.notice_id)
        .limit(1)
    )
    row = rows.mappings().first()
    return None if row is None else dict(row)


def take(connection: sa.Connection, notice: Mapping[str, Any], *, until: int) -> bool:
    """Put off a notice's next attempt for the present one; False if another process did.

    Parameters
    ----------
    connection : sqlalchemy.Connection
        Of `Database.write`.
    notice : mapping
        Its row, as `first_due` gave it.
    until : int
        Microseconds since 1970: when it is due again should this process die.
    """
    taken = connection.execute(
        sa.update(notices)
        .where(
            notices.c.notice_id == notice["notice_id"],
            notices.c.next_attempt_at == notice["next_attempt_at"],
        )
        .values(next_attempt_at=until, attempts=notice["attempts"] + 1)
    )
    return taken.rowcount == 1


def drop_due(connection: sa.Connection) -> None:
    """Leave nothing to do of all notices that are due: there is nobody to tell."""
    connection.execute(
        sa.update(notices).where(notices.c.next_attempt_at <= now()).values(next_attempt_at=None)
    )


def update(connection: sa.Connection, notice_id: int, **values: Any) -> None:
    """Set columns of a notice."""
    connection.execute(sa.update(notices).where(notices.c.notice_id == notice_id).values(values))
