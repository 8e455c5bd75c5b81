"""The records that storage gives.

A record's annotations are its table's columns: type, length, and whether it may
be NULL. All times are microseconds since 1970-01-01 UTC; all JSON is plain
values.
"""

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Integer,
    Result,
    String,
    Text,
)
from sqlalchemy.types import TypeEngine

from reckeeper.errors import StorageError

# SQLite numbers only a column of type INTEGER by itself.
BIG_SERIAL = BigInteger().with_variant(Integer(), "sqlite")
# A request may ask for any number; SQLite's integers hold it.
VERSION = Integer().with_variant(BigInteger(), "postgresql")
# Compared byte by byte, as in SQLite: the order of no language, and faster.
ID = String(256).with_variant(String(256, collation="C"), "postgresql")

_KEY, _UNIQUE, _NOT_STORED = "key", "unique", "not stored"

_Serial = Annotated[int, BIG_SERIAL, _KEY]
_VersionKey = Annotated[int, VERSION, _KEY]
_VersionNumber = Annotated[int, VERSION]
_Word = Annotated[str, String(16)]
_Label = Annotated[str, String(64)]
_Hash = Annotated[str, String(64)]

_TYPES: dict[type, TypeEngine[Any]] = {
    bool: Boolean(),
    int: BigInteger(),
    float: Float(),
    str: Text(),
    dict: JSON(none_as_null=True),
    list: JSON(none_as_null=True),
}

R = TypeVar("R")


def columns_of(record: type) -> Iterator[Column[Any]]:
    """Make the columns of a record's table out of its annotations."""
    for name, hint in get_type_hints(record, include_extras=True).items():
        is_nullable = type(None) in get_args(hint)
        hint = get_args(hint)[0] if is_nullable else hint
        kind, *rest = get_args(hint) if get_origin(hint) is Annotated else (hint,)
        if _NOT_STORED in rest:
            continue
        types = [part for part in rest if isinstance(part, TypeEngine)]
        (column_type,) = types or [_TYPES[get_origin(kind) or kind]]
        yield Column(
            name,
            column_type,
            *(part for part in rest if isinstance(part, ForeignKey)),
            primary_key=_KEY in rest,
            unique=_UNIQUE in rest or None,
            nullable=is_nullable,
            autoincrement=False if column_type is VERSION else "auto",
        )


def one(record: type[R], found: Result[Any]) -> R | None:
    """Return the first row of what a query found as a record, or None.

    Raises
    ------
    StorageError
        The row cannot be read.
    """
    with readable(record):
        row = found.mappings().first()
    return None if row is None else record(**row)


def every(record: type[R], found: Result[Any]) -> list[R]:
    """Return all rows of what a query found as records.

    Raises
    ------
    StorageError
        One of them cannot be read.
    """
    with readable(record):
        rows = found.all()
    return [made(record, zip(found.keys(), row, strict=True)) for row in rows]


@contextlib.contextmanager
def readable(record: type) -> Iterator[None]:
    """Translate what reading rows of a record inside the ``with`` block raises."""
    try:
        yield
    except ValueError as exc:  # text that is no JSON
        raise StorageError(
            f"A {record.__name__} in the database cannot be read ({exc}): something else has "
            "changed it. Restore it from a backup."
        ) from exc


def made(record: type[R], values: Iterable[tuple[str, object]]) -> R:
    """Return a record out of all its values; ``__init__`` takes twice as long as the query."""
    new = object.__new__(record)
    vars(new).update(values)
    return new


@dataclass(frozen=True, kw_only=True)
class Import:
    """A file, or the demo data, that was taken in and can be taken out again.

    Attributes
    ----------
    import_id : int
    source : str
        Name of the file.
    fingerprint : str
        SHA-256 of its content and mapping.
    is_demo : bool
    status : str
        ``running``, ``complete``, ``failed``, ``undoing`` or ``undone``.
    accepted, duplicates, refused : int
        Rows so far.
    first_id, last_id : int or None
        Between which the numbers of its interactions lie.
    started_at, finished_at : int
    without_taste, items : int
        Rows of weight 0 so far, and catalogue items that are new or changed.
    bytes_done, bytes_total : int
        How far its file is read; 0 in all where nobody knows.
    updated_at : int
        When it last gave a sign of life.
    refusals : list of dict
        Why rows were refused, those of one reason together, as `events.RefusedGroup` has them.
    reason : str or None
        Why it failed.
    actor, holder : str or None
        Who began it, and the process that runs it.
    report : str or None
        The file that lists its refused rows.
    notes : list of str
    """

    import_id: _Serial
    source: str
    fingerprint: _Hash
    is_demo: bool
    status: _Word
    accepted: int
    duplicates: int
    refused: int
    first_id: int | None
    last_id: int | None
    started_at: int
    finished_at: int | None
    without_taste: int
    items: int
    bytes_done: int
    bytes_total: int
    updated_at: int
    refusals: list[dict[str, Any]]
    reason: str | None
    actor: str | None
    holder: str | None
    report: str | None
    notes: list[str]


@dataclass(frozen=True, kw_only=True)
class JobSummary:
    """What a list needs of a training job.

    Attributes
    ----------
    job_id : int
    kind : str
        ``retrain`` or ``evaluate``.
    status : str
        ``running``, ``succeeded``, ``failed``, ``cancelled`` or ``interrupted``.
    trigger : str
        What started it: ``manual``, ``schedule``, ``rule``, ``demo``.
    actor : str or None
        The person or program that started it.
    cause : dict or None
        The rule that asked for it, with its numbers.
    request : dict
        What was asked for.
    stage : str
    fraction : float
        Share that is done, in [0, 1].
    progress : dict or None
        What tuning has found so far.
    finish_requested, cancel_requested : bool
        Whether tuning is to end with the best that it has; the whole job.
    fence : int
        Number of the lease that it holds.
    watermark : int
        Number of the last interaction when it started.
    started_at, heartbeat_at, finished_at : int
    version : int or None
        What it made.
    promoted : bool or None
        Whether that version was activated.
    verdict : dict or None
        What the gate found.
    memory_bytes, estimated_memory_bytes, peak_memory_bytes : int or None
        Memory of its process: now, by the estimate, and at most.
    error_code, error_message, traceback : str or None
        Why it failed.
    error_action : dict or None
        What to do next; see `errors.Action`.
    """

    job_id: _Serial
    kind: _Word
    status: _Word
    trigger: _Label
    actor: str | None
    cause: dict[str, Any] | None
    request: dict[str, Any]
    stage: Annotated[str, String(32)]
    fraction: float
    progress: dict[str, Any] | None
    finish_requested: bool
    cancel_requested: bool
    fence: int
    watermark: int
    started_at: int
    heartbeat_at: int
    finished_at: int | None
    version: _VersionNumber | None
    promoted: bool | None
    verdict: dict[str, Any] | None
    memory_bytes: int | None
    estimated_memory_bytes: int | None
    peak_memory_bytes: int | None
    error_code: _Label | None
    error_message: str | None
    error_action: dict[str, Any] | None
    traceback: str | None


@dataclass(frozen=True, kw_only=True)
class Job(JobSummary):
    """All that is known of a training job.

    Attributes
    ----------
    result : dict or None
        What an evaluation has measured so far; it may be large.
    """

    result: dict[str, Any] | None


@dataclass(frozen=True, kw_only=True)
class Lease:
    """What only one process may do at a time.

    Attributes
    ----------
    name : str
    fence : int
        Grows with each holder.
    holder : str
        Which process, for people.
    expires_at : int
    """

    name: Annotated[str, String(32), _KEY]
    fence: int
    holder: str
    expires_at: int


@dataclass(frozen=True, kw_only=True)
class VersionSummary:
    """What a list needs of a version.

    Attributes
    ----------
    version : int
    is_active : bool
    recipe : str
    settings, decided : dict
        Those of the recipe as asked for, and what was found of those left to the data.
    n_users, n_items : int
    training_samples : int
        Interactions that went in.
    explained_variance : float
        In [0, 1].
    watermark : int
        Number of the last interaction that it has seen.
    trained_at : int
    seconds : float
        That its training took.
    trigger : str
    job_id : int or None
        The job that made it; None for one that was brought here.
    is_demo : bool
        Whether demo data went in.
    native_bytes, native_sha256, pickle_bytes, pickle_sha256 : int, str
        Sizes and hashes of its two files; 0 and empty where there is no pickle.
    deleted_at : int or None
    fingerprint : str
        Fingerprint of the interactions that went in.
    latest_at : int
        When the latest of them occurred; 0 where they have no times.
    actor : str
        The person or program that asked for it.
    metrics : dict or None
        How well it did on what was held out.
    peak_memory_bytes : int
        Most memory of its training; 0 where it is not known.
    note : str or None
        What people wrote on it.
    pinned_at, pinned_until : int or None
        Since when it is pinned, and until when: for ever where that is None.
    pickle_erased_at : int or None
        When its pickle was deleted with a person who was erased.
    """

    version: _VersionKey
    is_active: bool
    recipe: _Label
    settings: dict[str, Any]
    decided: dict[str, Any]
    n_users: int
    n_items: int
    training_samples: int
    explained_variance: float
    watermark: int
    trained_at: int
    seconds: float
    trigger: _Label
    job_id: Annotated[int, ForeignKey("training_jobs.job_id")] | None
    is_demo: bool
    native_bytes: int
    native_sha256: _Hash
    pickle_bytes: int
    pickle_sha256: _Hash
    deleted_at: int | None = None
    fingerprint: _Hash
    latest_at: int
    actor: str
    metrics: dict[str, Any] | None
    peak_memory_bytes: int
    note: str | None = None
    pinned_at: int | None = None
    pinned_until: int | None = None
    pickle_erased_at: int | None = None


@dataclass(frozen=True, kw_only=True)
class Version(VersionSummary):
    """All that is known of a version.

    Attributes
    ----------
    data : dict
        How the interactions were chosen and weighed.
    cause : dict or None
        The rule that asked for it, with its numbers.
    verdict : dict or None
        What the gate found.
    libraries : dict
        Names to versions.
    origin : dict or None
        For a version made elsewhere: its number there, and what it did there.
    """

    data: dict[str, Any]
    cause: dict[str, Any] | None
    verdict: dict[str, Any] | None
    libraries: dict[str, Any]
    origin: dict[str, Any] | None


@dataclass(frozen=True, kw_only=True)
class ListedVersion(VersionSummary):
    """A version in a list.

    Attributes
    ----------
    verdict : dict or None
        Its ``decision``, ``sentence`` and, where it has one, ``outcome``.
    served : bool
        Whether it was ever active.
    """

    verdict: dict[str, Any] | None
    served: bool


@dataclass(frozen=True, kw_only=True)
class TimelineEntry:
    """A switch: from when on which version was active.

    Attributes
    ----------
    entry_id : int
    at : int
    until : int or None
        When the next entry began; None for the last.
    version : int or None
        None: no version was active.
    action : str
        ``activate``, ``promote``, ``rollback``, ``rebuild`` or ``delete``.
    actor : str
    reason : str or None
    job_id : int or None
    back_to : int or None
        The entry that a roll back leads to from here.
    """

    entry_id: _Serial
    at: int
    until: Annotated[int, _NOT_STORED] | None
    version: _VersionNumber | None
    action: _Word
    actor: str
    reason: str | None
    job_id: int | None
    back_to: int | None


@dataclass(frozen=True, kw_only=True)
class PolicyRevision:
    """A policy that was stored; the last one is in force.

    Attributes
    ----------
    revision : int
    at : int
    actor : str
    reason : str or None
    policy : dict
        Its fields.
    """

    revision: _Serial
    at: int
    actor: str
    reason: str | None
    policy: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Notice:
    """What a webhook is told.

    Attributes
    ----------
    notice_id : int
    at : int
    event : str
    key : str or None
        Where several notices have one key, the first stands.
    payload : dict
    attempts : int
    next_attempt_at : int or None
        None: nothing is left to do, it was delivered or given up.
    delivered_at : int or None
    last_error : str or None
    """

    notice_id: _Serial
    at: int
    event: Annotated[str, String(32)]
    key: Annotated[str, String(128), _UNIQUE] | None
    payload: dict[str, Any]
    attempts: Annotated[int, Integer()]
    next_attempt_at: int | None
    delivered_at: int | None
    last_error: str | None


@dataclass(frozen=True, kw_only=True)
class ApiKey:
    """What is kept of an API key: never the key itself.

    Attributes
    ----------
    key_id : str
    name : str
        Of those that are not revoked, one has it.
    role : str
    hash : str
        SHA-256 of its secret, hexadecimal.
    rate_limit : int or None
        Requests a minute that are answered.
    created_at : int
    created_by : str
    expires_at, revoked_at, last_used_at : int or None
    revoked_by : str or None
    """

    key_id: Annotated[str, String(16), _KEY]
    name: _Label
    role: _Word
    hash: _Hash
    rate_limit: Annotated[int, Integer()] | None
    created_at: int
    created_by: str
    expires_at: int | None
    revoked_at: int | None
    revoked_by: str | None
    last_used_at: int | None


@dataclass(frozen=True, kw_only=True)
class AuditEntry:
    """An entry of the trail; one that somebody altered can hold anything.

    Attributes
    ----------
    entry_id : int
    at : int
    actor, action, subject : str
    details : str
        JSON, as it stands in the table.
    previous_hash, hash : str
        Hexadecimal.
    """

    entry_id: _Serial
    at: int
    actor: str
    action: _Label
    subject: str
    details: Annotated[str, JSON()]
    previous_hash: _Hash
    hash: _Hash


@dataclass(frozen=True, kw_only=True)
class Erasure:
    """What was removed of a person.

    Attributes
    ----------
    erasure_id : int
    subject : str
        The person's pseudonym in the trail.
    erased_at, until : int
        What occurred up to `until` is not taken again.
    actor, reason : str, str or None
    status : str
        ``erasing``, ``retraining`` (or something is left), ``complete``.
    interactions, removed : int, dict
        How many were removed, and how many rows or files of what.
    shaped_versions, pickles_deleted, pickles_rewritten, pickles_left : list of int
        Versions trained on them; whose pickle had them: gone, without users now, still there.
    is_wiped : bool
        Whether the log of the database's file was emptied since.
    remains : list of str
        What is left, in sentences.
    job_id, version : int or None
        The retrain that ended their influence, and what it made.
    completed_at, signature : int or None, str
        The latter hexadecimal, over all of this.
    user_ids : list of str or None
        Who is erased, until it is done: another process may have to go on with it.
    """

    erasure_id: _Serial
    subject: _Hash
    erased_at: int
    until: int
    actor: str
    reason: str | None
    status: _Word
    interactions: int
    removed: dict[str, int]
    shaped_versions: list[int]
    pickles_deleted: list[int]
    pickles_left: list[int]
    is_wiped: bool
    remains: list[str]
    job_id: int | None
    version: _VersionNumber | None
    completed_at: int | None
    signature: _Hash
    pickles_rewritten: list[int] = field(default_factory=list)
    user_ids: list[str] | None = field(default=None, repr=False)
