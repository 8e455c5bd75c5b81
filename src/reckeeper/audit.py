"""The trail of what was changed, by whom and why, and the proof that it is whole.

Every entry carries a keyed hash (HMAC-SHA256) over itself and the hash of the
entry before: what was altered, removed, put elsewhere or inserted without the
key breaks the chain. That the last entries were cut off a chain does not show
in what is left of it. Therefore its head, the number and hash of its last
entry, also goes to the model folder and to the log.
"""

import contextlib
import fcntl
import functools
import hmac
import json
import os
import re
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

from reckeeper import clock, durable, storage
from reckeeper.config import Settings
from reckeeper.errors import ConfigError, StorageError
from reckeeper.telemetry import get_logger

HEAD_NAME = "audit-head.json"
"""Name in the model folder of the file that tells the last entry."""

KEY_NAME = "audit.key"
"""Name in the data folder of the chain's key, where the settings have none."""

_LOCK_NAME = ".audit-head.lock"
_LOCK_SECONDS = 2.0
_BEGIN = ""
"""What the first entry has for the hash of the entry before."""

_OUTSIDE = ("entry_id", "at", "actor", "action", "subject", "previous_hash")

_log = get_logger(__name__)


class Actor(str):
    """Who acts, and beside it what the caller says of itself, which proves nothing.

    Parameters
    ----------
    name : str
    said : str, optional
        An entry of the trail has it among its details, where `name` isn't made of it.
    """

    said: str | None

    def __new__(cls, name: str, *, said: str | None = None) -> Self:
        """Make a text that knows more."""
        actor = super().__new__(cls, name)
        actor.said = said
        return actor


@dataclass(frozen=True)
class Head:
    """The last entry of a trail, as the model folder and the log tell it.

    Attributes
    ----------
    entry_id : int
    hash : str
        Hexadecimal.
    at : str
        Its time, RFC 3339.
    """

    entry_id: int
    hash: str
    at: str


@dataclass(frozen=True)
class Entry:
    """An entry as it can be looked at, one that somebody altered too.

    Attributes
    ----------
    entry_id : int
    at : str
        RFC 3339.
    actor, action, subject : str
        Who did what, and to what.
    details : dict
        JSON values.
    hash : str
        Hexadecimal.
    """

    entry_id: int
    at: str
    actor: str
    action: str
    subject: str
    details: dict[str, object]
    hash: str


@dataclass(frozen=True)
class Verification:
    """What `verify` found.

    Attributes
    ----------
    ok : bool
        Whether all entries are there as they were written.
    n_entries : int
        Entries that are, up to the first that is not.
    problem : str or None
        What is wrong, and what to do.
    entry_id : int or None
        The first entry that it concerns, where that can be told.
    """

    ok: bool
    n_entries: int
    problem: str | None
    entry_id: int | None


def record(
    connection: storage.Connection, *, actor: str, action: str, subject: str, **details: Any
) -> None:
    """Add an entry, in the transaction of the change that it records.

    After the commit the head is written and logged; where it cannot be
    written, that is logged, and the change stands. Costs a few milliseconds,
    for the syncing of that file.

    Parameters
    ----------
    connection : sqlalchemy.Connection
        From `Database.write`.
    actor : str
        Who: ``key:NAME``, ``api``, ``worker``, ``cli``, ``schedule``, …; an `Actor` may say more.
    action : str
        What was done: ``retrain``, ``activate``, ``import``, …
    subject : str
        To what, such as ``model 3``.
    **details
        JSON values, finite: before, after, reason.

    Raises
    ------
    ConfigError
        The chain's key cannot be read or made.
    """
    said = actor.said if isinstance(actor, Actor) else None
    if said is not None:
        details["said"] = said
    _record(connection, actor, action, subject, details)


def accept(database: storage.Database, *, actor: str, reason: str) -> int:
    """Have the trail go on from here, where its written head is missing or differs.

    An entry says so, with the reason and what was found; the head that was there is kept beside
    the one that is written. What is wrong in the entries themselves is found all the same.

    Parameters
    ----------
    database : storage.Database
    actor : str
    reason : str
        Why that is in order, such as a model folder that was lost.

    Returns
    -------
    int
        The number of the entry.
    """
    with database.write() as connection:
        settings = storage.settings_of(connection)
        path = settings.model_dir / HEAD_NAME
        details: dict[str, object] = {"reason": reason, "head_before": None}
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            details["head_before"] = path.read_text("ascii", errors="replace")[:1000]
            path.replace(path.with_name(f"audit-head-before-{clock.now()}.json"))
        return _record(connection, actor, "accept", "audit trail", details, is_begin=True)


def _record(
    connection: storage.Connection,
    actor: str,
    action: str,
    subject: str,
    details: Mapping[str, object],
    *,
    is_begin: bool = False,
) -> int:
    """Add an entry and return its number; `is_begin`: a missing head is written again."""
    settings = storage.settings_of(connection)
    key = _key_of(settings) or _make_key(settings)
    last = storage.audit_log.last(connection)
    if last is not None and not _is_sealed(key, last):
        _log.error("audit_key_differs", entry_id=last.entry_id, advice=_VERIFY)
    entry = storage.AuditEntry(
        entry_id=1 if last is None else last.entry_id + 1,
        at=clock.now(),
        actor=str(actor),
        action=action,
        subject=subject,
        # The bytes that are stored, and sealed: what they hold reads back as itself.
        details=json.dumps(json.loads(json.dumps(details, allow_nan=False))),
        previous_hash=_BEGIN if last is None else last.hash,
        hash="",
    )
    seal = _seal(key, entry, entry.details)
    assert seal is not None
    entry = replace(entry, hash=seal)
    storage.audit_log.insert(connection, entry)
    head = Head(entry.entry_id, entry.hash, clock.rfc3339(entry.at))
    stands = _head_stands(connection, settings.model_dir, last)
    # A folder that is a cache of another's begins with no head.
    is_begin = is_begin or last is None or settings.model_source_url is not None
    earlier = storage.planned(connection, "audit_head")
    if isinstance(earlier, functools.partial):  # of this transaction's entries the first may begin
        is_begin = is_begin or earlier.keywords["may_begin"]
    folder = settings.model_dir if stands else None
    publish = functools.partial(_publish, head, folder, may_begin=is_begin)
    storage.after_commit(connection, "audit_head", publish)
    return entry.entry_id


def entries(database: storage.Database, *, limit: int, before: int | None = None) -> list[Entry]:
    """Return up to `limit` entries with numbers below `before`, the latest first."""
    with database.read() as connection:
        found = storage.audit_log.latest(connection, limit=limit, before=before)
    return [_shown(entry) for entry in found]


def pseudonym(connection: storage.Connection, external_id: str, *, n_digits: int = 16) -> str:
    """Return what stands for a person's id in the trail, from which nothing is ever erased.

    The same for the same text under the same key; without the key it tells nobody the id, and
    nobody makes it: with 64 digits it is a seal.
    """
    settings = storage.settings_of(connection)
    key = _key_of(settings) or _make_key(settings)
    return hmac.new(key, b"person:" + external_id.encode(), "sha256").hexdigest()[:n_digits]


def head(connection: storage.Connection) -> Head | None:
    """Return the last entry as the database has it, None before there is one."""
    last = storage.audit_log.last(connection)
    return None if last is None else Head(last.entry_id, last.hash, clock.rfc3339(last.at))


def head_text(head: Head) -> str:
    """Return what the file in the model folder says of a head."""
    return json.dumps(asdict(head))


def key_text(settings: Settings) -> str | None:
    """Return what the key's file holds; None where a setting has the key, or there is none yet."""
    if settings.audit_key is not None or _key_of(settings) is None:
        return None
    return (settings.data_dir / KEY_NAME).read_text(encoding="ascii")


def key_mark(settings: Settings, installation_id: str) -> str | None:
    """Return what is the same for the same key alone, and does not tell it; None without a key."""
    key = _key_of(settings)
    if key is None:
        return None
    return hmac.new(key, b"mark:" + installation_id.encode(), "sha256").hexdigest()


def _shown(entry: storage.AuditEntry) -> Entry:
    """Describe an entry; one that somebody altered can hold anything, and is shown too."""
    try:
        at = clock.rfc3339(entry.at)
    except (TypeError, ValueError, OverflowError):
        at = _text(entry.at)
    try:
        # NaN is no JSON, and becomes a text too.
        details = json.loads(entry.details, parse_constant=str)
    except (TypeError, ValueError, RecursionError):
        details = entry.details
    if not isinstance(details, dict):
        details = {"altered": details}
    return Entry(
        entry_id=entry.entry_id,
        at=at,
        actor=_text(entry.actor),
        action=_text(entry.action),
        subject=_text(entry.subject),
        details=details,
        hash=_text(entry.hash),
    )


def _text(value: object) -> str:
    return value if isinstance(value, str) else repr(value)


def verify(database: storage.Database, settings: Settings) -> Verification:
    """Prove that every entry is there as it was written.

    Finds an entry that was altered, removed, put elsewhere, inserted or cut
    off the end. Reads all entries, in bounded memory; others may write
    meanwhile. Whoever has the key, or may write to both the database and the
    model folder, can hide what they did: against them keep the log's
    ``audit_head`` lines on another machine.

    Raises
    ------
    ConfigError
        The chain's key is there and cannot be read.
    """
    # The head comes first: what it names is among the entries by then. The key comes last: it
    # is made before the first entry that it seals is there to be seen.
    try:
        head, head_problem = _read_head(settings.model_dir), None
    except StorageError as exc:
        head, head_problem = None, exc.message
    with database.read() as connection:
        storage.audit_log.hash_of(connection, 0)  # from here on all reads see one moment
        walk = _Walk(_key_of(settings), head)
        rows = storage.audit_log.in_order(connection)
        try:
            with contextlib.closing(rows):  # while the connection is still this reader's
                problem = next(filter(None, (walk.step(row, rows) for row in rows)), None)
        except StorageError as exc:
            problem = f"The entry after {walk.last_id} cannot be read. {exc.message}", None
    if problem is None:
        problem = (head_problem, None) if head_problem else walk.problem_at_end(settings.model_dir)
    text, entry_id = problem or (None, None)
    return Verification(problem is None, walk.n_entries, text, entry_id)


_VERIFY = "Verify the audit trail: that says what is wrong, and what to do."
_COMPARE = "Compare with a backup of the database, and find out who could write to it."
_RESTORED = (
    "If the database was restored from a backup or started again, accept the trail as it is, with "
    "that reason: {head} is kept under another name, as a record of what is missing."
)

_Problem = tuple[str, int | None]


class _Walk:
    """The way along the entries: what the next one must be like."""

    def __init__(self, key: bytes | None, head: Head | None) -> None:
        self._key = key or b""
        self._has_key = key is not None
        self._head = head
        self._last_hash = _BEGIN
        self.last_id = 0
        self.n_entries = 0

    def step(self, row: storage.AuditEntry, rest: Iterable[storage.AuditEntry]) -> _Problem | None:
        """Go past the next entry, or tell what is wrong with it; `rest` are those after it."""
        problem = self._problem_of(row, rest)
        if problem is None:
            self._last_hash = row.hash
            self.last_id = row.entry_id
            self.n_entries += 1
        return problem

    def _problem_of(
        self, row: storage.AuditEntry, rest: Iterable[storage.AuditEntry]
    ) -> _Problem | None:
        entry_id = row.entry_id
        if not self._has_key:
            return (
                f"The key of the trail is missing: there is no {KEY_NAME} in the data folder "
                "(RECKEEPER_DATA_DIR). Restore it from a backup, or set RECKEEPER_AUDIT_KEY as "
                "the processes that wrote the entries had it.",
                None,
            )
        if not _is_sealed(self._key, row):
            if not self.n_entries and not any(_is_sealed(self._key, other) for other in rest):
                return (
                    f"No entry from {entry_id} on was sealed with the key in use: it is another "
                    "one, or somebody altered them all. Check that RECKEEPER_AUDIT_KEY, or "
                    f"{KEY_NAME} in the data folder, is the one of the processes that wrote "
                    "them, and verify again.",
                    entry_id,
                )
            return (
                f"Entry {entry_id} is not as it was written: it was altered, inserted by hand, "
                f"or written by a process with another key. {_COMPARE}",
                entry_id,
            )
        if row.previous_hash == self._last_hash:
            return self._problem_with_head(row)
        missing = self.last_id + 1
        if entry_id > missing:
            which = f"Entry {missing} is" if entry_id == missing + 1 else (
                f"Entries {missing} to {entry_id - 1} are"
            )  # fmt: skip
            return f"{which} missing: removed, or given other numbers. {_COMPARE}", missing
        return (
            f"Entry {entry_id} does not follow entry {self.last_id}: one of them was put there "
            f"from another copy of the trail. {_COMPARE}",
            entry_id,
        )

    def problem_at_end(self, folder: Path) -> _Problem | None:
        """Tell whether entries are missing after the last."""
        path = folder / HEAD_NAME
        if self._head is None:
            # For a trail that has just begun, the first head may have come meanwhile.
            if not self.n_entries or path.exists():
                return None
            return (
                f"There is no {path}, so nobody can tell whether the last entries were cut off. "
                f"Compare the last line `audit_head` of the processes' logs with entry "
                f"{self.last_id} (hash {self._last_hash}). No later entry writes the file again: "
                "if you know why it is gone, accept the trail as it is, with that reason.",
                None,
            )
        if self._head.entry_id <= self.last_id:
            return None
        missing = self.last_id + 1
        which = f"Entry {missing} is" if self._head.entry_id == missing else (
            f"Entries {missing} to {self._head.entry_id} are"
        )  # fmt: skip
        return (
            f"{which} missing, cut off the end of the trail: {path} names entry "
            f"{self._head.entry_id} of {self._head.at}. {_COMPARE} {_RESTORED.format(head=path)}",
            missing,
        )

    def _problem_with_head(self, row: storage.AuditEntry) -> _Problem | None:
        head = self._head
        if head is None or head.entry_id != row.entry_id or head.hash == row.hash:
            return None
        return (
            f"Entry {head.entry_id} is another one than {HEAD_NAME} in the model folder names "
            f"(of {head.at}): the trail was cut there or before, and went on with other entries. "
            "Compare with a backup of the database and with the lines `audit_head` of the logs. "
            f"{_RESTORED.format(head=HEAD_NAME)}",
            head.entry_id,
        )


def _is_sealed(key: bytes, entry: storage.AuditEntry) -> bool:
    """Return whether an entry is as it was written.

    Release 0.1.0 sealed what the details mean; it stored them as they are still written, so other
    bytes of the same meaning (a key that comes twice) are none of its.
    """
    if not isinstance(entry.hash, str):  # nor is what no seal can be made of sealed by having none
        return False
    if _seal(key, entry, entry.details) == entry.hash:
        return True
    try:
        details = json.loads(entry.details)
        return json.dumps(details) == entry.details and _seal(key, entry, details) == entry.hash
    except (TypeError, ValueError, RecursionError):
        return False


def _seal(key: bytes, entry: storage.AuditEntry, details: object) -> str | None:
    """Return the hash that an entry should have; None for what cannot have been written."""
    try:
        sealed = {name: getattr(entry, name) for name in _OUTSIDE} | {"details": details}
        text = json.dumps(sealed, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return None
    return hmac.new(key, text.encode(), "sha256").hexdigest()


def _key_of(settings: Settings) -> bytes | None:
    """Return the chain's key, or None if there is none yet."""
    if settings.audit_key is not None:
        return settings.audit_key.encode()
    path = settings.data_dir / KEY_NAME
    try:
        text = path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(
            f"The key of the audit trail, {path}, cannot be read: {exc}. Let this user read it, "
            "or set RECKEEPER_AUDIT_KEY, the same in all processes."
        ) from exc
    if not re.fullmatch("[0-9a-f]{64}", text):
        raise ConfigError(
            f"The key of the audit trail, {path}, is not the 64 hexadecimal digits that it was "
            "made with: restore it from a backup."
        )
    return bytes.fromhex(text)


def _make_key(settings: Settings) -> bytes:
    """Make the key, unless another process is quicker, and return the one that is there then."""
    path = settings.data_dir / KEY_NAME
    try:
        durable.make_folder(settings.data_dir)
        with (
            contextlib.suppress(FileExistsError),
            durable.new_file(path, mode=0o600) as temporary,
        ):
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with open(descriptor, "w", encoding="ascii") as stream:
                stream.write(secrets.token_hex(32) + "\n")
    except OSError as exc:
        raise ConfigError(
            f"The key of the audit trail, {path}, cannot be made: {exc.strerror}. Let this user "
            "write to the folder (RECKEEPER_DATA_DIR), or set RECKEEPER_AUDIT_KEY, the same in "
            "all processes."
        ) from exc
    key = _key_of(settings)
    assert key is not None
    return key


def _head_stands(
    connection: storage.Connection, folder: Path, last: storage.AuditEntry | None
) -> bool:
    """Return whether the written head is an entry of the trail, before the next one.

    A head that is not is the sign of a cut, and is not written over: the trail would
    look whole as soon as it has grown as long again.
    """
    try:
        head = _read_head(folder)
        if head is None:
            return True
        # Others write their heads after their commits: this transaction sees those entries.
        if last is not None and head.entry_id == last.entry_id:
            stands = head.hash == last.hash
        else:
            stands = head.hash == storage.audit_log.hash_of(connection, head.entry_id)
    except StorageError:
        stands = False
    if not stands:
        _log.error("audit_head_differs", path=str(folder / HEAD_NAME), advice=_VERIFY)
    return stands


def _read_head(folder: Path) -> Head | None:
    path = folder / HEAD_NAME
    try:
        fields = json.loads(path.read_bytes())
        head = Head(**fields)
        if [type(value) for value in fields.values()] != [int, str, str]:
            raise ValueError("its values are not a number and two texts")
        if not 0 < head.entry_id < 2**63:
            raise ValueError(f"{head.entry_id} is not the number of an entry")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, TypeError, ValueError, RecursionError) as exc:
        raise StorageError(
            f"{path}, which names the last entry of the audit trail, cannot be used: {exc}. "
            "Restore it from a backup; without one, compare the lines `audit_head` of the logs "
            "with the trail, and accept the trail as it is."
        ) from exc
    return head


def _publish(head: Head, folder: Path | None, *, may_begin: bool) -> None:
    """Log the head, and write it to a folder unless a later one stands there.

    Where there should be one and is none, none is written: the trail would look whole.
    """
    _log.info("audit_head", **asdict(head))
    if folder is None:
        return
    try:
        durable.make_folder(folder)
        with _locked(folder / _LOCK_NAME):
            written = _read_head(folder)
            if written is None and not may_begin:
                _log.error("audit_head_missing", path=str(folder / HEAD_NAME), advice=_VERIFY)
            elif written is None or written.entry_id < head.entry_id:
                with durable.replaced_file(folder / HEAD_NAME, is_alone=True) as temporary:
                    temporary.write_text(head_text(head), encoding="ascii")
    except (OSError, StorageError) as exc:
        # The trail may be longer than its head says: the next entry catches up.
        _log.error("audit_head_not_written", entry_id=head.entry_id, error=str(exc))


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("a") as stream:
        deadline = time.monotonic() + _LOCK_SECONDS
        while True:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                # A process that was stopped while it had the lock must not stop all others.
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.005)
        yield
