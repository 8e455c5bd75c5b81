"""The embedded way in: straight into the database."""

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from reckeeper import storage
from reckeeper.errors import ReckeeperError, UnavailableError
from reckeeper.interactions import Interaction
from reckeeper.telemetry import INTERACTIONS, get_logger

_log = get_logger(__name__)


@dataclass(frozen=True)
class Accepted:
    """What became of the interactions of one request, all of them on disk."""

    accepted: int
    duplicates: int


class DatabaseWriter:
    """Writes requests' interactions; what waits at the same time is one transaction.

    A commit waits for the disk, so many small requests at once would wait one
    after the other; here they share one commit, and each is answered after it.

    Parameters
    ----------
    database : storage.Database
    on_stored : callable, optional
        Called after each commit, before those who wait for it are answered.
    """

    problem: str | None = None
    """What keeps interactions from being taken; the database reports its own problems."""

    # Rows in one transaction, so that other processes' writes get their turn.
    _MOST_ROWS = 40_000

    # So long is a database waited for that was started again, or a connection that broke.
    _RETRY_SECONDS = 3.0

    def __init__(
        self, database: storage.Database, *, on_stored: Callable[[], None] = lambda: None
    ) -> None:
        self._database = database
        self._on_stored = on_stored
        self._waiting: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="interaction-writer", daemon=True)
        self._closed = False
        self._closing = threading.Lock()

    def start(self) -> None:
        """Start taking requests."""
        self._thread.start()

    def close(self) -> None:
        """Write what waits, then end."""
        with self._closing:
            self._closed = True
            self._waiting.put(None)
        self._thread.join()

    def append(self, interactions: Sequence[Interaction]) -> "Future[Accepted]":
        """Hand interactions over; the future ends when they are on disk, or fails.

        The future's error is a `StorageError`: nothing of the request was written, as far as
        the database could still be asked. With the same event ids it can be sent again.
        """
        request = _Request(interactions, Future())
        with self._closing:
            if self._closed:
                raise UnavailableError("The server is stopping: send the request again.")
            self._waiting.put(request)
        return request.future

    def _run(self) -> None:
        going_on = True
        while going_on:
            requests = []
            rows = 0
            request = self._waiting.get()
            while request is not None:
                # A request that was cancelled while it waited is not written.
                if request.future.set_running_or_notify_cancel():
                    requests.append(request)
                    rows += len(request.interactions)
                if rows >= self._MOST_ROWS or self._waiting.empty():
                    break
                request = self._waiting.get()
            going_on = request is not None
            if requests:
                self._write(requests)

    def _write(self, requests: "list[_Request]") -> None:
        try:
            try:
                counts = self._append_together(requests)
            except _DuplicatesError:
                counts = self._append_one_by_one(requests)
        except Exception as exc:  # noqa: BLE001
            # This thread must not die: every later request would wait for ever.
            if not isinstance(exc, ReckeeperError):
                _log.exception("interactions_not_written", requests=len(requests))
            for request in requests:
                request.future.set_exception(exc)
            return
        self._on_stored()
        for request, accepted in zip(requests, counts, strict=True):
            duplicates = len(request.interactions) - accepted
            INTERACTIONS.labels("accepted").inc(accepted)
            INTERACTIONS.labels("duplicate").inc(duplicates)
            request.future.set_result(Accepted(accepted, duplicates))

    def _append_together(self, requests: "list[_Request]") -> list[int]:
        rows = [row for request in requests for row in request.interactions]

        def append(connection: storage.Connection) -> None:
            if storage.interactions.append(connection, rows) < len(rows):
                # Only one by one do they show which are the duplicates; take it back.
                raise _DuplicatesError

        self._database.retrying(append, seconds=self._RETRY_SECONDS)
        return [len(request.interactions) for request in requests]

    def _append_one_by_one(self, requests: "list[_Request]") -> list[int]:
        def append(connection: storage.Connection) -> list[int]:
            return [
                storage.interactions.append(connection, request.interactions)
                for request in requests
            ]

        return self._database.retrying(append, seconds=self._RETRY_SECONDS)


class _DuplicatesError(Exception):
    """Some rows of several requests were there already."""


@dataclass(frozen=True)
class _Request:
    interactions: Sequence[Interaction]
    future: "Future[Accepted]"
