"""Similar items: what is asked for, and the lists."""

from typing import Annotated, Literal

from pydantic import Field

from .events import Id
from .forms import Done, Time
from .recommendations import ItemRules, RecommendedItem, Version


class SimilarRequest(ItemRules):
    """Items, such as those of a basket, and what is asked of a list of others like them."""

    item_ids: Annotated[list[Id], Field(min_length=1, max_length=100)] = Field(
        description="In any order; those that nobody knows are passed over."
    )
    kind: Literal["alike", "next"] = Field(
        default="alike",
        description="alike: what goes together with them; next: what people take after them.",
    )
    model: Version | None = Field(
        default=None, description="Another version answers, for a preview. Default: the active one."
    )


class _Similar(Done):
    kind: Literal["alike", "next"] = Field(
        description="What the list has: alike also where next was asked for and nothing is known "
        "to come next."
    )
    model_version: int | None = Field(description="The version that answered; null: none yet.")
    strategy: Literal["model", "categories", "popular"] = Field(
        description="model: from what people do with the items. categories: they share categories "
        "with them. popular: the most popular items, since nothing is known that is like them."
    )
    items: list[RecommendedItem]
    request_id: str
    generated_at: Time


class SimilarItems(_Similar):
    """Items that are like one, or that people take after it, the best first."""

    item_id: str


class SimilarToSeveral(_Similar):
    """Items that are like several together, or that people take after them, the best first."""

    item_ids: list[str]
