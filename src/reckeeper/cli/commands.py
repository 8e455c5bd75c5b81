"""The commands: their names and what each does; a command's module is loaded when it runs."""

import os
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

import reckeeper
from reckeeper.cli.actions import sentence
from reckeeper.errors import ReckeeperError

COMMANDS = {
    "up": "Start worker, server and page, and keep them running until Ctrl-C.",
    "migrate": "Make the database, or bring it to the schema of this release.",
    "import": "Import interactions from a file or a database; a repeat adds only what is missing.",
    "imports": "What was imported.",
    "export": "Write the interactions or the catalogue to a file that an import reads again.",
    "items": "What items are, and whether they may be in a list. Without a command: list.",
    "demo": "The demo data of a new installation.",
    "dlq": "Records from Kafka that were refused.",
    "replay": "Read the topic again, and add what is missing; nothing that is there changes.",
    "models": "List, switch, compare, keep and move model versions. Without a command: list.",
    "jobs": "List, follow and end training jobs. Without a command: list.",
    "retrain": "Train a new version on the latest interactions, and wait until it is done.",
    "evaluate": "Measure how well recipes find what users did next.",
    "recommend": "Recommend items to a user, or write the lists of many users to a file.",
    "policy": "When to retrain, and what a new version must prove. Without a command: show.",
    "users": "What is done with all that is known of a user.",
    "keys": "API keys: who may do what.",
    "backup": "Write database, models and keys of one moment to one file, while everything runs.",
    "status": "Show processes, model, quality, lag, disk and the last backup; exit 1 unless all is "
    "well.",
    "dashboards": "A dashboard for Grafana, and alert rules for Prometheus.",
    "restore": "Put a backup where no installation is, whole; a damaged one is refused whole.",
    "check": "Do database, model files and audit trail hold together?",
    "audit": "Who changed what, and is the trail whole? Without a command: list.",
}
"""The first line of each command's help: it is listed without loading the command."""


def load(name: str) -> TyperCommand | TyperGroup:
    """Import what a command needs, and return it."""
    app = typer.Typer(add_completion=False)
    app.callback()(lambda: None)
    _register(name, app)
    commands: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    found: TyperCommand | TyperGroup = commands[name]
    return found


def _register(name: str, app: typer.Typer) -> None:
    if name in {"up", "migrate"}:
        from reckeeper.cli.start import register
    elif name == "import":
        from reckeeper.cli.importing import register
    elif name == "export":
        from reckeeper.cli.exporting import register
    elif name in {"imports", "demo"}:
        from reckeeper.cli.data import register
    elif name == "items":
        from reckeeper.cli.items import register
    elif name in {"dlq", "replay"}:
        from reckeeper.cli.stream import register
    elif name == "models":
        from reckeeper.cli.models import register
    elif name in {"jobs", "retrain"}:
        from reckeeper.cli.jobs import register
    elif name == "evaluate":
        from reckeeper.cli.evaluate import register
    elif name == "recommend":
        from reckeeper.cli.recommend import register
    elif name == "users":
        from reckeeper.cli.users import register
    elif name == "keys":
        from reckeeper.cli.keys import register
    elif name in {"backup", "restore"}:
        from reckeeper.cli.backup import register
    elif name == "check":
        from reckeeper.cli.check import register
    elif name == "status":
        from reckeeper.cli.status import register
    elif name == "dashboards":
        from reckeeper.cli.dashboards import register
    elif name == "policy":
        from reckeeper.cli.policy import register
    else:
        from reckeeper.cli.audit import register
    register(app)


class _Commands(TyperGroup):
    """Lists the commands without loading one of them."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = {
            name: TyperCommand(name, help=help, short_help=help) for name, help in COMMANDS.items()
        }

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[Any, Any, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        return name, load(name) if name in COMMANDS else command, rest


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    help="Keep the recommendation models of a product.",
)


def _print_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"reckeeper {reckeeper.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    pass


def run() -> None:
    """Run the command line; a deliberate error is one line on stderr and exit status 2."""
    os.umask(0o077)  # what a command writes is for its user alone
    try:
        app()
    except ReckeeperError as exc:
        from rich.console import Console

        Console(stderr=True).print(sentence(exc), style="red", markup=False, soft_wrap=True)
        sys.exit(2)
