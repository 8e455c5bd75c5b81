"""`reckeeper up` and `migrate`: an installation made, and started."""

import contextlib

import typer
from rich.console import Console

from reckeeper.cli import installation
from reckeeper.cli.database import migrate
from reckeeper.cli.up import up


def register(app: typer.Typer) -> None:
    """Add the commands `up` and `migrate`."""
    app.command("up")(up_command)
    app.command("migrate")(migrate_command)


def up_command() -> None:
    """Start worker, server and page, and keep them running until Ctrl-C."""
    from reckeeper import policy as policies
    from reckeeper import security, storage

    settings = installation.settings()
    policies.first(settings)  # a bad one is said here, and not in a log
    if settings.uses_kafka:
        import reckeeper.events.kafka  # noqa: F401  # without the extra, this refuses
    console = Console()
    if migrate(settings) is None:
        console.print(
            f"A new installation was made: {installation.database_of(settings)}.",
            soft_wrap=True,
            highlight=False,
        )
    with contextlib.closing(storage.open_database(settings)) as database:
        security.see_that_guarded(database, settings)
    # A worker that stands on its default port may move away from a taken one.
    explicit = settings.worker_port != 5000
    raise typer.Exit(up(settings, console=console, explicit_worker_port=explicit))


def migrate_command() -> None:
    """Make the database, or bring it to the schema of this release."""
    from reckeeper import storage

    settings = installation.settings()
    before = migrate(settings)
    if before is None:
        typer.echo(f"A new installation was made: {installation.database_of(settings)}.")
    if before == storage.SCHEMA_REVISION:
        typer.echo(f"The database has schema {before} already.")
    else:
        typer.echo(f"The database has schema {storage.SCHEMA_REVISION} now.")
