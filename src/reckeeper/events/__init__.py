"""How interactions come in: the message, its validation, the ways in."""

from reckeeper.events.database import Accepted, DatabaseWriter
from reckeeper.events.message import (
    MAX_BODY_BYTES,
    MAX_ROWS,
    Message,
    Parsed,
    RefusedRow,
    checked_id,
    parse,
    validate,
)

__all__ = [
    "MAX_BODY_BYTES",
    "MAX_ROWS",
    "Accepted",
    "DatabaseWriter",
    "Message",
    "Parsed",
    "RefusedRow",
    "checked_id",
    "parse",
    "validate",
]
