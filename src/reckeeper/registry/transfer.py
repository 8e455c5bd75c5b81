"""Versions on their way from one installation to another."""

import dataclasses
from pathlib import Path

from reckeeper import artifact, clock, storage
from reckeeper.artifact import ModelStore, WrittenFile
from reckeeper.registry.versions import Versions, check_note, existing, origin_of

_HISTORY = 100
"""Entries of the timeline that go into a bundle."""


class Transfer:
    """Exports and imports versions.

    Parameters
    ----------
    database : storage.Database
    store : ModelStore
    versions : Versions
    """

    def __init__(self, database: storage.Database, store: ModelStore, versions: Versions) -> None:
        self._database = database
        self._store = store
        self._versions = versions

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
        history = [_told(entry) for entry in entries]
        history += earlier if isinstance(earlier, list) else []
        return artifact.write_bundle(
            target,
            self._store.native(version),
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
            As `ModelStore.write` takes it.

        Returns
        -------
        int
            Its number here.

        Raises
        ------
        ArtifactError, DataError
            The bundle is not sound, or too large; nothing of it stays.
        """
        bundle = artifact.read_bundle(path, scratch=self._store.folder)
        check_note(bundle.note)
        brought = bundle.artifact.metadata
        origin = origin_of(brought, sha256=bundle.sha256, timeline=bundle.timeline)
        metadata = dataclasses.replace(
            brought, version=self._versions.reserve(job_id=None), trigger="import", origin=origin
        )
        self._versions.bring(
            dataclasses.replace(bundle.artifact, metadata=metadata),
            cell_limit=cell_limit,
            note=bundle.note,
            actor=actor,
            source={"version": brought.version, "sha256": bundle.sha256},
        )
        return metadata.version


def _told(entry: storage.TimelineEntry) -> dict[str, object]:
    """Return an entry of the timeline as a bundle has it."""
    told = {name: value for name, value in vars(entry).items() if name != "back_to"}
    until = None if entry.until is None else clock.rfc3339(entry.until)
    return told | {"at": clock.rfc3339(entry.at), "until": until}
