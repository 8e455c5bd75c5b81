"""The model folder, which follows the database: what is lost, unfinished or brought along."""

import contextlib
import dataclasses
from pathlib import Path
from typing import Any

from reckeeper import artifact, audit, clock, storage
from reckeeper.artifact import Artifact, Metadata, WrittenFile
from reckeeper.errors import ArtifactError, ConflictError, DataError, StorageError
from reckeeper.registry.rows import check_note, describe_entry, existing, version_of
from reckeeper.telemetry import get_logger

_ABANDONED_SECONDS = 3600.0
"""How long after it took its number an import is given up; one takes minutes at most."""

_LARGEST_BROUGHT = 10**8
"""Files with larger numbers do not get to say from where on versions are counted."""

_HISTORY = 100
"""Entries of the timeline that go into a bundle."""

_log = get_logger(__name__)


class Folder:
    """The files of one installation's versions, held against its database.

    Parameters
    ----------
    database : storage.Database
    folder : Path
        Where the model files are.
    """

    def __init__(self, database: storage.Database, folder: Path) -> None:
        self._database = database
        self._folder = folder

    def reserve(self, *, job_id: int | None) -> int:
        """Take a number that no version has or had, in the database or the folder.

        It is taken before a file is written: files of a number that never
        became a version are known to be unfinished, see `remove_unfinished`.

        Parameters
        ----------
        job_id : int or None
            The job that is to write the files; None for an import.
        """
        with self._database.write() as connection:
            return storage.models.reserve(connection, above=self._largest_file(), job_id=job_id)

    def active_version(self) -> int | None:
        """Return the number of the version that serves, or None."""
        with self._database.read() as connection:
            return storage.models.active_version(connection)

    def repair_link(self) -> None:
        """Let the folder's link name the active version's pickle."""
        if not self._folder.is_dir():
            return
        pointed_at: int | None = -1
        # Another process may activate another version between the look and the link.
        while (active := self.active_version()) != pointed_at:
            try:
                artifact.point_link(self._folder, active)
            except OSError as exc:
                # The row is what counts; the next start or activation tries again.
                _log.error("model_link_not_written", version=active, error=str(exc))
                return
            pointed_at = active

    def rebuild(self) -> list[int]:
        """Take in the versions of a folder that a new, empty database does not know.

        Of a database that has had a version, nothing is changed. The version
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
        linked = artifact.linked_version(self._folder)
        rows = []
        for version in sorted(artifact.numbered_files(self._folder) - reserved):
            try:
                loaded = artifact.read(self._folder / artifact.native_name(version))
            except ArtifactError as exc:
                _log.warning("model_file_not_taken_in", version=version, error=exc.message)
                continue
            if loaded.metadata.version == version <= _LARGEST_BROUGHT:
                native, exported = artifact.describe_files(self._folder, version)
                rows.append(
                    version_of(
                        loaded.metadata,
                        (native, exported),
                        job_id=None,
                        watermark=self._watermark(loaded.metadata),
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
        self.repair_link()
        _log.warning("models_rebuilt_from_files", versions=taken_in, active=active)
        return taken_in

    def remove_unfinished(self) -> list[int]:
        """Delete files that were begun and never became a version.

        Those of running jobs, and of imports of the last hour, stay. Files
        that were written when the lease of their job had lapsed are, as a
        rule, those of a database that was restored from a copy older than
        they: they are set aside.

        Returns
        -------
        list of int
            The numbers whose files were deleted.
        """
        abandoned = clock.now() - int(_ABANDONED_SECONDS * 1e6)
        with self._database.read() as connection:
            unfinished = storage.models.unfinished(connection, reserved_before=abandoned)
            heard_at = storage.models.heard_at(connection)
        left_over = sorted(artifact.numbered_files(self._folder).intersection(unfinished))
        removed = []
        for version in left_over:
            lapsed_at = heard_at.get(version, clock.now()) + storage.jobs.LEASE_SECONDS * 1e6
            if self._written_at(version) > lapsed_at:
                artifact.set_aside(self._folder, version)
                _log.warning("model_files_set_aside", versions=[version])
                continue
            removed.append(version)
            artifact.delete(self._folder, version)

        def in_progress() -> list[int]:
            with self._database.read() as connection:
                return storage.models.in_progress(connection, reserved_before=abandoned)

        artifact.remove_unfinished(self._folder, in_progress=in_progress)
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
        files = artifact.numbered_files(self._folder)
        with self._database.read() as connection:
            known = {row.version for row in storage.models.listed(connection)}
            deleted = storage.models.deleted_versions(connection)
            reserved = storage.models.reserved_versions(connection)
        for version in sorted(files & deleted):
            artifact.delete(self._folder, version)
        set_aside = sorted(files - known - deleted - reserved)
        for version in set_aside:
            artifact.set_aside(self._folder, version)
        if set_aside:
            _log.warning("model_files_set_aside", versions=set_aside)
        return set_aside

    def take_in_unknown(self, *, actor: str, cell_limit: int) -> list[dict[str, Any]]:
        """Make inactive versions of the sound files that the database does not know.

        A file keeps its number where that is larger than all that were ever
        given, and is byte for byte the version's; else it becomes a version
        with a new number, and an origin that tells of the old one. What is
        not sound stays in ``unknown/``.

        Parameters
        ----------
        actor : str
        cell_limit : int
            As `artifact.write` takes it.

        Returns
        -------
        list of dict
            Each with ``file``, ``version`` (None if it was not taken in) and
            ``error`` (None if it was).
        """
        self.set_aside_unknown()
        with self._database.read() as connection:
            last = storage.models.last_number(connection)

        def order(path: Path) -> tuple[bool, int]:
            # Those that can keep their numbers before those that take new ones.
            number = artifact.aside_version(path.name) or 0
            return number <= last, number

        taken_in: list[dict[str, Any]] = []
        for path in sorted(artifact.aside_files(self._folder), key=order):
            version, error = None, None
            try:
                version = self._take_in(path, actor=actor, cell_limit=cell_limit)
            except (ArtifactError, ConflictError, DataError) as exc:
                error = exc.message
            taken_in.append({"file": path.name, "version": version, "error": error})
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
            keeps = last < number <= _LARGEST_BROUGHT
            version = storage.models.reserve(
                connection, above=number - 1 if keeps else self._largest_file(), job_id=None
            )
        metadata = loaded.metadata
        if not keeps:
            metadata = dataclasses.replace(
                metadata, version=version, origin=_origin(metadata, sha256=sha256, timeline=[])
            )
        self._add(
            dataclasses.replace(loaded, metadata=metadata),
            cell_limit=cell_limit,
            native=path if keeps else None,
            actor=actor,
            source={"file": path.name, "version": number, "sha256": sha256},
        )
        artifact.delete_aside(path)
        return version

    def export_bundle(self, version: int, target: Path) -> WrittenFile:
        """Write a version into one file, from which another installation takes it in.

        Parameters
        ----------
        version : int
        target : Path
            Where to; what is there is replaced.

        Raises
        ------
        NotFoundError
            There is no such version.
        ArtifactError
            Its file is missing or changed, or the bundle cannot be written.
        """
        with self._database.read() as connection:
            row = existing(connection, version)
            entries = storage.timeline.of_version(connection, version)
        earlier = (row.origin or {}).get("timeline")
        history = [describe_entry(entry) for entry in entries]
        history += earlier if isinstance(earlier, list) else []
        return artifact.write_bundle(
            target,
            self._folder / artifact.native_name(version),
            n_bytes=row.native_bytes,
            sha256=row.native_sha256,
            note=row.note,
            timeline=history[:_HISTORY],
        )

    def import_bundle(self, path: Path, *, actor: str, cell_limit: int) -> int:
        """Make an inactive version of what another installation has exported.

        It gives the same answers here, to the same histories. Interactions
        that occurred after the latest it was trained on count as newer.

        Parameters
        ----------
        path : Path
        actor : str
        cell_limit : int
            As `artifact.write` takes it.

        Returns
        -------
        int
            Its number here.

        Raises
        ------
        ArtifactError, DataError
            The bundle is not sound, or too large; nothing of it stays.
        """
        bundle = artifact.read_bundle(path, scratch=self._folder)
        check_note(bundle.note)
        brought = bundle.artifact.metadata
        origin = _origin(brought, sha256=bundle.sha256, timeline=bundle.timeline)
        metadata = dataclasses.replace(
            brought, version=self.reserve(job_id=None), trigger="import", origin=origin
        )
        self._add(
            dataclasses.replace(bundle.artifact, metadata=metadata),
            cell_limit=cell_limit,
            note=bundle.note,
            actor=actor,
            source={"version": brought.version, "sha256": bundle.sha256},
        )
        return metadata.version

    def _add(
        self,
        made: Artifact,
        *,
        cell_limit: int,
        actor: str,
        source: dict[str, Any],
        note: str | None = None,
        native: Path | None = None,
    ) -> None:
        version = made.metadata.version
        watermark = self._watermark(made.metadata)
        if native is None:
            made = dataclasses.replace(
                made, metadata=dataclasses.replace(made.metadata, watermark=watermark)
            )
        files = artifact.write(made, self._folder, cell_limit=cell_limit, native=native)
        try:
            row = version_of(made.metadata, files, job_id=None, watermark=watermark, note=note)
            with self._database.write() as connection:
                storage.models.insert(connection, row)
                audit.record(
                    connection,
                    actor=actor,
                    action="import",
                    subject=f"model {version}",
                    before=None,
                    after=version,
                    source=source,
                )
        except BaseException:
            self.discard(version)
            raise

    def discard(self, version: int) -> None:
        """Delete the files of a version that did not come to be.

        One that is registered keeps them: its transaction may have been
        committed before whatever was raised.
        """
        with contextlib.suppress(StorageError), self._database.read() as connection:
            if storage.models.get(connection, version) is None:
                artifact.delete(self._folder, version)

    def _watermark(self, metadata: Metadata) -> int:
        """Return up to which number a model of elsewhere has seen the interactions of here."""
        with self._database.read() as connection:
            later = storage.interactions.first_later_than(connection, metadata.latest_at)
            last = storage.interactions.last_id(connection)
        return last if later is None else later - 1

    def _written_at(self, version: int) -> float:
        try:
            path = self._folder / artifact.native_name(version)
            return path.stat().st_mtime_ns / 1e3
        except FileNotFoundError:
            return 0.0

    def _largest_file(self) -> int:
        files = artifact.numbered_files(self._folder)
        files |= artifact.numbered_files(self._folder, aside=True)
        return max((version for version in files if version <= _LARGEST_BROUGHT), default=0)

    def _delete_files(self, versions: list[int]) -> None:
        for version in versions:
            try:
                artifact.delete(self._folder, version)
            except OSError as exc:
                # The row says that it is deleted; the next start tries again.
                _log.error("model_files_not_deleted", version=version, error=str(exc))


def _origin(metadata: Metadata, *, sha256: str, timeline: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "version": metadata.version,
        "sha256": sha256,
        "trained_at": clock.rfc3339(metadata.trained_at),
        "timeline": timeline,
        "imported_at": clock.rfc3339(clock.now()),
    }
