"""The versions of an installation and their life."""

import contextlib
import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from reckeeper import artifact, audit, clock, storage
from reckeeper.artifact import Artifact, Metadata, WrittenFile
from reckeeper.errors import ArtifactError, ConflictError, DataError, NotFoundError, PinnedError
from reckeeper.registry.folder import Folder
from reckeeper.registry.rows import (
    check_note,
    describe,
    describe_entry,
    describe_pin,
    describe_rest,
    existing,
    is_pinned,
    version_of,
)


@dataclass(frozen=True)
class ActiveModel:
    """A version in memory, as it is served.

    Attributes
    ----------
    version : int
    artifact : Artifact
    watermark : int
        Number of the last interaction that it has seen.
    seen_until : int or None
        Of a version that was not trained on this database: when the last
        interaction occurred that it has seen, in microseconds since 1970.
        What came later by number may have been in it all the same.
    """

    version: int
    artifact: Artifact
    watermark: int
    seen_until: int | None = None


class Registry(Folder):
    """The versions of one installation.

    Parameters
    ----------
    database : storage.Database
    folder : Path
        Where the model files are.
    """

    def register(
        self,
        metadata: Metadata,
        files: tuple[WrittenFile, WrittenFile],
        *,
        job_id: int | None,
        also: Callable[[storage.Connection], None] | None = None,
    ) -> None:
        """Make a version whose files are written known, inactive.

        Parameters
        ----------
        metadata : Metadata
        files : tuple of WrittenFile
            As `artifact.write` gives them.
        job_id : int or None
        also : callable, optional
            Called first with the connection, in the same transaction; what
            it raises takes the whole back.
        """
        with self._database.write() as connection:
            if also is not None:
                also(connection)
            storage.models.insert(connection, version_of(metadata, files, job_id=job_id))

    def versions(self) -> list[dict[str, Any]]:
        """Describe all versions, the newest first; opens no model file."""
        with self._database.read() as connection:
            rows = storage.models.listed(connection)
        return [describe(row, self._folder, verdict=row.verdict, served=row.served) for row in rows]

    def version(self, version: int) -> dict[str, Any]:
        """Describe one version in full; opens no model file.

        Raises
        ------
        NotFoundError
            There is none of this number.
        """
        with self._database.read() as connection:
            row = existing(connection, version)
            entries = storage.timeline.of_version(connection, version)
        return {
            **describe(row, self._folder, verdict=row.verdict, served=bool(entries)),
            **describe_rest(row, entries=entries),
        }

    def timeline(self, *, limit: int, before: int | None = None) -> list[dict[str, Any]]:
        """Tell what served when, who switched and why.

        Parameters
        ----------
        limit : int
            At least 1.
        before : int, optional
            Only entries with smaller numbers.

        Returns
        -------
        list of dict
            The latest first; ``until`` is None for what serves now.
        """
        with self._database.read() as connection:
            entries = storage.timeline.page(connection, limit=limit, before=before)
        return [describe_entry(entry) for entry in entries]

    def retrain_answer(
        self,
        version: int,
        *,
        job_id: int,
        promoted: bool | None = None,
        verdict: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Return the contract's answer to the ``POST /retrain`` that made a version.

        Parameters
        ----------
        version, job_id : int
        promoted : bool, optional
            Whether it came to serve.
        verdict : mapping, optional
            Of the gate; by default what is registered.
        """
        with self._database.read() as connection:
            row = existing(connection, version)
        return {
            "status": "ok",
            "message": (
                f"Model retrained in {row.seconds:.1f}s - {row.training_samples} samples, "
                f"{row.explained_variance:.2%} variance explained"
            ),
            "details": {
                "training_samples": row.training_samples,
                "n_users": row.n_users,
                "n_items": row.n_items,
                "explained_variance": round(row.explained_variance, 4),
            },
            "version": version,
            "job_id": job_id,
            "promoted": promoted,
            "verdict": row.verdict if verdict is None else dict(verdict),
        }

    def load(self, version: int) -> ActiveModel:
        """Read and verify a version's native file.

        Raises
        ------
        NotFoundError
            There is no such version.
        ArtifactError
            Its file is missing, changed or not sound.
        """
        with self._database.read() as connection:
            row = existing(connection, version)
        loaded = artifact.read(
            self._folder / artifact.native_name(version),
            n_bytes=row.native_bytes,
            sha256=row.native_sha256,
        )
        if loaded.metadata.version != version:
            raise ArtifactError(
                f"The file of version {version} says that it is version {loaded.metadata.version}."
            )
        is_from_here = row.job_id is not None
        seen_until = None if is_from_here else loaded.metadata.latest_at
        return ActiveModel(version, loaded, row.watermark, seen_until)

    def newest_sound(self, *, besides: int | None = None) -> int | None:
        """Return the newest version whose file is sound, or None; reads files until one is."""
        with self._database.read() as connection:
            versions = [row.version for row in storage.models.listed(connection)]
        for version in versions:
            if version != besides:
                with contextlib.suppress(ArtifactError, NotFoundError):
                    return self.load(version).version
        return None

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
        """Make a loaded, and so sound, version the one that serves.

        Row, timeline, trail and notice change in one transaction; every
        process takes the new version up by itself within half a second. If it
        serves already, nothing changes.

        Parameters
        ----------
        model : ActiveModel
            As `load` gives it.
        actor : str
            Who asks, for the trail.
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
                    raise PinnedError(_pinned_message(active, version))
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

    def rollback_target(self) -> int:
        """Return the version that a roll back leads to: what served before, and is still there.

        Raises
        ------
        ConflictError
            There is none.
        """
        with self._database.read() as connection:
            version = _target(connection).version
        assert version is not None
        return version

    def roll_back(self, model: ActiveModel, *, actor: str, reason: str | None = None) -> None:
        """Let the version serve that served before; a second time leads further back.

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
            target = _target(connection)
            if target.version != model.version:
                raise ConflictError(
                    "Another version has come to serve in the meantime, and a roll back leads to "
                    f"version {target.version} now, not to {model.version}. See what serves, "
                    "then ask again if you still want to."
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

    def pin(
        self, version: int, *, actor: str, until: int | None = None, reason: str | None = None
    ) -> None:
        """Keep a version: while it serves no job replaces it, and it cannot be deleted.

        A version that is pinned already gets the new date.

        Parameters
        ----------
        version : int
        actor : str
        until : int, optional
            Microseconds since 1970-01-01 UTC; None: until it is unpinned.
        reason : str, optional

        Raises
        ------
        NotFoundError
            There is no such version.
        DataError
            `until` has passed.
        """
        if until is not None and until <= clock.now():
            raise DataError(
                f"until: {clock.rfc3339(until)} has passed. Name a later time, or none: the "
                "version then stays pinned until it is unpinned.",
                details={"field": "until"},
            )
        self._set_pin(version, clock.now(), until, actor, "pin", reason)

    def unpin(self, version: int, *, actor: str, reason: str | None = None) -> None:
        """Take a pin away; a version without one stays as it is.

        Raises
        ------
        NotFoundError
            There is no such version.
        """
        self._set_pin(version, None, None, actor, "unpin", reason)

    def _set_pin(
        self,
        version: int,
        pinned_at: int | None,
        pinned_until: int | None,
        actor: str,
        action: str,
        reason: str | None,
    ) -> None:
        with self._database.write() as connection:
            before = existing(connection, version)
            after = dataclasses.replace(before, pinned_at=pinned_at, pinned_until=pinned_until)
            if describe_pin(before) == describe_pin(after):
                return
            storage.models.set_pin(
                connection, version, pinned_at=pinned_at, pinned_until=pinned_until
            )
            audit.record(
                connection,
                actor=actor,
                action=action,
                subject=f"model {version}",
                before=describe_pin(before),
                after=describe_pin(after),
                reason=reason,
            )

    def note(self, version: int, text: str | None, *, actor: str) -> None:
        """Write a note on a version, in place of the one it has; None takes it away.

        Raises
        ------
        NotFoundError
            There is no such version.
        DataError
            It is longer than `MAX_NOTE_CHARS`, or no text that can be stored.
        """
        check_note(text)
        with self._database.write() as connection:
            before = existing(connection, version).note
            if before != text:
                storage.models.set_note(connection, version, text)
                audit.record(
                    connection,
                    actor=actor,
                    action="note",
                    subject=f"model {version}",
                    before=before,
                    after=text,
                )

    def delete(self, version: int, *, actor: str, reason: str | None = None) -> None:
        """Delete an inactive version: its row is kept as a mark, its files go.

        Raises
        ------
        NotFoundError
            There is no such version.
        ConflictError
            It is the active one, or pinned.
        """
        with self._database.write() as connection:
            row = existing(connection, version)
            if row.is_active:
                raise ConflictError(
                    f"Version {version} is active and cannot be deleted: activate another first."
                )
            if is_pinned(row):
                raise ConflictError(
                    f"Version {version} is pinned and cannot be deleted: unpin it first (DELETE "
                    f"/models/{version}/pin)."
                )
            _delete_row(connection, version, actor=actor, reason=reason)
        self._delete_files([version])

    def retain(self, *, n_versions: int, days: float | None = None, actor: str) -> list[int]:
        """Delete versions beyond a count or an age, the oldest first.

        Those that are active, pinned or where a roll back leads stay,
        whatever their age, and beside the count. Versions that were taken in
        from the folder are not counted.

        Parameters
        ----------
        n_versions : int
            How many to keep, the active one included; at least 1.
        days : float or None
            How long to keep one after it was trained or taken in; None: for ever.
        actor : str

        Returns
        -------
        list of int
            The versions deleted, the newest first.
        """
        oldest = None if days is None else clock.now() - int(days * clock.DAY)
        with self._database.write() as connection:
            target = storage.timeline.before(connection)
            inactive = [row for row in storage.models.all_versions(connection) if not row.is_active]
            came_at = storage.models.reserved_at(connection)
            deleted = []
            place = 1
            for row in inactive:
                version = row.version
                # A policy that was lost with its database may have kept more than this one.
                is_counted = row.job_id is not None or version in came_at
                place += is_counted
                since = max(row.trained_at, came_at.get(version, 0))
                is_old = oldest is not None and since < oldest
                is_kept = is_pinned(row) or (target and version == target.version)
                if is_kept or not (is_old or (is_counted and place > n_versions)):
                    continue
                reason = f"older than {days:g} days" if is_old else f"beyond {n_versions} versions"
                _delete_row(connection, version, actor=actor, reason=reason)
                deleted.append(version)
        self._delete_files(deleted)
        return deleted

    def delete_demo(self, *, actor: str) -> list[int]:
        """Delete every version that demo data went into, an active or pinned one too."""
        reason = "demo data removed"
        with self._database.write() as connection:
            rows = [row for row in storage.models.all_versions(connection) if row.is_demo]
            latest = storage.timeline.latest(connection)
            for row in rows:
                _delete_row(connection, row.version, actor=actor, reason=reason)
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
        self._delete_files(deleted)
        return deleted


def _target(connection: storage.Connection) -> storage.TimelineEntry:
    target = storage.timeline.before(connection)
    if target is None:
        raise ConflictError(
            "There is nothing to roll back to: no version served before this one that is still "
            "there. GET /models lists those that are; POST /models/{version}/activate lets one "
            "serve."
        )
    return target


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
    """Let a version serve from this transaction on, and write down that it does."""
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


def _pinned_message(active: storage.Version, version: int) -> str:
    number, until = active.version, active.pinned_until
    how_long = "" if until is None else f" until {clock.rfc3339(until)}"
    return (
        f"Version {number} serves and is pinned{how_long}: version {version} does not take its "
        f"place by itself. Activate it (POST /models/{version}/activate) if it shall, or unpin "
        f"version {number} (DELETE /models/{number}/pin)."
    )


def _delete_row(
    connection: storage.Connection, version: int, *, actor: str, reason: str | None
) -> None:
    row = existing(connection, version)
    storage.models.mark_deleted(connection, version)
    told = ("recipe", "trained_at", "is_active", "note", "native_sha256")
    audit.record(
        connection,
        actor=actor,
        action="delete",
        subject=f"model {version}",
        before={name: getattr(row, name) for name in told},
        after=None,
        reason=reason,
    )
