"""What is done with all that is known of a user."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from .events import Id
from .forms import Answer, Done, Request, Time


class MergeRequest(Request):
    """Whose history an account is given."""

    model_config = ConfigDict(strict=True, populate_by_name=True)

    from_: Id = Field(
        alias="from",
        description="The id that the visitor had before the login.",
        examples=["visitor-8f3a"],
    )


class Merge(Done):
    """How many interactions an account was given; 0 where that was done before."""

    user_id: str
    interactions: int


class Erasure(Answer):
    """What an erasure has removed of a person, whom it does not name."""

    erasure_id: int
    subject: str = Field(description="The person's pseudonym, as the audit trail has it.")
    erased_at: Time
    until: Time = Field(
        description="What occurred up to then is not taken again: not by a request that is sent "
        "again, an import, from Kafka, or with a database that is restored."
    )
    actor: str
    reason: str | None
    state: Literal["erasing", "retraining", "complete"] = Field(
        description="erasing: it goes on; one that a crash cut off, the worker ends within "
        "minutes. retraining: the active version was shaped by the person, and a retrain is "
        "started; or something is still left."
    )
    removed: dict[str, int] = Field(
        description="Rows by table; pickles, those set aside, and rows of reports."
    )
    shaped_versions: list[int] = Field(
        description="Versions that were trained on the person's interactions."
    )
    pickles_deleted: list[int] = Field(
        description="Versions whose pickle had the person and is deleted."
    )
    pickles_rewritten: list[int] = Field(
        default=[],
        description="Versions whose pickle had the person and was written anew, without users: "
        "they were active.",
    )
    pickles_left: list[int] = Field(
        description="Versions whose pickle could not be deleted yet: it is tried again."
    )
    log_is_empty: bool = Field(
        description="Whether the log of the database file was emptied since; it is tried again."
    )
    remains: list[str] = Field(description="What could not be removed, in sentences.")
    job_id: int | None = Field(description="The retrain that ended the person's influence.")
    version: int | None = Field(description="What it made.")
    completed_at: Time | None
    signature: str = Field(description="HMAC-SHA256 of all this, with the installation's key.")
    is_genuine: bool = Field(description="Whether it is as it was signed.")


class ErasureAnswer(Done):
    """The receipt of an erasure."""

    erasure: Erasure


class ErasurePage(Done):
    """Erasures, the latest first."""

    erasures: list[Erasure]


class OwnWatchlistItem(Answer):
    """An item on a person's watchlist, as it is given to them."""

    item_id: str
    added_at: Time


class OwnInteraction(Answer):
    """What a person has done, as it is given to them."""

    event_id: str
    user_id: str
    item_id: str
    interaction_type: str
    weight: float
    occurred_at: Time


class PersonalData(Done):
    """All that is kept of a person."""

    user_id: str = Field(description="The account, where a visitor's id was asked for.")
    exported_at: Time
    merged_from: list[str] = Field(description="Visitors who became this account.")
    watchlist: list[OwnWatchlistItem]
    interactions: Annotated[list[OwnInteraction], Field(description="In the order they came.")]
