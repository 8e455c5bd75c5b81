"""`audit_log`: rows are added, never changed."""

from typing import Any

import sqlalchemy as sa

from reckeeper.storage.engine import now
from reckeeper.storage.tables import audit_log


def insert(
    connection: sa.Connection, *, actor: str, action: str, subject: str, details: dict[str, Any]
) -> None:
    """Add an entry, dated now."""
    connection.execute(
        sa.insert(audit_log).values(
            at=now(), actor=actor, action=action, subject=subject, details=details
        )
    )


def latest(connection: sa.Connection, *, limit: int) -> list[dict[str, Any]]:
    """Return up to `limit` entries, the latest first."""
    rows = connection.execute(
        sa.select(audit_log).order_by(audit_log.c.entry_id.desc()).limit(limit)
    )
    return [dict(row) for row in rows.mappings()]
