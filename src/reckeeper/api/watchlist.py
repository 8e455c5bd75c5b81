"""Watchlists: what is on one, and changes to it."""

import hashlib
import json
from typing import Literal

from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool

from reckeeper import errors, events, storage, wire
from reckeeper.api.answers import Json, failures
from reckeeper.api.interactions import ON_ITS_WAY, store
from reckeeper.api.parameters import ItemId, UserId
from reckeeper.api.runtime import Needs, Runtime
from reckeeper.interactions import checked_id

router = APIRouter(tags=["interactions"])


@router.get("/watchlist/{user_id:id}", responses=failures(422))
def get_watchlist(runtime: Needs, user_id: UserId) -> wire.Watchlist:
    """List a user's watchlist, the latest addition first."""
    user_id = checked_id("user_id", user_id)
    with runtime.database.read() as connection:
        listed = storage.interactions.watchlist_of(connection, user_id)
        catalogue = storage.items.get_many(connection, [item_id for item_id, _ in listed])
    items = []
    for item_id, added_at in listed:
        item = catalogue.get(item_id, storage.Item(item_id, None, {}))
        items.append({**item._asdict(), "added_at": added_at})
    return wire.Watchlist.model_validate({"user_id": user_id, "items": items})


@router.post(
    "/watchlist/{user_id:id}/{item_id:id}",
    response_model=wire.SendAnswer,
    responses=failures(422) | ON_ITS_WAY,
)
async def add_to_watchlist(runtime: Needs, user_id: UserId, item_id: ItemId) -> Json:
    """Put an item on a user's watchlist; one that is there already is a duplicate.

    Through Kafka the answer is 202, and whether it is a duplicate shows in the table.
    """
    return await _change(runtime, user_id, item_id, "watchlist_add")


@router.delete(
    "/watchlist/{user_id:id}/{item_id:id}",
    response_model=wire.SendAnswer,
    responses=failures(422) | ON_ITS_WAY,
)
async def remove_from_watchlist(runtime: Needs, user_id: UserId, item_id: ItemId) -> Json:
    """Take an item off a user's watchlist; one that is not there is a duplicate.

    Through Kafka the answer is 202, and whether it is a duplicate shows in the table.
    """
    return await _change(runtime, user_id, item_id, "watchlist_remove")


async def _change(
    runtime: Runtime,
    user_id: str,
    item_id: str,
    interaction_type: Literal["watchlist_add", "watchlist_remove"],
) -> Json:
    user_id = checked_id("user_id", user_id)
    item_id = checked_id("item_id", item_id)
    row = {"user_id": user_id, "item_id": item_id, "interaction_type": interaction_type}
    parsed = events.validate([row], types=runtime.policy.current().policy.weights)
    if parsed.refused:
        raise errors.DataError(f"{parsed.refused[0].field} {parsed.refused[0].message}.")
    if runtime.settings.uses_kafka:
        # What the table says may be about to change: no change is taken for one too many.
        return await store(runtime, parsed.interactions)
    state = await run_in_threadpool(_state, runtime, user_id, item_id)
    is_listed, changed_at = state or (False, 0)
    if is_listed == (interaction_type == "watchlist_add"):
        return Json(wire.SendAnswer(accepted=0, duplicates=1))
    # Several such requests at once make the same event each, and one is stored. It comes after
    # the change that it answers, even one that was dated ahead.
    change = json.dumps([user_id, item_id, interaction_type, changed_at]).encode()
    interaction = parsed.interactions[0]._replace(
        event_id=f"watchlist-{hashlib.sha256(change).hexdigest()[:32]}",
        occurred_at=max(parsed.interactions[0].occurred_at, changed_at),
    )
    return await store(runtime, [interaction])


def _state(runtime: Runtime, user_id: str, item_id: str) -> tuple[bool, int] | None:
    with runtime.database.read() as connection:
        # What a visitor changes after a login is on the account's watchlist.
        owner = storage.merges.account_of(connection, user_id) or user_id
        return storage.interactions.watchlist_state(connection, owner, item_id)
