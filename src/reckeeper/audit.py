"""The trail of what was changed, by whom and why."""

from typing import Any

from reckeeper import storage


def record(
    connection: storage.Connection, *, actor: str, action: str, subject: str, **details: Any
) -> None:
    """Add an entry, in the transaction of the change that it tells of.

    Parameters
    ----------
    connection : sqlalchemy.Connection
        Of `Database.write`.
    actor : str
        Who: ``server``, ``worker``, ``cli``, ``schedule``, …
    action : str
        What was done: ``retrain``, ``activate``, ``import``, …
    subject : str
        To what, such as ``model 3``.
    **details
        JSON values: before, after, reason.
    """
    storage.audit_log.insert(
        connection, actor=actor, action=action, subject=subject, details=details
    )
