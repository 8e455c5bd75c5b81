"""What every request of the worker passes: where it comes from, one form of errors, metrics."""

import re
import time

from flask import Flask, Response, current_app, g, request
from werkzeug.exceptions import HTTPException

from reckeeper import errors, origins, telemetry, wire
from reckeeper.wire.headers import INSTALLATION_HEADER
from reckeeper.worker.process import Worker
from reckeeper.worker.routes import json_answer

_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
_log = telemetry.get_logger("worker")


def register(app: Flask, ours: origins.Origins) -> None:
    """Let a program answer every error in the one form, and count and time its requests.

    What comes from a foreign page, or is for a host that is not ours, goes no further; nor does a
    body of another type than JSON.
    """

    def check_origin() -> None:
        told = [(name.lower().encode(), text.encode("latin-1")) for name, text in request.headers]
        refusal = ours.refusal(request.method, told)
        if refusal is not None:
            raise refusal

    for check in (_begin, check_origin, _admit, _check_type):
        app.before_request(check)
    app.after_request(_count)
    app.register_error_handler(errors.ReckeeperError, _on_reckeeper_error)
    app.register_error_handler(HTTPException, _on_http_exception)
    app.register_error_handler(Exception, _on_unexpected)


def _begin() -> None:
    g.began = time.perf_counter()


def _admit() -> None:
    """Let a request in, or raise why not."""
    worker: Worker = current_app.extensions["worker"]
    rule = request.url_rule
    path = request.path if rule is None else re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule)
    g.caller = worker.access.admit(
        request.method,
        path,
        request.headers.get("Authorization"),
        address=request.remote_addr or "unknown",
    )


def _check_type() -> None:
    """Refuse a body that is not JSON, where one is read."""
    if request.method not in {"GET", "HEAD"} and (
        request.content_length or "Transfer-Encoding" in request.headers
    ):
        origins.check_type(request.headers.get("Content-Type"), ["application/json"])


def _count(response: Response) -> Response:
    route = request.url_rule.rule if request.url_rule is not None else "unknown"
    # A method may be any word; each would be a series of its own.
    method = request.method if request.method in _METHODS else "other"
    seconds = time.perf_counter() - g.began
    telemetry.count_answer(method, route, response.status_code, seconds=seconds)
    response.headers.extend(origins.HEADERS)
    response.headers["Cache-Control"] = "no-store"
    response.headers[INSTALLATION_HEADER] = current_app.extensions["worker"].installation_id
    return response


def _on_reckeeper_error(exc: errors.ReckeeperError) -> Response:
    worker: Worker = current_app.extensions["worker"]
    told = worker.settings.without_folders(exc.message)
    if exc.private is not None or told != exc.message:
        _log.warning("request_not_done", code=exc.code, error=exc.in_full)
    exc.message = told
    response = json_answer(wire.error_body(exc), wire.status_of(exc))
    response.headers.update(wire.headers_of(exc))
    return response


def _on_http_exception(exc: HTTPException) -> Response:
    code = {404: "not_found", 405: "method_not_allowed"}.get(exc.code or 500, "http_error")
    message = (
        f"{request.method} {request.path}: {exc.name}. The worker answers GET /models, POST "
        "/retrain, /evaluations and /jobs/{id}/cancel, health and metrics; the server "
        "(RECKEEPER_SERVER_URL) everything else."
    )
    return json_answer(wire.Error(code=code, message=message), exc.code or 500)


def _on_unexpected(exc: Exception) -> Response:
    _log.error("request_failed", method=request.method, path=request.path, exc_info=exc)
    message = "The worker failed on this request; its log has the details."
    return json_answer(wire.Error(code="internal", message=message), 500)
