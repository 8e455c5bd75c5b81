"""Interactions in, and the latest of a user."""

import asyncio
import functools
from collections.abc import Sequence
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from starlette.concurrency import run_in_threadpool

from reckeeper import errors, events, storage, telemetry, wire
from reckeeper.api import bodies, openapi
from reckeeper.api.answers import Json, failures, other
from reckeeper.api.parameters import UserId
from reckeeper.api.runtime import Needs, Runtime
from reckeeper.interactions import Interaction, checked_id

router = APIRouter(tags=["interactions"])

_LARGE_BODY_BYTES = 16 * 1024
_MANY_ROWS = 100
_ANSWER_SECONDS = 15.0  # longer than a broker may take
_IN_THE_TABLE_SHORTLY = "Acknowledged by the broker; in the table shortly."

ON_ITS_WAY = other(202, wire.SendAnswer, "Through Kafka: acknowledged by the broker")
"""Describes the answer of a route that takes interactions where they go through Kafka."""


@router.post(
    "/user_interactions",
    response_model=wire.SendAnswer,
    responses=failures(413, 422) | ON_ITS_WAY,
    openapi_extra=openapi.body(
        {"anyOf": [openapi.reference("Interaction"), openapi.reference("InteractionBatch")]}
    ),
)
async def create_interactions(
    runtime: Needs,
    request: Request,
    on_error: Annotated[
        Literal["refuse", "skip"],
        Query(description="skip: store the good rows and list the refused", examples=["skip"]),
    ] = "refuse",
) -> Json:
    """Store one interaction, or a list of up to 10,000; after a 2xx answer they are on disk.

    Through Kafka the answer is 202: the broker has acknowledged all of them, and they are in
    the table shortly. Duplicates are found there, and so are not counted here.
    """
    body = await bodies.whole(request)
    parse = functools.partial(
        events.parse,
        body,
        types=runtime.policy.current().policy.weights,
        skip_refused=on_error == "skip",
    )
    # Thousands of rows would hold up every other request.
    parsed = await run_in_threadpool(parse) if len(body) > _LARGE_BODY_BYTES else parse()
    if on_error == "refuse":
        return await store(runtime, parsed.interactions)
    answer = await store(runtime, parsed.interactions, refused=parsed.refused)
    telemetry.INTERACTIONS.labels("refused").inc(len(parsed.refused))
    return answer


async def store(
    runtime: Runtime,
    interactions: Sequence[Interaction],
    *,
    refused: Sequence[events.RefusedRow] | None = None,
) -> Json:
    """Store interactions, and return the answer, which lists those that were refused."""
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
    through_kafka = runtime.settings.uses_kafka
    answer = wire.SendAnswer(
        accepted=stored.accepted,
        duplicates=stored.duplicates,
        refused=None if refused is None else [wire.Refused.model_validate(row) for row in refused],
        message=_IN_THE_TABLE_SHORTLY if through_kafka else None,
    )
    return Json(answer, 202 if through_kafka else 200)


@router.get("/user_interactions/{user_id:id}", responses=failures(422))
def list_interactions(
    runtime: Needs, user_id: UserId, n: Annotated[int, Query(ge=1, le=1000, examples=[20])] = 20
) -> wire.InteractionList:
    """List a user's latest interactions, with titles."""
    user_id = checked_id("user_id", user_id)
    with runtime.database.read() as connection:
        rows = storage.interactions.latest_of_user(connection, user_id, n=n)
        catalogue = storage.items.get_many(connection, {row.item_id for row in rows})
    nothing = storage.Item("", None, {})
    shown = [{**row._asdict(), "title": catalogue.get(row.item_id, nothing).title} for row in rows]
    return wire.InteractionList.model_validate({"user_id": user_id, "interactions": shown})
