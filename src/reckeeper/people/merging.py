"""A visitor who becomes an account."""

from reckeeper import audit, storage
from reckeeper.errors import ConflictError, DataError


def merge(database: storage.Database, user_id: str, visitor_id: str, *, actor: str) -> int:
    """Give a visitor's interactions and watchlist to an account, as after a login.

    In one transaction. From then on the account is who did what comes under
    the visitor's id, late or new: a message may be on its way for days. Done
    again it changes nothing; it cannot be taken back. The trail has the two
    by pseudonym.

    Parameters
    ----------
    database : storage.Database
    user_id : str
        The account, known or not.
    visitor_id : str
        Known or not.
    actor : str

    Returns
    -------
    int
        How many interactions were moved.

    Raises
    ------
    DataError
        Both are the same.
    ConflictError
        One of them has become another account before.
    """
    if user_id == visitor_id:
        raise DataError(
            f"from: {visitor_id!r} is the account itself. Name the id that the visitor had "
            "before the login.",
            details={"field": "from"},
        )
    with database.write() as connection:
        became = storage.merges.account_of(connection, visitor_id)
        if became == user_id:
            return 0
        if became is not None:
            raise ConflictError(
                f"The history of {visitor_id!r} belongs to {became!r} since an earlier merge. "
                "Give each visitor a new id after a logout."
            )
        other = storage.merges.account_of(connection, user_id)
        if other is not None:
            raise ConflictError(f"{user_id!r} was merged into {other!r}: merge into that one.")
        n_moved = storage.interactions.move(connection, visitor_id, user_id=user_id)
        storage.merges.insert(connection, visitor_id, user_id=user_id)
        audit.record(
            connection,
            actor=actor,
            action="merge",
            subject=f"user {audit.pseudonym(connection, user_id)}",
            visitor=audit.pseudonym(connection, visitor_id),
            interactions=n_moved,
        )
    return n_moved
