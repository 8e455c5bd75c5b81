"""Tickets: the right to do something once, until a time, which whoever gave it can take back.

Of the one who uses a ticket and the one who takes it back the first wins: whoever was asked
and did not answer cannot begin later. They lie in the table of the leases, under names of their
own; the fence is what was done with them.
"""

import re
import secrets

import sqlalchemy as sa

from reckeeper.clock import now
from reckeeper.storage.tables import leases

_PREFIX = "ticket-"
_NAME = re.compile(_PREFIX + "[0-9a-f]{24}")
_UNUSED = 0


def issue(connection: sa.Connection, *, holder: str, seconds: float) -> str:
    """Make a ticket that is valid for so long, and return its name.

    Parameters
    ----------
    connection : sqlalchemy.Connection
        From `Database.write`.
    holder : str
        Who gave it, for people.
    seconds : float
    """
    columns = leases.c
    is_old = columns.name.startswith(_PREFIX) & (columns.expires_at < now())
    connection.execute(sa.delete(leases).where(is_old))
    name = _PREFIX + secrets.token_hex(12)
    expires_at = now() + int(seconds * 1e6)
    connection.execute(
        sa.insert(leases).values(name=name, fence=_UNUSED, holder=holder, expires_at=expires_at)
    )
    return name


def use(connection: sa.Connection, name: str, *, job_id: int) -> bool:
    """Use a ticket for a job; return whether it was valid, which it is but once."""
    if _NAME.fullmatch(name) is None:
        return False
    columns = leases.c
    is_valid = (columns.name == name) & (columns.fence == _UNUSED) & (columns.expires_at > now())
    return connection.execute(sa.update(leases).where(is_valid).values(fence=job_id)).rowcount == 1


def withdraw(connection: sa.Connection, name: str) -> int | None:
    """Take a ticket back; return the job that it was used for, or None: it will be for none."""
    found = connection.execute(
        sa.delete(leases).where(leases.c.name == name).returning(leases.c.fence)
    ).scalar()
    return found or None
