"""The nouns of events: an interaction, its types, its limits, and its Arrow columns."""

import functools
import re
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic_core import PydanticCustomError

from reckeeper import clock
from reckeeper.errors import DataError

if TYPE_CHECKING:  # slow to import, and light commands read no rows
    import pyarrow as pa

WATCHLIST_ADD = "watchlist_add"
WATCHLIST_REMOVE = "watchlist_remove"
DISMISS = "dismiss"
"""Not interested: what came before weighs nothing, and the item is not recommended."""

DISMISS_UNDO = "dismiss_undo"
"""Takes back the dismissals before it, as if they had never been."""

WITHOUT_WEIGHT: Mapping[str, str] = {
    WATCHLIST_REMOVE: "takes back an addition",
    DISMISS: "takes away the weight of what came before",
    DISMISS_UNDO: "takes back a dismissal",
}
"""Types that are always accepted and have no weight of their own, and what each does."""

MAX_ROWS = 10_000
"""Interactions in one request."""

MAX_BODY_BYTES = 16 * 1024 * 1024
"""Size of one request's body."""

MAX_ID_CHARACTERS = 256

CONTROL_CHARACTERS = "[\x00-\x1f\x7f-\x9f]"
"""Pattern of the characters that an id must not have."""

_CONTROL = re.compile(CONTROL_CHARACTERS)
_SURROGATE = re.compile("[\ud800-\udfff]")

MAX_WEIGHT = 1e6

MAX_CLOCK_SKEW = clock.DAY
"""Microseconds that a time may lie in the future, for clocks that go wrong."""


class Interaction(NamedTuple):
    """One valid interaction, ready to be stored; `occurred_at` in microseconds UTC."""

    event_id: str
    user_id: str
    item_id: str
    interaction_type: str
    weight: float
    occurred_at: int


@functools.cache
def schema() -> "pa.Schema":
    """Return the columns of interactions as they are read; `occurred_at` in microseconds UTC."""
    import pyarrow as pa

    return pa.schema(
        [
            ("user_id", pa.string()),
            ("item_id", pa.string()),
            ("interaction_type", pa.string()),
            ("weight", pa.float64()),
            ("occurred_at", pa.int64()),
        ]
    )


def valid_id(value: Any) -> str:
    """Return an id in its stored form: a string as it is, an integer in decimal.

    Raises
    ------
    PydanticCustomError
        A ``ValueError``: neither string nor integer, empty, over 256
        characters, with control characters, or not valid Unicode.
    """
    # Nearly every id; what is printable has neither controls nor surrogates.
    if type(value) is str and 0 < len(value) <= MAX_ID_CHARACTERS and value.isprintable():
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise PydanticCustomError("id_type", "must be a string or an integer")
    if not 1 <= len(value) <= MAX_ID_CHARACTERS:
        raise PydanticCustomError("id_length", "must have 1 to 256 characters")
    if _CONTROL.search(value):
        raise PydanticCustomError("id_control", "must have no control characters")
    if _SURROGATE.search(value):
        raise PydanticCustomError("id_surrogate", "must be valid Unicode")
    return value


def narrowed(told: Any, known: Collection[str]) -> Any:
    """Return an object that was sent, or of one with more fields than are known an unknown one.

    What is wrong with each of very many fields takes many times longer to tell than to parse.
    """
    if not isinstance(told, dict) or len(told) <= len(known):
        return told
    return {next(name for name in told if name not in known): None}


def checked_id(field: str, value: Any) -> str:
    """Return an id in its stored form, for ids that come outside a message.

    Raises
    ------
    DataError
        It is not valid; the message begins with `field`.
    """
    try:
        return valid_id(value)
    except ValueError as exc:
        raise DataError(f"{field} {exc}.") from exc
