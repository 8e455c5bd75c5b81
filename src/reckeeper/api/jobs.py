"""Jobs: starting, following and ending them."""

import functools
from collections.abc import Callable
from datetime import UTC, datetime

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from reckeeper import clock, errors, recipes, storage, training, wire
from reckeeper import policy as policies
from reckeeper.api import bodies, parameters
from reckeeper.api.answers import Json, content, failures, other
from reckeeper.api.parameters import ActorName, Before, JobId, Limit, Wait
from reckeeper.api.runtime import Needs, Runtime
from reckeeper.api.worker import Worker
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
    tuning = request.pop("tuning", {})  # its fields are the client's own parameters
    started = await _start(
        runtime, actor_name, lambda worker: worker.start_retrain(**request, **tuning)
    )
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
    started = await _start(runtime, actor_name, lambda worker: worker.start_evaluation())
    if not wait:
        return Json(started, 202)
    row = await _success(runtime, started.job.job_id)
    return Json(await run_in_threadpool(_answer, runtime, row))


def _check(runtime: Runtime, request: wire.JsonObject) -> None:
    """Refuse here what the worker would refuse, and cannot while it is down."""
    with runtime.database.read() as connection:
        active = storage.models.active(connection)
    training.checked_request(request, active=active)


async def _start(
    runtime: Runtime, caller: Caller, start: Callable[[Worker], wire.Job]
) -> wire.JobAnswer:
    """Have the worker start a job; where it does not answer, see that it does not later either."""
    secret = runtime.access.worker_secret.text() if runtime.access.is_needed else None
    ticket = await run_in_threadpool(training.offer, runtime.database)
    worker = runtime.worker.for_caller(caller, secret=secret).with_ticket(ticket)
    try:
        return wire.JobAnswer(job=await run_in_threadpool(start, worker))
    except errors.UnauthenticatedError as exc:
        raise errors.UnavailableError(
            "The worker does not take this server's secret, so nothing was trained: give both the "
            "same RECKEEPER_WORKER_SECRET, or the same data folder."
        ) from exc
    except errors.UnavailableError as exc:
        row = await run_in_threadpool(training.withdraw, runtime.database, ticket)
        if row is not None:  # its answer alone was lost
            return wire.JobAnswer(job=training.describe_job(row))
        raise errors.UnavailableError(
            "The worker could not be asked to train: it does not answer. Nothing was started, and "
            "nothing will be. Check that it is running where RECKEEPER_WORKER_URL names it, then "
            "try again.",
            action=exc.action,
            private=exc.message,
        ) from exc


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
async def follow_job(runtime: Needs, request: Request, job_id: JobId) -> Response:
    """Follow a job by server-sent events, up to its end.

    Each event `job` has the job as `GET /jobs/{job_id}` shows it; a slow reader misses some,
    never the last. After that comes `end`, and nothing more. A line is sent at least every
    15 seconds or so. A stream ends within seconds, without `end`, once its key is revoked or
    expires.
    """
    caller: Caller = request.scope["caller"]
    row = await run_in_threadpool(training.find_job, runtime.database, job_id)
    today = await run_in_threadpool(training.today, runtime.database, runtime.settings, row)
    return bodies.Streamed(
        runtime.feed.stream(
            row,
            today=today,
            may_go_on=functools.partial(runtime.access.still_admits, caller),
        ),
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
