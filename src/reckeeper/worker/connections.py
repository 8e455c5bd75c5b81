"""The worker's connections: HTTP as waitress speaks it, within limits, refused in our own form."""

import contextlib
import socket
import time
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any, Final, cast

from flask import Flask
from waitress.adjustments import Adjustments
from waitress.channel import HTTPChannel
from waitress.server import BaseWSGIServer, MultiSocketServer, TcpWSGIServer
from waitress.task import ErrorTask, ThreadedTaskDispatcher

from reckeeper import errors, machine, origins, telemetry, wire
from reckeeper.config import Settings
from reckeeper.wire.headers import INSTALLATION_HEADER

LARGEST_HEAD: Final = 64 * 1024
LARGEST_BODY: Final = 64 * 1024
"""Bytes; the longest that anybody has to say here are the settings of a recipe."""

SECONDS = 10
"""For a whole request from its first byte on, and until the next one begins."""

MOST_CONNECTIONS = 1_000

_LOOK_SECONDS = 1
_THREADS = 16

_FULL = (
    "The worker has as many connections as it may have, and is at work on all of them. Try again "
    "in a moment."
)
_MESSAGES = {
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: f"The body is larger than {LARGEST_BODY} bytes. The "
    "worker takes no data: send that to the server (RECKEEPER_SERVER_URL).",
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE: f"The head of the request is larger than "
    f"{LARGEST_HEAD} bytes. Send fewer or shorter headers.",
}


def listen(app: Flask, settings: Settings) -> MultiSocketServer | BaseWSGIServer:
    """Listen as the settings say, and return what is to be run and closed."""
    n_files = machine.open_files()
    limits = Adjustments(
        host=settings.host,
        port=settings.worker_port,
        threads=_THREADS,
        connection_limit=min(MOST_CONNECTIONS, n_files - n_files // 4),
        asyncore_use_poll=True,  # `select` takes no file above 1023
        channel_timeout=SECONDS,
        cleanup_interval=_LOOK_SECONDS,
        max_request_header_size=LARGEST_HEAD,
        max_request_body_size=LARGEST_BODY + 1,
    )
    dispatcher = ThreadedTaskDispatcher()
    dispatcher.set_thread_count(limits.threads)
    listening: Any = {}
    # As waitress' own `create_server` makes them: one for each address of the host.
    servers = [
        _Server(app, listening, dispatcher=dispatcher, adj=limits, sockinfo=place)
        for place in cast("list[Any]", limits.listen)
    ]
    for server in servers:
        server.installation_id = app.extensions["worker"].installation_id
    if len(servers) == 1:
        return servers[0]
    return MultiSocketServer(listening, limits, [], dispatcher)


def _full(installation_id: str) -> bytes:
    """Return the answer to a connection for which there is no room."""
    status = HTTPStatus.SERVICE_UNAVAILABLE
    body = wire.Error(code=errors.UnavailableError.code, message=_FULL).model_dump_json().encode()
    headers = (
        ("Content-Type", "application/json"),
        ("Content-Length", str(len(body))),
        ("Cache-Control", "no-store"),
        ("Connection", "close"),
        ("Retry-After", str(wire.RETRY_SECONDS)),
        (INSTALLATION_HEADER, installation_id),
        *origins.HEADERS,
    )
    lines = [f"HTTP/1.1 {status} {status.phrase}", *(f"{name}: {value}" for name, value in headers)]
    return "\r\n".join((*lines, "", "")).encode() + body


class _Refusal(ErrorTask):
    """The answer to what is no request or is over a limit."""

    def execute(self) -> None:
        """Write it."""
        error: Any = cast(Any, self.request).error
        status = HTTPStatus(error.code)
        if status in _MESSAGES:
            told = wire.Error(code=errors.TooLargeError.code, message=_MESSAGES[status])
        elif status == HTTPStatus.BAD_REQUEST:
            message = f"What was sent is no request that can be read: {error.body}."
            told = wire.Error(code=errors.DataError.code, message=message)
        else:
            told = wire.Error(code="http_error", message=f"{status.phrase}: {error.body}.")
        body = told.model_dump_json().encode()
        self.status = f"{status} {status.phrase}"
        self.response_headers = [
            ("Content-Type", "application/json"),
            ("Cache-Control", "no-store"),
            (INSTALLATION_HEADER, cast(_Server, self.channel.server).installation_id),
            *origins.HEADERS,
        ]
        telemetry.count_unread(status)
        self.set_close_on_finish()
        self.content_length = len(body)
        self.write(body)


class _Channel(HTTPChannel):
    """A connection, on which a request that does not come to its end is no sign of life."""

    error_task_class = _Refusal
    _began = 0.0

    def received(self, data: bytes) -> bool:
        """Take in what was sent."""
        if self.request is None:
            self._began = time.time()
        taken = super().received(data)
        if self.request is not None and not self.requests:
            self.last_activity = self._began
        return taken


class _Server(TcpWSGIServer):
    """Lets those that idle give way where there is no room for one more."""

    channel_class = _Channel
    installation_id = ""

    def _channels(self) -> Iterable[HTTPChannel]:
        return cast("dict[int, HTTPChannel]", self.active_channels).values()

    def readable(self) -> bool:
        """Return whether another connection is taken, if only to refuse it."""
        has_room = super().readable()
        return has_room or (self.in_connection_overflow and not self._make_room())

    def handle_accept(self) -> None:
        """Take a connection; where there is no room, say so and end it."""
        if len(cast(Any, self)._map) < self.adj.connection_limit:
            super().handle_accept()
            return
        with contextlib.suppress(OSError):
            accepted = self.accept()
            if accepted is None:
                return
            telemetry.HTTP_CONNECTIONS_ENDED.labels("full").inc()
            telemetry.count_unread(HTTPStatus.SERVICE_UNAVAILABLE)
            with accepted[0] as connection:
                connection.setblocking(False)
                connection.send(_full(self.installation_id))
                connection.shutdown(socket.SHUT_WR)
                # What is left unread would cut the answer off.
                connection.recv(LARGEST_HEAD)

    def _make_room(self) -> bool:
        """Let some that idle give way; return whether there are any."""
        idle = [each for each in self._channels() if not each.requests]
        idle.sort(key=lambda each: each.last_activity)
        for channel in idle[: max(1, self.adj.connection_limit // 10)]:
            channel.will_close = True
            telemetry.HTTP_CONNECTIONS_ENDED.labels("made_room").inc()
        return bool(idle)

    def maintenance(self, now: int) -> None:
        """End connections whose clients were too slow."""
        super().maintenance(now)
        late = sum(each.will_close for each in self._channels())
        telemetry.HTTP_CONNECTIONS.set(len(list(self._channels())))
        if late:
            telemetry.HTTP_CONNECTIONS_ENDED.labels("idle").inc(late)
