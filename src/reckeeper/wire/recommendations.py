"""Lists of recommendations: what may be asked of them, and how they are answered."""

from typing import Annotated, Literal

from pydantic import Field

from .events import Id
from .forms import Answer, Done, JsonObject, Request, Time, is_none

_Named = Annotated[list[Id], Field(max_length=10_000)]

Version = Annotated[int, Field(ge=1)]


class ItemRules(Request):
    """What is asked of the items of a list, before the list is cut."""

    n: Annotated[int, Field(ge=1, le=1000)] = Field(default=10, description="Length of the list.")
    offset: Annotated[int, Field(ge=0, le=10_000)] = Field(
        default=0, description="Passes over so many of the best: the next page of the same list."
    )
    exclude: _Named = Field(default=[], description="Ids of items that must not be in it.")
    allow: Annotated[_Named, Field(min_length=1)] | None = Field(
        default=None, description="Ids of the only items that may be in it. Default: all."
    )
    category: Annotated[list[Id], Field(max_length=100)] = Field(
        default=[], description="Its items have any of these categories. Default: whatever."
    )
    where: JsonObject = Field(
        default={},
        description="What attributes must be, all of them: a value, a list of values of which it "
        'must have any, or a range: {"language": "fr", "region": ["eu", "uk"], "price": '
        '{"min": 5, "max": 20}}. Default: whatever.',
    )


class ListRules(ItemRules):
    """What is asked of a list. All of it holds before the list is cut, so `n` items come back
    whenever so many are left; items that are withdrawn or dismissed never do.
    """

    include_seen: bool = Field(
        default=False, description="true: with what was seen already, as for consumables."
    )
    model: Version | None = Field(
        default=None, description="Another version answers, for a preview. Default: the active one."
    )
    explain: bool = Field(
        default=False, description="true: each item has reasons, the user's own items."
    )
    diversity: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.0,
        description="How much it counts against an item of the 500 best that it is like one "
        "before it in the list; 0: not at all.",
    )
    per_category: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="At most so many items of one category. Default: any number."
    )


class HistoryItem(Request):
    """An item of a history that a request gives: when it was done, and what."""

    item_id: Id = Field(description="String of 1 to 256 characters, or an integer.")
    occurred_at: Time | None = Field(
        default=None,
        exclude_if=is_none,
        description="RFC 3339 with an offset; of all items or of none.",
    )
    interaction_type: str | None = Field(
        default=None,
        exclude_if=is_none,
        description="A type that has a weight, or dismiss. Default: none, and a weight of 1.",
    )
    weight: Annotated[float, Field(ge=0, le=1e6)] = Field(
        default=1.0, description="Multiplies the type's weight; 0: seen, without taste."
    )


class HistoryRequest(ListRules):
    """What somebody has done, for recommendations that follow from it; nothing is stored."""

    history: list[Id | HistoryItem] = Field(
        max_length=10_000,
        description="Ids of items, the oldest first; or items with their times, in any order.",
    )


Strategy = Literal["model", "fold_in", "popular"]


class Reason(Answer):
    """An item of the user's, and what it adds to a score: below zero it speaks against."""

    item_id: str
    title: str | None
    contribution: float


class RecommendedItem(Answer):
    """An item of a recommendation list.

    Where reasons are asked for, their contributions and `rest` add up to the score.
    """

    rank: int
    item_id: str
    score: float
    title: str | None
    attributes: JsonObject
    reasons: list[Reason] | None = Field(
        default=None,
        exclude_if=is_none,
        description="The ten items of the user's that say most of it, the one that speaks most "
        "for it first; none where a list is not personal. With explain alone.",
    )
    rest: float | None = Field(
        default=None, exclude_if=is_none, description="What all others add. With explain alone."
    )


class RecommendationList(Done):
    """Recommendations for a user; `strategy` says how they were made."""

    user_id: str
    model_version: int | None = Field(description="The version that answered; null: none yet.")
    strategy: Strategy
    items: list[RecommendedItem]
    request_id: str
    generated_at: Time


class HistoryRecommendations(Done):
    """Recommendations from a history; `strategy` says how they were made."""

    model_version: int | None = Field(description="The version that answered; null: none yet.")
    strategy: Literal["fold_in", "popular"]
    items: list[RecommendedItem]
    request_id: str
    generated_at: Time


class BatchRequest(ListRules):
    """Users who each get a list, under the same rules."""

    user_ids: Annotated[list[Id], Field(min_length=1, max_length=1000)] = Field(
        description="Each of them once; known or not."
    )


class UserList(Answer):
    """The list of one user; `strategy` says how it was made."""

    user_id: str
    strategy: Strategy
    items: list[RecommendedItem]


class BatchRecommendations(Done):
    """A list for each user, in the order in which they were asked for."""

    model_version: int | None = Field(description="The version that answered; null: none yet.")
    lists: list[UserList]
    request_id: str
    generated_at: Time
