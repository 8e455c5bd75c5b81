"""The routes of the worker: the contract's two, the jobs that need this process, operation."""

import dataclasses
import json
from typing import Literal

from flask import Blueprint, Response, current_app, g, request

from reckeeper import errors, storage, telemetry, training, wire
from reckeeper.client import ACTOR_HEADER
from reckeeper.security import Caller, actor_of, checked_name, checked_reason
from reckeeper.training.jobs import job_error
from reckeeper.wire.headers import CALLER_HEADER, TICKET_HEADER
from reckeeper.worker.process import Worker

routes = Blueprint("worker", __name__)


def json_answer(answer: wire.Answer, status: int = 200) -> Response:
    """Return a model of `wire` as a response."""
    return Response(answer.model_dump_json(), status, content_type="application/json")


@routes.get("/models")
def list_models() -> Response:
    """List all versions with their metadata, the newest first."""
    return json_answer(wire.ModelList.model_validate({"models": _worker().registry.versions.all()}))


@routes.post("/retrain")
def retrain() -> Response:
    """Train on the latest interactions, and answer when the new version is active."""
    row, waited = _run_job("retrain", _json_object(request.get_data()))
    if not waited:
        return json_answer(_job_answer(row), 202)
    worker = _worker()
    assert row.version is not None
    worker.serving.refresh()
    answer = worker.registry.versions.retrain_answer(
        row.version,
        job_id=row.job_id,
        promoted=row.promoted,
        verdict=row.verdict,
    )
    return json_answer(wire.RetrainAnswer.model_validate(answer))


@routes.post("/evaluations")
def evaluate() -> Response:
    """Measure which recipe suits the data, and answer when that is done."""
    if _json_object(request.get_data()):
        raise errors.DataError("the body: an evaluation takes none. Leave it out.")
    row, waited = _run_job("evaluate", {})
    return json_answer(_job_answer(row), 200 if waited else 202)


@routes.post("/jobs/<int:job_id>/cancel")
def cancel_job(job_id: int) -> Response:
    """End a running job within about a second."""
    row = training.request_cancel(
        _worker().database, _number(job_id), actor=_actor(), reason=_reason(request.get_data())
    )
    return json_answer(_job_answer(row))


@routes.get("/health/live")
def get_liveness() -> Response:
    """Say that the process runs."""
    return json_answer(wire.Liveness())


@routes.get("/health/ready")
def get_readiness() -> Response:
    """Say whether the process can do its work; 503 while it cannot."""
    readiness = _worker().readiness()
    status = 503 if readiness.status == "unavailable" else 200
    told = wire.Readiness.model_validate(readiness).in_words()
    return json_answer(told if "viewer" in g.caller.roles else told.withheld(), status)


@routes.get("/metrics")
def get_metrics() -> Response:
    """Return this process's metrics in Prometheus' text format."""
    return Response(telemetry.render_metrics(), content_type=telemetry.METRICS_CONTENT_TYPE)


_QUERIES = {"retrain": ["wait"], "evaluate": ["wait"]}
"""Query parameters by the name of the function; the others take none."""


@routes.before_request
def _refuse_unknown() -> None:
    known = _QUERIES.get((request.endpoint or "").rpartition(".")[2], [])
    for name in request.args:
        if name not in known:
            raise errors.DataError(
                f"{name[:64]}: there is no such parameter{errors.alternatives(name, known)}.",
                details={"field": name[:64]},
            )
        n_values = len(request.args.getlist(name))
        if n_values > 1:
            raise errors.DataError(
                f"{name}: is given {n_values} times and takes one value.", details={"field": name}
            )


def _worker() -> Worker:
    worker: Worker = current_app.extensions["worker"]
    return worker


def _actor() -> str:
    said = checked_name(request.headers.get(ACTOR_HEADER))
    caller: Caller = g.caller
    actor = caller.actor
    if caller.is_server:
        actor = request.headers.get(CALLER_HEADER)
    return actor_of(dataclasses.replace(caller, actor=actor, said=said))


def _job_answer(row: storage.Job) -> wire.JobAnswer:
    return wire.JobAnswer(job=training.describe_job(row))


def _run_job(
    kind: Literal["retrain", "evaluate"], asked: wire.JsonObject
) -> tuple[storage.Job, bool]:
    """Start a job; return it, and whether its end was waited for, and it succeeded."""
    wait = request.args.get("wait", "true").lower()
    if wait not in {"true", "false"}:
        raise errors.DataError(f"wait={wait!r} must be true or false: send ?wait=false.")
    worker = _worker()
    if kind == "retrain":
        with worker.database.read() as connection:
            training.check_taste(connection, worker.settings)
    job_id = worker.jobs.start(
        trigger="manual",
        actor=_actor(),
        kind=kind,
        request=asked,
        ticket=request.headers.get(TICKET_HEADER),
    )
    if wait == "true":
        worker.jobs.wait(job_id)
    row = training.find_job(worker.database, job_id)
    if wait == "true" and row.status != storage.jobs.SUCCEEDED:
        raise job_error(row)
    return row, wait == "true"


def _json_object(body: bytes) -> wire.JsonObject:
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
    for name in asked:
        if name != "reason":
            raise errors.DataError(
                f"{name[:64]}: there is no such field{errors.alternatives(name, ['reason'])}.",
                details={"field": name[:64]},
            )
    return checked_reason(asked.get("reason"))


def _number(job_id: int) -> int:
    """Return a job's number, if it can be one."""
    if job_id >= 2**63:
        raise errors.NotFoundError(f"There is no job {job_id}.", action=errors.Action("list_jobs"))
    return job_id
