"""The file of an SQLite database, watched: what is stored goes to the file that stands at the path.

SQLite goes on with a file that was deleted or replaced, and what it commits there is lost with
the process. It also takes what a copy over the file has put between its own pages. Here such a
file is noticed before and after each transaction, and refused.
"""

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import sqlalchemy as sa

from reckeeper.errors import StorageError
from reckeeper.storage.tables import audit_log, installation
from reckeeper.telemetry import get_logger

LOOK_SECONDS = 0.5
"""How often the numbers in a database are compared with those that were seen."""

_PAGE_BYTES = 4096

# Of the WAL-index, as https://sqlite.org/walformat.html gives it: salts of the log, how many
# frames are copied into the file, and how many somebody set out to copy.
_INDEX_VERSION, _SALTS = slice(0, 4), slice(32, 40)
_COPIED, _BEGUN = slice(96, 100), slice(128, 132)
_INDEX_BYTES = 136
_KNOWN_VERSION = (3_007_000).to_bytes(4, "little"), (3_007_000).to_bytes(4, "big")

_RESTORE = (
    "Stop all processes of Reckeeper, put the file back or copy a backup to its place, without the "
    "-wal and -shm of another, and start them again."
)
_RESTART = (
    "Restart all processes of Reckeeper to go on with what stands there now, or put the file back "
    "first."
)

_log = get_logger(__name__)

_Identity = tuple[int, int]


class FileWatch:
    """Sees that the file of a database is the one that was opened, and nobody else writes to it.

    Parameters
    ----------
    path : Path
        Of the database; its log and the log's index stand beside it.
    is_sound : callable
        Asked where the file was written to by somebody else, as it seems: whether what is in it
        holds together.
    """

    def __init__(self, path: Path, *, is_sound: Callable[[], bool]) -> None:
        self._path = path.absolute()
        self._is_sound = is_sound
        self._watching = threading.RLock()
        self._identities: tuple[_Identity, ...] | None = None
        self._files: tuple[_Held, ...] = ()
        self._content: _Content | None = None
        self._numbers: _Numbers | None = None
        self._look_at = 0.0
        self._found: str | None = None
        self._malformed: str | None = None

    @property
    def problem(self) -> str | None:
        """Why nothing is taken until the process is started again; None if it is."""
        return self._found or self._malformed

    def condemn(self, reason: str) -> None:
        """Let nothing be written from now on: the database is malformed."""
        if self._malformed is None:
            self._malformed = (
                f"The database is malformed ({reason.rstrip('.')}): nothing is written to it. "
                f"{_RESTORE} Without a backup, `sqlite3 FILE .recover` "
                "saves what can be read."
            )
            _log.error("database_malformed", path=str(self._path), error=reason)

    def see_that_it_may_be_written(self) -> None:
        """Raise a `StorageError` if the database is malformed."""
        if self._malformed is not None:
            raise self._error(self._malformed)

    def check(self) -> None:
        """Raise if the file is not the one that was opened, as far as one look tells.

        Raises
        ------
        StorageError
            It was deleted, replaced, or written to by somebody else; what to do.
        """
        if self._found is not None:
            raise self._error(self._found)
        if self._identities is None:
            return
        with self._watching:
            if self._identities is not None:
                self._see_that_files_are_the_same()
                self._see_that_content_is_ours()

    def look(self, connection: sa.Connection) -> None:
        """Check, and compare at times what is in the database with what was; begin with the first.

        Parameters
        ----------
        connection : sqlalchemy.Connection
            At the begin of its transaction.

        Raises
        ------
        StorageError
            As of `check`; or an older copy, or that of another installation, is in its place.
        """
        self.check()
        if time.monotonic() < self._look_at:
            return
        with self._watching:
            self._look_at = time.monotonic() + LOOK_SECONDS
            numbers = _numbers_of(connection)
            if numbers is None:
                return  # no schema yet
            before = self._numbers
            if before is not None and not numbers.follow(before):
                self._stop(
                    f"The database was replaced by another or an older copy while "
                    f"this process used it: nothing is taken until it is started again. {_RESTART}"
                )
                raise self._error(self._found)
            self._numbers = numbers
            if self._identities is None:
                self._begin()

    def end(self) -> None:
        """Watch no more: all connections are closed."""
        with self._watching:
            self._identities = self._content = self._numbers = None
            self._look_at = 0.0
            for held in self._files:
                held.let_go()
            self._files = ()

    def _paths(self) -> tuple[Path, Path, Path]:
        name = self._path.name
        return self._path, self._path.with_name(f"{name}-wal"), self._path.with_name(f"{name}-shm")

    def _begin(self) -> None:
        try:
            identities = tuple(_identity(os.stat(path)) for path in self._paths())
            self._files = _Held.of(self._path), _Held.of(self._paths()[2])
        except OSError:
            return  # it keeps no log: whoever opened it will say so
        self._identities = identities
        self._content = _Content.of(*self._files)

    def _see_that_files_are_the_same(self) -> None:
        assert self._identities is not None
        for path, identity in zip(self._paths(), self._identities, strict=True):
            try:
                found = _identity(os.stat(path))
            except OSError as exc:
                raise self._error(
                    f"The file {path.name} is gone ({exc.strerror}): it was deleted or moved while "
                    f"this process used it. Nothing is taken, as it would be lost. {_RESTORE}"
                ) from exc
            if found != identity:
                raise self._error(
                    f"{path.name} is another file than this process has opened: it was replaced. "
                    f"Nothing is taken, as it would be lost. {_RESTART}"
                )

    def _see_that_content_is_ours(self) -> None:
        """Raise if somebody wrote to the file who is not SQLite: a copy over it, or a tool."""
        assert self._content is not None
        content = _Content.of(*self._files)
        before = self._content
        self._content = content
        if content.follows(before):
            return
        if content.is_alike(before) and self._is_sound():
            _log.warning("database_file_touched", path=str(self._path))
            return
        self._stop(
            f"The database file was written to by another program, such as a copy over "
            f"it: nothing is taken, as what is in it no longer holds together. {_RESTORE}"
        )
        raise self._error(self._found)

    def _error(self, sentence: str | None) -> StorageError:
        return StorageError(sentence or "", private=str(self._path))

    def _stop(self, sentence: str) -> None:
        if self._found is None:
            self._found = sentence
            _log.error("database_refused", path=str(self._path), error=sentence)


@dataclass(frozen=True)
class _Numbers:
    """What only grows in a database, as long as it is the same."""

    installation_id: str
    grown: tuple[int, ...]

    def follow(self, before: "_Numbers") -> bool:
        return self.installation_id == before.installation_id and all(
            now >= then for now, then in zip(self.grown, before.grown, strict=True)
        )


def _numbers_of(connection: sa.Connection) -> _Numbers | None:
    sequence = sa.table("sqlite_sequence", sa.column("name"), sa.column("seq"))
    given = [
        sa.select(sa.func.coalesce(sa.func.max(sequence.c.seq), 0))
        .where(sequence.c.name == name)
        .scalar_subquery()
        for name in ("user_interactions", "training_jobs", "imports")
    ]
    entries = sa.select(sa.func.coalesce(sa.func.max(audit_log.c.entry_id), 0)).scalar_subquery()
    statement = sa.select(
        installation.c.installation_id, installation.c.generation, entries, *given
    )
    try:
        row = connection.execute(statement).one_or_none()
    except sa.exc.OperationalError:
        return None
    return None if row is None else _Numbers(row[0], tuple(row[1:]))


@dataclass(frozen=True)
class _Content:
    """What tells whether a database file has changed, and whether SQLite has changed it."""

    n_bytes: int
    changed_at: int
    first_page: bytes
    checkpoint: tuple[bytes, ...] | None
    is_copying: bool

    @classmethod
    def of(cls, database: "_Held", index: "_Held") -> "_Content":
        # In this order: what a checkpoint does after this look counts as done after it.
        head = os.pread(index.descriptor, _INDEX_BYTES, 0)
        state = os.fstat(database.descriptor)
        page = os.pread(database.descriptor, _PAGE_BYTES, 0)
        after = os.pread(index.descriptor, _INDEX_BYTES, 0)
        is_known = head[_INDEX_VERSION] in _KNOWN_VERSION
        return cls(
            n_bytes=state.st_size,
            changed_at=state.st_mtime_ns,
            first_page=page,
            checkpoint=(head[_SALTS], head[_COPIED], head[_BEGUN]) if is_known else None,
            is_copying=head[_COPIED] != head[_BEGUN] or head != after,
        )

    def follows(self, before: "_Content") -> bool:
        """Whether nothing has changed, or a checkpoint may have."""
        return (
            (self.changed_at, self.n_bytes) == (before.changed_at, before.n_bytes)
            or self.is_copying
            or before.is_copying
            or self.checkpoint is None
            or self.checkpoint != before.checkpoint
        )

    def is_alike(self, before: "_Content") -> bool:
        return self.n_bytes == before.n_bytes and self.first_page == before.first_page


class _Held:
    """A file that stays open as long as anybody in this process watches it.

    The end of any descriptor of a file takes all of the process's locks on it away, those of
    SQLite too: so there is one for all, and it is closed with the last who needs it.
    """

    _all: ClassVar[dict[_Identity, "_Held"]] = {}
    _lock = threading.Lock()

    def __init__(self, descriptor: int, identity: _Identity) -> None:
        self.descriptor = descriptor
        self._identity = identity
        self._n_users = 0

    @classmethod
    def of(cls, path: Path) -> "_Held":
        with cls._lock:
            held = cls._all.get(_identity(os.stat(path)))
            if held is None:
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                identity = _identity(os.fstat(descriptor))
                held = cls._all.setdefault(identity, cls(descriptor, identity))
            held._n_users += 1
            return held

    def let_go(self) -> None:
        """Close the file, unless somebody else watches it too."""
        with self._lock:
            self._n_users -= 1
            if not self._n_users:
                del self._all[self._identity]
                os.close(self.descriptor)


def _identity(state: os.stat_result) -> _Identity:
    return state.st_dev, state.st_ino
