"""`user_merges`: which visitors have become which account."""

from collections.abc import Collection

import sqlalchemy as sa

from reckeeper import clock
from reckeeper.storage.tables import user_merges


def insert(connection: sa.Connection, visitor_id: str, *, user_id: str) -> None:
    """Note that a visitor, and whoever had become that visitor, is an account from now on."""
    columns = user_merges.c
    connection.execute(
        sa.update(user_merges).where(columns.user_id == visitor_id).values(user_id=user_id)
    )
    connection.execute(
        sa.insert(user_merges).values(visitor_id=visitor_id, user_id=user_id, merged_at=clock.now())
    )


def are_there(connection: sa.Connection) -> bool:
    """Say whether any visitor has become an account."""
    return connection.execute(sa.select(user_merges.c.visitor_id).limit(1)).first() is not None


def account_of(connection: sa.Connection, visitor_id: str) -> str | None:
    """Return the account that a visitor has become; None for anybody else."""
    columns = user_merges.c
    found = sa.select(columns.user_id).where(columns.visitor_id == visitor_id)
    return connection.execute(found).scalar()


def visitors_of(connection: sa.Connection, user_id: str) -> list[str]:
    """Return the visitors that have become an account, in the order of their ids."""
    columns = user_merges.c
    found = sa.select(columns.visitor_id).where(columns.user_id == user_id)
    return list(connection.execute(found.order_by(columns.visitor_id)).scalars())


def since(connection: sa.Connection, moment: int) -> list[tuple[str, str, int]]:
    """Return visitor, account and time of each merge from a moment on, the earliest first."""
    columns = user_merges.c
    found = (
        sa.select(columns.visitor_id, columns.user_id, columns.merged_at)
        .where(columns.merged_at >= moment)
        .order_by(columns.merged_at)
    )
    return [tuple(row) for row in connection.execute(found)]


def accounts_since(connection: sa.Connection, user_ids: Collection[str], moment: int) -> set[str]:
    """Return those of at most 10,000 users that a visitor has become from a moment on."""
    columns = user_merges.c
    found = sa.select(columns.user_id).where(
        columns.user_id.in_(user_ids), columns.merged_at >= moment
    )
    return set(connection.execute(found).scalars())
