"""How interactions come in: the message, its validation, the ways in."""

from reckeeper.events.database import Accepted, DatabaseWriter
from reckeeper.events.message import (
    Message,
    Parsed,
    RefusedRow,
    parse,
    validate,
)

__all__ = [
    "Accepted",
    "DatabaseWriter",
    "Message",
    "Parsed",
    "RefusedRow",
    "parse",
    "validate",
]
