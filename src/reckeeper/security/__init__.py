"""Who may do what: keys and their roles, callers and the reasons that they give."""

from reckeeper.security import keys, roles
from reckeeper.security.access import Access, see_that_guarded
from reckeeper.security.callers import (
    ACTOR_PATTERN,
    MAX_REASON_CHARACTERS,
    Caller,
    actor_of,
    checked_name,
    checked_reason,
)

__all__ = [
    "ACTOR_PATTERN",
    "MAX_REASON_CHARACTERS",
    "Access",
    "Caller",
    "actor_of",
    "checked_name",
    "checked_reason",
    "keys",
    "roles",
    "see_that_guarded",
]
