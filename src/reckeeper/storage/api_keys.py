"""`api_keys`: what is kept of each key, valid or not; nothing is ever deleted."""

from collections.abc import Mapping

import sqlalchemy as sa

from reckeeper.storage.records import ApiKey, every, one
from reckeeper.storage.tables import api_keys


def insert(connection: sa.Connection, key: ApiKey) -> None:
    """Add a key."""
    connection.execute(sa.insert(api_keys).values(vars(key)))


def page(connection: sa.Connection) -> list[ApiKey]:
    """Return all keys, the latest first."""
    query = sa.select(api_keys).order_by(api_keys.c.created_at.desc(), api_keys.c.key_id)
    return every(ApiKey, connection.execute(query))


def not_revoked(connection: sa.Connection) -> list[ApiKey]:
    """Return all keys that were not revoked, expired ones too."""
    query = sa.select(api_keys).where(api_keys.c.revoked_at.is_(None))
    return every(ApiKey, connection.execute(query))


def find(connection: sa.Connection, name_or_id: str) -> ApiKey | None:
    """Return the key with an id, or else the one with a name that was not revoked."""
    columns = api_keys.c
    is_named = (columns.name == name_or_id) & columns.revoked_at.is_(None)
    query = sa.select(api_keys).where((columns.key_id == name_or_id) | is_named)
    query = query.order_by(columns.key_id != name_or_id)
    return one(ApiKey, connection.execute(query))


def state(connection: sa.Connection) -> tuple[int, ...]:
    """Return what is another whenever a key was made or revoked."""
    columns = api_keys.c
    query = sa.select(
        sa.func.count(),
        sa.func.count(columns.revoked_at),
        sa.func.coalesce(sa.func.max(columns.created_at), 0),
        sa.func.coalesce(sa.func.max(columns.revoked_at), 0),
    )
    return tuple(connection.execute(query.select_from(api_keys)).one())


def revoke(connection: sa.Connection, key_id: str, *, at: int, actor: str) -> None:
    """Revoke a key; nothing changes if it was revoked before."""
    connection.execute(
        sa.update(api_keys)
        .where(api_keys.c.key_id == key_id, api_keys.c.revoked_at.is_(None))
        .values(revoked_at=at, revoked_by=actor)
    )


def note_used(connection: sa.Connection, used: Mapping[str, int]) -> None:
    """Note when keys were last used, by their ids; times that are there never go back."""
    columns = api_keys.c
    for key_id, at in used.items():
        is_later = columns.last_used_at.is_(None) | (columns.last_used_at < at)
        connection.execute(
            sa.update(api_keys).where(columns.key_id == key_id, is_later).values(last_used_at=at)
        )
