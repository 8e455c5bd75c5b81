"""`models`: the rows of the versions. Which one is active is one of them."""

from typing import Any

import sqlalchemy as sa

from reckeeper.storage.engine import now
from reckeeper.storage.tables import models


def insert(connection: sa.Connection, row: dict[str, Any]) -> None:
    """Add an inactive version; `row` has a value for every column without a default."""
    connection.execute(sa.insert(models).values({"is_active": False, "deleted_at": None, **row}))


def all_versions(connection: sa.Connection) -> list[dict[str, Any]]:
    """Return the rows of all versions that are not deleted, the newest first."""
    rows = connection.execute(
        sa.select(models).where(models.c.deleted_at.is_(None)).order_by(models.c.version.desc())
    )
    return [dict(row) for row in rows.mappings()]


def get(connection: sa.Connection, version: int) -> dict[str, Any] | None:
    """Return the row of a version that is not deleted, or None."""
    rows = connection.execute(
        sa.select(models).where(models.c.version == version, models.c.deleted_at.is_(None))
    )
    row = rows.mappings().first()
    return None if row is None else dict(row)


def active(connection: sa.Connection) -> dict[str, Any] | None:
    """Return the row of the active version, or None."""
    row = connection.execute(sa.select(models).where(models.c.is_active)).mappings().first()
    return None if row is None else dict(row)


def active_version(connection: sa.Connection) -> int | None:
    """Return the number of the active version, or None."""
    version = connection.execute(sa.select(models.c.version).where(models.c.is_active)).scalar()
    return None if version is None else int(version)


def last_version(connection: sa.Connection) -> int:
    """Return the largest number ever given to a version, deleted ones too; 0 at first."""
    return int(connection.execute(sa.select(sa.func.max(models.c.version))).scalar() or 0)


def deleted_versions(connection: sa.Connection) -> set[int]:
    """Return the numbers of the deleted versions."""
    return set(
        connection.execute(
            sa.select(models.c.version).where(models.c.deleted_at.is_not(None))
        ).scalars()
    )


def set_active(connection: sa.Connection, version: int | None) -> None:
    """Make one version the active one, or none."""
    connection.execute(sa.update(models).where(models.c.is_active).values(is_active=False))
    connection.execute(sa.update(models).where(models.c.version == version).values(is_active=True))


def mark_deleted(connection: sa.Connection, version: int) -> None:
    """Mark a version deleted; its row stays, so that its number never comes again."""
    connection.execute(
        sa.update(models)
        .where(models.c.version == version)
        .values(is_active=False, deleted_at=now())
    )
