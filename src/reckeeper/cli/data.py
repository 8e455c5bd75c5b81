"""`reckeeper import`, `imports` and `demo`: data in and out, straight at the database."""

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from reckeeper import clock
from reckeeper.cli import installation
from reckeeper.cli.database import made_or_opened, opened, read_only
from reckeeper.config import Settings
from reckeeper.errors import DataError

if TYPE_CHECKING:  # they bring Arrow's readers and SQL, which help does without
    from reckeeper import storage
    from reckeeper.events import files

_NEXT = "Now retrain: `reckeeper retrain`, or the button on the page."


class PresetName(StrEnum):
    """Data sets whose columns are known."""

    MOVIELENS = "movielens"


_Json = Annotated[bool, typer.Option("--json", help="Print one JSON object, for programs.")]


_FromDatabase = Annotated[
    str | None,
    typer.Option(
        "--database",
        metavar="URL",
        help="Instead of FILE: a database, as postgresql+psycopg://user@host/name or "
        "sqlite:////path/to/file.db. For PostgreSQL the password may be in PGPASSWORD.",
    ),
]
_Query = Annotated[
    str | None,
    typer.Option(metavar="SQL", help="With --database: the SELECT whose rows are imported."),
]
_Preset = Annotated[
    PresetName | None,
    typer.Option(help="Columns of a known data set: movielens takes ratings.csv."),
]
_Catalogue = Annotated[
    Path | None,
    typer.Option(
        help="File of items: id, title, and attributes in its other columns. "
        "With a preset, the one beside FILE."
    ),
]
_CatalogueItemColumn = Annotated[
    str | None, typer.Option(help="Column of ids in the catalogue. Default: as --item-column.")
]
_TitleColumn = Annotated[
    str | None, typer.Option(help="Column of titles in the catalogue. Default: title.")
]
_CategoryColumn = Annotated[
    str | None,
    typer.Option(
        help="Column of categories in the catalogue, with | between several. Default: categories, "
        "where there is one."
    ),
]
_TypeColumn = Annotated[
    str | None, typer.Option(help="Default: interaction_type, where there is one.")
]
_InteractionType = Annotated[
    str | None, typer.Option(help="Type of all rows without such a column. Default: click.")
]
_WeightColumn = Annotated[
    str | None, typer.Option(help="Default: weight, where there is one; else 1.")
]
_TimeColumn = Annotated[
    str | None, typer.Option(help="Default: occurred_at, where there is one; else now.")
]
_TimeUnit = Annotated[
    str | None,
    typer.Option(
        help="Unit of times that are numbers: s, ms, us or ns. Default: told from their size."
    ),
]
_DefaultTime = Annotated[
    str | None,
    typer.Option(
        help="What an empty time is taken for: now, or a time such as 2025-12-04T23:42:15Z. "
        "Default: its row is refused."
    ),
]
_AllowOld = Annotated[
    bool,
    typer.Option("--allow-old", help="Take times before 1990, which are refused as a mistake."),
]
_EventIdColumn = Annotated[
    str | None,
    typer.Option(help="Column that names each row. Default: event_id, where there is one."),
]
_Null = Annotated[
    list[str] | None,
    typer.Option(
        "--null",
        metavar="WORD",
        help="A word that stands for nothing; may be repeated. Default: NULL, null, None, nan, "
        "NaN, \\\\N and <NA>.",
    ),
]
_MaxRefused = Annotated[
    float,
    typer.Option(
        min=0, max=1, help="End with status 1 where a larger share of the rows is refused."
    ),
]
_RatingColumn = Annotated[
    str | None, typer.Option(help="Column of ratings, for --min-rating. Default: rating.")
]
_MinRating = Annotated[
    float | None, typer.Option(help="Store rows with a lower rating as seen, not liked.")
]
_Delimiter = Annotated[
    str | None,
    typer.Option(
        help="Delimiter of CSV, also in the catalogue: one character, or tab. Default: a comma."
    ),
]


class Quoting(StrEnum):
    """What quotation marks in CSV are."""

    DOUBLE = "double"
    NONE = "none"

    @property
    def has_quotes(self) -> bool:
        """Whether they hold values together."""
        return self is Quoting.DOUBLE


Quote = Annotated[
    Quoting | None,
    typer.Option(
        help="double: quotation marks in CSV hold values together; none: they are characters like "
        "others. Default: double, but none between tabs where that reads more rows."
    ),
]
_NoHeader = Annotated[
    bool,
    typer.Option(
        "--no-header",
        help="The file has no line of column names: name columns by their numbers, from 1 on.",
    ),
]
_Report = Annotated[
    Path | None,
    typer.Option(help="Where to list refused rows. Default: the data folder's imports/."),
]


def register(app: typer.Typer) -> None:
    """Add the commands `import`, `imports list|undo` and `demo status|clear`."""
    app.command("import")(import_command)
    imports = typer.Typer(no_args_is_help=True, help="What was imported.")
    imports.command("list")(list_command)
    imports.command("undo")(undo_command)
    app.add_typer(imports, name="imports")
    demo_app = typer.Typer(no_args_is_help=True, help="The demo data of a new installation.")
    demo_app.command("status")(demo_status_command)
    demo_app.command("clear")(demo_clear_command)
    app.add_typer(demo_app, name="demo")


def import_command(
    file: Annotated[Path | None, typer.Argument(help="CSV, CSV with gzip, or Parquet.")] = None,
    from_database: _FromDatabase = None,
    query: _Query = None,
    preset: _Preset = None,
    catalogue: _Catalogue = None,
    user_column: Annotated[str | None, typer.Option(help="Default: user_id.")] = None,
    item_column: Annotated[str | None, typer.Option(help="Default: item_id.")] = None,
    catalogue_item_column: _CatalogueItemColumn = None,
    title_column: _TitleColumn = None,
    category_column: _CategoryColumn = None,
    type_column: _TypeColumn = None,
    interaction_type: _InteractionType = None,
    weight_column: _WeightColumn = None,
    time_column: _TimeColumn = None,
    time_unit: _TimeUnit = None,
    default_time: _DefaultTime = None,
    allow_old: _AllowOld = False,
    event_id_column: _EventIdColumn = None,
    null: _Null = None,
    rating_column: _RatingColumn = None,
    min_rating: _MinRating = None,
    delimiter: _Delimiter = None,
    quote: Quote = None,
    no_header: _NoHeader = False,
    max_refused: _MaxRefused = 0.5,
    report: _Report = None,
    as_json: _Json = False,
) -> None:
    """Import interactions from a file or a database; a repeat adds only what is missing."""
    from reckeeper.events import files

    origin = _origin(file, from_database, query)
    chosen = {PresetName.MOVIELENS: files.MOVIELENS}[preset] if preset else None
    if chosen and file and catalogue is None and file.with_name(chosen.catalogue_name).is_file():
        catalogue = file.with_name(chosen.catalogue_name)
    csv = {"delimiter": delimiter, "has_quotes": quote and quote.has_quotes}
    interactions_format = with_given(
        chosen.interactions if chosen else files.FileFormat(),
        user_column=user_column,
        item_column=item_column,
        type_column=type_column,
        interaction_type=interaction_type,
        weight_column=weight_column,
        time_column=time_column,
        time_unit=time_unit,
        default_time=default_time,
        allow_old=allow_old or None,
        event_id_column=event_id_column,
        null_words=tuple(null) if null else None,
        rating_column=rating_column,
        min_rating=min_rating,
        has_header=not no_header,
        **csv,
    )
    catalogue_format = with_given(
        chosen.catalogue if chosen else files.CatalogueFormat(),
        item_column=catalogue_item_column or item_column,
        title_column=title_column,
        category_column=category_column,
        **csv,
    )
    given = _Given(interactions_format, catalogue, catalogue_format, max_refused, report)
    _import(origin, given, as_json=as_json)


@dataclasses.dataclass(frozen=True)
class _Given:
    """What the options of an import say."""

    format: "files.FileFormat"
    catalogue: Path | None
    catalogue_format: "files.CatalogueFormat"
    max_refused: float
    report: Path | None


def _import(origin: "Path | files.Query", given: _Given, *, as_json: bool) -> None:
    from reckeeper.events import files

    console = Console(stderr=True)
    settings = installation.settings()
    database = made_or_opened(settings)
    written_to = installation.database_of(settings)
    removed: list[int] = []
    shown, unit = (origin.name, "line") if isinstance(origin, Path) else (origin.masked_url, "row")
    with contextlib.closing(database), progress_bar(console, f"Importing {shown}") as advance:
        done = files.import_file(
            database,
            origin,
            format=given.format,
            settings=settings,
            actor="cli",
            catalogue=given.catalogue,
            catalogue_format=given.catalogue_format,
            refused_report=given.report,
            before_first_row=lambda: removed.append(_clear_demo(settings, database)[0]),
            on_progress=lambda progress: advance(
                progress.bytes_done, progress.bytes_total, progress.rows
            ),
        )
    demo_removed = sum(removed)
    if as_json:
        _print_json(
            {**dataclasses.asdict(done), "demo_removed": demo_removed, "database": written_to}
        )
    else:
        _print_report(
            Console(), done, source=shown, unit=unit, demo_removed=demo_removed, database=written_to
        )
    if not done.accepted + done.duplicates:
        first = done.first_refused[0]
        raise DataError(
            f"No row of {origin if isinstance(origin, Path) else shown} could be used. "
            f"{unit.capitalize()} {first.line}: {first.column} {first.value!r} {first.reason}."
        )
    n_rows = done.accepted + done.duplicates + done.refused + done.items
    if done.refused > given.max_refused * n_rows:
        console.print(
            f"{done.refused:,} of {n_rows:,} rows were refused, more than a share of "
            f"{given.max_refused:g} (--max-refused). `reckeeper imports undo {done.import_id}` "
            "takes out the others.",
            markup=False,
            highlight=False,
        )
        raise typer.Exit(1)


def list_command(as_json: _Json = False) -> None:
    """List the imports, the latest first."""
    from reckeeper import storage

    database = read_only()
    with contextlib.closing(database), database.read() as connection:
        rows = storage.imports.all_imports(connection)
    if as_json:
        shown = ("started_at", "finished_at")
        _print_json(
            [vars(row) | {name: _iso(getattr(row, name)) for name in shown} for row in rows]
        )
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


def undo_command(
    import_id: Annotated[int, typer.Argument(help="As `reckeeper imports list` shows it.")],
    as_json: _Json = False,
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
            _clear_demo(settings, database)
    if as_json:
        _print_json({"import_id": import_id, **dataclasses.asdict(undone)})
        return
    Console().print(
        f"Import {import_id} is undone: {undone.interactions:,} interactions and "
        f"{undone.items:,} catalogue items were taken out.",
        highlight=False,
    )
    if undone.interactions:
        Console().print(
            f"Models keep what they learned from them until the next retrain. {_NEXT}",
            highlight=False,
        )


def demo_status_command(as_json: _Json = False) -> None:
    """Tell whether the demo data is loaded."""
    from reckeeper.events import demo

    database = read_only()
    with contextlib.closing(database):
        info = demo.info(database)
    if as_json:
        _print_json(dataclasses.asdict(info))
    elif info.is_loaded:
        Console().print(
            f"The demo data is loaded: {info.n_interactions:,} interactions. Users to try: "
            f"{', '.join(info.sample_users)}.\n`reckeeper demo clear` removes it.",
            highlight=False,
        )
    else:
        Console().print("The demo data is not loaded.")


def demo_clear_command(as_json: _Json = False) -> None:
    """Remove the demo data, and the models that were trained on it."""
    settings = installation.settings()
    database = opened(settings)
    with contextlib.closing(database):
        interactions, versions = _clear_demo(settings, database)
    if as_json:
        _print_json({"interactions": interactions, "versions": versions})
    elif interactions or versions:
        Console().print(
            f"The demo data is removed: {interactions:,} interactions, and "
            f"{len(versions)} model version(s) that it went into.",
            highlight=False,
        )
    else:
        Console().print("There is no demo data.")


def _origin(
    file: Path | None, from_database: str | None, query: str | None
) -> "Path | files.Query":
    from reckeeper.events import files

    if file is not None and from_database is None and query is None:
        return file
    if file is None and from_database is not None and query is not None:
        return files.Query(from_database, query)
    raise typer.BadParameter("Give either a FILE, or --database with --query.")


def _clear_demo(settings: Settings, database: "storage.Database") -> tuple[int, list[int]]:
    """Return how many interactions were removed, and which versions."""
    from reckeeper.events import demo
    from reckeeper.registry import Registry

    interactions = demo.clear(database, actor="cli")
    return interactions, Registry(database, settings.model_dir).switch.delete_demo(actor="cli")


def with_given(format: Any, **given: Any) -> Any:
    """Return a format with what options give; None is not given."""
    if given.get("delimiter") in ("tab", "\\t"):
        given["delimiter"] = "\t"
    return dataclasses.replace(
        format, **{name: value for name, value in given.items() if value is not None}
    )


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


def _print_report(
    console: Console,
    report: "files.ImportReport",
    *,
    source: str,
    unit: str,
    demo_removed: int,
    database: str,
) -> None:
    if demo_removed:
        console.print(
            f"The demo data ({demo_removed:,} interactions) and its models were removed: "
            "your own data replaces them.",
            highlight=False,
        )
    table = Table(title=f"Import {report.import_id}", show_header=False)
    table.add_row("accepted", f"{report.accepted:,}")
    table.add_row("duplicates", f"{report.duplicates:,}")
    table.add_row("seen without taste", f"{report.without_taste:,}")
    table.add_row("refused", f"{report.refused:,}")
    table.add_row("catalogue items new or changed", f"{report.items:,}")
    console.print(table)
    console.print(f"Written to {database}", markup=False, highlight=False, soft_wrap=True)
    print_refused(console, report, source=source, unit=unit)
    if report.duplicates and not report.accepted:
        console.print(
            f"{source} was imported before. To read it in another way, undo that import "
            "first: `reckeeper imports list`.",
            markup=False,
            highlight=False,
        )
    elif report.accepted:
        console.print(_NEXT, highlight=False)


def print_refused(
    console: Console, report: "files.ImportReport", *, source: str = "", unit: str = "line"
) -> None:
    """Print the first rows that were refused, and where all of them are listed."""
    for line in report.first_refused:
        console.print(
            f"Refused: {line.file}, {unit if line.file == source else 'line'} {line.line}: "
            f"{line.column} {line.value!r} {line.reason}.",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
    if report.refused_report is not None:
        console.print(
            f"All refused rows are in {report.refused_report}", highlight=False, soft_wrap=True
        )


def _iso(at: int | None) -> str | None:
    return None if at is None else clock.utc(at).isoformat()


def _print_json(content: Any) -> None:
    typer.echo(json.dumps(content, default=str))
