"""What every request passes: sizes, its path as it was sent, metrics, headers of every answer."""

import asyncio
import time
from http import HTTPStatus

from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from reckeeper import errors, telemetry
from reckeeper.api import handlers
from reckeeper.api.runtime import Runtime
from reckeeper.wire.headers import INSTALLATION_HEADER

_LARGEST_BODY = 4 * 1024 * 1024
"""Bytes, except for the routes that read theirs in parts: `_READ_IN_PARTS`."""

_TOO_LARGE = (
    f"The body is larger than {_LARGEST_BODY // 1024**2} MiB, which only the routes for "
    "interactions, imports and bundles accept. /docs shows what the route takes."
)
_LONGEST_URL = 2**16 - 1
"""Bytes that the parser of URLs reads."""

_TOO_LONG = (
    f"The URL is longer than {_LONGEST_URL} bytes. Name fewer ids, or send them in a body: "
    "/docs shows the routes that take one."
)
_READ_IN_PARTS = ("/user_interactions", "/models/import", "/imports", "/imports/preview")


class Http(HttpToolsProtocol):
    """HTTP as uvicorn speaks it; a URL that is too long is refused as the routes refuse things.

    The head of an answer and its body are one packet where they come one after the other.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin a connection."""
        super().connection_made(transport)
        self.transport = _Joined(transport, self.loop)

    def send_400_response(self, msg: str) -> None:
        """Answer a request that cannot be parsed, and end the connection."""
        if len(getattr(self, "url", b"")) <= _LONGEST_URL:
            super().send_400_response(msg)
            return
        status = HTTPStatus.REQUEST_URI_TOO_LONG
        body = handlers.answer(errors.TooLargeError(_TOO_LONG)).body
        head = (
            f"HTTP/1.1 {status} {status.phrase}",
            "content-type: application/json",
            f"content-length: {len(body)}",
            "connection: close",
        )
        self.transport.write("\r\n".join((*head, "", "")).encode() + body)
        self.transport.close()


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

    def close(self) -> None:
        self._send_held()
        self._transport.close()

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._transport.set_protocol(protocol)


class Edge:
    """Keeps encoded slashes inside path segments, and counts and times requests.

    A body that is larger than any that makes sense is refused before it is parsed.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if scope.get("raw_path"):
            scope["path"] = scope["raw_path"].decode("latin-1")
        began = time.perf_counter()
        status = 500

        async def send_and_note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                header = INSTALLATION_HEADER.lower().encode(), runtime.installation_id.encode()
                headers = [*message.get("headers", ()), header]
                route = scope.get("route")
                is_page = status < 400 and not getattr(route, "include_in_schema", False)
                if not is_page and all(name != b"cache-control" for name, _ in headers):
                    headers.append((b"cache-control", b"no-store"))
                message["headers"] = headers
            await send(message)

        try:
            runtime: Runtime = scope["app"].state.runtime
            if runtime.is_behind:
                await run_in_threadpool(runtime.catch_up)
            takes_any = scope["method"] in {"GET", "HEAD"} or scope["path"] in _READ_IN_PARTS
            body = receive if takes_any else await _whole(scope, receive)
            if body is None:
                refused = handlers.answer(errors.TooLargeError(_TOO_LARGE))
                await refused(scope, receive, send_and_note)
            else:
                await self._app(scope, body, send_and_note)
        finally:
            path = getattr(scope.get("route"), "path", "unknown")
            method = scope["method"]
            telemetry.count_answer(method, path, status, seconds=time.perf_counter() - began)


async def _whole(scope: Scope, receive: Receive) -> Receive | None:
    """Read a body, and return a function that gives it again; None if it is too large."""
    parts: list[bytes] = []
    declared = dict(scope["headers"]).get(b"content-length", b"0")
    size = int(declared) if declared.isdigit() else 0
    message: Message = {"more_body": True}
    while size <= _LARGEST_BODY and message.get("more_body", False):
        message = await receive()
        if message["type"] != "http.request":
            return receive  # the client hung up
        parts.append(message.get("body", b""))
        size = max(size, sum(map(len, parts)))
    if size > _LARGEST_BODY:
        return None
    given: list[Message] = [{"type": "http.request", "body": b"".join(parts), "more_body": False}]

    async def again() -> Message:
        return given.pop() if given else await receive()

    return again
