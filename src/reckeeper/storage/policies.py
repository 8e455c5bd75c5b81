"""`policies`: every policy that was ever stored; the last one is in force."""

from collections.abc import Mapping

import sqlalchemy as sa

from reckeeper.clock import now
from reckeeper.storage.records import PolicyRevision, every
from reckeeper.storage.tables import policies


def insert(
    connection: sa.Connection, *, policy: Mapping[str, object], actor: str, reason: str | None
) -> int:
    """Add a policy, which is in force from now on, and return its revision."""
    revision = connection.execute(
        sa.insert(policies)
        .values(at=now(), actor=actor, reason=reason, policy=dict(policy))
        .returning(policies.c.revision)
    )
    return int(revision.scalar_one())


def latest(connection: sa.Connection) -> PolicyRevision | None:
    """Return the policy in force, or None while none is stored."""
    rows = page(connection, limit=1)
    return rows[0] if rows else None


def page(
    connection: sa.Connection, *, limit: int, before: int | None = None
) -> list[PolicyRevision]:
    """Return up to `limit` policies with revisions below `before`, the latest first."""
    query = sa.select(policies).order_by(policies.c.revision.desc()).limit(limit)
    if before is not None:
        query = query.where(policies.c.revision < before)
    return every(PolicyRevision, connection.execute(query))
