"""`training_jobs`: one row a job; at most one of them is running.

A job of the kind ``retrain`` makes a version; one of the kind ``evaluate``
measures which recipe suits the data, and makes none. A running job holds the
lease `leases.TRAINING`, and every write of it checks that it still does: of
two that believe they hold it, the older one's writes are refused.
"""

import dataclasses
from collections.abc import Mapping
from typing import TypedDict, Unpack

import sqlalchemy as sa

from reckeeper.clock import now
from reckeeper.errors import Action, JobRunningError
from reckeeper.storage import interactions
from reckeeper.storage import leases as lease_rows
from reckeeper.storage.records import Job, JobSummary, Lease, every, one
from reckeeper.storage.tables import leases, training_jobs

RUNNING, SUCCEEDED, FAILED = "running", "succeeded", "failed"
CANCELLED, INTERRUPTED = "cancelled", "interrupted"
RETRAIN, EVALUATE = "retrain", "evaluate"

LEASE_SECONDS = 10.0
"""A running job whose lease was not renewed for so long has lost its worker."""


_SUMMARY = sa.select(*(training_jobs.c[field.name] for field in dataclasses.fields(JobSummary)))


class Changes(TypedDict, total=False):
    """What changes of a job while it runs, and at its end; see `Job`."""

    heartbeat_at: int
    stage: str
    fraction: float
    progress: Mapping[str, object] | None
    result: Mapping[str, object] | None
    cancel_requested: bool
    finish_requested: bool
    memory_bytes: int | None
    estimated_memory_bytes: int
    peak_memory_bytes: int | None
    version: int
    promoted: bool | None
    verdict: Mapping[str, object] | None
    error_code: str
    error_message: str
    error_action: Mapping[str, object] | None
    traceback: str | None


CLOCK_MICROSECONDS = 300_000_000
"""How far the clocks of workers may lie apart, at most."""


def insert(
    connection: sa.Connection,
    *,
    trigger: str,
    actor: str | None = None,
    kind: str = RETRAIN,
    request: Mapping[str, object] | None = None,
    cause: Mapping[str, object] | None = None,
    holder: str = "",
) -> int:
    """Add a running job that holds the lease, and return its number.

    Parameters
    ----------
    connection : sqlalchemy.Connection
        From `Database.write`.
    trigger : str
        What started it: ``manual``, ``schedule``, …
    actor : str, optional
        Who.
    kind : str
        `RETRAIN` or `EVALUATE`.
    request : mapping, optional
        What was asked for, in JSON values; it must be valid.
    cause : mapping, optional
        Which rule fired, and its numbers, in JSON values.
    holder : str
        Which process runs it, for people.

    Raises
    ------
    JobRunningError
        A job runs already, of whatever kind.
    """
    interrupt_lapsed(connection)
    fence = lease_rows.take(connection, lease_rows.TRAINING, holder=holder, seconds=LEASE_SECONDS)
    other = running(connection)
    if fence is None or other is not None:
        raise _running_error(other)
    started_at = now()
    job_id = connection.execute(
        sa.insert(training_jobs)
        .values(
            status=RUNNING,
            trigger=trigger,
            actor=actor,
            kind=kind,
            request=dict(request or {}),
            cause=None if cause is None else dict(cause),
            finish_requested=False,
            cancel_requested=False,
            fence=fence,
            watermark=interactions.last_id(connection),
            stage="starting",
            fraction=0.0,
            started_at=started_at,
            heartbeat_at=started_at,
        )
        .returning(training_jobs.c.job_id)
    )
    return int(job_id.scalar_one())


def _running_error(other: JobSummary | None) -> JobRunningError:
    if other is None:
        return JobRunningError(
            "Another worker is just starting or ending a training job: ask again in a moment."
        )
    what = "runs already" if other.kind == RETRAIN else "runs, and compares the recipes"
    return JobRunningError(
        f"Training job {other.job_id} {what}: wait for it, then ask again if you still need to.",
        details={"job_id": other.job_id, "kind": other.kind},
        action=Action("see_job", {"job_id": other.job_id}),
    )


def get(connection: sa.Connection, job_id: int) -> Job | None:
    """Return a job, or None."""
    query = sa.select(training_jobs).where(training_jobs.c.job_id == job_id)
    return one(Job, connection.execute(query))


def page(connection: sa.Connection, *, limit: int, before: int | None) -> list[JobSummary]:
    """Return up to `limit` jobs, the latest first, with numbers below `before`."""
    query = _SUMMARY.order_by(training_jobs.c.job_id.desc()).limit(limit)
    if before is not None:
        query = query.where(training_jobs.c.job_id < before)
    return every(JobSummary, connection.execute(query))


def running(connection: sa.Connection) -> JobSummary | None:
    """Return the running job, or None."""
    return one(JobSummary, connection.execute(_SUMMARY.where(training_jobs.c.status == RUNNING)))


def last_retrain(connection: sa.Connection) -> JobSummary | None:
    """Return the latest retrain, whatever became of it, or None."""
    query = _SUMMARY.where(training_jobs.c.kind == RETRAIN)
    return one(
        JobSummary, connection.execute(query.order_by(training_jobs.c.job_id.desc()).limit(1))
    )


def is_of_the_future(at: int, now: int) -> bool:
    """Return whether a time was told by a clock that ran ahead, and was set right since."""
    return at > now + CLOCK_MICROSECONDS


def has_started(connection: sa.Connection, *, trigger: str, since: int) -> bool:
    """Return whether a job of this trigger has started at `since` or later, and not in future."""
    columns = training_jobs.c
    found = connection.execute(
        sa.select(columns.job_id)
        .where(
            columns.trigger == trigger,
            columns.started_at >= since,
            columns.started_at <= now() + CLOCK_MICROSECONDS,
        )
        .limit(1)
    )
    return found.first() is not None


def update(connection: sa.Connection, job_id: int, **changes: Unpack[Changes]) -> bool:
    """Change a running job; return False if it does not run, or lost its lease."""
    return _update(connection, job_id, changes)


def _update(connection: sa.Connection, job_id: int, values: Mapping[str, object]) -> bool:
    result = connection.execute(
        sa.update(training_jobs).where(*_is_held(), training_jobs.c.job_id == job_id).values(values)
    )
    return result.rowcount == 1


def is_held(connection: sa.Connection, job_id: int) -> bool:
    """Return whether a job runs and holds the lease; within a write nobody can take it."""
    found = connection.execute(
        sa.select(training_jobs.c.job_id).where(*_is_held(), training_jobs.c.job_id == job_id)
    )
    return found.first() is not None


def _is_held() -> tuple[sa.ColumnElement[bool], ...]:
    fence = sa.select(leases.c.fence).where(leases.c.name == lease_rows.TRAINING).scalar_subquery()
    return training_jobs.c.status == RUNNING, training_jobs.c.fence == fence


def beat(connection: sa.Connection, job_id: int) -> Job | None:
    """Renew a job's lease and return it, or None if it is not its holder any more."""
    if not update(connection, job_id, heartbeat_at=now()):
        return None
    job = get(connection, job_id)
    assert job is not None
    lease_rows.renew(connection, lease_rows.TRAINING, fence=job.fence, seconds=LEASE_SECONDS)
    return job


def end(connection: sa.Connection, job_id: int, *, status: str, **changes: Unpack[Changes]) -> bool:
    """End a running job and give its lease back; return False if it is not its holder."""
    job = get(connection, job_id)
    ended = _update(connection, job_id, {"status": status, "finished_at": now(), **changes})
    if ended and job is not None:
        lease_rows.release(connection, lease_rows.TRAINING, fence=job.fence)
    return ended


def interrupt_lapsed(connection: sa.Connection) -> list[int]:
    """Mark running jobs whose lease has lapsed as interrupted; return their numbers."""
    columns = training_jobs.c
    is_live = (
        sa.select(leases.c.fence)
        .where(
            leases.c.name == lease_rows.TRAINING,
            leases.c.fence == columns.fence,
            lease_rows.live(),
        )
        .exists()
    )
    found = connection.execute(
        sa.update(training_jobs)
        .where(columns.status == RUNNING, ~is_live)
        .values(
            status=INTERRUPTED,
            finished_at=now(),
            error_code="interrupted",
            error_message="The worker ended while this job ran. Start another one.",
        )
        .returning(columns.job_id)
    )
    return [int(job_id) for job_id in found.scalars()]


def has_lapsed(connection: sa.Connection) -> bool:
    """Return whether a job is marked as running whose lease has lapsed; a look costs no write."""
    job = running(connection)
    if job is None:
        return False
    held = one(
        Lease,
        connection.execute(
            sa.select(leases).where(
                leases.c.name == lease_rows.TRAINING, leases.c.fence == job.fence
            )
        ),
    )
    return held is None or not lease_rows.is_live(held.expires_at)
