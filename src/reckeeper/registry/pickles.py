"""The pickles of versions, which have the users that the native files don't."""

import dataclasses
import mmap
from collections.abc import Collection, Iterable
from pathlib import Path

from reckeeper import audit, clock, storage
from reckeeper.artifact import ModelStore
from reckeeper.errors import GoneError, NotFoundError, ReckeeperError
from reckeeper.registry.versions import existing
from reckeeper.telemetry import get_logger

_log = get_logger(__name__)


@dataclasses.dataclass(frozen=True)
class Erased:
    """What became of pickles that had a person who was erased.

    Attributes
    ----------
    deleted : list of int
        Versions whose pickle is gone.
    rewritten : list of int
        Versions whose pickle was written anew, without users.
    left : list of int
        Versions whose pickle could not be deleted yet.
    """

    deleted: list[int]
    rewritten: list[int]
    left: list[int]


class Pickles:
    """Finds, gives, deletes and writes anew the pickles of an installation; opens none of them.

    Parameters
    ----------
    database : storage.Database
    store : ModelStore
    """

    def __init__(self, database: storage.Database, store: ModelStore) -> None:
        self._database = database
        self._store = store

    def path(self, version: int) -> Path:
        """Return where the pickle of a version is.

        Raises
        ------
        NotFoundError
            There is no such version, or it has none.
        GoneError
            It had one with a person who was erased since.
        """
        with self._database.read() as connection:
            row = existing(connection, version)
        if row.pickle_erased_at is not None and not row.pickle_bytes:
            raise GoneError(
                f"The pickle of version {version} had a person in it who was erased at "
                f"{clock.rfc3339(row.pickle_erased_at)}, and was deleted with them. The version "
                "itself has no users, and can still be downloaded and activated; once it is "
                "active it has a pickle without users again."
            )
        path = self._store.pickle(version)
        if not path.is_file():
            raise NotFoundError(f"Version {version} has no pickle.")
        return path

    def with_any(self, user_ids: Collection[str]) -> list[int]:
        """Return the versions whose pickle has one of some ids, of a user or of an item."""
        found = (version for version in self._store.versions())
        return sorted(v for v in found if _has_any(self._store.pickle(v), user_ids))

    def delete_aside(self, user_ids: Collection[str]) -> int:
        """Delete the pickles that were set aside and have one of some ids; return how many."""
        chosen = [path for path in self._store.aside_pickles() if _has_any(path, user_ids)]
        for path in chosen:
            path.unlink(missing_ok=True)
        return len(chosen)

    def erase(self, versions: Iterable[int], *, actor: str, erasure_id: int) -> Erased:
        """Delete the pickles of versions; those of active ones are written anew, without users.

        Parameters
        ----------
        versions : iterable of int
        actor : str
        erasure_id : int
            Of the person that they have.
        """
        done = Erased([], [], [])
        for version in versions:
            is_active = self._mark_erased(version, actor=actor, erasure_id=erasure_id)
            if is_active and self.restore(version):
                done.rewritten.append(version)
                continue
            try:
                self._store.delete_pickle(version)
            except OSError as exc:
                _log.error("pickle_not_deleted", version=version, error=str(exc))
                done.left.append(version)
            else:
                done.deleted.append(version)
        return done

    def restore(self, version: int) -> bool:
        """Write the pickle of a version anew, without users, if it was erased.

        It has all else that the contract's pickle has, made of the native file. What stands in
        its place goes.

        Returns
        -------
        bool
            Whether there is one now. What stands in the way is logged.
        """
        with self._database.read() as connection:
            row = storage.models.get(connection, version)
        if row is None or row.pickle_erased_at is None or row.pickle_bytes:
            return row is not None and self._store.pickle(version).is_file()
        try:
            made = self._store.read(version, n_bytes=row.native_bytes, sha256=row.native_sha256)
            # Whom the policy left out of the training is named there, but not in the row any more.
            metadata = dataclasses.replace(made.metadata, data=row.data)
            written = self._store.write_pickle_anew(dataclasses.replace(made, metadata=metadata))
        except (ReckeeperError, OSError) as exc:
            _log.error("pickle_not_written", version=version, error=str(exc))
            return False
        with self._database.write() as connection:
            storage.models.set_pickle(connection, version, written.n_bytes, written.sha256)
            audit.record(
                connection,
                actor="worker",
                action="rewrite_pickle",
                subject=f"model {version}",
                reason="it had a person who was erased, and has no users now",
                pickle_sha256=written.sha256,
            )
        return True

    def _mark_erased(self, version: int, *, actor: str, erasure_id: int) -> bool:
        """Note that a version has no pickle any more; return whether it is active."""
        with self._database.write() as connection:
            row = storage.models.get(connection, version)
            # One that is noted already may lie there still, or again, after a crash.
            if row is not None and (row.pickle_erased_at is None or row.pickle_bytes):
                storage.models.set_pickle_erased(connection, version)
                audit.record(
                    connection,
                    actor=actor,
                    action="delete_pickle",
                    subject=f"model {version}",
                    erasure=erasure_id,
                    reason="it had a person who was erased",
                    pickle_sha256=row.pickle_sha256,
                )
        return row is not None and row.is_active


def _has_any(path: Path, user_ids: Collection[str]) -> bool:
    """Say whether a pickle has a text: as it's written there, so that nothing longer matches."""
    needles = [_pickled(user_id.encode()) for user_id in user_ids]
    try:
        with path.open("rb") as stream:
            if not path.stat().st_size:
                return False
            with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
                return any(content.find(needle) >= 0 for needle in needles)
    except FileNotFoundError:
        return False


def _pickled(text: bytes) -> bytes:
    """Return what `pickle` writes for a text from protocol 4 on."""
    if len(text) < 256:
        return b"\x8c" + len(text).to_bytes(1, "little") + text
    return b"X" + len(text).to_bytes(4, "little") + text
