"""Who has done something since the version in memory was trained: the tail of the table."""

import contextlib
import threading
from collections.abc import Callable

from reckeeper import clock, storage
from reckeeper.errors import ReckeeperError
from reckeeper.periodic import Periodic

_MOST_HELD = 1_000_000
"""Interactions, the latest, whose users are held; about 120 bytes for each user."""

_AT_ONCE = 50_000

_SKEW = 60 * clock.SECOND
"""By how much the clocks of servers may differ that write merges."""


class Newer:
    """The last interaction of each user who has one that is newer than a watermark.

    And who was merged since: neither of the two is as the version knows them.

    A thread reads what the table got since it last looked; a process that
    writes interactions itself calls `follow_up` after each commit, and so
    knows of them before anybody is told that they are stored. Where
    interactions were taken away, or given to another user, all is read again.
    While the database cannot be read, what was read last stays.

    Parameters
    ----------
    database : storage.Database
    every_seconds : float
        Pause between two looks.
    on_taken_away : callable, optional
        Called where interactions were taken away, or given to another user.
    """

    def __init__(
        self,
        database: storage.Database,
        *,
        every_seconds: float,
        on_taken_away: Callable[[], None] = lambda: None,
    ) -> None:
        self._database = database
        self._on_taken_away = on_taken_away
        self._reading = Periodic(self.refresh, name="newer", every_seconds=every_seconds)
        self._refreshing = threading.Lock()
        self._tail = _Tail(0, 0, 0)

    @property
    def problem(self) -> str | None:
        """Why the last look failed, in a sentence; None if it succeeded."""
        return self._reading.problem

    def start(self) -> None:
        """Follow the table until `stop`."""
        self._reading.start()

    def stop(self) -> None:
        """Follow it no longer."""
        self._reading.stop()

    def hold_from(self, watermark: int, *, merged_since: int) -> None:
        """Hold the users of what is above a watermark, and forget those of what is not.

        Parameters
        ----------
        watermark : int
        merged_since : int
            Merges from then on are held, in microseconds since 1970.

        Raises
        ------
        StorageError
            The database cannot be read.
        """
        with self._refreshing, self._database.read() as connection:
            merged_since -= clock.DAY
            if 0 < self._tail.since <= watermark and self._tail.merged_since <= merged_since:
                self._tail = self._tail.above(watermark)
                self._read(connection)
            else:
                self._begin(connection, watermark, merged_since=merged_since)

    def refresh(self) -> None:
        """Take in what the table got since the last time.

        Raises
        ------
        StorageError
            The database cannot be read.
        """
        with self._refreshing, self._database.read() as connection:
            self._read(connection)

    def follow_up(self) -> None:
        """Take in what this process has just written; a failure is left to the next look."""
        with contextlib.suppress(ReckeeperError):
            self.refresh()

    @property
    def generation(self) -> int:
        """Generation of the interactions that were read last."""
        return self._tail.generation

    def last_of(self, user_id: str, *, generation: int, watermark: int) -> int | None:
        """Return the number of a user's last interaction above a watermark; 0 without one.

        None where that is not known: what is held is of another generation, begins later than
        the watermark, or the user was merged.
        """
        tail = self._tail
        if tail.generation != generation or tail.since > watermark or user_id in tail.merged:
            return None
        last = tail.last_of.get(user_id, 0)
        return last if last > watermark else 0

    def state_of(self, user_id: str) -> tuple[int, int, int]:
        """Return what changes with each interaction or merge of a user, and with what is undone."""
        tail = self._tail
        return tail.generation, tail.last_of.get(user_id, 0), tail.merged.get(user_id, 0)

    def _read(self, connection: storage.Connection) -> None:
        tail = self._tail
        if storage.installation.generation(connection) == tail.generation:
            tail.read_on(connection)
        else:
            self._begin(connection, tail.since, merged_since=tail.merged_since)
            self._on_taken_away()

    def _begin(self, connection: storage.Connection, watermark: int, *, merged_since: int) -> None:
        generation = storage.installation.generation(connection)
        since = max(watermark, storage.interactions.last_id(connection) - _MOST_HELD)
        tail = _Tail(generation, since, merged_since)
        tail.read_on(connection)  # before anybody sees it
        self._tail = tail


class _Tail:
    """What was read: above number `since`, up to `last`, in a generation."""

    def __init__(self, generation: int, since: int, merged_since: int) -> None:
        self.generation = generation
        self.since = since
        self.last = since
        self.last_of: dict[str, int] = {}
        self.merged_since = self.last_merge = merged_since
        self.merged: dict[str, int] = {}

    def above(self, watermark: int) -> "_Tail":
        """Return what is above a number that is not below `since`."""
        tail = _Tail(self.generation, watermark, self.merged_since)
        tail.last_merge, tail.merged = self.last_merge, self.merged
        tail.last = max(self.last, watermark)
        tail.last_of = {user: last for user, last in self.last_of.items() if last > watermark}
        return tail

    def read_on(self, connection: storage.Connection) -> None:
        """Take in what is above `last`."""
        rows = None
        while rows is None or len(rows) == _AT_ONCE:
            rows = storage.interactions.users_after(connection, self.last, limit=_AT_ONCE)
            for number, user_id in rows:
                self.last_of[user_id] = number
                self.last = number
        for visitor_id, user_id, merged_at in storage.merges.since(
            connection, self.last_merge - _SKEW
        ):
            self.merged[visitor_id] = self.merged[user_id] = merged_at
            self.last_merge = max(self.last_merge, merged_at)
