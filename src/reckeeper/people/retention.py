"""Interactions that are older than the policy keeps them."""

import functools
import time

from reckeeper import audit, clock, notices, storage

_AT_ONCE = 1_000
_TURN_SECONDS = 0.01
"""Pause between two transactions, in which whoever waits to write does."""

_DATABASE_SECONDS = 60.0


def delete_old(database: storage.Database, days: float, *, actor: str, now: int) -> int:
    """Delete the interactions, and entries of watchlists, from more than some days before now.

    In several transactions, so that others write in between.

    Parameters
    ----------
    database : storage.Database
    days : float
    actor : str
    now : int
        Microseconds since 1970.

    Returns
    -------
    int
        How many interactions were deleted.

    Raises
    ------
    StorageError
        The database did not do it: what is left is deleted the next time.
    """
    moment = now - int(days * clock.DAY)
    n_deleted = last = 0
    while True:
        with database.read() as connection:
            numbers = storage.erasures.older(connection, moment, after=last, limit=_AT_ONCE)
        if not numbers:
            break
        last = numbers[-1]
        delete = functools.partial(
            storage.erasures.delete_older, moment=moment, first=numbers[0], last=last
        )
        n_deleted += database.retrying(delete, seconds=_DATABASE_SECONDS)
        time.sleep(_TURN_SECONDS)

    def end(connection: storage.Connection) -> int:
        n_listed = storage.erasures.delete_listed(connection, None, until=moment - 1)
        if n_deleted or n_listed:
            told = {
                "retention_days": days,
                "before": clock.rfc3339(moment),
                "interactions": n_deleted,
                "watchlist": n_listed,
            }
            audit.record(
                connection, actor=actor, action="retention", subject="interactions", **told
            )
            message = (
                f"{n_deleted:,} interactions were deleted: they are older than the {days:g} days "
                "that the policy keeps them."
            )
            notices.notify(connection, "retention", told | {"message": message})
        return n_listed

    n_listed = database.retrying(end, seconds=_DATABASE_SECONDS)
    if n_deleted or n_listed:
        storage.wiping.wipe(database)
    return n_deleted
