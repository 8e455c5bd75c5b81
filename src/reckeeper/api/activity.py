"""Interactions of late: the last ones, their types over time, and those that were refused."""

from typing import Annotated

from fastapi import APIRouter, Query

from reckeeper import storage, wire
from reckeeper.api.answers import failures
from reckeeper.api.runtime import Needs
from reckeeper.interactions import checked_id

router = APIRouter(tags=["interactions"])

_SHOWN = 200


@router.get("/interactions/latest", responses=failures(422))
def list_latest(
    runtime: Needs,
    n: Annotated[int, Query(ge=1, le=1000, examples=[20])] = 20,
    interaction_type: Annotated[
        str | None,
        Query(description="Only these, among the latest 100,000.", examples=["click"]),
    ] = None,
) -> wire.LatestInteractions:
    """List the interactions that came last, of everybody, with titles."""
    if interaction_type is not None:
        interaction_type = checked_id("interaction_type", interaction_type)
    with runtime.database.read() as connection:
        rows = storage.activity.latest(connection, n=n, interaction_type=interaction_type)
        titles = _titles(connection, {row.item_id for row in rows})
    shown = [{**row._asdict(), "title": titles.get(row.item_id)} for row in rows]
    return wire.LatestInteractions.model_validate({"interactions": shown})


@router.get("/interactions/summary", responses=failures(422))
def summarize_interactions(
    runtime: Needs,
    among: Annotated[
        int,
        Query(ge=1, le=1_000_000, description="How many of the latest", examples=[100_000]),
    ] = 100_000,
    n: Annotated[int, Query(ge=1, le=100, description="users and items", examples=[10])] = 10,
) -> wire.InteractionSummary:
    """Tell of the latest interactions: their types over time, the heaviest users and items."""
    with runtime.database.read() as connection:
        found = storage.activity.summary(connection, among=among, n_heaviest=n)
        titles = _titles(connection, {item_id for item_id, _ in found.items})
    return wire.InteractionSummary.model_validate(
        {
            **vars(found),
            "rates": found.buckets,
            "users": [{"user_id": user_id, "n": n} for user_id, n in found.users],
            "items": [
                {"item_id": item_id, "title": titles.get(item_id), "n": n}
                for item_id, n in found.items
            ],
        }
    )


@router.get("/interactions/dead_letters", responses=failures(404, 422, 503))
def list_dead_letters(
    runtime: Needs, n: Annotated[int, Query(ge=1, le=1000, examples=[20])] = 20
) -> wire.DeadLetterList:
    """List the records from Kafka that were refused last; they can be sent again."""
    if not runtime.settings.uses_kafka:
        return wire.DeadLetterList(uses_kafka=False, letters=[])
    from reckeeper.events.kafka import dead_letters

    letters = dead_letters.latest(runtime.database, runtime.settings, n=n)
    return wire.DeadLetterList.model_validate(
        {
            "uses_kafka": True,
            "letters": [
                {
                    "place": letter.place,
                    "at": letter.timestamp * 1000,
                    "reason": letter.reason,
                    "value": _text(letter.value),
                    "is_replayed": letter.is_replayed,
                }
                for letter in letters
            ],
        }
    )


def _titles(connection: storage.Connection, item_ids: set[str]) -> dict[str, str | None]:
    catalogue = storage.items.get_many(connection, item_ids)
    return {item_id: item.title for item_id, item in catalogue.items()}


def _text(value: bytes | None) -> str | None:
    return None if value is None else value[:_SHOWN].decode(errors="replace")
