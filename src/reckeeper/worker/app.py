"""The worker: reads Kafka, runs jobs, keeps the schedule, answers the contract's two routes.

Settings come from the environment.
"""

import dataclasses
import json
import signal
import sys
import time
from collections.abc import Mapping
from types import FrameType
from typing import Any, Literal

from flask import Flask, Response, g, jsonify, request
from waitress.server import create_server
from werkzeug.exceptions import HTTPException

from reckeeper import errors, notices, registry, serving, storage, telemetry, training
from reckeeper import policy as policies
from reckeeper.client import ACTOR_HEADER
from reckeeper.config import Settings
from reckeeper.events import demo
from reckeeper.events.kafka import KafkaReader
from reckeeper.security import actor_of, checked_reason
from reckeeper.training.jobs import job_error

STATUS: Mapping[type[errors.ReckeeperError], int] = {
    errors.NotEnoughDataError: 409,
    errors.DataError: 422,
    errors.NotFoundError: 404,
    errors.ConflictError: 409,
    errors.JobCancelledError: 409,
    errors.ArtifactError: 409,
    errors.UnavailableError: 503,
    errors.StorageError: 503,
    errors.ReckeeperError: 500,
}

_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
_log = telemetry.get_logger("worker")


class Worker:
    """What the worker process holds between its start and its stop."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.database = storage.open_database(settings)
        self.registry = registry.Registry(self.database, settings.model_dir)
        self.policy = policies.PolicyWatch(self.database, settings)
        self.serving = serving.Serving(self.database, self.registry, self.policy)
        self.jobs = training.JobRunner(self.database, self.registry, settings)
        self.schedule = training.Schedule(
            self.database, settings, self._retrain_by_itself, tidy=self.jobs.tidy
        )
        self.courier = notices.Courier(self.database, settings)
        self.reader = KafkaReader(self.database, settings) if settings.uses_kafka else None

    def start(self) -> None:
        """Put in order what a crash has left, load the active model, and follow the policy.

        Into an empty database the demo is loaded, if it is wanted.
        """
        self.registry.rebuild()
        self.registry.repair_link()
        training.expire_silent(self.database)
        self.registry.remove_unfinished()
        self.registry.set_aside_unknown()
        self.policy.start()
        self.serving.start()
        self.schedule.start()
        self.courier.start()
        if self.reader is not None:
            self.reader.start()
        if demo.load_if_empty(self.database, self.settings):
            self.jobs.start(trigger="demo", actor="start")
        _log.info("worker_started", version=self.serving.version)

    def stop(self) -> None:
        """Stop reading, the schedule, a running job and what tells of it."""
        if self.reader is not None:
            self.reader.stop()
        self.schedule.stop()
        self.jobs.stop()
        self.courier.stop()
        self.serving.stop()
        self.policy.stop()
        self.database.close()

    def readiness(self) -> serving.Readiness:
        """Say whether the process can do its work, serving and reading."""
        readiness = self.serving.readiness()
        problems = [] if self.reader is None else self.reader.problems()
        threads = (self.policy, self.schedule, self.courier)
        problems += [thread.problem for thread in threads if thread.problem is not None]
        return readiness.also(*problems)

    def _retrain_by_itself(
        self, trigger: str, cause: Mapping[str, Any], not_since: int | None
    ) -> None:
        self.jobs.start(trigger=trigger, actor=trigger, cause=cause, not_since=not_since)


def create_app(worker: Worker) -> Flask:
    """Make the routes of a worker."""
    app = Flask("kafka_worker")
    app.json.sort_keys = False  # type: ignore[attr-defined]

    @app.get("/models")
    def get_models() -> Response:
        return jsonify({"status": "ok", "models": worker.registry.versions()})

    @app.post("/retrain")
    def retrain() -> tuple[Response, int]:
        row, waited = run_job("retrain", _json_object(request.get_data()))
        if not waited:
            return jsonify({"status": "ok", "job": training.describe_job(row)}), 202
        worker.serving.refresh()
        answer = worker.registry.retrain_answer(
            row["version"],
            job_id=row["job_id"],
            promoted=row["promoted"],
            verdict=row["verdict"],
        )
        return jsonify(answer), 200

    @app.post("/evaluations")
    def evaluate() -> tuple[Response, int]:
        row, waited = run_job("evaluate", {})
        answer = {"status": "ok", "job": training.describe_job(row)}
        return jsonify(answer), 200 if waited else 202

    @app.post("/jobs/<int:job_id>/cancel")
    def cancel_job(job_id: int) -> Response:
        row = training.request_cancel(
            worker.database, _number(job_id), actor=actor(), reason=_reason(request.get_data())
        )
        return jsonify({"status": "ok", "job": training.describe_job(row)})

    def actor() -> str:
        return actor_of(request.headers.get(ACTOR_HEADER))

    def run_job(
        kind: Literal["retrain", "evaluate"], asked: Mapping[str, Any]
    ) -> tuple[dict[str, Any], bool]:
        """Start a job; return its row, and whether its end was waited for, and it succeeded."""
        wait = request.args.get("wait", "true").lower()
        if wait not in {"true", "false"}:
            raise errors.DataError(f"wait={wait!r} must be true or false: send ?wait=false.")
        job_id = worker.jobs.start(trigger="manual", actor=actor(), kind=kind, request=asked)
        if wait == "true":
            worker.jobs.wait(job_id)
        row = training.find_job(worker.database, job_id)
        if wait == "true" and row["status"] != storage.jobs.SUCCEEDED:
            raise job_error(row)
        return row, wait == "true"

    @app.get("/health/live")
    def live() -> Response:
        return jsonify({"status": "ok"})

    @app.get("/health/ready")
    def ready() -> tuple[Response, int]:
        readiness = worker.readiness()
        status = 503 if readiness.status == "unavailable" else 200
        return jsonify(dataclasses.asdict(readiness)), status

    @app.get("/metrics")
    def metrics() -> Response:
        return Response(telemetry.render_metrics(), content_type=telemetry.METRICS_CONTENT_TYPE)

    @app.before_request
    def begin() -> None:
        g.began = time.perf_counter()

    @app.after_request
    def count(response: Response) -> Response:
        route = request.url_rule.rule if request.url_rule is not None else "unknown"
        # A method may be any word; each would be a series of its own.
        method = request.method if request.method in _METHODS else "other"
        telemetry.HTTP_REQUESTS.labels(method, route, response.status_code).inc()
        seconds = time.perf_counter() - g.began
        telemetry.HTTP_SECONDS.labels(method, route).observe(seconds)
        return response

    @app.errorhandler(errors.ReckeeperError)
    def on_reckeeper_error(
        exc: errors.ReckeeperError,
    ) -> tuple[Response, int, Mapping[str, str]]:
        status = next(STATUS[kind] for kind in type(exc).__mro__ if kind in STATUS)
        return jsonify(exc.to_json()), status, {"Retry-After": "5"} if status == 503 else {}

    @app.errorhandler(HTTPException)
    def on_http_exception(exc: HTTPException) -> tuple[Response, int]:
        code = {404: "not_found", 405: "method_not_allowed"}.get(exc.code or 500, "http_error")
        return _failure(
            code,
            f"{request.method} {request.path}: {exc.name}. The worker answers GET /models, POST "
            "/retrain, /evaluations and /jobs/{id}/cancel, health and metrics; the server "
            "(RECKEEPER_SERVER_URL) everything else.",
        ), exc.code or 500

    @app.errorhandler(Exception)
    def on_unexpected(exc: Exception) -> tuple[Response, int]:
        _log.error("request_failed", method=request.method, path=request.path, exc_info=exc)
        return _failure(
            "internal", "The worker failed on this request; its log has the details."
        ), 500

    return app


def _json_object(body: bytes) -> dict[str, Any]:
    """Return what a body holds; no body is an empty object."""
    if not body.strip():
        return {}
    try:
        decoded = json.loads(body)
    except (ValueError, RecursionError) as exc:
        raise errors.DataError(f"The body is not JSON: {exc}. Send an object, or nothing.") from exc
    if decoded is None:
        return {}
    if not isinstance(decoded, dict):
        raise errors.DataError(
            f"The body is {type(decoded).__name__} and not an object. Send an object, or nothing."
        )
    return decoded


def _reason(body: bytes) -> str | None:
    """Return the reason that a body gives, if it gives one."""
    asked = _json_object(body)
    reason = checked_reason(asked.pop("reason", None))
    if asked:
        raise errors.DataError(
            f"{next(iter(asked))!r} is no field here: send a reason, or nothing."
        )
    return reason


def _number(job_id: int) -> int:
    """Return a job's number, if it can be one."""
    if job_id >= 2**63:
        raise errors.NotFoundError(f"There is no job {job_id}: GET /jobs lists those there are.")
    return job_id


def _failure(code: str, message: str) -> Response:
    body: dict[str, Any] = {"status": "error", "code": code, "message": message}
    return jsonify(body)


def main() -> None:
    """Work until a signal ends the process."""
    telemetry.configure_logging("worker")
    try:
        settings = Settings.from_env()
        worker = Worker(settings)
    except errors.ReckeeperError as exc:
        _log.error("worker_not_started", error=exc.message)
        sys.exit(2)
    server = create_server(
        create_app(worker), host=settings.host, port=settings.worker_port, threads=16
    )

    def stop(_signal: int, _frame: FrameType | None) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        worker.jobs.stop(wait=False)  # a request that waits for a job gets its answer
        raise SystemExit  # ends the loop of `server.run`

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    try:
        worker.start()
        server.run()
    finally:
        worker.stop()
        server.close()
