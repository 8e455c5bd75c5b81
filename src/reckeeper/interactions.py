"""The nouns of events: an interaction, its types, its limits, and its Arrow columns."""

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from reckeeper import clock

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
