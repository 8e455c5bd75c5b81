"""Versions: what there is, what people say of it, and its end."""

import contextlib
import dataclasses
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reckeeper import audit, clock, durable, storage
from reckeeper.artifact import SCRATCH, Artifact, Metadata, ModelStore, WrittenFile
from reckeeper.errors import (
    Action,
    ArtifactError,
    ConflictError,
    DataError,
    MemoryLimitError,
    NotFoundError,
    ReckeeperError,
    StorageError,
)
from reckeeper.registry.described import (
    DescribedModel,
    ListedModel,
    RetrainAnswer,
    described,
    is_pinned,
    listed,
    retrained,
)
from reckeeper.telemetry import get_logger

MAX_NOTE_CHARS = 10_000

LARGEST_BROUGHT = 10**8
"""Files with larger numbers do not get to say from where on versions are counted."""

_log = get_logger(__name__)


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
        When the last interaction occurred that it has seen, in microseconds
        since 1970, for a version that was not trained on this database: what
        came later by number may have been in it all the same.
    """

    version: int
    artifact: Artifact
    watermark: int
    seen_until: int | None = None


Fetch = Callable[[int, Path], Path]
"""Writes the bundle of a version to a path, and returns that."""


class Versions:
    """The versions of one installation.

    Parameters
    ----------
    database : storage.Database
    store : ModelStore
    fetch : Fetch, optional
        Called for a version whose file is not in the folder.
    """

    def __init__(
        self, database: storage.Database, store: ModelStore, *, fetch: Fetch | None = None
    ) -> None:
        self._database = database
        self._store = store
        self._fetch = fetch

    def reserve(self, *, job_id: int | None) -> int:
        """Take a number that no version has or had, in the database or the folder.

        It is taken before a file is written: files of a number that never
        became a version are known to be unfinished, see `Recovery.remove_unfinished`.

        Parameters
        ----------
        job_id : int or None
            The job that is to write the files; None for an import.
        """
        with self._database.write() as connection:
            return storage.models.reserve(connection, above=self.largest_file(), job_id=job_id)

    def largest_file(self) -> int:
        """Return the largest number of a file that has a say in how versions are counted."""
        return self._store.largest(below=LARGEST_BROUGHT)

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
            As `ModelStore.write` gives them.
        job_id : int or None
        also : callable, optional
            Called first with the connection, in the same transaction; what
            it raises takes the whole back.
        """
        with self._database.write() as connection:
            if also is not None:
                also(connection)
            storage.models.insert(connection, version_of(metadata, files, job_id=job_id))

    def discard(self, version: int) -> None:
        """Delete the files of a version that did not come to be.

        One that is registered keeps them: its transaction may have been
        committed before whatever was raised.
        """
        with contextlib.suppress(StorageError), self._database.read() as connection:
            if storage.models.get(connection, version) is None:
                self._store.delete(version)

    def all(self) -> list[ListedModel]:
        """Describe all versions, the newest first; opens no model file."""
        with self._database.read() as connection:
            rows = storage.models.listed(connection)
        return [listed(row, self._store) for row in rows]

    def has_demo(self) -> bool:
        """Return whether demo data went into a version that is there."""
        with self._database.read() as connection:
            return any(row.is_demo for row in storage.models.listed(connection))

    def describe(self, version: int) -> DescribedModel:
        """Describe one version in full; opens no model file.

        Raises
        ------
        NotFoundError
            There is none of this number.
        """
        with self._database.read() as connection:
            row = existing(connection, version)
            entries = storage.timeline.of_version(connection, version)
        return described(row, self._store, entries)

    def retrain_answer(
        self,
        version: int,
        *,
        job_id: int,
        promoted: bool | None = None,
        verdict: dict[str, Any] | None = None,
    ) -> RetrainAnswer:
        """Return the contract's answer to the retrain that made a version.

        Parameters
        ----------
        version, job_id : int
        promoted : bool, optional
            Whether it was activated.
        verdict : dict, optional
            The gate's; by default what is registered.
        """
        with self._database.read() as connection:
            row = existing(connection, version)
        told = row.verdict if verdict is None else verdict
        return retrained(row, job_id=job_id, promoted=promoted, verdict=told)

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
        if self._fetch is not None and not self._store.native(version).exists():
            self._fetch_file(self._fetch, row)
        loaded = self._store.read(version, n_bytes=row.native_bytes, sha256=row.native_sha256)
        if loaded.metadata.version != version:
            raise ArtifactError(
                f"The file of version {version} says that it is version {loaded.metadata.version}."
            )
        is_from_here = row.job_id is not None
        seen_until = None if is_from_here else loaded.metadata.latest_at
        return ActiveModel(version, loaded, row.watermark, seen_until)

    def _fetch_file(self, fetch: Fetch, row: storage.Version) -> None:
        try:
            durable.make_folder(self._store.folder)
            with tempfile.TemporaryDirectory(prefix=SCRATCH, dir=self._store.folder) as scratch:
                bundle = fetch(row.version, Path(scratch) / "bundle.zip")
                self._store.take(
                    row.version, bundle, n_bytes=row.native_bytes, sha256=row.native_sha256
                )
        except (ReckeeperError, OSError) as exc:
            reason = "see that the server which RECKEEPER_MODEL_SOURCE_URL names answers this one."
            raise ArtifactError(
                f"The file of version {row.version} is not in the model folder, and could not be "
                f"fetched: {exc if isinstance(exc, ArtifactError) else reason}",
                private=str(exc),
            ) from exc
        _log.info("model_file_fetched", version=row.version)
        with self._database.read() as connection:
            deleted = storage.models.deleted_versions(connection)
        for version in self._store.versions() & deleted:
            self._store.delete(version)

    def file_state(self, version: int) -> tuple[int, int] | None:
        """Return what changes with a version's native file; None while there is none."""
        return self._store.state(version)

    def newest_sound(self, *, besides: int | None = None) -> ActiveModel | None:
        """Load the newest version whose file is sound, if any; reads files until one is."""
        with self._database.read() as connection:
            versions = [row.version for row in storage.models.listed(connection)]
        for version in versions:
            if version != besides:
                with contextlib.suppress(ArtifactError, MemoryLimitError, NotFoundError):
                    return self.load(version)
        return None

    def pin(
        self, version: int, *, actor: str, until: int | None = None, reason: str | None = None
    ) -> None:
        """Keep a version: while it is active no job replaces it, and nothing deletes it.

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
        """Unpin a version; a version without one stays as it is.

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
            if _pin_of(before) == _pin_of(after):
                return
            storage.models.set_pin(
                connection, version, pinned_at=pinned_at, pinned_until=pinned_until
            )
            audit.record(
                connection,
                actor=actor,
                action=action,
                subject=f"model {version}",
                before=_pin_of(before),
                after=_pin_of(after),
                reason=reason,
            )

    def note(self, version: int, text: str | None, *, actor: str) -> None:
        """Write a note on a version, in place of the one that it has; None removes it.

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
                    f"Version {version} is active and cannot be deleted: activate another first.",
                    action=Action("list_versions"),
                )
            if is_pinned(row):
                raise ConflictError(
                    f"Version {version} is pinned and cannot be deleted: unpin it first.",
                    action=Action("unpin", {"version": version}),
                )
            delete_row(connection, version, actor=actor, reason=reason)
        delete_files(self._store, [version])

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
                delete_row(connection, version, actor=actor, reason=reason)
                deleted.append(version)
        delete_files(self._store, deleted)
        return deleted

    def bring(
        self,
        made: Artifact,
        *,
        cell_limit: int,
        actor: str,
        source: Mapping[str, object],
        note: str | None = None,
        native: Path | None = None,
    ) -> None:
        """Write the files of a version that was made elsewhere, and register it, inactive.

        Parameters
        ----------
        made : Artifact
            Under a number that `reserve` gave.
        cell_limit, native
            As `ModelStore.write` takes them.
        actor : str
        source : mapping
            Where it comes from, for the trail; JSON values.
        note : str, optional
        """
        version = made.metadata.version
        watermark = self.seen_of(made.metadata)
        if native is None:
            made = dataclasses.replace(
                made, metadata=dataclasses.replace(made.metadata, watermark=watermark)
            )
        files = self._store.write(made, None, cell_limit=cell_limit, native=native)
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

    def seen_of(self, metadata: Metadata) -> int:
        """Return up to which number a model of elsewhere has seen the interactions of here."""
        with self._database.read() as connection:
            later = storage.interactions.first_later_than(connection, metadata.latest_at)
            last = storage.interactions.last_id(connection)
        return last if later is None else later - 1


def version_of(
    metadata: Metadata,
    files: tuple[WrittenFile, WrittenFile | None],
    *,
    job_id: int | None,
    watermark: int | None = None,
    note: str | None = None,
) -> storage.Version:
    """Return the inactive version whose files are written.

    Parameters
    ----------
    metadata : Metadata
    files : tuple of WrittenFile
        The native one, and the pickle if there is one.
    job_id : int or None
        The job that made it; None for one that was brought here.
    watermark : int, optional
        For a version that was brought here; by default the metadata's.
    note : str, optional
    """
    native, exported = files
    told = vars(metadata)
    if watermark is not None:
        told = told | {"watermark": watermark}
    return storage.Version(
        **told,
        is_active=False,
        job_id=job_id,
        native_bytes=native.n_bytes,
        native_sha256=native.sha256,
        pickle_bytes=exported.n_bytes if exported else 0,
        pickle_sha256=exported.sha256 if exported else "",
        note=note,
    )


def existing(connection: storage.Connection, version: int) -> storage.Version:
    """Return a version.

    Raises
    ------
    NotFoundError
        There is none of this number.
    """
    row = storage.models.get(connection, version)
    if row is None:
        raise NotFoundError(f"There is no version {version}.", action=Action("list_versions"))
    return row


def _pin_of(row: storage.VersionSummary) -> dict[str, object]:
    """Return a pin as the trail has it."""
    until = row.pinned_until
    return {"pinned": is_pinned(row), "until": None if until is None else clock.rfc3339(until)}


def delete_row(
    connection: storage.Connection, version: int, *, actor: str, reason: str | None
) -> None:
    """Mark a version deleted, and write that down."""
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


def delete_files(store: ModelStore, versions: list[int]) -> None:
    """Delete the files of versions that are marked deleted; what fails is logged."""
    for version in versions:
        try:
            store.delete(version)
        except OSError as exc:
            # The row says that it is deleted; the next start tries again.
            _log.error("model_files_not_deleted", version=version, error=str(exc))


def check_note(text: str | None) -> None:
    """Refuse a note that cannot be kept.

    Raises
    ------
    DataError
        It is longer than `MAX_NOTE_CHARS`, or no text that can be stored.
    """
    if text is None:
        return
    if len(text) > MAX_NOTE_CHARS:
        problem = f"It has {len(text)} characters, and {MAX_NOTE_CHARS} is the most. Shorten it."
    elif any(character == "\0" or "\ud800" <= character <= "\udfff" for character in text):
        problem = "It has an invalid character. Write it again."
    else:
        return
    raise DataError(f"note: {problem}", details={"field": "note"})


def origin_of(
    metadata: Metadata, *, sha256: str, timeline: list[dict[str, Any]]
) -> dict[str, object]:
    """Return where a version that is brought here was made, and what it did there."""
    return {
        "version": metadata.version,
        "sha256": sha256,
        "trained_at": clock.rfc3339(metadata.trained_at),
        "timeline": timeline,
        "imported_at": clock.rfc3339(clock.now()),
    }
