"""The pickles of versions, which have the users that the native files don't."""

import mmap
from collections.abc import Collection, Iterable
from pathlib import Path

from reckeeper import audit, clock, storage
from reckeeper.artifact import ModelStore
from reckeeper.errors import GoneError, NotFoundError
from reckeeper.registry.versions import existing


class Pickles:
    """Finds, gives and deletes the pickles of an installation; opens none of them.

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
        if row.pickle_erased_at is not None:
            raise GoneError(
                f"The pickle of version {version} had a person in it who was erased at "
                f"{clock.rfc3339(row.pickle_erased_at)}, and was deleted with them. The version "
                "itself has no users, and can still be downloaded and activated; a retrain makes "
                "a version with a pickle."
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

    def delete(self, versions: Iterable[int], *, actor: str, erasure_id: int) -> list[int]:
        """Delete the pickles of versions that aren't active; return those of active ones."""
        left = []
        for version in versions:
            with self._database.write() as connection:
                row = storage.models.get(connection, version)
                if row is not None and row.is_active:
                    left.append(version)
                    continue
                if row is not None and row.pickle_erased_at is None:
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
            self._store.delete_pickle(version)
        return left


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
