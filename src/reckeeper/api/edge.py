"""What every request passes: where it comes from, sizes, its path as it was sent, metrics."""

import time

from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from reckeeper import errors, telemetry
from reckeeper.api import handlers
from reckeeper.api.runtime import Runtime
from reckeeper.origins import RAW_HEADERS, Origins
from reckeeper.wire.headers import INSTALLATION_HEADER

_LARGE_BODY, _USUAL_BODY = 4 * 1024 * 1024, 256 * 1024
"""Bytes that routes take which read what they are sent in a thread, and that all others take."""

_TAKES_LARGE = ("/items", "/recommendations")
_READ_IN_PARTS = ("/user_interactions", "/models/import", "/imports", "/imports/preview")
"""Routes that read their bodies in parts, and have limits of their own."""


class Edge:
    """Keeps encoded slashes inside path segments, and counts and times requests.

    What comes from a foreign page, or is for a host that is not ours, goes no further; a body that
    is larger than any that makes sense is refused before it is parsed.

    Parameters
    ----------
    app : ASGI application
    origins : Origins
    """

    def __init__(self, app: ASGIApp, origins: Origins) -> None:
        self._app = app
        self._origins = origins

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
                headers = [*message.get("headers", ()), *RAW_HEADERS, header]
                route = scope.get("route")
                is_page = status < 400 and not getattr(route, "include_in_schema", False)
                if not is_page and all(name != b"cache-control" for name, _ in headers):
                    headers.append((b"cache-control", b"no-store"))
                message["headers"] = headers
            await send(message)

        try:
            runtime: Runtime = scope["app"].state.runtime
            refusal = self._origins.refusal(scope["method"], scope["headers"])
            if refusal is None:
                if runtime.is_behind:
                    await run_in_threadpool(runtime.catch_up)
                most = _largest_body(scope)
                body = receive if most is None else await _whole(scope, receive, most)
                if body is not None:
                    await self._app(scope, body, send_and_note)
                    return
                refusal = errors.TooLargeError(
                    f"The body is larger than the {most} bytes that this route takes. /docs shows "
                    "what it takes."
                )
            await handlers.answer(refusal)(scope, receive, send_and_note)
        finally:
            path = getattr(scope.get("route"), "path", "unknown")
            method = scope["method"]
            telemetry.count_answer(method, path, status, seconds=time.perf_counter() - began)


def _largest_body(scope: Scope) -> int | None:
    """Return how many bytes of a body a route takes; None where the route sees to that."""
    if scope["method"] in {"GET", "HEAD"} or scope["path"] in _READ_IN_PARTS:
        return None
    return _LARGE_BODY if scope["path"].startswith(_TAKES_LARGE) else _USUAL_BODY


async def _whole(scope: Scope, receive: Receive, most: int) -> Receive | None:
    """Read a body, and return a function that gives it again; None if it is too large."""
    body = bytearray()
    declared = dict(scope["headers"]).get(b"content-length", b"0")
    size = int(declared) if declared.isdigit() else 0
    message: Message = {"more_body": True}
    while size <= most and message.get("more_body", False):
        message = await receive()
        if message["type"] != "http.request":
            return receive  # the client hung up
        body += message.get("body", b"")
        size = max(size, len(body))
    if size > most:
        return None
    given: list[Message] = [{"type": "http.request", "body": bytes(body), "more_body": False}]

    async def again() -> Message:
        return given.pop() if given else await receive()

    return again
