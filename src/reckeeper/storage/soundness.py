"""Whether what is in an SQLite database holds together: `PRAGMA quick_check`, within bounds."""

import contextlib
import sqlite3
import time
from dataclasses import dataclass

import sqlalchemy as sa

START_SECONDS = 2.0
"""How long a database is looked through before a process first writes to it.

Table by table, the large ones last: 2 s are enough for some gigabytes that the system has in
memory. What is not reached is left to whoever asks for a look without a limit.
"""

_MOST_FINDINGS = 10
_STEPS = 20_000  # of SQLite's machine between two looks at the clock: a millisecond
_LARGE = ("watchlist", "items", "user_interactions")


@dataclass(frozen=True)
class Soundness:
    """What a look through a database has found.

    Attributes
    ----------
    findings : tuple of str
        What does not hold together, as SQLite says it.
    is_whole : bool
        Whether all of it was looked through in the time.
    """

    findings: tuple[str, ...]
    is_whole: bool


def look_through(engine: sa.Engine, *, seconds: float | None) -> Soundness:
    """Look for what does not hold together; others may read and write meanwhile.

    Parameters
    ----------
    engine : sqlalchemy.Engine
        Of SQLite.
    seconds : float or None
        After which the rest is left out; None: never.
    """
    ends_at = None if seconds is None else time.monotonic() + seconds

    def is_over() -> bool:
        return ends_at is not None and time.monotonic() > ends_at

    with contextlib.closing(engine.raw_connection()) as pooled:
        connection = pooled.driver_connection
        assert isinstance(connection, sqlite3.Connection)
        connection.set_progress_handler(is_over, _STEPS)
        try:
            for argument in _parts(connection) if seconds is not None else [str(_MOST_FINDINGS)]:
                rows = connection.execute(f"PRAGMA quick_check({argument})")
                found = tuple(row[0] for row in rows)[:_MOST_FINDINGS]
                if found != ("ok",):
                    return Soundness(found, is_whole=False)
        except sqlite3.DatabaseError as exc:
            if is_over():
                return Soundness((), is_whole=False)
            return Soundness((str(exc),), is_whole=False)
        finally:
            connection.set_progress_handler(None, 0)
    return Soundness((), is_whole=True)


def _parts(connection: sqlite3.Connection) -> list[str]:
    """Return the tables, quoted, the large ones last."""
    rows = connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")
    names = sorted((row[0] for row in rows), key=lambda name: name in _LARGE)
    return [f"'{name}'" for name in names]
