"""`leases`: what only one process may do at a time, and the fence that keeps out the one before.

Times are of the machine that asks: machines that share a database keep their
clocks within a second or two of each other, as time servers do.
"""

import sqlalchemy as sa

from reckeeper.clock import now
from reckeeper.storage.records import Lease, one
from reckeeper.storage.tables import leases

TRAINING = "training"

_LONGEST = 3600 * 1_000_000
"""Microseconds; no lease is taken for so long: it is by a clock that ran ahead, and has lapsed."""


def is_live(expires_at: int) -> bool:
    """Return whether a lease that lapses at a moment has not lapsed yet."""
    return 0 < expires_at - now() <= _LONGEST


def live() -> sa.ColumnElement[bool]:
    """Return the same, as what rows of `leases` are chosen by."""
    return sa.and_(leases.c.expires_at > now(), leases.c.expires_at <= now() + _LONGEST)


def take(connection: sa.Connection, name: str, *, holder: str, seconds: float) -> int | None:
    """Take a lease that is free or has lapsed.

    Parameters
    ----------
    connection : sqlalchemy.Connection
        From `Database.write`.
    name : str
    holder : str
        Names the process, for people.
    seconds : float
        After which it lapses unless it is renewed.

    Returns
    -------
    int or None
        The fence, larger than that of every holder before; None while
        somebody else holds it.
    """
    columns = leases.c
    last = one(Lease, connection.execute(sa.select(leases).where(columns.name == name)))
    if last is not None and is_live(last.expires_at):
        return None
    taken = Lease(
        name=name,
        fence=1 if last is None else last.fence + 1,
        holder=holder,
        expires_at=now() + int(seconds * 1e6),
    )
    if last is None:
        connection.execute(sa.insert(leases).values(vars(taken)))
    else:
        connection.execute(sa.update(leases).where(columns.name == name).values(vars(taken)))
    return taken.fence


def renew(connection: sa.Connection, name: str, *, fence: int, seconds: float) -> bool:
    """Put off when a lease lapses; return whether it is still that holder's."""
    columns = leases.c
    result = connection.execute(
        sa.update(leases)
        .where(columns.name == name, columns.fence == fence)
        .values(expires_at=now() + int(seconds * 1e6))
    )
    return result.rowcount == 1


def release(connection: sa.Connection, name: str, *, fence: int) -> None:
    """Give a lease back; nothing changes if it is another's by now."""
    columns = leases.c
    connection.execute(
        sa.update(leases).where(columns.name == name, columns.fence == fence).values(expires_at=0)
    )


def holder(connection: sa.Connection, name: str) -> str | None:
    """Return who holds a lease that has not lapsed, or None."""
    columns = leases.c
    found = connection.execute(
        sa.select(columns.holder).where(columns.name == name, live())
    ).scalar()
    return None if found is None else str(found)


def lapses_at(connection: sa.Connection, name: str) -> int:
    """Return when a lease lapses or has lapsed; 0 if nobody has ever held it."""
    query = sa.select(leases.c.expires_at).where(leases.c.name == name)
    return int(connection.execute(query).scalar() or 0)


def revoke(connection: sa.Connection, name: str, *, holder: str) -> None:
    """Let a lease lapse whose holder is known to be gone; another's stays."""
    columns = leases.c
    connection.execute(
        sa.update(leases).where(columns.name == name, columns.holder == holder).values(expires_at=0)
    )
