"""Interactions, watchlists and the demo data."""

from typing import Annotated

from pydantic import ConfigDict, Field

from .forms import Answer, Done, JsonObject, Request, Time, is_none

Id = Annotated[str, Field(min_length=1, max_length=256)] | int
"""Without control characters; an integer becomes its decimal form."""


class Interaction(Request):
    """An interaction to send."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "event_id": "0b5f8e1c-visit-17",
                    "user_id": "u1",
                    "item_id": "i7",
                    "interaction_type": "click",
                    "occurred_at": "2025-12-04T23:42:15Z",
                }
            ]
        },
    )

    event_id: Id | None = Field(
        default=None,
        exclude_if=is_none,
        description="Names the event; the same id again is a duplicate. Default: a new one.",
    )
    user_id: Id = Field(description="String of 1 to 256 characters, or an integer.")
    item_id: Id = Field(description="String of 1 to 256 characters, or an integer.")
    interaction_type: str = Field(
        description="A type that has a weight, watchlist_remove, dismiss or dismiss_undo."
    )
    weight: Annotated[float, Field(ge=0, le=1e6)] = Field(
        default=1.0, description="Multiplies the type's weight; 0: seen, without taste."
    )
    occurred_at: Time | None = Field(
        default=None,
        exclude_if=is_none,
        description="RFC 3339 with an offset. Default: the time of arrival.",
    )


class Refused(Answer):
    """A row that was not stored."""

    index: int
    field: str
    message: str


class SendAnswer(Done):
    """What became of interactions that were sent.

    `refused` is there with ``on_error=skip``, and `message` where they went through Kafka.
    """

    accepted: int
    duplicates: int
    refused: list[Refused] | None = Field(default=None, exclude_if=is_none)
    message: str | None = Field(default=None, exclude_if=is_none)


class StoredInteraction(Answer):
    """An interaction of a user, with the item's title."""

    event_id: str
    item_id: str
    title: str | None
    interaction_type: str
    weight: float
    occurred_at: Time


class InteractionList(Done):
    """A user's latest interactions."""

    user_id: str
    interactions: list[StoredInteraction]


class WatchlistItem(Answer):
    """An item on a watchlist."""

    item_id: str
    title: str | None
    attributes: JsonObject
    added_at: Time


class Watchlist(Done):
    """A user's watchlist, the latest addition first."""

    user_id: str
    items: list[WatchlistItem]


class Demo(Done):
    """The demo data, if it is loaded."""

    loaded: bool
    interactions: int
    sample_users: list[str]


class DemoCleared(Done):
    """How many interactions of the demo data were removed, and which versions."""

    interactions: int
    versions: list[int]
