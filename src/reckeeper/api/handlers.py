"""Errors: one form, and one table of statuses, `wire.STATUSES`."""

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from reckeeper import errors, telemetry, wire
from reckeeper.api.answers import Json
from reckeeper.wire.headers import INSTALLATION_HEADER

_log = telemetry.get_logger("server")


def answer(error: errors.ReckeeperError) -> Response:
    """Return the answer to a request that ended with an error."""
    status = wire.status_of(error)
    response = Json(wire.error_body(error), status)
    if status == 503:
        response.headers["Retry-After"] = str(wire.RETRY_SECONDS)
    return response


def register(app: FastAPI) -> None:
    """Let a program answer every error in the one form."""
    app.add_exception_handler(errors.ReckeeperError, _on_reckeeper_error)
    app.add_exception_handler(RequestValidationError, _on_bad_request)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(ClientDisconnect, _on_hang_up)
    app.add_exception_handler(Exception, _on_unexpected)


async def _on_reckeeper_error(_request: Request, exc: Exception) -> Response:
    assert isinstance(exc, errors.ReckeeperError)
    if isinstance(exc, errors.StorageError):
        _log.error("storage_failed", error=exc.message)
    return answer(exc)


async def _on_bad_request(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, RequestValidationError)
    first = exc.errors()[0]
    field = ".".join(str(part)[:64] for part in first["loc"][1:])
    problem = first["msg"].removeprefix("Value error, ")
    if first["type"] == "json_invalid":
        problem = f"not JSON at character {field} ({first['ctx']['error']})"
        field = ""
    elif not field and "json" not in request.headers.get("content-type", ""):
        problem = "not sent as JSON: add the header Content-Type: application/json"
    return answer(
        errors.DataError(
            f"{field or 'the body'}: {problem}. /docs shows what the route takes.",
            details={"field": field} if field else None,
        )
    )


async def _on_http_exception(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, HTTPException)
    if exc.status_code == 400:
        return answer(errors.DataError(f"{exc.detail}. /docs shows what the route takes."))
    code = {404: "not_found", 405: "method_not_allowed"}.get(exc.status_code, "http_error")
    message = f"{request.method} {request.url.path}: {exc.detail}. /docs lists the routes."
    response = Json(wire.Error(code=code, message=message), exc.status_code)
    response.headers.update(exc.headers or {})
    return response


async def _on_hang_up(request: Request, _exc: Exception) -> Response:
    _log.info("client_hung_up", method=request.method, path=request.url.path)
    return Response(status_code=400)  # which nobody reads


async def _on_unexpected(request: Request, exc: Exception) -> Response:
    _log.error("request_failed", method=request.method, path=request.url.path, exc_info=exc)
    message = (
        "The server failed on this request; its log has the details. Try again, and report it if "
        "it happens again."
    )
    response = Json(wire.Error(code="internal", message=message), 500)
    # This answer does not pass `Edge`, which has failed with the request.
    response.headers["Cache-Control"] = "no-store"
    response.headers[INSTALLATION_HEADER] = request.app.state.runtime.installation_id
    return response
