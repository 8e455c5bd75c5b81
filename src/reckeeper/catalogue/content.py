"""What is said of an item, and the rules that it must keep."""

import json
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, NamedTuple, TypedDict, TypeVar

from pydantic import (
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
)
from pydantic_core import PydanticCustomError, from_json

from reckeeper import clock
from reckeeper.errors import DataError, TooLargeError, alternatives
from reckeeper.interactions import MAX_BODY_BYTES, MAX_ROWS, narrowed, valid_id
from reckeeper.storage import Item

MAX_TITLE_CHARACTERS = 1_000

MAX_CATEGORIES = 100
"""Categories of one item."""

MAX_ATTRIBUTE_BYTES = 65_536
"""Size of one item's attributes, as JSON in UTF-8."""

_DATED = re.compile(r"\d{4}-\d")
_NOT_IN_TEXT = re.compile("[\0\ud800-\udfff]")
_YEAR_10000 = 253_402_300_800 * clock.SECOND


class Given(TypedDict, total=False):
    """The fields of an item that are given, in their stored forms.

    A field that was null has its default; `attributes` that were null are None.
    """

    title: str | None
    categories: tuple[str, ...]
    attributes: dict[str, Any] | None
    available: bool
    available_from: int | None
    available_until: int | None


class Change(NamedTuple):
    """What is said of one item."""

    item_id: str
    given: Given


def _text(value: object) -> object:
    if isinstance(value, str) and _NOT_IN_TEXT.search(value):
        raise PydanticCustomError("text", "must be valid Unicode without NUL characters")
    return value


def _moment(value: object) -> object:
    # Pydantic would read a number as seconds or milliseconds, by its size.
    if not isinstance(value, str) or not _DATED.match(value):
        raise PydanticCustomError(
            "time_type", "must be an RFC 3339 time such as 2025-12-04T23:42:15Z"
        )
    return value


_Title = Annotated[
    str, Field(strict=True, min_length=1, max_length=MAX_TITLE_CHARACTERS), BeforeValidator(_text)
]
_Category = Annotated[str, Field(strict=True), BeforeValidator(valid_id)]
_Moment = Annotated[AwareDatetime, BeforeValidator(_moment)]


class _Content(BaseModel):
    model_config = ConfigDict(extra="forbid")

    title: _Title | None = None
    categories: Annotated[list[_Category], Field(max_length=MAX_CATEGORIES)] | None = None
    attributes: dict[str, Any] | None = None
    available: Annotated[bool, Field(strict=True)] | None = None
    available_from: _Moment | None = None
    available_until: _Moment | None = None


class _Row(_Content):
    item_id: Annotated[str, BeforeValidator(valid_id)]


_Kind = TypeVar("_Kind", bound=_Content)

FIELDS = tuple(_Content.model_fields)
"""What can be said of an item."""


def stored_forms(told: object) -> Given:
    """Check what is said of an item, and return the fields that are given in their stored forms.

    Parameters
    ----------
    told : object
        Decoded JSON.

    Raises
    ------
    DataError
        It is no object, or a field is unknown or breaks a rule; `details` has the field.
    """
    return _given(_read(_Content, told))


def parse_content(body: bytes) -> Given:
    """Parse and check the body of a request that says something of one item.

    Raises
    ------
    DataError
        As of `stored_forms`, or it is no JSON.
    """
    return stored_forms(_decoded(body))


def parse_items(body: bytes) -> list[Change]:
    """Parse and check the body of a request that says something of items: one, or a list.

    Raises
    ------
    TooLargeError
        It is over a limit.
    DataError
        It is no JSON, or an item breaks a rule; `details` has its index and field.
    """
    decoded = _decoded(body)
    rows = decoded if isinstance(decoded, list) else [decoded]
    if len(rows) > MAX_ROWS:
        raise TooLargeError(
            f"The request has {len(rows)} items; at most {MAX_ROWS} are accepted. Split it into "
            "several requests."
        )
    if not rows:
        raise DataError("The list has no item. Send at least one.")
    changes = []
    for index, row in enumerate(rows):
        try:
            read = _read(_Row, row)
            changes.append(Change(read.item_id, _given(read)))
        except DataError as exc:
            raise at_index(index, exc) from exc
    return changes


def at_index(index: int, error: DataError) -> DataError:
    """Return the error of one item, saying which of a list it is."""
    details = {"index": index, **(error.details or {})}
    return DataError(f"Item {index}: {error.message}", details=details)


def whole(item: Item) -> Item:
    """Return an item as it is to be stored, if its fields agree with each other.

    Raises
    ------
    DataError
        Its availability ends before it begins, or its attributes are too large or no JSON.
    """
    begin, end = item.available_from, item.available_until
    if begin is not None and end is not None and end <= begin:
        raise _refused(
            "available_until",
            f"{clock.rfc3339(end)} is not after available_from, {clock.rfc3339(begin)}",
        )
    try:
        text = json.dumps(item.attributes, allow_nan=False, ensure_ascii=False)
    except ValueError as exc:
        raise _refused("attributes", "hold a number that is not finite, or too long") from exc
    if len(text.encode()) > MAX_ATTRIBUTE_BYTES:
        raise _refused(
            "attributes",
            f"have {len(text.encode())} bytes as JSON; at most {MAX_ATTRIBUTE_BYTES} are accepted",
        )
    return item


def _decoded(body: bytes) -> object:
    if len(body) > MAX_BODY_BYTES:
        raise TooLargeError(
            f"The body has {len(body)} bytes; at most {MAX_BODY_BYTES} are accepted."
        )
    try:
        return from_json(body)
    except ValueError as exc:
        raise DataError(f"The body is not JSON: {exc}. /docs shows what the route takes.") from exc


def _read(kind: type[_Kind], told: object) -> _Kind:
    if not isinstance(told, Mapping):
        raise DataError(
            f"Of an item an object is told with some of {', '.join(FIELDS)}, not "
            f"{'null' if told is None else type(told).__name__}."
        )
    try:
        return kind.model_validate(narrowed(told, kind.model_fields))
    except ValidationError as exc:
        found = exc.errors(include_url=False, include_input=False)
        # An unknown field first: one that is missing may be spelt otherwise.
        error = min(found, key=lambda each: each["type"] != "extra_forbidden")
        field = ".".join(str(part)[:64] for part in error["loc"])
        if error["type"] == "extra_forbidden":
            problem = f"is not a field of an item{alternatives(field, kind.model_fields)}"
        elif error["type"] == "missing":
            problem = "is missing"
        else:
            problem = re.sub(r"^\w+ should ", "must ", str(error["msg"]))
            problem = problem.replace("a valid dictionary", "an object")
            problem = problem[0].lower() + problem[1:]
        raise _refused(field, problem) from exc


def _given(content: _Content) -> Given:
    told, given = content.model_fields_set, Given()
    if "title" in told:
        given["title"] = content.title
    if "categories" in told:
        given["categories"] = tuple(dict.fromkeys(content.categories or ()))
    if "attributes" in told:
        given["attributes"] = content.attributes
    if "available" in told:
        given["available"] = content.available is not False
    if "available_from" in told:
        given["available_from"] = _microseconds("available_from", content.available_from)
    if "available_until" in told:
        given["available_until"] = _microseconds("available_until", content.available_until)
    return given


def _microseconds(field: str, moment: datetime | None) -> int | None:
    if moment is None:
        return None
    microseconds = clock.microseconds(moment)
    if not 0 <= microseconds < _YEAR_10000:
        raise _refused(field, "must lie in the years 1970 to 9999")
    return microseconds


def _refused(field: str, problem: str) -> DataError:
    return DataError(f"{field} {problem}. Nothing was stored.", details={"field": field})
