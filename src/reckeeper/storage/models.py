"""`models`: the versions, active or not, and the numbers that were taken for them."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from reckeeper.clock import now
from reckeeper.storage.records import (
    ListedVersion,
    Version,
    VersionSummary,
    every,
    made,
    one,
    readable,
)
from reckeeper.storage.tables import models, timeline, training_jobs, version_numbers

_VERDICT = ("decision", "sentence", "standing", "disposition", "outcome")
_OF_VERDICT = ("active_version", "headline")
_SERVED = sa.select(timeline.c.version).where(timeline.c.version.is_not(None))
_LISTED = (
    sa.select(
        *(models.c[field.name] for field in dataclasses.fields(VersionSummary)),
        models.c.version.in_(_SERVED).label("served"),
        *(models.c.verdict[name].as_string().label(name) for name in _VERDICT),
        # As JSON, since a verdict from elsewhere may have anything there.
        *(models.c.verdict[name].as_json().label(name) for name in _OF_VERDICT),
    )
    .where(models.c.deleted_at.is_(None))
    .order_by(models.c.version.desc())
)


def insert(connection: sa.Connection, version: Version) -> None:
    """Add a version."""
    connection.execute(sa.insert(models).values(vars(version)))


def all_versions(connection: sa.Connection) -> list[Version]:
    """Return all versions that are not deleted, the newest first."""
    query = sa.select(models).where(models.c.deleted_at.is_(None))
    return every(Version, connection.execute(query.order_by(models.c.version.desc())))


def listed(connection: sa.Connection) -> list[ListedVersion]:
    """Return what a list shows of all versions that are not deleted, the newest first.

    Raises
    ------
    StorageError
        One of them cannot be read.
    """
    with readable(ListedVersion):
        found = connection.execute(_LISTED)
        rows = found.all()
    n_own = len(found.keys()) - len(_VERDICT) - len(_OF_VERDICT)
    names = (*tuple(found.keys())[:n_own], "verdict")
    return [
        made(ListedVersion, zip(names, (*row[:n_own], _in_short(*row[n_own:])), strict=True))
        for row in rows
    ]


def _in_short(decision: str | None, sentence: str | None, *others: object) -> dict[str, Any] | None:
    """Return what a list shows of a verdict, in the order of the query."""
    if not decision:
        return None
    told: dict[str, Any] = {"decision": decision, "sentence": sentence}
    rest = zip((*_VERDICT[2:], *_OF_VERDICT), others, strict=True)
    return told | {name: value for name, value in rest if value is not None}


def get(connection: sa.Connection, version: int) -> Version | None:
    """Return a version that is not deleted, or None."""
    query = sa.select(models).where(models.c.version == version, models.c.deleted_at.is_(None))
    return one(Version, connection.execute(query))


def active(connection: sa.Connection) -> Version | None:
    """Return the active version, or None."""
    return one(Version, connection.execute(sa.select(models).where(models.c.is_active)))


def last_trained(connection: sa.Connection, *, served: bool = False) -> Version | None:
    """Return the version that was trained here last, a deleted one too, or None.

    With `served`, the last of those that were ever active.
    """
    query = sa.select(models).where(models.c.job_id.is_not(None))
    if served:
        query = query.where(models.c.version.in_(_SERVED))
    return one(Version, connection.execute(query.order_by(models.c.version.desc()).limit(1)))


def active_version(connection: sa.Connection) -> int | None:
    """Return the number of the active version, or None."""
    version = connection.execute(sa.select(models.c.version).where(models.c.is_active)).scalar()
    return None if version is None else int(version)


def last_version(connection: sa.Connection) -> int:
    """Return the largest number ever given to a version, deleted ones too; 0 at first."""
    return int(connection.execute(sa.select(sa.func.max(models.c.version))).scalar() or 0)


def last_number(connection: sa.Connection) -> int:
    """Return the largest number ever taken, whether it became a version or not; 0 at first."""
    taken = connection.execute(sa.select(sa.func.max(version_numbers.c.version))).scalar()
    return max(int(taken or 0), last_version(connection))


def reserve(connection: sa.Connection, *, above: int, job_id: int | None) -> int:
    """Take a number that no version has or had, larger than `above`, and return it.

    Parameters
    ----------
    connection : sqlalchemy.Connection
        From `Database.write`.
    above : int
        A number below which it must not be.
    job_id : int or None
        The job that is to write its files; None for an import.
    """
    version = 1 + max(above, last_number(connection))
    connection.execute(
        sa.insert(version_numbers).values(version=version, job_id=job_id, reserved_at=now())
    )
    return version


def unfinished(connection: sa.Connection, *, reserved_before: int) -> list[int]:
    """Return the numbers that were taken, never became versions, and never will.

    Those of jobs that run, and those of imports taken at `reserved_before` or
    later, may still become some: see `in_progress`.
    """
    return _taken(connection, ~_may_become_one(reserved_before))


def in_progress(connection: sa.Connection, *, reserved_before: int) -> list[int]:
    """Return the numbers that were taken, and may still become versions."""
    return _taken(connection, _may_become_one(reserved_before))


def _may_become_one(reserved_before: int) -> sa.ColumnElement[bool]:
    columns = version_numbers.c
    runs = sa.exists().where(
        training_jobs.c.job_id == columns.job_id, training_jobs.c.status == "running"
    )
    is_recent = sa.and_(columns.job_id.is_(None), columns.reserved_at >= reserved_before)
    return sa.or_(runs, is_recent)


def _taken(connection: sa.Connection, which: sa.ColumnElement[bool]) -> list[int]:
    columns = version_numbers.c
    is_version = sa.exists().where(models.c.version == columns.version)
    found = connection.execute(sa.select(columns.version).where(~is_version, which))
    return [int(version) for version in found.scalars()]


def reserved_versions(connection: sa.Connection) -> set[int]:
    """Return all numbers that were taken."""
    return set(connection.execute(sa.select(version_numbers.c.version)).scalars())


def reserved_at(connection: sa.Connection) -> dict[int, int]:
    """Return when each of the numbers was taken, of those that were."""
    columns = version_numbers.c
    found = connection.execute(sa.select(columns.version, columns.reserved_at))
    return {int(row.version): int(row.reserved_at) for row in found}


def heard_at(connection: sa.Connection) -> dict[int, int]:
    """Return the last heartbeat of the job that took each number, of those that one took."""
    columns = version_numbers.c
    query = sa.select(columns.version, training_jobs.c.heartbeat_at).join_from(
        version_numbers, training_jobs, training_jobs.c.job_id == columns.job_id
    )
    return {int(row.version): int(row.heartbeat_at) for row in connection.execute(query)}


def set_note(connection: sa.Connection, version: int, note: str | None) -> None:
    """Write a note on a version, or take it away."""
    _update(connection, version, {"note": note})


def set_pin(
    connection: sa.Connection, version: int, *, pinned_at: int | None, pinned_until: int | None
) -> None:
    """Pin a version since and until two times, or unpin it: both None."""
    _update(connection, version, {"pinned_at": pinned_at, "pinned_until": pinned_until})


def set_pickle_erased(connection: sa.Connection, version: int) -> None:
    """Note that the pickle of a version is deleted, since it had a person who was erased."""
    gone = {"pickle_bytes": 0, "pickle_sha256": "", "pickle_erased_at": now()}
    _update(connection, version, gone)


def set_pickle(connection: sa.Connection, version: int, n_bytes: int, sha256: str) -> None:
    """Note the pickle of a version that was written anew."""
    _update(connection, version, {"pickle_bytes": n_bytes, "pickle_sha256": sha256})


def set_verdict(connection: sa.Connection, version: int, verdict: Mapping[str, object]) -> None:
    """Replace the verdict on a version; JSON values."""
    _update(connection, version, {"verdict": dict(verdict)})


def _update(connection: sa.Connection, version: int, values: Mapping[str, object]) -> None:
    connection.execute(sa.update(models).where(models.c.version == version).values(values))


def deleted_versions(connection: sa.Connection) -> set[int]:
    """Return the numbers of the deleted versions."""
    return set(
        connection.execute(
            sa.select(models.c.version).where(models.c.deleted_at.is_not(None))
        ).scalars()
    )


def set_active(connection: sa.Connection, version: int | None) -> None:
    """Make one version the active one, or none."""
    connection.execute(sa.update(models).where(models.c.is_active).values(is_active=False))
    connection.execute(sa.update(models).where(models.c.version == version).values(is_active=True))


def mark_deleted(connection: sa.Connection, version: int) -> None:
    """Mark a version deleted; its row stays, so that its number never comes again."""
    _update(connection, version, {"is_active": False, "deleted_at": now()})
