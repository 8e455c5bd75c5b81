"""Jobs: starting, following and ending them."""

import functools
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from reckeeper import clock, errors, recipes, storage, training
from reckeeper import policy as policies
from reckeeper.api import bodies, examples, parameters
from reckeeper.api.parameters import ActorName, Before, JobId, Limit, Reason, Wait
from reckeeper.api.runtime import Needs, Runtime
from reckeeper.client import Client, Job
from reckeeper.security import actor_of
from reckeeper.training.jobs import job_error

router = APIRouter(tags=["training"])

_EVENTS = """event: job
data: {"job_id": 2, "status": "running", "stage": "fitting", "fraction": 0.4}

event: job
data: {"job_id": 2, "status": "succeeded", "stage": "done", "fraction": 1.0}

event: end
data: {}
"""
_STARTED = {"status": "ok", "job": examples.JOB}


@router.post(
    "/retrain",
    responses=examples.answers(examples.RETRAINED, 409, 422, 500, 503)
    | examples.answers(_STARTED, status=202),
)
async def retrain(
    runtime: Needs,
    actor_name: ActorName,
    asked: training.RetrainRequest | None = None,
    wait: Wait = True,
) -> JSONResponse:
    """Train on the latest interactions, and answer when the new version serves.

    Without a body recipe and settings are those of the active version. A body names others, or
    lets them be found: `tune`. `verdict` is what the gate thinks of the version; whether that
    decides is up to the policy.
    """
    request = {} if asked is None else asked.model_dump(exclude_defaults=True)
    if request:
        await run_in_threadpool(_check, runtime, request)
    worker = _worker(runtime, actor_name)
    job = await _start(functools.partial(worker.start_retrain, **request))
    if not wait:
        return JSONResponse({"status": "ok", "job": job}, 202)
    row = await _success(runtime, job["job_id"])
    await run_in_threadpool(runtime.serving.refresh)
    answer = functools.partial(
        runtime.registry.retrain_answer,
        row["version"],
        job_id=row["job_id"],
        promoted=row["promoted"],
        verdict=row["verdict"],
    )
    return JSONResponse(await run_in_threadpool(answer))


@router.post(
    "/evaluations",
    responses=examples.answers({"status": "ok", "job": examples.EVALUATED}, 409, 422, 500, 503)
    | examples.answers(
        {"status": "ok", "job": examples.JOB | {"kind": "evaluate", "request": {}}}, status=202
    ),
)
async def evaluate(runtime: Needs, actor_name: ActorName, wait: Wait = True) -> JSONResponse:
    """Measure which recipe suits the data, and answer when that is done; nothing else changes.

    The last part of each user's interactions is held out, and `popularity`, `svd` and a tuned
    `spectral` fitted on the rest. The result grows while the job runs: `GET /jobs/{id}` shows it.
    """
    job = await _start(_worker(runtime, actor_name).start_evaluation)
    if not wait:
        return JSONResponse({"status": "ok", "job": job}, 202)
    row = await _success(runtime, job["job_id"])
    return JSONResponse({"status": "ok", "job": training.describe_job(row)})


def _check(runtime: Runtime, request: Mapping[str, Any]) -> None:
    """Refuse here what the worker would refuse, and cannot while it is down."""
    with runtime.database.read() as connection:
        active = storage.models.active(connection)
    training.checked_request(request, active=active)


def _worker(runtime: Runtime, actor_name: str | None) -> Client:
    """Return the way to the worker, which is told who asks."""
    return runtime.worker if actor_name is None else runtime.worker.as_actor(actor_name)


async def _start(start: Callable[[], Job]) -> Job:
    try:
        return await run_in_threadpool(start)
    except errors.UnavailableError as exc:
        raise errors.UnavailableError(
            f"The worker could not be asked to train: {exc.message} RECKEEPER_WORKER_URL names "
            "its address; GET /jobs shows whether a job has started."
        ) from exc


async def _success(runtime: Runtime, job_id: int) -> dict[str, Any]:
    """Wait for a job to succeed, and return its row."""
    started = await run_in_threadpool(training.find_job, runtime.database, job_id)
    row = await runtime.feed.ended(started)
    if row["status"] != storage.jobs.SUCCEEDED:
        raise job_error(row)
    return row


@router.get(
    "/jobs",
    responses=examples.answers(
        {
            "status": "ok",
            "jobs": [examples.LISTED_JOB],
            "schedule": "0 3 * * 0",
            "next_scheduled_at": "2025-12-07T03:00:00.000000Z",
        },
        422,
    ),
)
def get_jobs(runtime: Needs, limit: Limit = 20, before: Before = None) -> JSONResponse:
    """List jobs, the latest first, and when the schedule starts the next one."""
    training.expire_silent(runtime.database)
    with runtime.database.read() as connection:
        rows = storage.jobs.page(connection, limit=limit, before=before)
        policy = policies.current(connection, runtime.settings).policy
    next_at = (
        None
        if policy.schedule is None
        else policies.next_run(policy.schedule, timezone=policy.timezone, after=datetime.now(UTC))
    )
    return JSONResponse(
        {
            "status": "ok",
            "jobs": [training.describe_job(row) for row in rows],
            "schedule": policy.schedule,
            "next_scheduled_at": None
            if next_at is None
            else clock.rfc3339(int(next_at.timestamp()) * 1_000_000),
        }
    )


@router.get("/jobs/{job_id}", responses=examples.answers(_STARTED, 404, 422))
def get_job(runtime: Needs, job_id: JobId) -> JSONResponse:
    """Describe a job: its stage, how far it is, the time left, and what it has found so far."""
    row = training.find_job(runtime.database, job_id)
    return JSONResponse({"status": "ok", "job": training.describe_job(row)})


@router.get(
    "/jobs/{job_id}/stream",
    response_class=Response,
    responses=examples.media("text/event-stream", {"example": _EVENTS}, 404, 422, 503),
)
async def follow_job(runtime: Needs, job_id: JobId) -> Response:
    """Follow a job by server-sent events, up to its end.

    Each event `job` has the job as `GET /jobs/{job_id}` shows it; who reads slowly misses some,
    never the last. After that comes `end`, and nothing more. A line is sent at least every
    15 seconds.
    """
    row = await run_in_threadpool(training.find_job, runtime.database, job_id)
    return bodies.Streamed(
        runtime.feed.stream(row),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


@router.post(
    "/jobs/{job_id}/cancel",
    responses=examples.answers(
        {"status": "ok", "job": examples.JOB | {"cancel_requested": True}}, 404, 409, 422
    ),
)
def cancel_job(
    runtime: Needs, actor_name: ActorName, job_id: JobId, why: Reason | None = None
) -> JSONResponse:
    """End a running job within about a second; what served goes on serving."""
    row = training.request_cancel(
        runtime.database, job_id, actor=actor_of(actor_name), reason=parameters.given(why)
    )
    return JSONResponse({"status": "ok", "job": training.describe_job(row)})


@router.post(
    "/jobs/{job_id}/finish",
    responses=examples.answers(
        {"status": "ok", "job": examples.JOB | {"finish_requested": True}}, 404, 409, 422
    ),
)
def finish_job(runtime: Needs, actor_name: ActorName, job_id: JobId) -> JSONResponse:
    """Let tuning end now, with the best settings that it has; the job goes on with them."""
    row = training.request_finish(runtime.database, job_id, actor=actor_of(actor_name))
    return JSONResponse({"status": "ok", "job": training.describe_job(row)})


@router.get("/recipes", responses=examples.answers({"status": "ok", "recipes": [examples.RECIPE]}))
async def get_recipes() -> JSONResponse:
    """List the recipes that a version can be trained with, and the settings that each has."""
    return JSONResponse({"status": "ok", "recipes": recipes.describe_recipes()})
