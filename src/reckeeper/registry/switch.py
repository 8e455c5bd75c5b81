"""Which version is active: the row decides, the link in the model folder follows."""

from collections.abc import Callable
from typing import Literal

from reckeeper import audit, clock, storage
from reckeeper.artifact import ModelStore
from reckeeper.errors import Action, ConflictError, PinnedError
from reckeeper.registry.described import is_pinned
from reckeeper.registry.pickles import Pickles
from reckeeper.registry.versions import ActiveModel, delete_files, delete_row, existing
from reckeeper.telemetry import get_logger

_log = get_logger(__name__)


class Switch:
    """Which version of an installation is active.

    Parameters
    ----------
    database : storage.Database
    store : ModelStore
    pickles : Pickles
    """

    def __init__(self, database: storage.Database, store: ModelStore, pickles: Pickles) -> None:
        self._database = database
        self._store = store
        self._pickles = pickles

    def active_version(self) -> int | None:
        """Return the number of the active version, or None."""
        with self._database.read() as connection:
            return storage.models.active_version(connection)

    def activate(
        self,
        model: ActiveModel,
        *,
        actor: str,
        reason: str | None = None,
        action: Literal["activate", "promote"] = "activate",
        job_id: int | None = None,
        also: Callable[[storage.Connection], None] | None = None,
    ) -> None:
        """Activate a version that is loaded, and so sound.

        Row, timeline, trail and notice change in one transaction; every
        process takes the new version up by itself within half a second. If it
        is active already, nothing changes.

        Parameters
        ----------
        model : ActiveModel
            As `Versions.load` gives it.
        actor : str
            Name in the audit trail.
        reason : str, optional
        action : str
            ``activate``: somebody asks for this version. ``promote``: a job
            made it, and nobody named it; a pin stands in its way.
        job_id : int, optional
        also : callable, optional
            Called first with the connection, to write more in the same
            transaction; what it raises takes the whole back.

        Raises
        ------
        NotFoundError
            The version has been deleted since.
        PinnedError
            The active version is pinned, and this is a promotion.
        """
        version = model.version
        with self._database.write() as connection:
            if also is not None:
                also(connection)
            row = existing(connection, version)
            active = storage.models.active(connection)
            if not row.is_active:
                if action == "promote" and active is not None and is_pinned(active):
                    raise _pinned(active, version)
                is_override = (
                    action == "activate"
                    and (row.verdict or {}).get("decision") == "reject"
                    and not storage.timeline.of_version(connection, version)
                )
                latest = storage.timeline.latest(connection)
                _switch(
                    connection,
                    version,
                    action=action,
                    recorded_as="override" if is_override else action,
                    actor=actor,
                    reason=reason,
                    job_id=job_id,
                    back_to=latest.entry_id if latest else None,
                )
        self.repair_link()

    def rollback_version(self) -> int | None:
        """Return the version that a roll back leads to, or None.

        It is the one that was active before and is still there.
        """
        with self._database.read() as connection:
            target = storage.timeline.before(connection)
        return None if target is None else target.version

    def rollback_target(self) -> int:
        """Return `rollback_version`.

        Raises
        ------
        ConflictError
            There is none.
        """
        version = self.rollback_version()
        if version is None:
            raise _nothing_before()
        return version

    def roll_back(self, model: ActiveModel, *, actor: str, reason: str | None = None) -> None:
        """Activate the version that was active before; a second time leads further back.

        Parameters
        ----------
        model : ActiveModel
            Version `rollback_target`, loaded.
        actor : str
        reason : str, optional

        Raises
        ------
        ConflictError
            A roll back leads elsewhere by now.
        """
        with self._database.write() as connection:
            target = storage.timeline.before(connection)
            if target is None:
                raise _nothing_before()
            if target.version != model.version:
                raise ConflictError(
                    "Another version was activated in the meantime, and a roll back leads to "
                    f"version {target.version} now, not to {model.version}. See what is active, "
                    "then ask again if you still want to.",
                    action=Action("list_versions"),
                )
            _switch(
                connection,
                model.version,
                action="rollback",
                recorded_as="rollback",
                actor=actor,
                reason=reason,
                back_to=target.back_to,
            )
        self.repair_link()

    def timeline(self, *, limit: int, before: int | None = None) -> list[storage.TimelineEntry]:
        """Return what was active when, who switched and why.

        Parameters
        ----------
        limit : int
            At least 1.
        before : int, optional
            Only entries with smaller numbers.

        Returns
        -------
        list of storage.TimelineEntry
            The latest first; ``until`` is None for the last.
        """
        with self._database.read() as connection:
            return storage.timeline.page(connection, limit=limit, before=before)

    def delete_demo(self, *, actor: str) -> list[int]:
        """Delete every version that demo data went into, an active or pinned one too."""
        reason = "demo data removed"
        with self._database.write() as connection:
            rows = [row for row in storage.models.all_versions(connection) if row.is_demo]
            latest = storage.timeline.latest(connection)
            for row in rows:
                delete_row(connection, row.version, actor=actor, reason=reason)
            if any(row.is_active for row in rows):
                storage.timeline.insert(
                    connection,
                    version=None,
                    action="delete",
                    actor=actor,
                    reason=reason,
                    back_to=latest.entry_id if latest else None,
                )
        self.repair_link()
        deleted = [row.version for row in rows]
        delete_files(self._store, deleted)
        return deleted

    def repair_link(self) -> None:
        """Make the folder's link name the active version's pickle.

        One that an erasure has deleted is written again, without users.
        """
        if not self._store.folder.is_dir():
            return
        pointed_at: int | None = -1
        # Another process may activate another version between the look and the link.
        while (active := self.active_version()) != pointed_at:
            if active is not None:
                self._pickles.restore(active)
            try:
                self._store.point_link(active)
            except OSError as exc:
                # The row is what counts; the next start or activation tries again.
                _log.error("model_link_not_written", version=active, error=str(exc))
                return
            pointed_at = active


def _nothing_before() -> ConflictError:
    return ConflictError(
        "There is nothing to roll back to: no version that was active before this one is still "
        "there.",
        action=Action("list_versions"),
    )


def _switch(
    connection: storage.Connection,
    version: int,
    *,
    action: str,
    recorded_as: str,
    actor: str,
    reason: str | None,
    back_to: int | None,
    job_id: int | None = None,
) -> None:
    """Make a version the active one from this transaction on, and write that down."""
    before = storage.models.active_version(connection)
    storage.models.set_active(connection, version)
    storage.timeline.insert(
        connection,
        version=version,
        action=action,
        actor=actor,
        reason=reason,
        job_id=job_id,
        back_to=back_to,
    )
    told = {"before": before, "after": version, "reason": reason}
    if job_id is not None:
        told["job_id"] = job_id
    audit.record(connection, actor=actor, action=recorded_as, subject=f"model {version}", **told)
    storage.notices.insert(
        connection,
        event="promoted",
        payload={
            "version": version,
            "previous_version": before,
            "action": recorded_as,
            "actor": actor,
            "reason": reason,
            "job_id": job_id,
        },
    )


def _pinned(active: storage.Version, version: int) -> PinnedError:
    until = active.pinned_until
    how_long = "" if until is None else f" until {clock.rfc3339(until)}"
    return PinnedError(
        f"Version {active.version} is active and pinned{how_long}: version {version} does not "
        f"take its place by itself. Activate version {version} if it is to be active, or unpin "
        f"version {active.version}.",
        action=Action("activate", {"version": version}),
    )
