"""Interactions of late: the last ones, their types over time, and those that were refused."""

from pydantic import Field

from .events import StoredInteraction
from .forms import Answer, Done, Time


class LatestInteraction(StoredInteraction):
    """An interaction and whose it is."""

    user_id: str


class LatestInteractions(Done):
    """The interactions that came last, the latest first."""

    interactions: list[LatestInteraction]


class InteractionRate(Answer):
    """How many interactions of a type there were in a stretch of time."""

    start: Time
    interaction_type: str
    n: int


class HeavyUser(Answer):
    """A user with many of the latest interactions."""

    user_id: str
    n: int


class HeavyItem(Answer):
    """An item with many of the latest interactions."""

    item_id: str
    title: str | None
    n: int


class InteractionSummary(Done):
    """What the latest interactions are."""

    n: int = Field(description="So many were looked at, those that came last.")
    first_at: Time | None = Field(description="When the first of them occurred.")
    last_at: Time | None
    types: dict[str, int] = Field(description="How many are of each type.")
    bucket_seconds: int = Field(description="Length of the stretches of time in rates.")
    rates: list[InteractionRate] = Field(description="Stretches without any are left out.")
    users: list[HeavyUser] = Field(description="Those with the most, the heaviest first.")
    items: list[HeavyItem]


class DeadLetter(Answer):
    """A record from Kafka that was refused."""

    place: str = Field(description="PARTITION:OFFSET on its topic.")
    at: Time = Field(description="When it was written.")
    reason: str
    value: str | None = Field(description="The first of it, as text.")
    is_replayed: bool


class DeadLetterList(Done):
    """The records from Kafka that were refused last, the latest first."""

    uses_kafka: bool = Field(description="Without Kafka there are none.")
    letters: list[DeadLetter]
