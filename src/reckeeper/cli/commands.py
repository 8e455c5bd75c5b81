"""The commands, put together."""

import sys

import typer
from rich.console import Console

from reckeeper import storage, training
from reckeeper.cli import audit, data, evaluate, jobs, models, policy, stream
from reckeeper.cli.up import up
from reckeeper.config import Settings
from reckeeper.errors import ReckeeperError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Keep the recommendation models of a product.",
)
data.register(app)
stream.register(app)
models.register(app)
jobs.register(app)
evaluate.register(app)
policy.register(app)
audit.register(app)


@app.command("up")
def up_command() -> None:
    """Start worker, server and page, and keep them running until Ctrl-C."""
    settings = Settings.from_env()
    training.first_policy(settings)  # a bad one is said here, and not in a log
    storage.migrate(settings)
    # A worker that stands on its default port may move away from a taken one.
    explicit = settings.worker_port != 5000
    raise typer.Exit(up(settings, console=Console(), explicit_worker_port=explicit))


@app.command("migrate")
def migrate_command() -> None:
    """Make the database, or bring it to the schema of this release."""
    before = storage.migrate(Settings.from_env())
    if before == storage.SCHEMA_REVISION:
        typer.echo(f"The database has schema {before} already.")
    else:
        typer.echo(f"The database has schema {storage.SCHEMA_REVISION} now.")


def run() -> None:
    """Run the command line; a deliberate error is one line on stderr and exit status 2."""
    try:
        app()
    except ReckeeperError as exc:
        Console(stderr=True).print(exc.message, style="red", markup=False, soft_wrap=True)
        sys.exit(2)
