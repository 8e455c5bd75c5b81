"""Restoring a backup where nothing is: all of it, or nothing."""

import contextlib
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from reckeeper import artifact, audit, durable, storage
from reckeeper.backup import archive, keys
from reckeeper.backup.taking import Progress, counted
from reckeeper.config import Settings
from reckeeper.errors import ConfigError, ConflictError, DataError

_WORDS = {"sqlite": "an SQLite database", "postgresql": "PostgreSQL"}
_ALLOWED = {audit.KEY_NAME, "backups", "logs", "lost+found", "up.lock", "installation.json"}
"""What an installation may leave in its data folder that says nothing of its data."""


@dataclass(frozen=True)
class Restored:
    """What was restored.

    Attributes
    ----------
    manifest : archive.Manifest
    verification : audit.Verification
        Of the trail, as it is there now.
    """

    manifest: archive.Manifest
    verification: audit.Verification


def restore(
    settings: Settings,
    path: Path,
    *,
    actor: str,
    passphrase: str | None,
    without_keys: bool = False,
    on_progress: Progress = lambda what, n_done, total: None,
) -> Restored:
    """Put what is in a backup where settings say, and bring it to this release's schema.

    The backup is read to its end before anything is written. If it cannot be
    restored, nothing of it is left.

    Parameters
    ----------
    settings : Settings
        They name a data folder, a model folder and a database in which nothing is yet.
    path : Path
    actor : str
        For the trail.
    passphrase : str or None
        With which the keys in it were encrypted.
    without_keys : bool
        Restore it although the key of the audit trail is lost: the trail up to here can never be
        verified again.
    on_progress : callable

    Raises
    ------
    DataError
        The backup is damaged, or the disk has no room for it.
    ConflictError
        Something is there already.
    ConfigError
        A key or passphrase is missing or another one, or the backup is of another kind of
        database.
    StorageError
        PostgreSQL did not take it.
    """
    with counted("checking", path.stat().st_size if path.is_file() else 0, on_progress) as tell:
        manifest = archive.check(path, on_bytes=tell)
    _see_that_it_fits(settings, manifest)
    _see_that_nothing_is_there(settings)
    key = _key_for(settings, manifest, path, passphrase, without_keys=without_keys)
    targets = _targets(settings, manifest)
    _see_that_there_is_room(targets, manifest)
    _put(settings, manifest, path, targets, key, on_progress)
    storage.migrate(settings)
    with contextlib.closing(storage.open_database(settings)) as database:
        if not without_keys:
            with database.write() as connection:
                audit.record(
                    connection,
                    actor=actor,
                    action="restore",
                    subject=path.name,
                    made_at=manifest.made_at,
                    product_version=manifest.product_version,
                    versions=manifest.versions,
                )
        return Restored(manifest, audit.verify(database, settings))


def _see_that_it_fits(settings: Settings, manifest: archive.Manifest) -> None:
    kind = storage.copies.kind_of(settings)
    if manifest.database != kind:
        raise ConfigError(
            f"The backup is of {_WORDS[manifest.database]}, and the settings name {_WORDS[kind]}: "
            "nothing was restored. Set DATABASE_URL to a database of that kind, or unset it."
        )
    if kind == storage.copies.POSTGRESQL and manifest.database_schema != settings.database_schema:
        raise ConfigError(
            f"The backup is of the schema {manifest.database_schema!r}, and the settings name "
            f"{settings.database_schema!r}: set RECKEEPER_DATABASE_SCHEMA="
            f"{manifest.database_schema}. Nothing was restored."
        )
    if manifest.schema_revision > storage.SCHEMA_REVISION:
        raise ConfigError(
            f"The backup was made by Reckeeper {manifest.product_version}, a later release, with "
            f"schema {manifest.schema_revision}: upgrade Reckeeper first. Nothing was restored."
        )


def _see_that_nothing_is_there(settings: Settings) -> None:
    storage.copies.see_that_nothing_is_there(settings)
    store = artifact.ModelStore(settings.model_dir)
    found = [store.native(version) for version in sorted(store.versions())]
    for path in (settings.model_dir / audit.HEAD_NAME, *_names_in(settings.data_dir)):
        if os.path.lexists(path):
            found.append(path)
    if found:
        raise ConflictError(
            f"There is something already: {found[0]}. A backup is restored where nothing is, and "
            "nothing was changed. Stop the processes and move data and models away, or name other "
            "folders (RECKEEPER_DATA_DIR, RECKEEPER_MODEL_DIR)."
        )


def _names_in(folder: Path) -> list[Path]:
    try:
        names = sorted(folder.iterdir())
    except FileNotFoundError:
        return []
    return [path for path in names if path.name not in _ALLOWED and not path.name.startswith(".")]


def _key_for(
    settings: Settings,
    manifest: archive.Manifest,
    path: Path,
    passphrase: str | None,
    *,
    without_keys: bool,
) -> str | None:
    """Return the key of the trail to write; None where it is there, or is not wanted."""
    if without_keys or manifest.key_mark is None:
        return None
    here = audit.key_mark(settings, manifest.installation_id)
    if here is not None:
        if here != manifest.key_mark:
            raise ConfigError(
                f"RECKEEPER_AUDIT_KEY, or {audit.KEY_NAME} in the data folder, is not the key of "
                "the backup's audit trail: unset or remove it, or put the right one there. "
                "Nothing was restored."
            )
        return None
    if manifest.keys != "encrypted":
        raise ConfigError(
            "The key of the audit trail is not in this backup: put "
            f"{settings.data_dir / audit.KEY_NAME} there, or set RECKEEPER_AUDIT_KEY, as they were "
            "where it was made. Only if it is lost, use --without-key: the trail up to here can "
            "then never be verified. Nothing was restored."
        )
    if passphrase is None:
        raise ConfigError(
            "The keys in this backup are encrypted: give the passphrase that it was made with "
            "(--passphrase-file, or RECKEEPER_BACKUP_PASSPHRASE). Nothing was restored."
        )
    sealed = archive.text_of(path, archive.KEYS)
    return keys.unseal(sealed, passphrase, context=manifest.installation_id)[audit.KEY_NAME]


def _targets(settings: Settings, manifest: archive.Manifest) -> dict[str, Path]:
    """Return where the members go, by name; the database, which decides, comes first."""
    file = storage.copies.file_of(settings)
    database = archive.DATABASES[manifest.database]
    targets = {database: settings.data_dir / f".{database}.restoring" if file is None else file}
    for member in manifest.files:
        folder, _, name = member.name.rpartition("/")
        if folder:
            targets[member.name] = settings.model_dir / name
    return targets


def _see_that_there_is_room(targets: Mapping[str, Path], manifest: archive.Manifest) -> None:
    needed: dict[int, int] = {}
    places: dict[int, Path] = {}
    for member in manifest.files:
        if member.name in targets:
            folder = targets[member.name].parent
            while not folder.is_dir():
                folder = folder.parent
            device = folder.stat().st_dev
            places[device] = folder
            needed[device] = needed.get(device, 0) + member.size
    for device, n_bytes in needed.items():
        free = shutil.disk_usage(places[device]).free
        if n_bytes > free:
            raise DataError(
                f"The disk of {places[device]} has {free:,} bytes left, and the backup needs "
                f"{n_bytes:,} there: make room. Nothing was restored."
            )


def _put(
    settings: Settings,
    manifest: archive.Manifest,
    path: Path,
    targets: Mapping[str, Path],
    key: str | None,
    on_progress: Progress,
) -> None:
    """Write everything beside its place, then put it there, the database last."""
    total = sum(member.size for member in manifest.files)
    key_path = settings.data_dir / audit.KEY_NAME
    made = [*targets.values(), *([key_path] if key is not None else [])]
    dump = targets[archive.DATABASES[manifest.database]]
    is_dump = storage.copies.file_of(settings) is None
    try:
        for folder in {target.parent for target in made}:
            durable.make_folder(folder)
        with contextlib.ExitStack() as stack, counted("restoring", total, on_progress) as tell:
            # The last that is entered gets its name first.
            names = {
                name: stack.enter_context(durable.new_file(target, mode=0o600))
                for name, target in targets.items()
            }
            if key is not None:
                temporary = stack.enter_context(durable.new_file(key_path, mode=0o600))
                temporary.touch(mode=0o600)
                temporary.write_text(key, encoding="ascii")
            archive.extract(path, manifest, names, on_bytes=tell)
        if is_dump:
            storage.copies.restore_dump(settings, dump)
            dump.unlink()
        link = manifest.active_version
        if link is not None and artifact.ModelStore(settings.model_dir).pickle(link).exists():
            artifact.ModelStore(settings.model_dir).point_link(link)
    except BaseException as exc:
        for target in made:
            target.unlink(missing_ok=True)
        if isinstance(exc, OSError):
            raise DataError(
                f"The backup could not be restored: {exc}. Nothing of it was left; see that the "
                "folders are writable and their disks not full."
            ) from exc
        raise
