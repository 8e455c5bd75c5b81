"""How interactions come in: the message, its validation, the ways in."""

from reckeeper.events.database import Accepted, DatabaseWriter
from reckeeper.events.message import (
    History,
    Message,
    Parsed,
    RefusedRow,
    parse,
    parse_history,
    validate,
)

__all__ = [
    "Accepted",
    "DatabaseWriter",
    "History",
    "Message",
    "Parsed",
    "RefusedRow",
    "parse",
    "parse_history",
    "validate",
]
