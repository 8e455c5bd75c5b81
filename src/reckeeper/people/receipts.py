"""What an erasure says of itself, signed, and read again."""

import json

from reckeeper import audit, storage
from reckeeper.errors import NotFoundError

_SIGNED = (
    *("erasure_id", "subject", "erased_at", "until", "actor", "status", "interactions"),
    *("removed", "shaped_versions", "pickles_deleted", "pickles_left", "is_wiped", "remains"),
    *("pickles_rewritten", "job_id", "version", "completed_at"),
)


def receipt(database: storage.Database, erasure_id: int) -> storage.Erasure:
    """Return what an erasure has done so far.

    Raises
    ------
    NotFoundError
        There is none of this number.
    """
    with database.read() as connection:
        return found(connection, erasure_id)


def receipts(
    database: storage.Database, *, limit: int, before: int | None = None
) -> list[storage.Erasure]:
    """Return up to `limit` erasures with numbers below `before`, the latest first."""
    with database.read() as connection:
        return storage.erasures.page(connection, limit=limit, before=before)


def found(connection: storage.Connection, erasure_id: int) -> storage.Erasure:
    """Return an erasure; see `receipt`."""
    row = storage.erasures.get(connection, erasure_id)
    if row is None:
        raise NotFoundError(f"There is no erasure {erasure_id}.")
    return row


def change(connection: storage.Connection, erasure_id: int, **values: object) -> storage.Erasure:
    """Change what an erasure says, sign it, and return it."""
    if values:
        storage.erasures.update(connection, erasure_id, **values)
    signature = _signature(connection, found(connection, erasure_id))
    storage.erasures.update(connection, erasure_id, signature=signature)
    return found(connection, erasure_id)


def note_completed(connection: storage.Connection, erasure_id: int) -> None:
    """Write into the trail that nothing of an erasure is left to be done."""
    erasure = found(connection, erasure_id)
    audit.record(
        connection,
        actor="worker",
        action="erasure_completed",
        subject=f"user {erasure.subject}",
        erasure=erasure_id,
        job_id=erasure.job_id,
        version=erasure.version,
        pickles_deleted=erasure.pickles_deleted,
        pickles_rewritten=erasure.pickles_rewritten,
        remains=erasure.remains,
    )


def is_genuine(database: storage.Database, erasure: storage.Erasure) -> bool:
    """Say whether a receipt is as it was signed by this installation."""
    with database.read() as connection:
        return _signature(connection, erasure) == erasure.signature


def _signature(connection: storage.Connection, erasure: storage.Erasure) -> str:
    told = {name: getattr(erasure, name) for name in _SIGNED}
    told["installation_id"] = storage.installation.id_of(connection)
    content = json.dumps(told, sort_keys=True, separators=(",", ":"))
    return audit.pseudonym(connection, f"receipt:{content}", n_digits=64)
