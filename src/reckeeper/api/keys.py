"""API keys: made, listed and revoked; and what a caller may do."""

from typing import Annotated

from fastapi import APIRouter, Path

from reckeeper import clock, security, storage, wire
from reckeeper.api.answers import failures
from reckeeper.api.parameters import ActorName, Asker, ReasonQuery
from reckeeper.api.runtime import Needs
from reckeeper.errors import ConflictError
from reckeeper.security import actor_of

router = APIRouter(tags=["keys"])

KeyId = Annotated[str, Path(description="Of the key, or its name.", examples=["3f9c2a71b0de"])]


@router.get("/access")
async def get_access(runtime: Needs, caller: Asker) -> wire.Access:
    """Say whether a key is needed here, and what the caller may do."""
    name = None if caller.actor is None else caller.actor.removeprefix("key:")
    return wire.Access(
        needs_key=runtime.access.is_needed,
        name=name,
        role=caller.role,
        roles=[role for role in security.roles.ROLES if role in caller.roles],
    )


@router.get("/keys")
def list_keys(runtime: Needs) -> wire.KeyList:
    """List all keys, those that were revoked or have expired too, the latest first."""
    return wire.KeyList(keys=[_told(key) for key in security.keys.every(runtime.database)])


@router.post("/keys", responses=failures(409, 413, 422))
def create_key(runtime: Needs, actor_name: ActorName, asked: wire.KeyRequest) -> wire.KeyMade:
    """Make a key, and tell it this once.

    The first one ends that everybody may do everything, and so must be an admin's.
    """
    if not runtime.access.is_needed and asked.role != "admin":
        raise ConflictError(
            "From the first key on every request needs one: let it be an admin's, which makes the "
            "others."
        )
    made = security.keys.create(
        runtime.database,
        asked.name,
        asked.role,
        actor=actor_of(actor_name),
        expires_at=None if asked.expires_at is None else clock.microseconds(asked.expires_at),
        rate_limit=asked.rate_limit,
    )
    runtime.note_keys_changed()
    return wire.KeyMade(key=_told(made.stored), secret=made.text)


@router.delete("/keys/{key_id}", responses=failures(404, 422))
def revoke_key(
    runtime: Needs, actor_name: ActorName, key_id: KeyId, reason: ReasonQuery = None
) -> wire.KeyAnswer:
    """Revoke a key for good: it is refused from the next request on."""
    revoked = security.keys.revoke(
        runtime.database, key_id, actor=actor_of(actor_name), reason=reason
    )
    runtime.note_keys_changed()
    return wire.KeyAnswer(key=_told(revoked))


def _told(key: storage.ApiKey) -> wire.Key:
    return wire.Key.model_validate(security.keys.describe(key))
