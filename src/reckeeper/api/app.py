"""The public API: takes events in, answers recommendations, shows and steers the versions.

Settings come from the environment.
"""

import contextlib
import dataclasses
import socket
import sys
import time
from collections.abc import Mapping

import uvicorn
from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import reckeeper
from reckeeper import errors, storage, telemetry
from reckeeper import policy as policies
from reckeeper.api import examples, interactions, jobs, oversight, versions
from reckeeper.api.runtime import Needs, Runtime, lifespan
from reckeeper.config import Settings

STATUS: Mapping[type[errors.ReckeeperError], int] = {
    errors.NotEnoughDataError: 409,
    errors.TooLargeError: 413,
    errors.DataError: 422,
    errors.NotFoundError: 404,
    errors.ConflictError: 409,
    errors.JobCancelledError: 409,
    errors.ArtifactError: 409,
    errors.NoModelError: 503,
    errors.UnavailableError: 503,
    errors.StorageError: 503,
    errors.ReckeeperError: 500,
}

_log = telemetry.get_logger("server")


app = FastAPIOffline(  # its /docs needs no other host
    title="Reckeeper",
    version=reckeeper.__version__,
    summary="Keeps the recommendation models of a product.",
    lifespan=lifespan,
)


_LARGEST_BODY = 4 * 1024 * 1024
"""Bytes, but of what is read in parts: `_READ_IN_PARTS`."""

_TOO_LARGE = (
    f"The body is larger than {_LARGEST_BODY // 1024**2} MiB, and no route but those for "
    "interactions and bundles takes so much. /docs shows what the route takes."
)
_READ_IN_PARTS = ("/user_interactions", "/models/import")


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


class _Edge:
    """Keeps encoded slashes inside path segments, and counts and times requests.

    A body that is larger than any that makes sense is refused before it is parsed.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
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
            await send(message)

        try:
            takes_any = scope["method"] in {"GET", "HEAD"} or scope["path"] in _READ_IN_PARTS
            body = receive if takes_any else await _whole(scope, receive)
            if body is None:
                refused = _error(errors.TooLargeError(_TOO_LARGE))
                await refused(scope, receive, send_and_note)
            else:
                await self._app(scope, body, send_and_note)
        finally:
            path = getattr(scope.get("route"), "path", "unknown")
            method = scope["method"]
            telemetry.HTTP_REQUESTS.labels(method, path, status).inc()
            telemetry.HTTP_SECONDS.labels(method, path).observe(time.perf_counter() - began)


app.add_middleware(_Edge)


# Errors: one form, one table.


def _error(exc: errors.ReckeeperError) -> JSONResponse:
    status = next(STATUS[kind] for kind in type(exc).__mro__ if kind in STATUS)
    headers = {"Retry-After": "5"} if status == 503 else None
    return JSONResponse(exc.to_json(), status, headers)


@app.exception_handler(errors.ReckeeperError)
async def _on_reckeeper_error(_request: Request, exc: errors.ReckeeperError) -> JSONResponse:
    if isinstance(exc, errors.StorageError):
        _log.error("storage_failed", error=exc.message)
    return _error(exc)


@app.exception_handler(RequestValidationError)
async def _on_bad_request(request: Request, exc: RequestValidationError) -> JSONResponse:
    first = exc.errors()[0]
    field = ".".join(str(part) for part in first["loc"][1:])
    problem = first["msg"].removeprefix("Value error, ")
    if first["type"] == "json_invalid":
        problem = f"not JSON at character {field} ({first['ctx']['error']})"
        field = ""
    elif not field and "json" not in request.headers.get("content-type", ""):
        problem = "not sent as JSON: add the header Content-Type: application/json"
    return _error(
        errors.DataError(
            f"{field or 'the body'}: {problem}. /docs shows what the route takes.",
            details={"field": field} if field else None,
        )
    )


@app.exception_handler(HTTPException)
async def _on_http_exception(request: Request, exc: HTTPException) -> JSONResponse:
    if exc.status_code == 400:
        return _error(errors.DataError(f"{exc.detail}. /docs shows what the route takes."))
    code = {404: "not_found", 405: "method_not_allowed"}.get(exc.status_code, "http_error")
    body = {
        "status": "error",
        "code": code,
        "message": f"{request.method} {request.url.path}: {exc.detail}. /docs lists the routes.",
    }
    return JSONResponse(body, exc.status_code, exc.headers)


@app.exception_handler(ClientDisconnect)
async def _on_hang_up(request: Request, _exc: ClientDisconnect) -> Response:
    _log.info("client_hung_up", method=request.method, path=request.url.path)
    return Response(status_code=400)  # which nobody reads


@app.exception_handler(Exception)
async def _on_unexpected(request: Request, exc: Exception) -> JSONResponse:
    _log.error("request_failed", method=request.method, path=request.url.path, exc_info=exc)
    body = {
        "status": "error",
        "code": "internal",
        "message": "The server failed on this request; its log has the details. Try again, and "
        "report it if it happens again.",
    }
    return JSONResponse(body, 500)


for part in (versions, jobs, oversight, interactions):
    app.include_router(part.router)


# Operation


@app.get("/health/live", tags=["operation"], responses=examples.answers({"status": "ok"}))
async def live() -> JSONResponse:
    """Say that the process runs."""
    return JSONResponse({"status": "ok"})


_READY = {"status": "ok", "problems": [], "model_version": 2, "offer_version": None}
_NOT_READY = {
    "status": "unavailable",
    "problems": [
        "The active version 2 cannot be loaded: model-000002.safetensors is missing from "
        "/app/models. Version 1 is sound: POST /models/1/activate, or retrain."
    ],
    "model_version": None,
    "offer_version": 1,
}


@app.get(
    "/health/ready",
    tags=["operation"],
    responses=examples.answers(_READY)
    | {
        503: {
            "description": "Not ready",
            "content": {"application/json": {"example": _NOT_READY}},
        }
    },
)
async def ready(runtime: Needs) -> JSONResponse:
    """Say whether the process can do its work; 503 while it cannot."""
    readiness = runtime.serving.readiness()
    if runtime.settings.uses_kafka and (problem := runtime.writer.problem) is not None:
        readiness = readiness.also(problem)
    if (problem := runtime.policy.problem) is not None:
        readiness = readiness.also(problem)
    status = 503 if readiness.status == "unavailable" else 200
    return JSONResponse(dataclasses.asdict(readiness), status)


_METRICS = """# HELP reckeeper_served_version Model version in memory; 0 when there is none.
# TYPE reckeeper_served_version gauge
reckeeper_served_version 2.0
"""


@app.get(
    "/metrics",
    tags=["operation"],
    response_class=Response,
    responses={200: {"description": "Done", "content": {"text/plain": {"example": _METRICS}}}},
)
async def metrics() -> Response:
    """Return this process's metrics in Prometheus' text format."""
    return Response(telemetry.render_metrics(), media_type=telemetry.METRICS_CONTENT_TYPE)


class _Server(uvicorn.Server):
    """Ends open streams when it stops; it would wait for them, and cut them off in the end."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        runtime: Runtime = app.state.runtime
        runtime.feed.end_streams()
        await super().shutdown(sockets)


def main() -> None:
    """Serve until a signal ends the process."""
    telemetry.configure_logging("server")
    try:
        settings = Settings.from_env()
        policies.first(settings)
        storage.open_database(settings).close()
    except errors.ReckeeperError as exc:
        _log.error("server_not_started", error=exc.message)
        sys.exit(2)
    server = _Server(
        uvicorn.Config(
            app,
            host=settings.host,
            port=settings.server_port,
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=5,
        )
    )
    with contextlib.suppress(KeyboardInterrupt):  # raised again once all is put away
        server.run()
    if not server.started:
        sys.exit(3)
