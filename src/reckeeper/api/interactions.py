"""Events in, what is known of a user, recommendations, and the demo data."""

import asyncio
import dataclasses
import functools
import hashlib
import json
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool

from reckeeper import clock, errors, events, storage, telemetry
from reckeeper.api import bodies, examples
from reckeeper.api.parameters import ActorName, ItemId, UserId
from reckeeper.api.runtime import Needs, Runtime
from reckeeper.events import demo
from reckeeper.interactions import (
    MAX_BODY_BYTES,
    MAX_ROWS,
    WATCHLIST_ADD,
    WATCHLIST_REMOVE,
    Interaction,
)
from reckeeper.security import actor_of

router = APIRouter()

_LARGE_BODY_BYTES = 16 * 1024
_MANY_ROWS = 100
_ANSWER_SECONDS = 15.0  # longer than a broker may take
_MESSAGE_SCHEMA = events.Message.model_json_schema()
_ON_ITS_WAY = "Acknowledged by the broker; in the table shortly."


def _taken(*failures: int) -> dict[int | str, dict[str, Any]]:
    """Return OpenAPI's description of the answers of a route that takes interactions."""
    described = examples.answers(examples.ACCEPTED, *failures)
    example = {**examples.ACCEPTED, "message": _ON_ITS_WAY}
    through_kafka = examples.answers(example, status=202)
    through_kafka[202]["description"] = f"Through Kafka: {_ON_ITS_WAY[0].lower()}{_ON_ITS_WAY[1:]}"
    return {**described, **through_kafka}


@router.post(
    "/user_interactions",
    tags=["interactions"],
    responses=_taken(413, 422, 503),
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": {
                        "anyOf": [
                            _MESSAGE_SCHEMA,
                            {
                                "type": "array",
                                "items": _MESSAGE_SCHEMA,
                                "minItems": 1,
                                "maxItems": MAX_ROWS,
                            },
                        ]
                    },
                    "example": [
                        {"user_id": "u1", "item_id": "i7", "interaction_type": "click"},
                        {
                            "event_id": "e-18",
                            "user_id": "u1",
                            "item_id": "i9",
                            "interaction_type": "watchlist_add",
                            "weight": 1.0,
                            "occurred_at": "2025-12-04T23:42:15Z",
                        },
                    ],
                }
            },
        }
    },
)
async def post_interactions(
    runtime: Needs,
    request: Request,
    on_error: Annotated[
        Literal["refuse", "skip"],
        Query(description="skip: store the good rows and list the refused", examples=["skip"]),
    ] = "refuse",
) -> JSONResponse:
    """Store one interaction, or a list of up to 10,000; what is answered is on disk.

    Through Kafka the answer is 202: the broker has acknowledged all of them, and they are in
    the table shortly. Duplicates are found there, and so are not counted here.
    """
    limit = MAX_BODY_BYTES
    body = b"".join([part async for part in bodies.parts(request, limit=limit)])
    parse = functools.partial(
        events.parse,
        body,
        types=runtime.policy.current().policy.weights,
        skip_refused=on_error == "skip",
    )
    # Thousands of rows would hold up every other request.
    parsed = await run_in_threadpool(parse) if len(body) > _LARGE_BODY_BYTES else parse()
    status, answer = await _store(runtime, parsed.interactions)
    if on_error == "skip":
        telemetry.INTERACTIONS.labels("refused").inc(len(parsed.refused))
        answer["refused"] = [dataclasses.asdict(row) for row in parsed.refused]
    return JSONResponse(answer, status)


async def _store(runtime: Runtime, interactions: list[Interaction]) -> tuple[int, dict[str, Any]]:
    """Store interactions; return the answer's status and body."""
    try:
        async with asyncio.timeout(_ANSWER_SECONDS):
            # Thousands of messages take as long to hand over as to parse.
            stored = await asyncio.wrap_future(
                await run_in_threadpool(runtime.writer.append, interactions)
                if len(interactions) > _MANY_ROWS
                else runtime.writer.append(interactions)
            )
    except TimeoutError as exc:
        raise errors.StorageError(
            f"The database has not answered for {_ANSWER_SECONDS:.0f} s. Whether the interactions "
            "were stored is not known: send the request again; those with the same event_id are "
            "counted once."
        ) from exc
    body = {"status": "ok", "accepted": stored.accepted, "duplicates": stored.duplicates}
    if not runtime.settings.uses_kafka:
        return 200, body
    return 202, {**body, "message": _ON_ITS_WAY}


@router.get(
    "/user_interactions/{user_id:id}",
    tags=["interactions"],
    responses=examples.answers(
        {
            "status": "ok",
            "user_id": "u1",
            "interactions": [
                {
                    "event_id": "e-18",
                    "item_id": "i9",
                    "title": "Toy Story (1995)",
                    "interaction_type": "watchlist_add",
                    "weight": 1.0,
                    "occurred_at": "2025-12-04T23:42:15.000000Z",
                }
            ],
        },
        422,
    ),
)
def get_interactions(
    runtime: Needs, user_id: UserId, n: Annotated[int, Query(ge=1, le=1000, examples=[20])] = 20
) -> JSONResponse:
    """List a user's latest interactions, with titles."""
    user_id = events.checked_id("user_id", user_id)
    with runtime.database.read() as connection:
        rows = storage.interactions.latest_of_user(connection, user_id, n=n)
        catalogue = storage.items.get_many(connection, {row["item_id"] for row in rows})
    for row in rows:
        item = catalogue.get(row["item_id"])
        row["title"] = None if item is None else item.title
        row["occurred_at"] = clock.rfc3339(row["occurred_at"])
    return JSONResponse({"status": "ok", "user_id": user_id, "interactions": rows})


@router.get(
    "/watchlist/{user_id:id}",
    tags=["interactions"],
    responses=examples.answers(
        {
            "status": "ok",
            "user_id": "u1",
            "items": [
                {
                    "item_id": "i9",
                    "title": "Toy Story (1995)",
                    "attributes": {"genres": ["Animation"]},
                    "added_at": "2025-12-04T23:42:15.000000Z",
                }
            ],
        },
        422,
    ),
)
def get_watchlist(runtime: Needs, user_id: UserId) -> JSONResponse:
    """List a user's watchlist, the latest addition first."""
    user_id = events.checked_id("user_id", user_id)
    with runtime.database.read() as connection:
        listed = storage.interactions.watchlist_of(connection, user_id)
        catalogue = storage.items.get_many(connection, [item_id for item_id, _ in listed])
    items = []
    for item_id, added_at in listed:
        item = catalogue.get(item_id, storage.Item(item_id, None, {}))
        items.append({**item._asdict(), "added_at": clock.rfc3339(added_at)})
    return JSONResponse({"status": "ok", "user_id": user_id, "items": items})


@router.post(
    "/watchlist/{user_id:id}/{item_id:id}",
    tags=["interactions"],
    responses=_taken(422, 503),
)
async def add_to_watchlist(runtime: Needs, user_id: UserId, item_id: ItemId) -> JSONResponse:
    """Put an item on a user's watchlist; one that is there already is a duplicate.

    Through Kafka the answer is 202, and whether it is a duplicate shows in the table.
    """
    return await _change_watchlist(runtime, user_id, item_id, WATCHLIST_ADD)


@router.delete(
    "/watchlist/{user_id:id}/{item_id:id}",
    tags=["interactions"],
    responses=_taken(422, 503),
)
async def remove_from_watchlist(runtime: Needs, user_id: UserId, item_id: ItemId) -> JSONResponse:
    """Take an item off a user's watchlist; one that is not there is a duplicate.

    Through Kafka the answer is 202, and whether it is a duplicate shows in the table.
    """
    return await _change_watchlist(runtime, user_id, item_id, WATCHLIST_REMOVE)


async def _change_watchlist(
    runtime: Runtime, user_id: str, item_id: str, interaction_type: str
) -> JSONResponse:
    user_id = events.checked_id("user_id", user_id)
    item_id = events.checked_id("item_id", item_id)
    row = {"user_id": user_id, "item_id": item_id, "interaction_type": interaction_type}
    parsed = events.validate([row], types=runtime.policy.current().policy.weights)
    if parsed.refused:
        raise errors.DataError(f"{parsed.refused[0].field} {parsed.refused[0].message}.")
    if runtime.settings.uses_kafka:
        # What the table says may be about to change: no change is taken for one too many.
        status, answer = await _store(runtime, parsed.interactions)
        return JSONResponse(answer, status)
    state = await run_in_threadpool(_watchlist_state, runtime, user_id, item_id)
    is_listed, changed_at = state or (False, 0)
    if is_listed == (interaction_type == WATCHLIST_ADD):
        return JSONResponse({"status": "ok", "accepted": 0, "duplicates": 1})
    # Of several such requests at once, each makes the same event, and one is stored. It
    # comes after the change that it answers, even one that was dated ahead.
    change = json.dumps([user_id, item_id, interaction_type, changed_at]).encode()
    interaction = parsed.interactions[0]._replace(
        event_id=f"watchlist-{hashlib.sha256(change).hexdigest()[:32]}",
        occurred_at=max(parsed.interactions[0].occurred_at, changed_at),
    )
    status, answer = await _store(runtime, [interaction])
    return JSONResponse(answer, status)


def _watchlist_state(runtime: Runtime, user_id: str, item_id: str) -> tuple[bool, int] | None:
    with runtime.database.read() as connection:
        return storage.interactions.watchlist_state(connection, user_id, item_id)


# Answers


@router.get(
    "/recommendations/{user_id:id}",
    tags=["recommendations"],
    responses=examples.answers(
        {
            "status": "ok",
            "user_id": "u1",
            "model_version": 1,
            "strategy": "model",
            "items": [
                {
                    "rank": 1,
                    "item_id": "i3",
                    "score": 0.87,
                    "title": "Toy Story (1995)",
                    "attributes": {"genres": ["Animation", "Comedy"]},
                }
            ],
            "request_id": "6d1b4f0e-5a53-4f8b-9d53-0d5f3fd0b7c1",
            "generated_at": "2025-12-04T23:42:15.000000Z",
        },
        422,
        503,
    ),
)
def get_recommendations(
    runtime: Needs,
    user_id: UserId,
    n: Annotated[int, Query(ge=1, le=1000, description="Length of the list", examples=[10])] = 10,
) -> JSONResponse:
    """Recommend items that a user has not seen; `strategy` says how the list was made.

    ``model``: from what the user did, as the model was trained on it. ``fold_in``: from that
    and what the user has done since. ``popular``: nothing is known of the user.
    """
    answer = runtime.serving.recommend(events.checked_id("user_id", user_id), n=n)
    return JSONResponse(
        {
            "status": "ok",
            **vars(answer),
            "items": [vars(item) for item in answer.items],
            "generated_at": clock.rfc3339(answer.generated_at),
        }
    )


# The demo data

_DEMO = {"status": "ok", "loaded": True, "interactions": 60000, "sample_users": ["user-0001"]}


@router.get("/demo", tags=["demo data"], responses=examples.answers(_DEMO))
def get_demo(runtime: Needs) -> JSONResponse:
    """Say whether the demo data is in the database."""
    info = demo.info(runtime.database)
    return JSONResponse(
        {
            "status": "ok",
            # A version that demo data went into outlives a database that was lost.
            "loaded": info.is_loaded
            or any(version["is_demo"] for version in runtime.registry.versions()),
            "interactions": info.n_interactions,
            "sample_users": info.sample_users,
        }
    )


@router.delete(
    "/demo",
    tags=["demo data"],
    responses=examples.answers({"status": "ok", "interactions": 60000, "versions": [1]}, 422, 503),
)
def delete_demo(runtime: Needs, actor_name: ActorName) -> JSONResponse:
    """Remove the demo data, and the versions that were trained on it."""
    actor = actor_of(actor_name)
    cleared = demo.clear(runtime.database, actor=actor)
    versions = runtime.registry.delete_demo(actor=actor)
    runtime.serving.refresh()
    return JSONResponse({"status": "ok", "interactions": cleared, "versions": versions})
