"""API keys: made, listed and revoked.

A key is ``rk_ID_SECRET``. Its id is no secret, and finds its row; of the secret, 256 bits drawn at
random, the row has the SHA-256: what nobody can guess needs no slow hash, and without the secret
nobody makes the key of the hash.
"""

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass, field

from reckeeper import audit, clock, storage
from reckeeper.errors import Action, ConflictError, DataError, NotFoundError
from reckeeper.security.callers import ACTOR_PATTERN
from reckeeper.security.roles import ROLES, Role

MOST_PER_MINUTE = 1_000_000

_FORM = re.compile(r"rk_([0-9a-f]{12})_([0-9a-f]{64})")


@dataclass(frozen=True)
class NewKey:
    """A key that was made just now.

    Attributes
    ----------
    text : str
        The key itself, which nobody can tell again.
    stored : storage.ApiKey
    """

    text: str = field(repr=False)
    stored: storage.ApiKey


def create(
    database: storage.Database,
    name: str,
    role: str,
    *,
    actor: str,
    expires_at: int | None = None,
    rate_limit: int | None = None,
    way: str | None = None,
) -> NewKey:
    """Make a key.

    Parameters
    ----------
    database : storage.Database
    name : str
        For the trail and for people: 1 to 64 letters, digits and ``. _ @ -``. A key that was
        revoked no longer has its name.
    role : str
        One of `ROLES`.
    actor : str
    expires_at : int, optional
        When it ceases to be valid.
    rate_limit : int, optional
        How many requests a minute are answered.
    way : str, optional
        For the trail: how it was made, where that was not by a key of an admin.

    Raises
    ------
    DataError
        One of these cannot be used.
    ConflictError
        Another key has the name.
    """
    _check(name, role, expires_at=expires_at, rate_limit=rate_limit)
    secret = secrets.token_hex(32)
    key = storage.ApiKey(
        key_id=secrets.token_hex(6),
        name=name,
        role=role,
        hash=_hash(secret),
        rate_limit=rate_limit,
        created_at=clock.now(),
        created_by=str(actor),
        expires_at=expires_at,
        revoked_at=None,
        revoked_by=None,
        last_used_at=None,
    )
    with database.write() as connection:
        if storage.api_keys.find(connection, name) is not None:
            raise ConflictError(
                f"There is a key {name!r} already: revoke it first, or give this one another name.",
                action=Action("list_keys"),
            )
        storage.api_keys.insert(connection, key)
        told = {"way": way} if way else {}
        audit.record(
            connection,
            actor=actor,
            action="create_key",
            subject=f"key {name}",
            key_id=key.key_id,
            role=role,
            expires_at=None if expires_at is None else clock.rfc3339(expires_at),
            rate_limit=rate_limit,
            **told,
        )
    return NewKey(f"rk_{key.key_id}_{secret}", key)


def revoke(
    database: storage.Database,
    name_or_id: str,
    *,
    actor: str,
    reason: str | None = None,
    way: str | None = None,
) -> storage.ApiKey:
    """Revoke a key for good, and return it; one that was revoked before stays as it is.

    Parameters
    ----------
    database : storage.Database
    name_or_id : str
    actor : str
    reason : str, optional
    way : str, optional
        As of `create`.

    Raises
    ------
    NotFoundError
        There is no such key.
    """
    with database.write() as connection:
        key = storage.api_keys.find(connection, name_or_id)
        if key is None:
            raise NotFoundError(f"There is no key {name_or_id[:64]!r}.", action=Action("list_keys"))
        if key.revoked_at is None:
            storage.api_keys.revoke(connection, key.key_id, at=clock.now(), actor=str(actor))
            told = {"way": way} if way else {}
            audit.record(
                connection,
                actor=actor,
                action="revoke_key",
                subject=f"key {key.name}",
                key_id=key.key_id,
                role=key.role,
                reason=reason,
                **told,
            )
        revoked = storage.api_keys.find(connection, key.key_id)
    assert revoked is not None
    return revoked


def every(database: storage.Database) -> list[storage.ApiKey]:
    """Return all keys, revoked ones too, the latest first."""
    with database.read() as connection:
        return storage.api_keys.page(connection)


def describe(key: storage.ApiKey) -> dict[str, object]:
    """Describe a key, as a `wire.Key`; its ``state`` is ``active``, ``expired`` or ``revoked``."""
    state = "expired" if has_expired(key) else "active"
    return {**vars(key), "state": state if key.revoked_at is None else "revoked"}


def has_expired(key: storage.ApiKey) -> bool:
    """Say whether a key was valid up to now at most."""
    return key.expires_at is not None and key.expires_at <= clock.now()


def parts(text: str) -> tuple[str, str] | None:
    """Return a key's id and its secret; None for what is no key."""
    found = _FORM.fullmatch(text)
    return None if found is None else (found[1], found[2])


def is_secret_of(key: storage.ApiKey, secret: str) -> bool:
    """Say whether a secret is a key's, in a time that tells nothing of either."""
    return hmac.compare_digest(_hash(secret), key.hash)


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _check(name: str, role: str, *, expires_at: int | None, rate_limit: int | None) -> None:
    if not re.fullmatch(ACTOR_PATTERN, name):
        raise DataError(
            f"name: {name[:80]!r} cannot be used. Take 1 to 64 letters, digits and `. _ @ -`.",
            details={"field": "name"},
        )
    if role not in ROLES:
        raise DataError(
            f"role: {role[:64]!r} is none; there are {', '.join(ROLES)}.", details={"field": "role"}
        )
    if expires_at is not None and expires_at <= clock.now():
        raise DataError(
            "expires_at: lies in the past. Give a time to come, or none.",
            details={"field": "expires_at"},
        )
    if rate_limit is not None and not 1 <= rate_limit <= MOST_PER_MINUTE:
        raise DataError(
            f"rate_limit: must be 1 to {MOST_PER_MINUTE:,} requests a minute, or none.",
            details={"field": "rate_limit"},
        )


def role_of(key: storage.ApiKey) -> Role | None:
    """Return a key's role; None where this release knows no such role."""
    return next((role for role in ROLES if role == key.role), None)
