"""The caller and its reason: what a caller of the API says about itself, for the audit trail."""

import re
from typing import Any

from reckeeper.errors import DataError

ACTOR_PATTERN = "[A-Za-z0-9._@-]{1,64}"
MAX_REASON_CHARACTERS = 1000

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")  # no database and no JSON file takes these


def actor_of(name: str | None) -> str:
    """Return the actor of a request to the API: ``api``, or ``api:NAME`` if it gives a name.

    The name is what the caller says of itself, and proves nothing.

    Parameters
    ----------
    name : str or None
        From the header ``X-Reckeeper-Actor``: 1 to 64 letters, digits and ``. _ @ -``.

    Raises
    ------
    DataError
        It is something else.
    """
    if name is None:
        return "api"
    if not re.fullmatch(ACTOR_PATTERN, name):
        raise DataError(
            f"X-Reckeeper-Actor: {name[:80]!r} is no name. Send 1 to 64 letters, digits and "
            "`. _ @ -`, or leave the header out."
        )
    return f"api:{name}"


def checked_reason(reason: Any) -> str | None:
    """Return a reason that can be kept.

    Parameters
    ----------
    reason : object
        None, or text of up to 1,000 characters.

    Raises
    ------
    DataError
        It is something else.
    """
    if reason is None:
        return None
    if (
        not isinstance(reason, str)
        or len(reason) > MAX_REASON_CHARACTERS
        or _UNSTORABLE.search(reason)
    ):
        raise DataError(
            f"reason: must be a text of up to {MAX_REASON_CHARACTERS} characters, without NUL and "
            "halves of characters. It may be left out."
        )
    return reason
