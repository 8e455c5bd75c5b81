"""What follows an erasure, and what the policy does not keep: the worker sees to it."""

from collections.abc import Callable

from reckeeper import clock, snapshot, storage
from reckeeper import policy as policies
from reckeeper.config import Settings
from reckeeper.errors import NotEnoughDataError, ReckeeperError
from reckeeper.people import erasing, outside, receipts
from reckeeper.people.retention import delete_old
from reckeeper.periodic import Periodic
from reckeeper.registry import Erased, Registry, is_pinned
from reckeeper.telemetry import get_logger

_OUTSIDE_SECONDS = 60.0
_RETENTION_SECONDS = 24 * 3600.0
_AGAIN_SECONDS = 600.0
"""After which a retrain that failed is tried again."""

_ABANDONED_SECONDS = 300.0
"""After which an erasure that did not end is brought to its end: its process is gone."""

_log = get_logger(__name__)


class Aftercare:
    """Ends the influence of those who were erased, and deletes what is too old.

    A thread that starts a retrain where the active version was shaped by somebody who was erased,
    and completes the receipt once another one is active, or where none can be. It brings erasures
    to their end that a crash cut off, erases again who came back with a database that was
    restored, and once a day deletes what is older than the policy's ``retention_days``.

    Parameters
    ----------
    database : storage.Database
    registry : Registry
    settings : Settings
    retrain : callable
        Starts a retrain; raises a `ReckeeperError` where none can be started.
    """

    def __init__(
        self,
        database: storage.Database,
        registry: Registry,
        settings: Settings,
        retrain: Callable[[], None],
    ) -> None:
        self._database = database
        self._registry = registry
        self._settings = settings
        self._retrain = retrain
        self._seen: tuple[int, tuple[int, int] | None] | None = None
        self._outside_at = 0
        self._old_at = 0
        self._looking = Periodic(
            lambda: self.look(clock.now()), name="people", every_seconds=4 * settings.poll_seconds
        )

    @property
    def problem(self) -> str | None:
        """Why the last look failed, in a sentence; None if it succeeded."""
        return self._looking.problem

    def start(self) -> None:
        """Look until `stop`."""
        self._looking.start()

    def stop(self) -> None:
        """Look no more."""
        self._looking.stop(timeout_seconds=None)

    def look(self, now: int) -> None:
        """Do what is due.

        Raises
        ------
        StorageError
            The database did not answer.
        """
        # A clock that was set back puts nothing off for longer.
        self._outside_at = min(self._outside_at, now + int(_OUTSIDE_SECONDS * 1e6))
        self._old_at = min(self._old_at, now + int(_RETENTION_SECONDS * 1e6))
        if now >= self._outside_at:
            self.erase_restored()
            self._resume(now)
            self._outside_at = now + int(_OUTSIDE_SECONDS * 1e6)
        self._discard_snapshot()
        with self._database.read() as connection:
            waiting = storage.erasures.unfinished(connection)
            active = storage.models.active(connection)
            policy = policies.current(connection, self._settings).policy
            last = storage.jobs.last_retrain(connection)
        erased_at = 0
        for erasure in waiting:
            kept = _why_kept(active, last, erasure)
            self._follow(erasure, active, kept)
            if active is not None and active.version in erasure.shaped_versions and kept is None:
                erased_at = max(erased_at, erasure.erased_at)
        if erased_at:
            self._retrain_after(erased_at, now)
        if policy.retention_days is not None and now >= self._old_at:
            delete_old(self._database, policy.retention_days, actor="schedule", now=now)
            self._old_at = now + int(_RETENTION_SECONDS * 1e6)

    def erase_restored(self) -> list[storage.Erasure]:
        """Erase again who was erased and is back, with a database from before that.

        Raises
        ------
        StorageError
            The database or the file of tombstones did not answer.
        """
        database, registry = self._database, self._registry
        with database.read() as connection:
            installation_id = storage.installation.id_of(connection)
            own_key = storage.tombstones.key_of(connection)
            known = storage.tombstones.everyone(connection)
        lines = outside.lines(registry.store.folder, installation_id=installation_id)
        if not lines:
            if known:
                erasing.keep_outside(database, registry)
            return []
        key = bytes.fromhex(lines[-1].key)
        if key != own_key and known:
            _log.error("tombstones_of_another_key", path=outside.FILE)
            return []
        missing = {
            line.user: line.until
            for line in sorted(lines, key=lambda line: line.until)
            if line.key == lines[-1].key and known.get(line.user, -1) < line.until
        }
        if missing:
            return self._erase_again(missing, key)
        if len({line.user for line in lines}) < len(known):
            erasing.keep_outside(database, registry)
        return []

    def _erase_again(self, missing: dict[str, int], key: bytes) -> list[storage.Erasure]:
        with self._database.write() as connection:
            storage.tombstones.set_key(connection, key)
            for user, until in missing.items():
                storage.erasures.forbid(connection, [user], until=until)
        with self._database.read() as connection:
            ids = storage.erasures.user_ids(connection)
            back = dict(storage.tombstones.among(ids, key=key, until=missing))
        done = []
        for user_id, until in back.items():
            with self._database.write() as connection:
                begun = erasing.begin(
                    connection, [user_id], until=until, actor="start", reason=erasing.RESTORED
                )
            done.append(
                erasing.remove(self._database, self._registry, self._settings, begun, [user_id])
            )
        if not done:
            # The tombstones count from the next erasure on that processes see.
            with self._database.write() as connection:
                erasing.note_restored(connection)
        _log.warning("erased_again", n_tombstones=len(missing), n_back=len(done))
        return done

    def _discard_snapshot(self) -> None:
        """Delete a snapshot that a training wrote which had begun before an erasure."""
        folder = self._registry.store.folder
        with self._database.read() as connection:
            generation = storage.installation.generation(connection)
            installation_id = storage.installation.id_of(connection)
        seen = generation, snapshot.state(folder)
        if seen != self._seen:
            snapshot.discard_older(folder, installation_id=installation_id, generation=generation)
            self._seen = generation, snapshot.state(folder)

    def _resume(self, now: int) -> None:
        """Bring erasures to their end whose process is gone."""
        with self._database.read() as connection:
            before = now - int(_ABANDONED_SECONDS * 1e6)
            cut_off = storage.erasures.abandoned(connection, before=before)
        for erasure in cut_off:
            _log.warning("erasure_resumed", erasure=erasure.erasure_id)
            erasing.keep_outside(self._database, self._registry)
            erasing.remove(
                self._database, self._registry, self._settings, erasure, erasure.user_ids or []
            )

    def _follow(
        self, erasure: storage.Erasure, active: storage.Version | None, kept: str | None
    ) -> None:
        """Do what is left of an erasure, and complete it where nothing is.

        Parameters
        ----------
        erasure : storage.Erasure
        active : storage.Version or None
        kept : str or None
            Why no retrain takes the place of the active version.
        """
        left, is_wiped = erasure.pickles_left, erasure.is_wiped
        again = Erased([], [], [])
        if left:
            again = self._registry.pickles.erase(
                left, actor="worker", erasure_id=erasure.erasure_id
            )
        if not is_wiped:
            is_wiped = storage.wiping.wipe(self._database).log_is_empty
        is_shaped = active is not None and active.version in erasure.shaped_versions
        is_complete = is_wiped and not again.left and (not is_shaped or kept is not None)
        if (again.left, is_wiped) == (left, erasure.is_wiped) and not is_complete:
            return
        ended_it = is_complete and not is_shaped and bool(erasure.shaped_versions)
        remains = erasure.remains
        if is_complete and is_shaped and active is not None:
            remains = [
                *remains,
                f"Version {active.version} was trained on the person and stays active: {kept}",
            ]
        with self._database.write() as connection:
            receipts.change(
                connection,
                erasure.erasure_id,
                pickles_left=again.left,
                pickles_deleted=sorted({*erasure.pickles_deleted, *again.deleted}),
                pickles_rewritten=sorted({*erasure.pickles_rewritten, *again.rewritten}),
                is_wiped=is_wiped,
                remains=remains,
                status=storage.erasures.COMPLETE if is_complete else erasure.status,
                completed_at=clock.now() if is_complete else None,
                job_id=active.job_id if ended_it and active else None,
                version=active.version if ended_it and active else None,
            )
            if is_complete:
                receipts.note_completed(connection, erasure.erasure_id)

    def _retrain_after(self, erased_at: int, now: int) -> None:
        with self._database.read() as connection:
            if storage.jobs.running(connection) is not None:
                return
            last = storage.jobs.last_retrain(connection)
        if last is not None and last.started_at > erased_at:
            ended = last.finished_at or now
            if now < ended + int(_AGAIN_SECONDS * 1e6):
                return
        try:
            self._retrain()
        except ReckeeperError as exc:
            _log.warning("retrain_not_started", trigger="erasure", error=exc.message)


def _why_kept(
    active: storage.Version | None, last: storage.JobSummary | None, erasure: storage.Erasure
) -> str | None:
    """Return why no retrain takes the place of the active version; None if one may."""
    if active is not None and is_pinned(active) and active.pinned_until is None:
        return "it is pinned. Unpin it, then retrain."
    was_tried = last is not None and last.started_at > erasure.erased_at
    if was_tried and last is not None and last.error_code == NotEnoughDataError.code:
        return "too few interactions are left for another one. Retrain when there are more."
    return None
