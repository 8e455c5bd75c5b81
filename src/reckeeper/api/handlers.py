"""Errors: one form, and one table of statuses, `wire.STATUSES`."""

from collections.abc import Sequence

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic_core import ErrorDetails
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from reckeeper import errors, telemetry, wire
from reckeeper.api.answers import Json

_log = telemetry.get_logger("server")


def answer(error: errors.ReckeeperError) -> Response:
    """Return the answer to a request that ended with an error."""
    status = wire.status_of(error)
    response = Json(wire.error_body(error), status)
    response.headers.update(wire.headers_of(error))
    return response


def register(app: FastAPI) -> None:
    """Let a program answer every error in the one form."""
    app.add_exception_handler(errors.ReckeeperError, _on_reckeeper_error)
    app.add_exception_handler(RequestValidationError, _on_bad_request)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(ClientDisconnect, _on_hang_up)
    app.add_exception_handler(Exception, _on_unexpected)


async def _on_reckeeper_error(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, errors.ReckeeperError)
    told = request.app.state.runtime.settings.without_folders(exc.message)
    if isinstance(exc, errors.StorageError):
        _log.error("storage_failed", error=exc.in_full)
    elif exc.private is not None or told != exc.message:
        _log.warning("request_not_done", code=exc.code, error=exc.in_full)
    exc.message = told
    return answer(exc)


async def _on_bad_request(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, RequestValidationError)
    found = exc.errors()
    field = _field(found[0], exc.body)
    problem = _problem([each for each in found if _field(each, exc.body) == field])
    if found[0]["type"] == "json_invalid":
        problem = f"not JSON at character {found[0]['loc'][1]} ({found[0]['ctx']['error']})"
    elif not field and "json" not in request.headers.get("content-type", ""):
        problem = "not sent as JSON: add the header Content-Type: application/json"
    return answer(
        errors.DataError(
            f"{field or 'the body'}: {problem}. /docs shows what the route takes.",
            details={"field": field} if field else None,
        )
    )


def _field(error: ErrorDetails, body: object) -> str:
    """Return where an error is, by the names and indices that a request has or lacks.

    Where a value may be of several types, pydantic adds its own name of one of them.
    """
    source, *parts = error["loc"]
    if source != "body":
        return ".".join(str(part)[:64] for part in parts)
    kept, there = [], body
    for place, part in enumerate(parts, start=1):
        is_index = isinstance(there, list) and isinstance(part, int)
        if is_index or (isinstance(there, dict) and part in there):
            there = there[part]  # type: ignore[index]
        elif error["type"] != "missing" or place < len(parts):
            continue
        kept.append(str(part)[:64])
    return ".".join(kept)


def _problem(found: Sequence[ErrorDetails]) -> str:
    """Say what is wrong with a value: of the types that it may have, what fits it best."""
    nearest = [each for each in found if not each["type"].endswith("_type")] or found
    said = [each["msg"].removeprefix("Value error, ") for each in nearest]
    return " or ".join([said[0], *(each.removeprefix("Input should be ") for each in said[1:])])


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
    return Json(wire.Error(code="internal", message=message), 500)
