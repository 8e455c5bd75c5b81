"""Jobs: starting, following and ending them."""

import functools
from collections.abc import Callable
from datetime import UTC, datetime

from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from reckeeper import clock, errors, recipes, storage, training, wire
from reckeeper import policy as policies
from reckeeper.api import bodies, parameters
from reckeeper.api.answers import Json, content, failures, other
from reckeeper.api.parameters import ActorName, Before, JobId, Limit, Wait
from reckeeper.api.runtime import Needs, Runtime
from reckeeper.client import Client
from reckeeper.security import Caller, actor_of
from reckeeper.training.jobs import job_error

router = APIRouter(tags=["training"])

_STARTED = other(202, wire.JobAnswer, "With wait=false: the job has started")


@router.post(
    "/retrain",
    response_model=wire.RetrainAnswer,
    responses=_STARTED | failures(409, 413, 422),
)
async def retrain(
    runtime: Needs,
    actor_name: ActorName,
    asked: wire.RetrainRequest | None = None,
    wait: Wait = True,
) -> Json:
    """Train on the latest interactions, and answer when the new version is active.

    Without a body recipe and settings are those of the active version. A body names others, or
    lets them be found: `tune`. `verdict` is what the gate thinks of the version; whether that
    decides is for the policy to say.
    """
    request: wire.JsonObject = {} if asked is None else asked.model_dump()
    if request:
        await run_in_threadpool(_check, runtime, request)
    worker = _worker(runtime, actor_name)
    tuning = request.pop("tuning", {})  # its fields are the client's own parameters
    started = await _start(functools.partial(worker.start_retrain, **request, **tuning))
    if not wait:
        return Json(started, 202)
    row = await _success(runtime, started.job.job_id)
    assert row.version is not None
    await run_in_threadpool(runtime.serving.refresh)
    answer = functools.partial(
        runtime.registry.versions.retrain_answer,
        row.version,
        job_id=row.job_id,
        promoted=row.promoted,
        verdict=row.verdict,
    )
    return Json(wire.RetrainAnswer.model_validate(await run_in_threadpool(answer)))


@router.post(
    "/evaluations",
    response_model=wire.JobAnswer,
    responses=_STARTED | failures(409, 413, 422),
)
async def evaluate(runtime: Needs, actor_name: ActorName, wait: Wait = True) -> Json:
    """Measure which recipe suits the data, and answer when that is done; nothing else changes.

    `popularity`, `svd`, a tuned `spectral` and what is active are judged as the gate judges, on
    the same users, by the policy's metric. The result grows while the job runs: `GET /jobs/{id}`
    shows it, and later whether it still holds.
    """
    started = await _start(_worker(runtime, actor_name).start_evaluation)
    if not wait:
        return Json(started, 202)
    row = await _success(runtime, started.job.job_id)
    return Json(await run_in_threadpool(_answer, runtime, row))


def _check(runtime: Runtime, request: wire.JsonObject) -> None:
    """Refuse here what the worker would refuse, and cannot while it is down."""
    with runtime.database.read() as connection:
        active = storage.models.active(connection)
    training.checked_request(request, active=active)


def _worker(runtime: Runtime, caller: Caller) -> Client:
    """Return the way to the worker, which learns who asks."""
    secret = runtime.access.worker_secret.text() if runtime.access.is_needed else None
    return runtime.worker.for_caller(caller, secret=secret)


async def _start(start: Callable[[], wire.Job]) -> wire.JobAnswer:
    try:
        job = await run_in_threadpool(start)
    except errors.UnauthenticatedError as exc:
        raise errors.UnavailableError(
            "The worker does not take this server's secret, so nothing was trained: give both the "
            "same RECKEEPER_WORKER_SECRET, or the same data folder."
        ) from exc
    except errors.UnavailableError as exc:
        raise errors.UnavailableError(
            "The worker could not be asked to train: it does not answer. Check that it is running "
            "where RECKEEPER_WORKER_URL names it, then try again. A job may have started all the "
            "same.",
            action=exc.action or errors.Action("list_jobs"),
            private=exc.message,
        ) from exc
    return wire.JobAnswer(job=job)


async def _success(runtime: Runtime, job_id: int) -> storage.Job:
    """Wait for a job to succeed, and return it."""
    started = await run_in_threadpool(training.find_job, runtime.database, job_id)
    row = await runtime.feed.ended(started)
    if row.status != storage.jobs.SUCCEEDED:
        raise job_error(row)
    return row


@router.get("/jobs", responses=failures(422))
def list_jobs(runtime: Needs, limit: Limit = 20, before: Before = None) -> wire.JobPage:
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
    return wire.JobPage.model_validate(
        {
            "jobs": [training.describe_listed(row) for row in rows],
            "schedule": policy.schedule,
            "next_scheduled_at": None if next_at is None else clock.microseconds(next_at),
        }
    )


@router.get("/jobs/{job_id}", responses=failures(404, 422))
def get_job(runtime: Needs, job_id: JobId) -> wire.JobAnswer:
    """Describe a job: its stage, how far it is, the time left, and what it has found so far."""
    return _answer(runtime, training.find_job(runtime.database, job_id))


@router.get(
    "/jobs/{job_id}/stream",
    response_class=Response,
    responses=content("text/event-stream", {"type": "string"}) | failures(404, 422),
)
async def follow_job(runtime: Needs, job_id: JobId) -> Response:
    """Follow a job by server-sent events, up to its end.

    Each event `job` has the job as `GET /jobs/{job_id}` shows it; a slow reader misses some,
    never the last. After that comes `end`, and nothing more. A line is sent at least every
    15 seconds.
    """
    row = await run_in_threadpool(training.find_job, runtime.database, job_id)
    today = await run_in_threadpool(training.today, runtime.database, runtime.settings, row)
    return bodies.Streamed(
        runtime.feed.stream(row, today=today),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


@router.post("/jobs/{job_id}/cancel", responses=failures(404, 409, 413, 422))
def cancel_job(
    runtime: Needs, actor_name: ActorName, job_id: JobId, why: wire.Explanation | None = None
) -> wire.JobAnswer:
    """End a running job within about a second; the active version stays active."""
    row = training.request_cancel(
        runtime.database, job_id, actor=actor_of(actor_name), reason=parameters.given(why)
    )
    return _answer(runtime, row)


@router.post("/jobs/{job_id}/finish", responses=failures(404, 409, 413, 422))
def finish_job(runtime: Needs, actor_name: ActorName, job_id: JobId) -> wire.JobAnswer:
    """Let tuning end now, with the best settings that it has; the job goes on with them."""
    row = training.request_finish(runtime.database, job_id, actor=actor_of(actor_name))
    return _answer(runtime, row)


def _answer(runtime: Runtime, row: storage.Job) -> wire.JobAnswer:
    today = training.today(runtime.database, runtime.settings, row)
    return wire.JobAnswer(job=training.describe_job(row, today=today))


@router.get("/recipes")
async def list_recipes() -> wire.RecipeList:
    """List the recipes that a version can be trained with, and the settings that each has."""
    return wire.RecipeList.model_validate({"recipes": recipes.describe_recipes()})
