"""The catalogue: items, and what is said of them."""

from typing import Annotated

from pydantic import Field

from .events import Id
from .forms import Answer, Done, JsonObject, Request, Time

_Title = Annotated[str, Field(min_length=1, max_length=1_000)]
_Category = Annotated[str, Field(min_length=1, max_length=256)]
_Categories = Annotated[list[_Category], Field(max_length=100)]


class ItemContent(Request):
    """What is said of an item; a field that is null has its default."""

    title: _Title | None = Field(default=None, description="Default: none.")
    categories: _Categories | None = Field(
        default=None, description="What it belongs to, for rules and new items. Default: none."
    )
    attributes: JsonObject | None = Field(
        default=None, description="JSON of your own, at most 64 KiB. Default: {}."
    )
    available: bool | None = Field(
        default=None,
        description="false: withdrawn, and in no list until it is true again. Default: true.",
    )
    available_from: Time | None = Field(
        default=None, description="In no list before: RFC 3339 with an offset. Default: none."
    )
    available_until: Time | None = Field(
        default=None, description="In no list from then on: RFC 3339. Default: none."
    )


class ItemRow(ItemContent):
    """An item to add or change, in a list of up to 10,000."""

    item_id: Id = Field(description="String of 1 to 256 characters, or an integer.")


class Item(Answer):
    """An item that the catalogue or an interaction knows.

    `available_now` says whether it may be in a list at this moment, and `in_catalogue` is false
    where interactions alone know it.
    """

    item_id: str
    title: str | None
    categories: list[str]
    attributes: JsonObject
    available: bool
    available_from: Time | None
    available_until: Time | None
    available_now: bool
    in_catalogue: bool


class ItemAnswer(Done):
    """One item."""

    item: Item


class ItemPage(Done):
    """Items of the catalogue by id; `next` is the `after` of the next page, null on the last."""

    items: list[Item]
    next: str | None


class ItemsStored(Done):
    """How many items were added and changed, and of how many nothing new was said."""

    created: int
    changed: int
    unchanged: int


class ItemDeleted(Done):
    """The item that the catalogue no longer has."""

    item_id: str
