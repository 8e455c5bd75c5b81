"""The caller and its reason: who it is, and what it says of itself, for the audit trail."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from reckeeper import audit
from reckeeper.errors import DataError, ForbiddenError
from reckeeper.security.roles import ROLES, Role

ACTOR_PATTERN = "[A-Za-z0-9._@-]{1,64}"
MAX_REASON_CHARACTERS = 1000

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")  # no database and no JSON file takes these


@dataclass(frozen=True)
class Caller:
    """Who has sent a request.

    Attributes
    ----------
    actor : str or None
        ``key:NAME``: who it is proven to be. None where nobody needs a key, or it has none.
    role : str or None
        Of its key.
    roles : frozenset of str
        What it may do; all where nobody needs a key.
    said : str or None
        What it says of itself, which proves nothing.
    is_server : bool
        Whether it is the server, which asks the worker for somebody and says for whom.
    key_id : str or None
        Of its key.
    """

    actor: str | None = None
    role: Role | None = None
    roles: frozenset[Role] = frozenset(ROLES)
    said: str | None = None
    is_server: bool = False
    key_id: str | None = None


_OF_ADMINS = "backup_"
"""How the fields of the policy begin that only administrators change."""


def see_that_may_change(caller: Caller, fields: Iterable[str]) -> None:
    """Refuse a change of the policy that the caller's role does not allow.

    Backups have everything in them, and go to a folder of the worker's machine.

    Parameters
    ----------
    caller : Caller
    fields : iterable of str
        Those of the policy that would change.

    Raises
    ------
    ForbiddenError
        One of them is for administrators, and the caller is none.
    """
    refused = [name for name in fields if name.startswith(_OF_ADMINS)]
    if refused and "admin" not in caller.roles:
        raise ForbiddenError(
            f"{refused[0]}: only the role 'admin' changes what is backed up where. Leave the "
            "fields backup_… as they are in force, or ask for another key.",
            details={"field": refused[0], "role": caller.role, "needed": "admin"},
        )


def actor_of(caller: Caller) -> audit.Actor:
    """Return the actor of a request: its key's, and beside it what it says of itself.

    Without a key that is ``api``, or ``api:NAME`` if it gives a name.
    """
    if caller.actor is not None:
        return audit.Actor(caller.actor, said=caller.said)
    return audit.Actor("api" if caller.said is None else f"api:{caller.said}")


def checked_name(name: str | None) -> str | None:
    """Return what a caller says of itself.

    Parameters
    ----------
    name : str or None
        From the header ``X-Reckeeper-Actor``: 1 to 64 letters, digits and ``. _ @ -``.

    Raises
    ------
    DataError
        It is something else.
    """
    if name is not None and not re.fullmatch(ACTOR_PATTERN, name):
        raise DataError(
            f"X-Reckeeper-Actor: {name[:80]!r} is no name. Send 1 to 64 letters, digits and "
            "`. _ @ -`, or leave the header out."
        )
    return name


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
