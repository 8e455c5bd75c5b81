"""Who may do what: keys and their roles, callers and their reasons, where notices may go."""

from reckeeper.security import keys, roles
from reckeeper.security.access import Access, see_that_guarded
from reckeeper.security.callers import (
    ACTOR_PATTERN,
    MAX_REASON_CHARACTERS,
    Caller,
    actor_of,
    checked_name,
    checked_reason,
    see_that_may_change,
)
from reckeeper.security.receivers import Receivers

__all__ = [
    "ACTOR_PATTERN",
    "MAX_REASON_CHARACTERS",
    "Access",
    "Caller",
    "Receivers",
    "actor_of",
    "checked_name",
    "checked_reason",
    "keys",
    "roles",
    "see_that_guarded",
    "see_that_may_change",
]
