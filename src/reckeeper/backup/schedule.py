"""Backups that are made by themselves, as the policy asks for them."""

import os
import re
import shutil
import socket
import time
from datetime import datetime
from pathlib import Path

from reckeeper import audit, clock, durable, policy, storage
from reckeeper.backup.taking import Taken, take
from reckeeper.config import Settings
from reckeeper.errors import ConfigError, ReckeeperError
from reckeeper.periodic import Periodic
from reckeeper.policy import StoredPolicy
from reckeeper.telemetry import get_logger

ACTOR = "schedule"

LEASE = "backup"
LEASE_SECONDS, RENEW_SECONDS = 600.0, 30.0
PAUSE_SECONDS = 600.0
"""How long after a backup that failed the next try comes."""

_log = get_logger(__name__)


class BackupSchedule:
    """Makes the backups of the policy, in a thread of its own, and removes the oldest.

    One that was due since the last one is made at once, so a worker that was
    down makes up for it. Of several workers one makes it.

    Parameters
    ----------
    database : storage.Database
    settings : Settings
    """

    def __init__(self, database: storage.Database, settings: Settings) -> None:
        self._database = database
        self._settings = settings
        self._first_look = clock.now()
        self._last_read: int | None = None
        self._last_at = 0
        self._seen_ahead: dict[int, int] = {}
        self._next: tuple[tuple[str, str, int], int] | None = None
        self._paused_until = 0
        self._failure: str | None = None
        self._looking = Periodic(
            lambda: self.look(clock.now()), name="backup", every_seconds=4 * settings.poll_seconds
        )

    @property
    def problem(self) -> str | None:
        """Why the last backup, or the last look, failed, in a sentence; None if it succeeded."""
        return self._failure or self._looking.problem

    def start(self) -> None:
        """Follow the policy until `stop`."""
        self._looking.start()

    def stop(self) -> None:
        """Make no more; one that is being made is left, and leaves nothing."""
        self._looking.stop()

    def look(self, now: int) -> Taken | None:
        """Make a backup if one is due, and return it.

        Parameters
        ----------
        now : int
            Microseconds since 1970.

        Raises
        ------
        StorageError
            The database did not answer.
        """
        with self._database.read() as connection:
            stored = policy.current(connection, self._settings)
        if stored.policy.backup_schedule is None:
            self._failure = None
            return None
        self._paused_until = min(self._paused_until, now + int(PAUSE_SECONDS * 1e6))
        if now < self._paused_until or not self._is_due(stored, now):
            return None
        with self._database.write() as connection:
            fence = storage.leases.take(
                connection, LEASE, holder=f"{socket.gethostname()}:{os.getpid()}",
                seconds=LEASE_SECONDS,
            )  # fmt: skip
        if fence is None:
            return None
        try:
            self._read_last()  # another worker may have made it meanwhile
            return self._make(stored, now, fence) if self._is_due(stored, now) else None
        except ReckeeperError as exc:
            self._paused_until = now + int(PAUSE_SECONDS * 1e6)
            self._failure = f"The backup that was due could not be made. {exc.message}"
            _log.error("backup_failed", error=exc.message)
            return None
        finally:
            with self._database.write() as connection:
                storage.leases.release(connection, LEASE, fence=fence)

    def _is_due(self, stored: StoredPolicy, now: int) -> bool:
        if self._last_read is None:
            self._read_last()
        begun = stored.at or self._first_look
        since = max(self._counted(self._last_at, now), self._counted(begun, now))
        asked = (str(stored.policy.backup_schedule), stored.policy.timezone, since)
        if self._next is None or self._next[0] != asked:
            due = policy.next_run(asked[0], timezone=asked[1], after=_after(since))
            self._next = asked, clock.microseconds(due)
        return self._next[1] <= now

    def _read_last(self) -> None:
        last = last_scheduled(self._database) or 0
        if last != self._last_read:
            self._last_read = self._last_at = last

    def _counted(self, told: int, now: int) -> int:
        """Return a time; one that a clock told which ran ahead counts from when that is seen."""
        if told <= now:
            return told
        self._seen_ahead[told] = min(self._seen_ahead.get(told, now), now)
        return self._seen_ahead[told]

    def _make(self, stored: StoredPolicy, now: int, fence: int) -> Taken:
        folder = folder_of(stored, self._settings)
        with self._database.read() as connection:
            mark = storage.installation.id_of(connection)[:8]
        name = f"reckeeper-{mark}-{clock.utc(now):%Y%m%dT%H%M%SZ}.tar"
        renewed = time.monotonic()

        def tell(what: str, n_done: int, total: int | None) -> None:
            nonlocal renewed
            if time.monotonic() - renewed > RENEW_SECONDS:
                renewed = time.monotonic()
                with self._database.write() as connection:
                    storage.leases.renew(connection, LEASE, fence=fence, seconds=LEASE_SECONDS)

        _prepare(folder, mark)
        taken = take(
            self._database,
            self._settings,
            folder / name,
            actor=ACTOR,
            passphrase=self._settings.backup_passphrase,
            on_progress=tell,
        )
        self._read_last()
        self._last_at, self._failure = now, None
        removed = _remove_oldest(folder, mark, taken.path, stored.policy.backup_keep)
        if removed:
            with self._database.write() as connection:
                audit.record(
                    connection, actor=ACTOR, action="backup_removed", subject=str(folder),
                    files=removed, kept=stored.policy.backup_keep,
                )  # fmt: skip
        _log.info("backup_made", file=str(taken.path), bytes=taken.n_bytes, removed=removed)
        return taken


def folder_of(stored: StoredPolicy, settings: Settings) -> Path:
    """Return where the backups of a policy go."""
    named = stored.policy.backup_folder
    return settings.data_dir / "backups" if named is None else Path(named)


def last_scheduled(database: storage.Database) -> int | None:
    """Return when the last backup of a schedule was made, in microseconds; None without one."""
    with database.read() as connection:
        return storage.audit_log.last_at(connection, action="backup", actor=ACTOR)


def last_made(database: storage.Database) -> int | None:
    """Return when the last backup was made, by whom it may be; None without one."""
    with database.read() as connection:
        return storage.audit_log.last_at(connection, action="backup")


def _after(since: int) -> datetime:
    return clock.utc(since + 1)


def _prepare(folder: Path, mark: str) -> None:
    """Make the folder, and remove what a process that was killed has left there."""
    try:
        durable.make_folder(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)
        for path in folder.glob(f".reckeeper-{mark}-*"):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
    except OSError as exc:
        raise ConfigError(
            f"The folder {folder} cannot be used: {exc.strerror}. Make it, let this user write to "
            "it, or name another."
        ) from exc


def _remove_oldest(folder: Path, mark: str, newest: Path, n_kept: int) -> list[str]:
    """Remove backups of this installation beyond those kept; the new one always stays."""
    name = re.compile(rf"reckeeper-{mark}-[0-9]{{8}}T[0-9]{{6}}Z\.tar")
    others = sorted(
        path for path in folder.iterdir() if name.fullmatch(path.name) and path != newest
    )
    removed = others[: max(0, len(others) - (n_kept - 1))]
    for path in removed:
        path.unlink(missing_ok=True)
    return [path.name for path in removed]
