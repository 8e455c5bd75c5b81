"""Who may do what: callers and the reasons that they give."""

from reckeeper.security.callers import (
    ACTOR_PATTERN,
    MAX_REASON_CHARACTERS,
    actor_of,
    checked_reason,
)

__all__ = ["ACTOR_PATTERN", "MAX_REASON_CHARACTERS", "actor_of", "checked_reason"]
