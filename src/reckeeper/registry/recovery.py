"""The model folder beside the database: what is lost, unfinished or unknown."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from reckeeper import artifact, audit, clock, storage
from reckeeper.artifact import ModelStore
from reckeeper.errors import ArtifactError, ConflictError, DataError
from reckeeper.registry.switch import Switch
from reckeeper.registry.versions import LARGEST_BROUGHT, Versions, origin_of, version_of
from reckeeper.telemetry import get_logger

_ABANDONED_SECONDS = 3600.0
"""How long after it took its number an import is given up; one takes minutes at most."""

_log = get_logger(__name__)


@dataclass(frozen=True)
class TakenIn:
    """What became of a file that the database did not know.

    Attributes
    ----------
    file : str
    version : int or None
        None if it was not taken in.
    error : str or None
        Why it was not.
    """

    file: str
    version: int | None
    error: str | None


class Recovery:
    """Holds the files of an installation's versions against its database.

    Parameters
    ----------
    database : storage.Database
    store : ModelStore
    versions : Versions
    switch : Switch
    """

    def __init__(
        self, database: storage.Database, store: ModelStore, versions: Versions, switch: Switch
    ) -> None:
        self._database = database
        self._store = store
        self._versions = versions
        self._switch = switch

    def rebuild(self) -> list[int]:
        """Take in the versions of a folder that a new, empty database does not know.

        Nothing is changed in a database that has had a version. The version
        that the link names becomes active, else the newest sound one.
        Files that are not sound are left where they are and logged.

        Returns
        -------
        list of int
            The versions taken in.
        """
        with self._database.read() as connection:
            if storage.models.last_version(connection):
                return []
            # Another process may be writing these at this moment.
            reserved = storage.models.reserved_versions(connection)
        linked = self._store.linked_version()
        rows = []
        for version in sorted(self._store.versions() - reserved):
            try:
                loaded = self._store.read(version)
            except ArtifactError as exc:
                _log.warning("model_file_not_taken_in", version=version, error=exc.in_full)
                continue
            if loaded.metadata.version == version <= LARGEST_BROUGHT:
                native, exported = self._store.describe(version)
                rows.append(
                    version_of(
                        loaded.metadata,
                        (native, exported),
                        job_id=None,
                        watermark=self._versions.seen_of(loaded.metadata),
                    )
                )
        if not rows:
            return []
        taken_in = [row.version for row in rows]
        active = linked if linked in taken_in else taken_in[-1]
        reason = "the database was empty, the model folder was not"
        with self._database.write() as connection:
            if storage.models.last_version(connection):
                return []  # another process was quicker
            for row in rows:
                storage.models.insert(connection, row)
            storage.models.set_active(connection, active)
            storage.timeline.insert(
                connection, version=active, action="rebuild", actor="start", reason=reason
            )
            audit.record(
                connection,
                actor="start",
                action="rebuild",
                subject=f"model {active}",
                after=active,
                versions=taken_in,
                reason=reason,
            )
        self._switch.repair_link()
        _log.warning("models_rebuilt_from_files", versions=taken_in, active=active)
        return taken_in

    def remove_unfinished(self) -> list[int]:
        """Delete files that were begun and never became a version.

        Those of running jobs, and of imports of the last hour, stay. Files
        that were written when the lease of their job had lapsed usually belong
        to a database that was restored from a copy older than they: they are
        set aside.

        Returns
        -------
        list of int
            The numbers whose files were deleted.
        """
        abandoned = clock.now() - int(_ABANDONED_SECONDS * 1e6)
        with self._database.read() as connection:
            unfinished = storage.models.unfinished(connection, reserved_before=abandoned)
            heard_at = storage.models.heard_at(connection)
        left_over = sorted(self._store.versions().intersection(unfinished))
        removed = []
        for version in left_over:
            lapsed_at = heard_at.get(version, clock.now()) + storage.jobs.LEASE_SECONDS * 1e6
            if self._store.written_at(version) > lapsed_at:
                self._store.set_aside(version)
                _log.warning("model_files_set_aside", versions=[version])
                continue
            removed.append(version)
            self._store.delete(version)

        def in_progress() -> list[int]:
            with self._database.read() as connection:
                return storage.models.in_progress(connection, reserved_before=abandoned)

        self._store.remove_unfinished(in_progress=in_progress)
        if removed:
            _log.warning("unfinished_model_files_deleted", versions=removed)
        return removed

    def set_aside_unknown(self) -> list[int]:
        """Move the files of versions that the database does not know into ``unknown/``.

        A database that was restored from an older copy does not know them;
        `take_in_unknown` makes versions of them. Files of deleted versions are
        deleted, and those of reserved numbers left to `remove_unfinished`.

        Returns
        -------
        list of int
            The versions set aside.
        """
        # Listed first: a number is reserved before there is a file of it.
        files = self._store.versions()
        with self._database.read() as connection:
            known = {row.version for row in storage.models.listed(connection)}
            deleted = storage.models.deleted_versions(connection)
            reserved = storage.models.reserved_versions(connection)
        for version in sorted(files & deleted):
            self._store.delete(version)
        set_aside = sorted(files - known - deleted - reserved)
        for version in set_aside:
            self._store.set_aside(version)
        if set_aside:
            _log.warning("model_files_set_aside", versions=set_aside)
        return set_aside

    def take_in_unknown(self, *, actor: str, cell_limit: int) -> list[TakenIn]:
        """Make inactive versions of the sound files that the database does not know.

        A file keeps its number where that is larger than all that were ever
        given, and is byte for byte the version's; else it becomes a version
        with a new number, and an origin that has the old one. What is
        not sound stays in ``unknown/``.

        Parameters
        ----------
        actor : str
        cell_limit : int
            As `ModelStore.write` takes it.

        Returns
        -------
        list of TakenIn
        """
        self.set_aside_unknown()
        with self._database.read() as connection:
            last = storage.models.last_number(connection)

        def order(path: Path) -> tuple[bool, int]:
            # Those that can keep their numbers before those that take new ones.
            number = artifact.aside_version(path.name) or 0
            return number <= last, number

        taken_in: list[TakenIn] = []
        for path in sorted(self._store.aside_files(), key=order):
            version, error = None, None
            try:
                version = self._take_in(path, actor=actor, cell_limit=cell_limit)
            except (ArtifactError, ConflictError, DataError) as exc:
                error = exc.message
            taken_in.append(TakenIn(path.name, version, error))
        return taken_in

    def _take_in(self, path: Path, *, actor: str, cell_limit: int) -> int:
        if path.is_symlink():
            raise ArtifactError(f"{path.name} is a link: put the file itself in its place.")
        loaded = artifact.read(path)
        sha256 = artifact.sha256_of(path)
        with self._database.write() as connection:
            for row in storage.models.all_versions(connection):
                if sha256 in (row.native_sha256, (row.origin or {}).get("sha256")):
                    raise ConflictError(f"{path.name} is version {row.version} already.")
            number, last = loaded.metadata.version, storage.models.last_number(connection)
            keeps = last < number <= LARGEST_BROUGHT
            version = storage.models.reserve(
                connection,
                above=number - 1 if keeps else self._versions.largest_file(),
                job_id=None,
            )
        metadata = loaded.metadata
        if not keeps:
            metadata = dataclasses.replace(
                metadata, version=version, origin=origin_of(metadata, sha256=sha256, timeline=[])
            )
        self._versions.bring(
            dataclasses.replace(loaded, metadata=metadata),
            cell_limit=cell_limit,
            native=path if keeps else None,
            actor=actor,
            source={"file": path.name, "version": number, "sha256": sha256},
        )
        self._store.delete_aside(path)
        return version
