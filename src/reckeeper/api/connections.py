"""The server's connections: HTTP as uvicorn speaks it, and the limits that it has none for.

A client may send a head of so many bytes and in so many seconds, a body and the reading of an
answer at least so fast, and so many connections may be open. What a client had to wait for
itself counts for nothing: what is counted are looks, one a second, at which it was its turn.
"""

import asyncio
import collections
import time
from collections.abc import Collection
from http import HTTPStatus
from typing import Final

import httptools
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from reckeeper import errors, telemetry, wire
from reckeeper.api.answers import Json
from reckeeper.origins import HEADERS
from reckeeper.wire.headers import INSTALLATION_HEADER

LONGEST_URL: Final = 2**16 - 1
"""Bytes that the parser of URLs reads."""

LARGEST_HEAD: Final = 128 * 1024
"""Bytes of a request that are no body: its URL, its headers, and what lies between its chunks."""

MOST_HEADERS: Final = 100

HEAD_SECONDS = 10
"""For a head, from its first byte on, and for the first byte of a new connection."""

WINDOW_SECONDS = 30
LEAST_BYTES_A_SECOND: Final = 500
"""Of a body that is sent, and of an answer that is read, in any `WINDOW_SECONDS`."""

MOST_CONNECTIONS: Final = 10_000
"""Of one process, where the system lets it have as many files open."""

_LINGER_BYTES: Final = 1024 * 1024
_LINGER_SECONDS = 2
"""How much and for how long a client that was refused may go on sending, before it looks."""

_TELL_SECONDS = 10.0

_log = telemetry.get_logger("server")


class Connections(ServerState):
    """The open connections of a server, how many there may be, and whose turn is over.

    Parameters
    ----------
    n_files : int
        That this process may have open; a quarter is left for all else.
    installation_id : str
        For the answers that are made here.
    """

    def __init__(self, n_files: int, installation_id: str) -> None:
        super().__init__()
        self.most = min(MOST_CONNECTIONS, n_files - n_files // 4)
        self.backlog = min(2048, max(8, n_files // 8))
        self.installation_id = installation_id
        self._n_ended: collections.Counter[str] = collections.Counter()
        self._told_at = -_TELL_SECONDS

    def has_room(self) -> bool:
        """Return whether one that was just made may stay; those that idle give way."""
        if len(self.connections) <= self.most:
            return True
        idle = [each for each in self._own() if each.n_idle]
        if not idle:
            return False
        idle.sort(key=lambda each: -each.n_idle)
        for each in idle[: max(1, self.most // 10)]:
            each.end("made_room")
        return True

    def look(self) -> None:
        """Look at all, once a second: end those whose clients were too slow, and tell of it."""
        for each in self._own():
            each.look()
        telemetry.HTTP_CONNECTIONS.set(len(self.connections))
        if self._n_ended and time.monotonic() - self._told_at >= _TELL_SECONDS:
            self._told_at = time.monotonic()
            counted = dict(sorted(self._n_ended.items()))
            self._n_ended.clear()
            _log.warning("connections_ended", **counted, open=len(self.connections), most=self.most)

    def count(self, reason: str) -> None:
        """Count a connection that is ended for what its client did, or did not do."""
        self._n_ended[reason] += 1
        telemetry.HTTP_CONNECTIONS_ENDED.labels(reason).inc()

    def _own(self) -> "list[Http]":
        return [each for each in self.connections if isinstance(each, Http)]


class Http(HttpToolsProtocol):
    """HTTP as uvicorn speaks it, within limits; what is refused is, as the routes refuse things.

    The head of an answer and its body are one packet where they come one after the other.
    """

    server_state: Connections
    n_idle = 0
    """At how many looks it was the client's turn to begin a request, or to end its head."""

    _n_apart = 0
    """Bytes since the last ones of a body, or since the end of the last request."""

    _n_body = 0
    _n_refused: int | None = None
    _window = ("", 0, 0)
    """What was measured at the last look, since how many looks, and what it was at first."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin a connection, or refuse it."""
        super().connection_made(transport)
        self._plain = transport
        self.transport = _Joined(transport, self.loop)
        self.flow = _Flow(transport, self.pipeline)
        if not self.server_state.has_room():
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, errors.UnavailableError(_FULL), "full")
            self.end()

    def data_received(self, data: bytes) -> None:
        """Take in what was sent."""
        if self._n_refused is not None:
            self._n_refused += len(data)
            if self._n_refused > _LINGER_BYTES:
                self.end()
            return
        self._unset_keepalive_if_required()
        self._n_apart += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass  # to what no route speaks: it is answered as if it had not asked
        except httptools.HttpParserError:
            self._refuse_unreadable()
        else:
            if self._n_apart > LARGEST_HEAD:
                self._refuse_unreadable()

    def on_message_begin(self) -> None:
        """Begin a request."""
        super().on_message_begin()
        self.n_idle = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header, of the head or behind a body in chunks."""
        super().on_header(name, value)
        if len(self.headers) > MOST_HEADERS:
            raise ValueError("too many headers")

    def on_body(self, body: bytes) -> None:
        """Take a part of a body."""
        self._n_apart = 0
        self._n_body += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End a request."""
        self._n_apart = 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """End an answer."""
        self.n_idle = 0
        super().on_response_complete()

    def look(self) -> None:
        """See whether the client keeps the pace, once a second."""
        cycle = self.cycle
        if self.transport.is_closing() or self.flow.write_paused:
            if self._is_slow("answer", -self._plain.get_write_buffer_size()):
                self.end("slow_reader")
        elif cycle is None or cycle.response_complete or self._n_refused is not None:
            self.n_idle += 1
            if self._n_refused is not None and self.n_idle > _LINGER_SECONDS:
                self.end()
            elif self.n_idle > HEAD_SECONDS:
                self._end_idle()
        elif cycle.more_body and not self.flow.read_paused and not cycle.waiting_for_100_continue:
            if self._is_slow("body", self._n_body):
                self._time_out(_SLOW_BODY, "slow_body")
        else:
            self._window = ("", 0, 0)

    def end(self, reason: str | None = None) -> None:
        """End the connection, whatever it is about."""
        if reason is not None:
            self.server_state.count(reason)
        self.connections.discard(self)
        if reason == "slow_reader":
            self._plain.abort()
        else:
            self.transport.close()

    def shutdown(self) -> None:
        """End the connection once its answer is given."""
        if self._n_refused is None:
            super().shutdown()
        else:
            self.end()

    def _refuse_unreadable(self) -> None:
        too_large = errors.TooLargeError
        if len(getattr(self, "url", b"")) > LONGEST_URL:
            self._refuse(HTTPStatus.REQUEST_URI_TOO_LONG, too_large(_TOO_LONG), "head_too_large")
        elif self._n_apart > LARGEST_HEAD or len(self.headers or ()) > MOST_HEADERS:
            status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
            self._refuse(status, too_large(_TOO_MUCH), "head_too_large")
        else:
            self._refuse(HTTPStatus.BAD_REQUEST, errors.DataError(_NOT_HTTP), "not_http")

    def _is_slow(self, what: str, n_bytes: int) -> bool:
        """Return whether too few bytes have moved in a window, and note how many there are."""
        measured, n_looks, at_first = self._window
        if measured != what:
            self._window = (what, 1, n_bytes)
        elif n_looks < WINDOW_SECONDS:
            self._window = (what, n_looks + 1, at_first)
        else:
            self._window = (what, 1, n_bytes)
            return n_bytes - at_first < LEAST_BYTES_A_SECOND * WINDOW_SECONDS
        return False

    def _end_idle(self) -> None:
        if self._n_apart:
            self._time_out(_SLOW_HEAD, "slow_head")
        else:
            self.end("idle")

    def _time_out(self, message: str, reason: str) -> None:
        status = HTTPStatus.REQUEST_TIMEOUT
        self._refuse(status, wire.Error(code="http_error", message=message), reason)

    def _refuse(
        self, status: HTTPStatus, error: errors.ReckeeperError | wire.Error, reason: str
    ) -> None:
        """Answer instead of the routes, and go on taking in for a moment what nobody reads.

        Who is still sending when a connection is closed may never see what was answered.
        """
        self.server_state.count(reason)
        telemetry.count_unread(status)
        self._unset_keepalive_if_required()
        self._n_refused, self.n_idle = 0, 0
        self.flow.resume_reading()
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
            if self.cycle.response_started:
                self.end()
                return
        body = Json(wire.error_body(error) if isinstance(error, errors.ReckeeperError) else error)
        head = [
            f"HTTP/1.1 {status} {status.phrase}",
            "content-type: application/json",
            f"content-length: {len(body.body)}",
            f"{INSTALLATION_HEADER.lower()}: {self.server_state.installation_id}",
            "cache-control: no-store",
            "connection: close",
            *(f"{name.lower()}: {value}" for name, value in HEADERS),
        ]
        if status == HTTPStatus.SERVICE_UNAVAILABLE:
            head.append(f"retry-after: {wire.RETRY_SECONDS}")
        self.transport.write("\r\n".join((*head, "", "")).encode() + bytes(body.body))
        if self.transport.can_write_eof():
            self.transport.write_eof()


_TOO_LONG = (
    f"The URL is longer than {LONGEST_URL} bytes. Name fewer ids, or send them in a body: "
    "/docs shows the routes that take one."
)
_TOO_MUCH = (
    f"The head of the request has more than {MOST_HEADERS} headers or {LARGEST_HEAD // 1024} KiB. "
    "Send fewer or shorter headers, such as cookies."
)
_NOT_HTTP = "What was sent is no request of HTTP/1.1. Send it with a client for HTTP."
_SLOW_HEAD = (
    f"The head of the request took longer than {HEAD_SECONDS} seconds. Send it at once, and try "
    "again."
)
_SLOW_BODY = (
    f"The body came more slowly than {LEAST_BYTES_A_SECOND} bytes a second for {WINDOW_SECONDS} "
    "seconds. Check the connection, and try again."
)
_FULL = (
    "The server has as many connections as it may have. Try again in a moment; if it stays so, see "
    "who opens them, or let the server open more files (`ulimit -n`)."
)


class _Flow(FlowControl):
    """Reads on only once all requests that were sent ahead are begun."""

    def __init__(self, transport: asyncio.Transport, ahead: Collection[object]) -> None:
        super().__init__(transport)
        self._ahead = ahead

    def resume_reading(self) -> None:
        if not self._ahead:
            super().resume_reading()


class _Joined(asyncio.Transport):
    """Holds what is written until the next piece, or until the event loop has run what is ready.

    Each packet wakes whoever waits for the answer: a head alone is woken for in vain.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._transport = transport
        self._loop = loop
        self._held: bytes | None = None

    def write(self, data: bytes) -> None:  # type: ignore[override]
        if self._held is None:
            self._held = data
            self._loop.call_soon(self._send_held)
        else:
            head, self._held = self._held, None
            self._transport.writelines((head, data))

    def _send_held(self) -> None:
        if self._held is not None and not self._transport.is_closing():
            self._transport.write(self._held)
        self._held = None

    def can_write_eof(self) -> bool:
        return self._transport.can_write_eof()

    def write_eof(self) -> None:
        self._send_held()
        self._transport.write_eof()

    def close(self) -> None:
        self._send_held()
        self._transport.close()

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._transport.set_protocol(protocol)
