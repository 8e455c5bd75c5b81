"""`reckeeper imports` and `demo`: what came into the database, and taking it out."""

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from reckeeper import clock
from reckeeper.cli import installation
from reckeeper.cli.database import opened, read_only
from reckeeper.config import Settings

if TYPE_CHECKING:  # they bring Arrow's readers and SQL, which help does without
    from reckeeper import storage

NEXT = "Now retrain: `reckeeper retrain`, or the button on the page."

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object, for programs.")]


def register(app: typer.Typer) -> None:
    """Add the commands `imports list|undo` and `demo status|clear`."""
    imports = typer.Typer(no_args_is_help=True, help="What was imported.")
    imports.command("list")(list_command)
    imports.command("undo")(undo_command)
    app.add_typer(imports, name="imports")
    demo_app = typer.Typer(no_args_is_help=True, help="The demo data of a new installation.")
    demo_app.command("status")(demo_status_command)
    demo_app.command("clear")(demo_clear_command)
    app.add_typer(demo_app, name="demo")


def list_command(as_json: Json = False) -> None:
    """List the imports, the latest first."""
    from reckeeper.events import imports

    database = read_only()
    with contextlib.closing(database):
        rows = imports.all_imports(database)
    if as_json:
        shown = ("started_at", "updated_at", "finished_at")
        print_json([vars(row) | {name: _iso(getattr(row, name)) for name in shown} for row in rows])
        return
    console = Console()
    if not rows:
        console.print("Nothing was imported yet: `reckeeper import FILE` does.")
        return
    table = Table(
        "import", "source", "status", "accepted", "duplicates", "refused", "started (UTC)"
    )
    for row in rows:
        table.add_row(
            str(row.import_id),
            Text(row.source),
            row.status,
            f"{row.accepted:,}",
            f"{row.duplicates:,}",
            f"{row.refused:,}",
            (_iso(row.started_at) or "")[:19].replace("T", " "),
        )
    console.print(table)
    for row in rows:
        if row.status == "failed":
            console.print(
                f"Import {row.import_id} failed: {row.reason}",
                markup=False,
                highlight=False,
                soft_wrap=True,
            )


def undo_command(
    import_id: Annotated[int, typer.Argument(help="As `reckeeper imports list` shows it.")],
    as_json: Json = False,
) -> None:
    """Take out what an import brought: its interactions and its catalogue items."""
    from reckeeper import storage
    from reckeeper.events import files

    settings = installation.settings()
    database = opened(settings)
    with contextlib.closing(database):
        with database.read() as connection:
            row = storage.imports.get(connection, import_id)
        total = row.accepted if row else 0
        console = Console(stderr=True)
        with progress_bar(console, f"Undoing import {import_id}") as advance:
            undone = files.undo(
                database,
                import_id,
                actor="cli",
                on_progress=lambda n_rows: advance(n_rows, total, n_rows),
            )
        if row and row.is_demo:
            clear_demo(settings, database)
    if as_json:
        print_json({"import_id": import_id, **dataclasses.asdict(undone)})
        return
    Console().print(
        f"Import {import_id} is undone: {undone.interactions:,} interactions and "
        f"{undone.items:,} catalogue items were taken out.",
        highlight=False,
    )
    if undone.interactions:
        Console().print(
            f"Models keep what they learned from them until the next retrain. {NEXT}",
            highlight=False,
        )


def demo_status_command(as_json: Json = False) -> None:
    """Tell whether the demo data is loaded."""
    from reckeeper.events import demo

    database = read_only()
    with contextlib.closing(database):
        info = demo.info(database)
    if as_json:
        print_json(dataclasses.asdict(info))
    elif info.is_loaded:
        Console().print(
            f"The demo data is loaded: {info.n_interactions:,} interactions. Users to try: "
            f"{', '.join(info.sample_users)}.\n`reckeeper demo clear` removes it.",
            highlight=False,
        )
    else:
        Console().print("The demo data is not loaded.")


def demo_clear_command(as_json: Json = False) -> None:
    """Remove the demo data, and the models that were trained on it."""
    settings = installation.settings()
    database = opened(settings)
    with contextlib.closing(database):
        interactions, versions = clear_demo(settings, database)
    if as_json:
        print_json({"interactions": interactions, "versions": versions})
    elif interactions or versions:
        Console().print(
            f"The demo data is removed: {interactions:,} interactions, and "
            f"{len(versions)} model version(s) that it went into.",
            highlight=False,
        )
    else:
        Console().print("There is no demo data.")


def clear_demo(settings: Settings, database: "storage.Database") -> tuple[int, list[int]]:
    """Remove the demo data; return how many interactions, and the versions that went with it."""
    from reckeeper import storage
    from reckeeper.events import demo

    interactions = demo.clear(database, actor="cli")
    with database.read() as connection:
        if not any(version.is_demo for version in storage.models.all_versions(connection)):
            return interactions, []
    from reckeeper.registry import Registry  # brings SciPy

    return interactions, Registry(database, settings.model_dir).switch.delete_demo(actor="cli")


@contextlib.contextmanager
def progress_bar(console: Console, title: str) -> Iterator[Callable[[int, int, int], None]]:
    """Give a function that takes what is done, of how much, and rows, and shows it in a bar."""
    progress = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[rows]:,} rows"),
        TextColumn("{task.fields[rate]:,.0f} rows/s"),
        TimeRemainingColumn(),
        console=console,
    )
    task = progress.add_task(title, total=None, rows=0, rate=0.0)
    started = progress.get_time()
    with contextlib.ExitStack() as shown:

        def advance(done: int, total: int, rows: int) -> None:
            if not progress.live.is_started:
                shown.enter_context(progress)
            seconds = max(progress.get_time() - started, 1e-3)
            # No total: the bar shows that something moves.
            progress.update(
                task, completed=done, total=total or None, rows=rows, rate=rows / seconds
            )

        yield advance


def _iso(at: int | None) -> str | None:
    return None if at is None else clock.utc(at).isoformat()


def print_json(content: Any) -> None:
    """Print one JSON object, for programs."""
    typer.echo(json.dumps(content, default=str))
