"""`reckeeper backup` and `restore`: a copy of everything, and back."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reckeeper.cli import installation
from reckeeper.cli.database import note_installation, opened
from reckeeper.cli.terminal import AsJson, print_json, say, size, warn
from reckeeper.config import Settings
from reckeeper.errors import ConfigError

if TYPE_CHECKING:  # help does without them
    from reckeeper.backup import Progress

_PassphraseFile = Annotated[
    Path | None,
    typer.Option(
        help="A file whose first line is the passphrase for the keys; or set "
        "RECKEEPER_BACKUP_PASSPHRASE."
    ),
]


def register(app: typer.Typer) -> None:
    """Add the commands `backup` and `restore`."""
    app.command("backup")(backup_command)
    app.command("restore")(restore_command)


def backup_command(
    file: Annotated[Path, typer.Argument(help="The file to write; it must not be there yet.")],
    passphrase_file: _PassphraseFile = None,
    without_key: Annotated[
        bool, typer.Option("--without-key", help="Leave the key of the audit trail out.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write database, models and keys of one moment to one file, while everything runs."""
    from reckeeper import backup

    settings = installation.settings()
    passphrase = _passphrase(settings, passphrase_file)
    if without_key:
        passphrase = None
    elif passphrase is None and settings.audit_key is None:
        raise ConfigError(
            "The key of the audit trail goes into the backup encrypted, or not at all: give a "
            "passphrase (--passphrase-file FILE, or RECKEEPER_BACKUP_PASSPHRASE), or --without-key "
            "and keep audit.key elsewhere."
        )
    with contextlib.closing(opened(settings)) as database, _progress() as tell:
        taken = backup.take(
            database, settings, file, actor="cli", passphrase=passphrase, on_progress=tell
        )
    manifest = taken.manifest
    if as_json:
        told = manifest.model_dump()
        print_json({"file": str(file), "bytes": taken.n_bytes, "seconds": taken.seconds, **told})
        return
    if manifest.missing:
        warn(f"Not in it, since they were not there: {', '.join(manifest.missing)}.")
    words = {
        "encrypted": "the key of the audit trail, encrypted",
        "left_out": "without the key of the audit trail: keep audit.key elsewhere",
        "environment": "without RECKEEPER_AUDIT_KEY: keep that elsewhere",
    }
    say(
        f"Wrote {file} ({size(taken.n_bytes)}, {taken.seconds:.1f} s) and read it again: the "
        f"database, {len(manifest.versions)} versions, {words[manifest.keys]}."
    )


def restore_command(
    file: Annotated[Path, typer.Argument(help="What `reckeeper backup` wrote.")],
    passphrase_file: _PassphraseFile = None,
    without_key: Annotated[
        bool,
        typer.Option(
            "--without-key",
            help="Do without the key of the audit trail, if it is lost: the trail up to here can "
            "never be verified again.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Put a backup where no installation is, whole; a damaged one is refused whole."""
    from reckeeper import backup, storage, telemetry

    telemetry.configure_logging("cli")
    settings = installation.settings()
    storage.copies.see_that_nothing_is_there(settings)
    installation.check(settings, None)
    with _progress() as tell:
        restored = backup.restore(
            settings,
            file,
            actor="cli",
            passphrase=_passphrase(settings, passphrase_file),
            without_keys=without_key,
            on_progress=tell,
        )
    manifest, verification = restored.manifest, restored.verification
    note_installation(settings)
    if as_json:
        told = {"ok": verification.ok, "problem": verification.problem}
        print_json({"file": str(file), "audit": told, **manifest.model_dump()})
        return
    say(
        f"Restored {installation.database_of(settings)} as it was at {manifest.made_at}, with "
        f"{len(manifest.versions)} versions (active: {manifest.active_version or 'none'})."
    )
    if verification.ok:
        say(f"The audit trail is whole: {verification.n_entries:,} entries.")
    else:
        warn(f"The audit trail is not whole. {verification.problem}")
    say("`reckeeper up` starts it. With Kafka, what came since is read from the topic again.")


def _passphrase(settings: Settings, file: Path | None) -> str | None:
    if file is None:
        return settings.backup_passphrase
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"--passphrase-file {str(file)!r} cannot be read: {exc}.") from exc
    if not lines or len(lines[0]) < 16:
        raise ConfigError(
            f"--passphrase-file {str(file)!r}: its first line is the passphrase, of 16 characters "
            "or more."
        )
    return lines[0]


@contextlib.contextmanager
def _progress() -> "Iterator[Progress]":
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
    task = bar.add_task("", total=None, visible=False)
    with bar:
        yield lambda what, n_done, total: bar.update(
            task, description=what, completed=n_done, total=total, visible=True
        )
