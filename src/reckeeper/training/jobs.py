"""Jobs as rows: how one starts, is found, is asked to end, ends, and is shown."""

from collections.abc import Mapping
from typing import Literal

from reckeeper import audit, clock, machine, notices, storage, wire
from reckeeper.errors import (
    Action,
    ConflictError,
    DataError,
    JobCancelledError,
    JobInterruptedError,
    NotFoundError,
    ReckeeperError,
    error_of,
)
from reckeeper.telemetry import TRAINING_JOBS, TRAINING_SECONDS, get_logger
from reckeeper.training.comparison import Comparison, Today
from reckeeper.training.report import TUNING
from reckeeper.training.request import checked_request
from reckeeper.training.verdict import Verdict

_OUTAGE_GRACE_SECONDS = 5.0
"""How long after an outage of the database a silent worker is not yet taken for a dead one."""

_TICKET_SECONDS = 60.0
"""Longer than anybody waits for a job to start, and not for long if they die meanwhile."""

_STATUS_OF_ERROR = {
    JobCancelledError.code: storage.jobs.CANCELLED,
    JobInterruptedError.code: storage.jobs.INTERRUPTED,
}
_log = get_logger(__name__)


def start(
    database: storage.Database,
    *,
    trigger: str,
    actor: str,
    kind: Literal["retrain", "evaluate"] = "retrain",
    request: Mapping[str, object] | None = None,
    cause: wire.Cause | None = None,
    not_since: int | None = None,
    ticket: str | None = None,
) -> int:
    """Add a running job of this process, and return its number; see `JobRunner.start`."""
    expire_silent(database)
    told = None if cause is None else cause.model_dump()
    with database.write() as connection:
        checked = checked_request(request or {}, active=storage.models.active(connection))
        if checked and kind == storage.jobs.EVALUATE:
            raise DataError(f"request: An evaluation takes none, not {checked}. Leave it out.")
        if not_since is not None and storage.jobs.has_started(
            connection, trigger=trigger, since=not_since
        ):
            raise ConflictError("Another worker has started the job for this time.")
        job_id = storage.jobs.insert(
            connection,
            trigger=trigger,
            actor=actor,
            kind=kind,
            request=checked,
            cause=told,
            holder=machine.process_name(),
        )
        if ticket is not None and not storage.tickets.use(connection, ticket, job_id=job_id):
            raise ConflictError(
                "Whoever asked for this job has given up waiting, so it is not started. Ask again."
            )
        audit.record(
            connection,
            actor=actor,
            action=kind,
            subject=f"job {job_id}",
            trigger=trigger,
            request=checked,
            cause=told,
        )
    return job_id


def offer(database: storage.Database) -> str:
    """Return a ticket with which another process may start one job, until it is withdrawn."""
    with database.write() as connection:
        return storage.tickets.issue(
            connection, holder=machine.process_name(), seconds=_TICKET_SECONDS
        )


def withdraw(database: storage.Database, ticket: str) -> storage.Job | None:
    """Take back a ticket; return the job that it has started, or None: it starts none."""
    with database.write() as connection:
        job_id = storage.tickets.withdraw(connection, ticket)
        return None if job_id is None else _found(connection, job_id)


def cancelled(job_id: int) -> JobCancelledError:
    """Return the error that ends a job which somebody cancelled."""
    return JobCancelledError(
        f"Training job {job_id} was cancelled; the active version stays active. Start another one "
        "when you want to."
    )


def lost(job_id: int) -> JobInterruptedError:
    """Return the error that ends a job whose lease is another's."""
    return JobInterruptedError(
        f"Training job {job_id} was silent for too long and is given up: its version is not "
        "activated. Start another one."
    )


def expire_silent(database: storage.Database) -> None:
    """Mark running jobs whose worker has gone as interrupted.

    For a worker on another machine that is known when its lease has lapsed,
    for one on this machine at once.
    """
    with database.read() as connection:
        has_lapsed = storage.jobs.has_lapsed(connection)
        holder = storage.leases.holder(connection, storage.leases.TRAINING)
    is_gone = holder is not None and machine.is_gone(holder)
    has_lapsed = has_lapsed and database.seconds_reached() > _OUTAGE_GRACE_SECONDS
    if has_lapsed or is_gone:
        with database.write() as connection:
            if holder is not None and is_gone:
                storage.leases.revoke(connection, storage.leases.TRAINING, holder=holder)
            for job_id in storage.jobs.interrupt_lapsed(connection):
                notices.notify(
                    connection,
                    "job_failed",
                    {
                        "job_id": job_id,
                        "code": JobInterruptedError.code,
                        "message": "The worker ended while this job ran. Start another one.",
                    },
                )


def request_cancel(
    database: storage.Database, job_id: int, *, actor: str, reason: str | None = None
) -> storage.Job:
    """Ask the worker of a job to end it, and return it; within a second it is done.

    Asking again changes nothing.

    Raises
    ------
    NotFoundError
        There is no such job.
    ConflictError
        It has ended already.
    """
    expire_silent(database)
    with database.write() as connection:
        job = _found(connection, job_id)
        if job.status == storage.jobs.CANCELLED:
            return job
        if job.status != storage.jobs.RUNNING:
            raise ConflictError(
                f"Job {job_id} has ended already ({job.status}): there is nothing to cancel."
            )
        if not job.cancel_requested:
            storage.jobs.update(connection, job_id, cancel_requested=True)
            audit.record(
                connection, actor=actor, action="cancel", subject=f"job {job_id}", reason=reason
            )
        return _found(connection, job_id)


def find_job(database: storage.Database, job_id: int) -> storage.Job:
    """Return a job.

    Raises
    ------
    NotFoundError
        There is none of this number.
    """
    expire_silent(database)
    with database.read() as connection:
        return _found(connection, job_id)


def request_finish(database: storage.Database, job_id: int, *, actor: str) -> storage.Job:
    """Ask a job that tunes to go on with the best that it has, and return it.

    Asking again changes nothing.

    Raises
    ------
    NotFoundError
        There is no such job.
    ConflictError
        It is not tuning, or no more.
    """
    expire_silent(database)
    with database.write() as connection:
        job = _found(connection, job_id)
        if job.status != storage.jobs.RUNNING or job.stage != TUNING:
            doing = (
                f"is at {job.stage!r}"
                if job.status == storage.jobs.RUNNING
                else f"has ended ({job.status})"
            )
            raise ConflictError(
                f"Job {job_id} {doing}, and tunes nothing: there is nothing to finish. Wait until "
                f"its stage is {TUNING!r}.",
                action=Action("see_job", {"job_id": job_id}),
            )
        if not job.finish_requested:
            storage.jobs.update(connection, job_id, finish_requested=True)
            audit.record(connection, actor=actor, action="finish_tuning", subject=f"job {job_id}")
        return _found(connection, job_id)


def _found(connection: storage.Connection, job_id: int) -> storage.Job:
    job = storage.jobs.get(connection, job_id)
    if job is None:
        raise NotFoundError(f"There is no job {job_id}.", action=Action("list_jobs"))
    return job


def succeed(
    connection: storage.Connection,
    job_id: int,
    *,
    promoted: bool | None = None,
    verdict: Verdict | None = None,
) -> None:
    """End a job well, in the transaction of what it did; its version keeps the verdict.

    Raises
    ------
    JobCancelledError
        It is to be cancelled.
    JobInterruptedError
        It has lost its lease.
    """
    job = _found(connection, job_id)
    if job.cancel_requested:
        raise cancelled(job_id)
    told = job.verdict
    if verdict is not None:
        assert job.version is not None
        told = verdict.to_json()
        storage.models.set_verdict(connection, job.version, told)
    if not storage.jobs.end(
        connection,
        job_id,
        status=storage.jobs.SUCCEEDED,
        stage="done",
        fraction=1.0,
        promoted=promoted,
        verdict=told,
    ):
        raise lost(job_id)


def fail(
    database: storage.Database,
    job_id: int,
    error: ReckeeperError,
    *,
    traceback: str | None = None,
    notify: bool = True,
) -> None:
    """End a job with an error, and have the webhook told unless it was cancelled.

    Raises
    ------
    JobInterruptedError
        It has lost its lease.
    """
    status = _STATUS_OF_ERROR.get(error.code, storage.jobs.FAILED)
    with database.write() as connection:
        ended = storage.jobs.end(
            connection,
            job_id,
            status=status,
            error_code=error.code,
            error_message=error.message,
            error_action=None if error.action is None else error.action.to_json(),
            traceback=traceback,
        )
        if not ended:
            raise lost(job_id)
        if notify and status != storage.jobs.CANCELLED:
            notices.notify(
                connection,
                "job_failed",
                {"job_id": job_id, "code": error.code, "message": error.message},
            )
    count(database, job_id)


def count(database: storage.Database, job_id: int) -> None:
    """Count a job that has ended, and log how."""
    with database.read() as connection:
        job = _found(connection, job_id)
    assert job.finished_at is not None
    seconds = max(0, job.finished_at - job.started_at) / 1e6
    TRAINING_JOBS.labels(job.status).inc()
    TRAINING_SECONDS.observe(seconds)
    _log.info(
        "job_ended",
        job_id=job_id,
        kind=job.kind,
        status=job.status,
        version=job.version,
        promoted=job.promoted,
        seconds=round(seconds, 3),
        error=job.error_message,
    )


def job_error(job: storage.JobSummary) -> ReckeeperError:
    """Return the error that ended a job."""
    return error_of(
        job.error_code or "training_failed",
        job.error_message or "The training did not succeed.",
        details={"job_id": job.job_id},
        action=None if job.error_action is None else Action.from_json(job.error_action),
    )


def describe_job(job: storage.Job, *, today: Today | None = None) -> wire.Job:
    """Return a job as the API shows it by itself; see `describe_listed`.

    Parameters
    ----------
    job : storage.Job
    today : Today, optional
        Beside which its comparison of recipes may be out of date. Without, it
        is shown as when it was made.
    """
    result = None if job.result is None else Comparison.from_json(job.result).described(today)
    return wire.Job.model_validate({**_described(job), "result": result})


def describe_listed(job: storage.JobSummary) -> wire.ListedJob:
    """Return a job as the API lists it.

    ``seconds_left`` is an estimate: what tuning says while it lasts, else from
    the fraction done and the time that it took; None while too little is known
    to tell.
    """
    return wire.ListedJob.model_validate(_described(job))


def _described(job: storage.JobSummary) -> Mapping[str, object]:
    # The clock may have been set back meanwhile.
    elapsed = max(0, (job.finished_at or clock.now()) - job.started_at) / 1e6
    left = None
    if job.status == storage.jobs.RUNNING:
        if job.stage == TUNING:
            left = (job.progress or {}).get("seconds_left")
        elif job.fraction >= 0.05:
            left = round(elapsed * (1 - job.fraction) / job.fraction, 1)
    error = None
    if job.error_code is not None:
        told = {"code": job.error_code, "message": job.error_message, "action": job.error_action}
        error = wire.JobError.model_validate(told)
    return {
        **vars(job),
        "seconds_elapsed": round(elapsed, 1),
        "seconds_left": left,
        "error": error,
    }
