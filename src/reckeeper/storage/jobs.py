"""`training_jobs`: one row a job; at most one of them is running.

A job of the kind ``retrain`` makes a version; one of the kind ``evaluate``
measures which recipe suits the data, and makes none.
"""

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from reckeeper.errors import JobRunningError
from reckeeper.storage.engine import now
from reckeeper.storage.tables import training_jobs

RUNNING, SUCCEEDED, FAILED, INTERRUPTED = "running", "succeeded", "failed", "interrupted"
RETRAIN, EVALUATE = "retrain", "evaluate"


def insert(
    connection: sa.Connection,
    *,
    trigger: str,
    kind: str = RETRAIN,
    request: Mapping[str, Any] | None = None,
) -> int:
    """Add a running job and return its number.

    Parameters
    ----------
    connection : sqlalchemy.Connection
        Of `Database.write`.
    trigger : str
        What started it: ``manual``, ``schedule``, …
    kind : str
        `RETRAIN` or `EVALUATE`.
    request : mapping, optional
        What was asked for, in JSON values; it must be valid.

    Raises
    ------
    JobRunningError
        A job runs already, of whatever kind.
    """
    other = running(connection)
    if other is not None:
        what = "runs already" if other["kind"] == RETRAIN else "runs, and compares the recipes"
        raise JobRunningError(
            f"Training job {other['job_id']} {what}: wait for it (GET /jobs/{other['job_id']} "
            "shows how far it is), then ask again if you still need to.",
            details={"job_id": other["job_id"], "kind": other["kind"]},
        )
    started_at = now()
    job_id = connection.execute(
        sa.insert(training_jobs)
        .values(
            status=RUNNING,
            trigger=trigger,
            kind=kind,
            request=dict(request or {}),
            stage="starting",
            fraction=0.0,
            started_at=started_at,
            heartbeat_at=started_at,
        )
        .returning(training_jobs.c.job_id)
    )
    return int(job_id.scalar_one())


def get(connection: sa.Connection, job_id: int) -> dict[str, Any] | None:
    """Return the row of a job, or None."""
    rows = connection.execute(sa.select(training_jobs).where(training_jobs.c.job_id == job_id))
    row = rows.mappings().first()
    return None if row is None else dict(row)


def page(connection: sa.Connection, *, limit: int, before: int | None) -> list[dict[str, Any]]:
    """Return up to `limit` jobs, the latest first, with numbers below `before`.

    Their rows lack ``result``, which may be large.
    """
    columns = [column for column in training_jobs.c if column.name != "result"]
    query = sa.select(*columns).order_by(training_jobs.c.job_id.desc()).limit(limit)
    if before is not None:
        query = query.where(training_jobs.c.job_id < before)
    return [dict(row) for row in connection.execute(query).mappings()]


def running(connection: sa.Connection) -> dict[str, Any] | None:
    """Return the row of the running job, or None."""
    rows = connection.execute(sa.select(training_jobs).where(training_jobs.c.status == RUNNING))
    row = rows.mappings().first()
    return None if row is None else dict(row)


def update(connection: sa.Connection, job_id: int, **values: Any) -> bool:
    """Set columns of a running job; return False if it does not run any more."""
    result = connection.execute(
        sa.update(training_jobs)
        .where(training_jobs.c.job_id == job_id, training_jobs.c.status == RUNNING)
        .values(values)
    )
    return result.rowcount == 1


def interrupt_silent(connection: sa.Connection, *, silent_since: int) -> list[int]:
    """Mark running jobs without a heartbeat since then as interrupted; return their numbers."""
    columns = training_jobs.c
    found = connection.execute(
        sa.update(training_jobs)
        .where(columns.status == RUNNING, columns.heartbeat_at < silent_since)
        .values(
            status=INTERRUPTED,
            finished_at=now(),
            error_code="interrupted",
            error_message="The worker ended while this job ran. Start another one.",
        )
        .returning(columns.job_id)
    )
    return [int(job_id) for job_id in found.scalars()]
