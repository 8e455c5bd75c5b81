"""Taking a backup: everything of one moment, in one file, while all processes go on."""

import contextlib
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import reckeeper
from reckeeper import artifact, audit, clock, durable, storage
from reckeeper.backup import archive, keys
from reckeeper.config import Settings
from reckeeper.errors import ConflictError, DataError, StorageError

_TRIES = 3

Progress = Callable[[str, int, int | None], None]
"""Is told what is being done, how many bytes of it are, and of how many, where that is known."""


@dataclass(frozen=True)
class Taken:
    """A backup that was written, and read again from its beginning to its end.

    Attributes
    ----------
    path : Path
    n_bytes : int
    seconds : float
    manifest : archive.Manifest
    """

    path: Path
    n_bytes: int
    seconds: float
    manifest: archive.Manifest


def take(
    database: storage.Database,
    settings: Settings,
    path: Path,
    *,
    actor: str,
    passphrase: str | None,
    on_progress: Progress = lambda what, n_done, total: None,
) -> Taken:
    """Write database, models and keys to a file, as they are at one moment.

    Others may post, train and switch meanwhile. For a while the disk of the
    file holds the database twice. The audit trail tells of it, once it is whole.

    Parameters
    ----------
    database : storage.Database
    settings : Settings
        Those of `database`; they name the model folder and the keys.
    path : Path
        A file that is not there yet, in a folder that is.
    actor : str
        For the trail.
    passphrase : str or None
        Encrypts the keys; None leaves them out.
    on_progress : callable

    Raises
    ------
    ConflictError
        There is such a file.
    DataError
        The file could not be written.
    StorageError
        The database cannot be read, or is damaged.
    ConfigError
        PostgreSQL's programs are needed and not there.
    """
    began = time.monotonic()
    if os.path.lexists(path):
        raise ConflictError(f"{path} is there already, and stays: name another file.")
    try:
        with durable.new_file(path, mode=0o600) as temporary:
            manifest = _write(database, settings, temporary, passphrase, on_progress)
            total = temporary.stat().st_size
            with counted("checking", total, on_progress) as advance:
                if archive.check(temporary, on_bytes=advance) != manifest:
                    raise DataError(f"{path} was not written as it should be: look at its disk.")
    except FileExistsError as exc:
        raise ConflictError(f"{path} is there already, and stays: name another file.") from exc
    except OSError as exc:
        raise DataError(
            f"The backup {path} could not be written: {exc.strerror or exc}. See that its folder "
            "is there, writable, and on a disk with room for the database twice and the models "
            "once."
        ) from exc
    taken = Taken(path, total, time.monotonic() - began, manifest)
    with database.write() as connection:
        audit.record(
            connection,
            actor=actor,
            action="backup",
            subject=path.name,
            made_at=manifest.made_at,
            bytes=total,
            seconds=round(taken.seconds, 1),
            versions=manifest.versions,
            missing=manifest.missing,
            keys=manifest.keys,
        )
    return taken


def _write(
    database: storage.Database,
    settings: Settings,
    temporary: Path,
    passphrase: str | None,
    on_progress: Progress,
) -> archive.Manifest:
    staging = temporary.with_name(f"{temporary.name}.{secrets.token_hex(4)}")
    staging.mkdir(mode=0o700)
    try:
        copy = staging / "database"
        with contextlib.ExitStack() as stack:
            moment = _copied(database, settings, copy, stack, on_progress)
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with open(descriptor, "wb") as stream:
                return _packed(settings, moment, copy, stream, passphrase, on_progress)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


@dataclass(frozen=True)
class _Moment:
    """What the database said, and the files that it named."""

    installation_id: str
    made_at: int
    versions: list[int]
    active_version: int | None
    head: audit.Head | None
    files: dict[str, IO[bytes]]
    missing: list[str]


class _GoneError(Exception):
    """A version was deleted before its files were opened."""


def _copied(
    database: storage.Database,
    settings: Settings,
    copy: Path,
    stack: contextlib.ExitStack,
    on_progress: Progress,
) -> _Moment:
    """Copy the database, and open the files that it names: open files stay, though deleted."""
    for _ in range(_TRIES):
        try:
            with database.read() as connection:
                moment = _moment(connection, settings, database, stack)
                copy.touch(mode=0o600)
                storage.copies.write(
                    connection,
                    copy,
                    on_progress=lambda n_done, total: on_progress("database", n_done, total),
                )
                return moment
        except _GoneError:
            continue
    raise StorageError("Versions are deleted all the time: take the backup a little later.")


def _moment(
    connection: storage.Connection,
    settings: Settings,
    database: storage.Database,
    stack: contextlib.ExitStack,
) -> _Moment:
    rows = storage.models.all_versions(connection)
    files: dict[str, IO[bytes]] = {}
    missing = []
    for row in sorted(rows, key=lambda row: row.version):
        for name in (artifact.native_name(row.version), artifact.pickle_name(row.version)):
            try:
                opened = stack.enter_context((settings.model_dir / name).open("rb"))
            except OSError as exc:
                with database.read() as now:
                    if storage.models.get(now, row.version) is None:
                        raise _GoneError from exc
                missing.append(name)
            else:
                files[name] = opened
    return _Moment(
        installation_id=storage.installation.id_of(connection),
        made_at=clock.now(),
        versions=sorted(row.version for row in rows),
        active_version=next((row.version for row in rows if row.is_active), None),
        head=audit.head(connection),
        files=files,
        missing=missing,
    )


def _packed(
    settings: Settings,
    moment: _Moment,
    copy: Path,
    stream: IO[bytes],
    passphrase: str | None,
    on_progress: Progress,
) -> archive.Manifest:
    kind = storage.copies.kind_of(settings)
    sizes = {name: os.fstat(file.fileno()).st_size for name, file in moment.files.items()}
    total = copy.stat().st_size + sum(sizes.values())
    key = audit.key_text(settings)
    with counted("writing", total, on_progress) as advance:
        writer = archive.Writer(stream, at=moment.made_at // 1_000_000, on_bytes=advance)
        with copy.open("rb") as content:
            writer.add(archive.DATABASES[kind], content, copy.stat().st_size)
        copy.unlink()
        for name, file in moment.files.items():
            writer.add(f"models/{name}", file, sizes[name])
        if moment.head is not None:
            writer.add_text(f"models/{audit.HEAD_NAME}", audit.head_text(moment.head))
        said = "left_out"
        if settings.audit_key is not None:
            said = "environment"
        elif passphrase is not None and key is not None:
            said = "encrypted"
            sealed = keys.seal({audit.KEY_NAME: key}, passphrase, context=moment.installation_id)
            writer.add_text(archive.KEYS, sealed)
        manifest = archive.Manifest.model_validate(
            {
                "format": archive.FORMAT,
                "product_version": reckeeper.__version__,
                "installation_id": moment.installation_id,
                "made_at": clock.rfc3339(moment.made_at),
                "database": kind,
                "database_schema": settings.database_schema,
                "schema_revision": storage.SCHEMA_REVISION,
                "active_version": moment.active_version,
                "versions": moment.versions,
                "missing": moment.missing,
                "keys": said,
                "key_mark": audit.key_mark(settings, moment.installation_id),
                "files": list(writer.members),
            }
        )
        writer.finish(manifest)
    return manifest


@contextlib.contextmanager
def counted(what: str, total: int, on_progress: Progress) -> Iterator[archive.Advance]:
    """Give a function that adds up bytes, and tells of them."""
    done = 0

    def advance(n_bytes: int) -> None:
        nonlocal done
        done += n_bytes
        on_progress(what, min(done, total), total)

    yield advance
