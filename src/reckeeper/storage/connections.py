"""What a connection carries beside the database: settings, and what follows its commit."""

from collections.abc import Callable

import sqlalchemy as sa

from reckeeper.config import Settings


def settings_of(connection: sa.Connection) -> Settings:
    """Return the settings with which the database of a connection was opened."""
    settings: Settings = connection.get_execution_options()["reckeeper_settings"]
    return settings


def planned(connection: sa.Connection, name: str) -> Callable[[], None] | None:
    """Return what `after_commit` was given under a name in this transaction, if anything was."""
    found: Callable[[], None] | None = connection.get_execution_options()[
        "reckeeper_after_commit"
    ].get(name)
    return found


def after_commit(connection: sa.Connection, name: str, callback: Callable[[], None]) -> None:
    """Have something called once the writes of a transaction are on disk.

    Parameters
    ----------
    connection : sqlalchemy.Connection
        From `Database.write`. If its block fails, nothing is called.
    name : str
        Where several are given under one name, only the last is called.
    callback : callable
        Must handle its own errors: the change stands whatever becomes of it.
    """
    connection.get_execution_options()["reckeeper_after_commit"][name] = callback
