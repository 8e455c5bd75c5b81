"""Where the files of versions lie: two numbered, immutable files each, in one folder."""

import contextlib
import os
import re
import secrets
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from reckeeper import durable, machine
from reckeeper.artifact.bundle import unpack_native
from reckeeper.artifact.export import write_pickle
from reckeeper.artifact.format import Artifact, WrittenFile, read, sha256_of, write_native
from reckeeper.errors import Action, ArtifactError, MemoryLimitError, StorageError
from reckeeper.matrix import InteractionMatrix

ACTIVE_LINK = "retrained_svd_model.pkl"
"""Name in the model folder under which the pickle of the active version stands."""

SCRATCH = ".transfer-"
"""How the folders in the model folder begin in which files lie on their way in and out."""

_UNKNOWN = "unknown"

_IN_MEMORY = 1.1
"""How much larger than its file a version is in memory, about: 1.04 to 1.2 were measured."""


def native_name(version: int) -> str:
    """Return the name of a version's native file."""
    return f"model-{version:06d}.safetensors"


def pickle_name(version: int) -> str:
    """Return the name of a version's pickle."""
    return f"model-{version:06d}.pkl"


def version_of(name: str) -> int | None:
    """Return the version whose file has this name, or None if it is no such file."""
    stem, _, ending = name.partition(".")
    number = stem.removeprefix("model-")
    if ending not in {"safetensors", "pkl"} or not re.fullmatch("[0-9]{6,9}", number):
        return None
    return int(number) if stem != number else None


def aside_version(name: str) -> int | None:
    """Return the version whose file was set aside under this name, or None."""
    return version_of(re.sub("^[0-9a-f]{8}-", "", name))


class ModelStore:
    """The model files of one installation; which of them the database knows is not asked here.

    Parameters
    ----------
    folder : Path
        Made when the first file is written.
    maps_files : bool
        Whether what is read stays in its file: see `arrays.read`.

    Attributes
    ----------
    folder : Path
    """

    def __init__(self, folder: Path, *, maps_files: bool = False) -> None:
        self.folder = folder
        self._maps_files = maps_files

    def native(self, version: int) -> Path:
        """Return the path of a version's native file."""
        return self.folder / native_name(version)

    def pickle(self, version: int) -> Path:
        """Return the path of a version's pickle."""
        return self.folder / pickle_name(version)

    def write(
        self,
        artifact: Artifact,
        trained: InteractionMatrix | None,
        *,
        cell_limit: int,
        native: Path | None = None,
    ) -> tuple[WrittenFile, WrittenFile]:
        """Write both files of a version; if one cannot be written, neither is left.

        Parameters
        ----------
        artifact : Artifact
        trained : InteractionMatrix or None
            What the model was fitted to, for the pickle; None where nobody knows.
        cell_limit : int
            As `write_pickle` takes it.
        native : Path, optional
            A native file, in the same file system, that `artifact` was read from:
            it is linked, byte for byte the same, and not written again.

        Returns
        -------
        native, pickle : WrittenFile

        Raises
        ------
        ArtifactError
            A file of that version is there already.
        StorageError
            The folder cannot be written.
        DataError
            The metadata hold what no file may tell, such as a number that is not finite.
        """
        version = artifact.metadata.version
        if trained is None:
            trained = InteractionMatrix.without_users(artifact.items)
        try:
            durable.make_folder(self.folder)
            with _new_file(self.native(version)) as temporary:
                if native is None:
                    write_native(artifact, temporary)
                else:
                    os.link(native, temporary)
            try:
                with _new_file(self.pickle(version)) as temporary:
                    write_pickle(artifact, trained, temporary, cell_limit=cell_limit)
            except BaseException:
                self.native(version).unlink(missing_ok=True)
                raise
        except OSError as exc:
            raise StorageError(
                f"Version {version} could not be written to {self.folder}: {exc}. See that the "
                "folder (RECKEEPER_MODEL_DIR) exists, is writable and not full, then retrain."
            ) from exc
        return _described(self.native(version)), _described(self.pickle(version))

    def take(self, version: int, bundle: Path, *, n_bytes: int, sha256: str) -> None:
        """Take a version's native file out of a bundle; where it is there already, it stays.

        Parameters
        ----------
        version : int
        bundle : Path
        n_bytes, sha256
            What is registered of the file.

        Raises
        ------
        ArtifactError, TooLargeError
            The bundle is not sound or has another file.
        StorageError
            The folder cannot be written.
        """
        try:
            durable.make_folder(self.folder)
            with (
                contextlib.suppress(FileExistsError),
                durable.new_file(self.native(version)) as temporary,
            ):
                unpack_native(bundle, temporary)
                if (temporary.stat().st_size, sha256_of(temporary)) != (n_bytes, sha256):
                    raise ArtifactError(
                        f"The bundle of version {version} has another file than was registered."
                    )
        except OSError as exc:
            raise StorageError(
                f"Version {version} could not be written to {self.folder}: {exc}. See that it may "
                "be written to and has room, then try again."
            ) from exc

    def read(
        self, version: int, *, n_bytes: int | None = None, sha256: str | None = None
    ) -> Artifact:
        """Read a version's native file.

        Parameters
        ----------
        version : int
        n_bytes, sha256 : optional
            What is registered of the file; checked first.

        Raises
        ------
        ArtifactError
            The file is missing, is not the one that was registered, or is not sound.
        MemoryLimitError
            It would not fit into the memory that is left.
        """
        if n_bytes is not None and not self._maps_files:
            _check_memory(version, n_bytes)
        return read(
            self.native(version), n_bytes=n_bytes, sha256=sha256, is_mapped=self._maps_files
        )

    def describe(self, version: int) -> tuple[WrittenFile, WrittenFile | None]:
        """Return the native file and, if it is there, the pickle of a version."""
        exported = self.pickle(version)
        return (
            _described(self.native(version)),
            _described(exported) if exported.exists() else None,
        )

    def written_at(self, version: int) -> int:
        """Return when a version's native file was written, 0 if there is none."""
        try:
            return self.native(version).stat().st_mtime_ns // 1000
        except FileNotFoundError:
            return 0

    def state(self, version: int) -> tuple[int, int] | None:
        """Return size and time of a version's native file, which change with it; None without one.

        It is the time of the last change of anything, which nobody can set: a copy over the file
        that keeps its times shows too. Where a disk decays in silence, both stay.
        """
        try:
            status = self.native(version).stat()
        except OSError:
            return None
        return status.st_size, status.st_ctime_ns

    def versions(self) -> set[int]:
        """Return the versions of which a file is in the folder."""
        return _versions_in(self.folder, version_of)

    def largest(self, *, below: int) -> int:
        """Return the largest number of a file, set aside or not, up to `below`; 0 without one."""
        aside = _versions_in(self.folder / _UNKNOWN, aside_version)
        return max((number for number in self.versions() | aside if number <= below), default=0)

    def delete(self, version: int) -> None:
        """Delete both files of a version; what is not there stays so."""
        for path in (self.native(version), self.pickle(version)):
            path.unlink(missing_ok=True)
        if self.folder.is_dir():
            durable.sync_folder(self.folder)

    def remove_unfinished(self, *, in_progress: Callable[[], Collection[int]] = frozenset) -> None:
        """Delete what writers that did not come to their end have left.

        Parameters
        ----------
        in_progress : callable
            Returns the versions that may yet be written to their end. Asked once
            the files are listed: a file is there no sooner than its version is
            known to be in progress.
        """
        found = list(self.folder.glob(".model-*.tmp"))
        spared = in_progress()
        for temporary in found:
            if version_of(temporary.name[1:].rsplit(".", 2)[0]) not in spared:
                temporary.unlink(missing_ok=True)
        self._temporary_link.unlink(missing_ok=True)

    def point_link(self, version: int | None) -> None:
        """Make `ACTIVE_LINK` name a version's pickle, or nothing; atomic.

        The link is relative, so that it holds inside a container and outside.
        """
        link = self.folder / ACTIVE_LINK
        if version is None:
            link.unlink(missing_ok=True)
        # One temporary name for all, so that a process that is killed here leaves nothing for
        # good. Another process may use it at the same time: then this one tries again.
        temporary = self._temporary_link
        while version is not None and self.linked_version() != version:
            temporary.unlink(missing_ok=True)
            with contextlib.suppress(FileExistsError):
                temporary.symlink_to(pickle_name(version))
            with contextlib.suppress(FileNotFoundError):
                os.replace(temporary, link)
        durable.sync_folder(self.folder)

    def linked_version(self) -> int | None:
        """Return the version that `ACTIVE_LINK` names, or None."""
        try:
            return version_of(os.readlink(self.folder / ACTIVE_LINK))
        except OSError:
            return None

    def set_aside(self, version: int) -> None:
        """Move both files of a version into the folder ``unknown/``, where nothing reads them."""
        aside = self.folder / _UNKNOWN
        durable.make_folder(aside)
        mark = secrets.token_hex(4)  # the same number may have been set aside before
        for path in (self.native(version), self.pickle(version)):
            if os.path.lexists(path):
                os.rename(path, aside / f"{mark}-{path.name}")
        durable.sync_folder(aside)
        durable.sync_folder(self.folder)

    def aside_files(self) -> list[Path]:
        """Return the native files in ``unknown/``, whatever their names, in the order of names."""
        return sorted((self.folder / _UNKNOWN).glob("*.safetensors"))

    def aside_pickles(self) -> list[Path]:
        """Return the pickles in ``unknown/``."""
        return sorted((self.folder / _UNKNOWN).glob("*.pkl"))

    def write_pickle_anew(self, artifact: Artifact) -> WrittenFile:
        """Write a version's pickle without users, in the place of the one that may be there.

        Raises
        ------
        OSError
            The folder cannot be written.
        """
        path = self.pickle(artifact.metadata.version)
        users = InteractionMatrix.without_users(artifact.items)
        with durable.replaced_file(path) as temporary:
            write_pickle(artifact, users, temporary, cell_limit=0)
        return _described(path)

    def delete_pickle(self, version: int) -> None:
        """Delete the pickle of a version; the version stays what it is."""
        self.pickle(version).unlink(missing_ok=True)
        if self.folder.is_dir():
            durable.sync_folder(self.folder)

    def delete_aside(self, path: Path) -> None:
        """Delete a native file in ``unknown/``, and the pickle that was set aside with it."""
        path.unlink(missing_ok=True)
        path.with_suffix(".pkl").unlink(missing_ok=True)
        durable.sync_folder(path.parent)

    @property
    def _temporary_link(self) -> Path:
        return self.folder / f".{ACTIVE_LINK}.tmp"


def _check_memory(version: int, n_bytes: int) -> None:
    needed, free = int(_IN_MEMORY * n_bytes), machine.free_memory()
    if needed > free:
        raise MemoryLimitError(
            f"Version {version} takes {machine.human_bytes(needed)} of memory, and "
            f"{machine.human_bytes(free)} are free: give the process more, or train with fewer "
            "components or neighbours.",
            details={"needed_bytes": needed, "available_bytes": free},
            action=Action("retrain"),
        )


@contextlib.contextmanager
def _new_file(path: Path) -> Iterator[Path]:
    try:
        with durable.new_file(path) as temporary:
            yield temporary
    except FileExistsError as exc:
        raise ArtifactError(
            f"{path.name} is there already; versions are never overwritten. Another training has "
            "written it: retrain."
        ) from exc


def _versions_in(folder: Path, number: Callable[[str], int | None]) -> set[int]:
    if not folder.is_dir():
        return set()
    found = (number(path.name) for path in folder.iterdir())
    return {version for version in found if version is not None}


def _described(path: Path) -> WrittenFile:
    return WrittenFile(path.name, path.stat().st_size, sha256_of(path))
