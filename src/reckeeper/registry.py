"""The versions and their life: the database decides, the files follow."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reckeeper import artifact, audit, storage
from reckeeper.artifact import Artifact, Metadata, WrittenFile
from reckeeper.errors import ArtifactError, ConflictError, NotFoundError
from reckeeper.telemetry import get_logger

_log = get_logger(__name__)


@dataclass(frozen=True)
class ActiveModel:
    """A version in memory, as it is served."""

    version: int
    artifact: Artifact
    watermark: int


class Registry:
    """The versions of one installation.

    Parameters
    ----------
    database : storage.Database
    folder : Path
        Where the model files are.
    """

    def __init__(self, database: storage.Database, folder: Path) -> None:
        self._database = database
        self._folder = folder

    def next_version(self) -> int:
        """Return a number that no version has or had, in the database or the folder."""
        with self._database.read() as connection:
            last = storage.models.last_version(connection)
        return 1 + max([last, *self._numbered_files()])

    def register(
        self, metadata: Metadata, files: tuple[WrittenFile, WrittenFile], *, job_id: int | None
    ) -> None:
        """Make a version whose files are written known, inactive."""
        with self._database.write() as connection:
            storage.models.insert(connection, _row(metadata, files, job_id=job_id))

    def versions(self) -> list[dict[str, Any]]:
        """Describe all versions, the newest first; opens no model file."""
        with self._database.read() as connection:
            rows = storage.models.all_versions(connection)
        return [self._describe(row) for row in rows]

    def version(self, version: int) -> dict[str, Any]:
        """Describe one version.

        Raises
        ------
        NotFoundError
            There is none of this number.
        """
        with self._database.read() as connection:
            return self._describe(_found(connection, version))

    def retrain_answer(self, version: int, *, job_id: int) -> dict[str, Any]:
        """Return the contract's answer to the ``POST /retrain`` that made a version."""
        with self._database.read() as connection:
            row = _found(connection, version)
        return {
            "status": "ok",
            "message": (
                f"Model retrained in {row['seconds']:.1f}s - {row['training_samples']} samples, "
                f"{row['explained_variance']:.2%} variance explained"
            ),
            "details": {
                "training_samples": row["training_samples"],
                "n_users": row["n_users"],
                "n_items": row["n_items"],
                "explained_variance": round(row["explained_variance"], 4),
            },
            "version": version,
            "job_id": job_id,
        }

    def active_version(self) -> int | None:
        """Return the number of the version that serves, or None."""
        with self._database.read() as connection:
            return storage.models.active_version(connection)

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
            row = _found(connection, version)
        loaded = artifact.read(
            self._folder / artifact.native_name(version),
            n_bytes=row["native_bytes"],
            sha256=row["native_sha256"],
        )
        if loaded.metadata.version != version:
            raise ArtifactError(
                f"The file of version {version} says that it is version {loaded.metadata.version}."
            )
        return ActiveModel(version, loaded, row["watermark"])

    def newest_sound(self, *, besides: int | None = None) -> int | None:
        """Return the newest version whose file is sound, or None; reads files until one is."""
        for row in self.versions():
            if row["version"] != besides:
                with contextlib.suppress(ArtifactError, NotFoundError):
                    return self.load(row["version"]).version
        return None

    def activate(
        self,
        model: ActiveModel,
        *,
        actor: str,
        reason: str | None = None,
        also: Callable[[storage.Connection], None] | None = None,
    ) -> None:
        """Make a loaded, and so sound, version the one that serves.

        The row changes in one transaction; every process takes the new
        version up by itself within half a second.

        Parameters
        ----------
        model : ActiveModel
            As `load` gives it.
        actor : str
            Who asks, for the trail.
        reason : str, optional
        also : callable, optional
            Called with the connection, to write more in the same transaction.

        Raises
        ------
        NotFoundError
            The version has been deleted since.
        """
        version = model.version
        with self._database.write() as connection:
            _found(connection, version)
            before = storage.models.active_version(connection)
            storage.models.set_active(connection, version)
            audit.record(
                connection,
                actor=actor,
                action="activate",
                subject=f"model {version}",
                before=before,
                after=version,
                reason=reason,
            )
            if also is not None:
                also(connection)
        self.repair_link()

    def delete(self, version: int, *, actor: str, reason: str | None = None) -> None:
        """Delete an inactive version: its row is kept as a mark, its files go.

        Raises
        ------
        NotFoundError
            There is no such version.
        ConflictError
            It is the active one.
        """
        with self._database.write() as connection:
            if _found(connection, version)["is_active"]:
                raise ConflictError(
                    f"Version {version} is active and cannot be deleted: activate another first."
                )
            _delete_row(connection, version, actor=actor, reason=reason)
        artifact.delete(self._folder, version)

    def retain(self, *, n_versions: int, actor: str) -> list[int]:
        """Delete the oldest inactive versions beyond `n_versions`; return their numbers."""
        inactive = [row["version"] for row in self.versions() if row["status"] == "inactive"]
        surplus = inactive[max(0, n_versions - 1) :]
        deleted = []
        for version in surplus:
            # Somebody may have activated or deleted it meanwhile.
            with contextlib.suppress(ConflictError, NotFoundError):
                self.delete(version, actor=actor, reason=f"beyond the {n_versions} versions kept")
                deleted.append(version)
        return deleted

    def delete_demo(self, *, actor: str) -> list[int]:
        """Delete every version that demo data went into, an active one too."""
        with self._database.write() as connection:
            rows = [row for row in storage.models.all_versions(connection) if row["is_demo"]]
            for row in rows:
                _delete_row(connection, row["version"], actor=actor, reason="demo data removed")
        self.repair_link()
        for row in rows:
            artifact.delete(self._folder, row["version"])
        return [row["version"] for row in rows]

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
        linked = artifact.linked_version(self._folder)
        rows = []
        for version in sorted(self._numbered_files()):
            try:
                loaded = artifact.read(self._folder / artifact.native_name(version))
            except ArtifactError as exc:
                _log.warning("model_file_not_taken_in", version=version, error=exc.message)
                continue
            if loaded.metadata.version == version:
                native, exported = artifact.describe_files(self._folder, version)
                row = _row(loaded.metadata, (native, exported), job_id=None)
                # The interactions that it saw had numbers of another database.
                rows.append({**row, "watermark": 0})
        if not rows:
            return []
        taken_in = [row["version"] for row in rows]
        active = linked if linked in taken_in else taken_in[-1]
        with self._database.write() as connection:
            if storage.models.last_version(connection):
                return []  # another process was quicker
            for row in rows:
                storage.models.insert(connection, row)
            storage.models.set_active(connection, active)
            audit.record(
                connection,
                actor="start",
                action="rebuild",
                subject=f"model {active}",
                after=active,
                versions=taken_in,
                reason="the database was empty, the model folder was not",
            )
        self.repair_link()
        _log.warning("models_rebuilt_from_files", versions=taken_in, active=active)
        return taken_in

    def set_aside_unknown(self) -> list[int]:
        """Move the files of versions that the database does not know into ``unknown/``.

        A process that was killed between writing and registering leaves such
        files. Those of deleted versions are deleted. For the start, while no
        job runs: a running one may not have registered its version yet.

        Returns
        -------
        list of int
            The versions set aside.
        """
        with self._database.read() as connection:
            if storage.jobs.running(connection) is not None:
                return []
            known = {row["version"] for row in storage.models.all_versions(connection)}
            deleted = storage.models.deleted_versions(connection)
        unknown = sorted(self._numbered_files() - known)
        for version in unknown:
            if version in deleted:
                artifact.delete(self._folder, version)
            else:
                artifact.set_aside(self._folder, version)
        set_aside = [version for version in unknown if version not in deleted]
        if set_aside:
            _log.warning("model_files_set_aside", versions=set_aside)
        return set_aside

    def _numbered_files(self) -> set[int]:
        if not self._folder.is_dir():
            return set()
        found = (artifact.version_of(path.name) for path in self._folder.iterdir())
        return {version for version in found if version is not None}

    def _describe(self, row: dict[str, Any]) -> dict[str, Any]:
        """Return the contract's fields of a version, then ours."""
        version = row["version"]
        name = artifact.ACTIVE_LINK if row["is_active"] else artifact.pickle_name(version)
        metadata = _metadata(row)
        return {
            "name": "Retrained SVD Model",
            "path": str(self._folder / name),
            "type": metadata.type,
            "status": "active" if row["is_active"] else "inactive",
            "n_users": row["n_users"],
            "n_items": row["n_items"],
            "explained_variance": f"{row['explained_variance']:.2%}",
            "trained_on": metadata.timestamp,
            "version": version,
            "recipe": row["recipe"],
            "settings": row["settings"],
            "training_samples": row["training_samples"],
            "seconds": row["seconds"],
            "trigger": row["trigger"],
            "job_id": row["job_id"],
            "is_demo": row["is_demo"],
        }


_METADATA = (
    "version",
    "recipe",
    "settings",
    "n_users",
    "n_items",
    "training_samples",
    "explained_variance",
    "watermark",
    "trained_at",
    "seconds",
    "trigger",
    "is_demo",
)


def _metadata(row: dict[str, Any]) -> Metadata:
    return Metadata(**{name: row[name] for name in _METADATA})


def _row(
    metadata: Metadata, files: tuple[WrittenFile, WrittenFile | None], *, job_id: int | None
) -> dict[str, Any]:
    native, exported = files
    return {
        **{name: getattr(metadata, name) for name in _METADATA},
        "job_id": job_id,
        "native_bytes": native.n_bytes,
        "native_sha256": native.sha256,
        "pickle_bytes": exported.n_bytes if exported else 0,
        "pickle_sha256": exported.sha256 if exported else "",
    }


def _found(connection: storage.Connection, version: int) -> dict[str, Any]:
    row = storage.models.get(connection, version)
    if row is None:
        raise NotFoundError(
            f"There is no version {version}: GET /models lists those that there are."
        )
    return row


def _delete_row(
    connection: storage.Connection, version: int, *, actor: str, reason: str | None
) -> None:
    storage.models.mark_deleted(connection, version)
    audit.record(
        connection, actor=actor, action="delete", subject=f"model {version}", reason=reason
    )
