"""`reckeeper import`: interactions from a file or a database, straight into the database."""

import contextlib
import dataclasses
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from reckeeper.cli import installation
from reckeeper.cli.data import NEXT, Json, clear_demo, print_json, progress_bar
from reckeeper.cli.database import made_or_opened
from reckeeper.cli.file_options import (
    CategorySeparator,
    Delimiter,
    Encoding,
    HasLists,
    IsWide,
    MaxRatio,
    Quote,
    Sheet,
    SkipLines,
    files_of,
)
from reckeeper.errors import DataError

if TYPE_CHECKING:  # it brings Arrow's readers and SQL, which help does without
    from reckeeper.events import files
    from reckeeper.tabular import Layout

    _Origin = Path | list[Path] | files.Query


class PresetName(StrEnum):
    """Data sets whose columns are known."""

    MOVIELENS = "movielens"


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
_UserColumn = Annotated[
    str | None,
    typer.Option(help="Default: user_id, or another name that people use, such as customer."),
]
_ItemColumn = Annotated[
    str | None, typer.Option(help="Default: item_id, or another name that people use, such as sku.")
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
        help="Column of categories in the catalogue. Default: categories, where there is one."
    ),
]
_TypeColumn = Annotated[
    str | None,
    typer.Option(help="Default: interaction_type, or such as event, where there is one."),
]
_InteractionType = Annotated[
    str | None, typer.Option(help="Type of all rows without such a column. Default: click.")
]
_WeightColumn = Annotated[
    str | None, typer.Option(help="Default: weight, where there is one; else 1.")
]
_TimeColumn = Annotated[
    str | None,
    typer.Option(help="Default: occurred_at, or such as timestamp, where there is one; else now."),
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


_Files = Annotated[
    list[Path] | None,
    typer.Argument(
        metavar="FILE...",
        help="Files, patterns such as 'day-*.csv', or - for standard input.",
    ),
]
_STANDARD_INPUT = Path("-")


def register(app: typer.Typer) -> None:
    """Add the command `import`."""
    app.command("import")(import_command)


def import_command(
    paths: _Files = None,
    from_database: _FromDatabase = None,
    query: _Query = None,
    preset: _Preset = None,
    catalogue: _Catalogue = None,
    user_column: _UserColumn = None,
    item_column: _ItemColumn = None,
    catalogue_item_column: _CatalogueItemColumn = None,
    title_column: _TitleColumn = None,
    category_column: _CategoryColumn = None,
    category_separator: CategorySeparator = None,
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
    delimiter: Delimiter = None,
    encoding: Encoding = None,
    quote: Quote = None,
    skip_lines: SkipLines = None,
    max_ratio: MaxRatio = None,
    no_header: _NoHeader = False,
    sheet: Sheet = None,
    lists: HasLists = False,
    wide: IsWide = False,
    max_refused: _MaxRefused = 0.5,
    report: _Report = None,
    as_json: Json = False,
) -> None:
    """Import interactions from a file or a database; a repeat adds only what is missing."""
    from reckeeper.events import files

    origin = _origin(paths, from_database, query)
    chosen = {PresetName.MOVIELENS: files.MOVIELENS}[preset] if preset else None
    if chosen and paths and catalogue is None:
        beside = paths[0].with_name(chosen.catalogue_name)
        catalogue = beside if beside.is_file() else None
    form = {
        "delimiter": delimiter,
        "encoding": encoding,
        "has_quotes": quote and quote.has_quotes,
        "max_ratio": max_ratio,
    }
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
        skip_lines=skip_lines,
        layout=_layout(has_lists=lists, is_wide=wide),
        sheet=sheet,
        **form,
    )
    catalogue_format = with_given(
        chosen.catalogue if chosen else files.CatalogueFormat(),
        item_column=catalogue_item_column or item_column,
        title_column=title_column,
        category_column=category_column,
        category_separator=category_separator,
        **form,
    )
    given = _Given(interactions_format, catalogue, catalogue_format, max_refused, report)
    _import(origin, given, as_json=as_json)


def _layout(*, has_lists: bool, is_wide: bool) -> "Layout | None":
    from reckeeper.tabular import Layout

    if has_lists and is_wide:
        raise typer.BadParameter("A file has either --lists or is --wide.")
    return Layout.LISTS if has_lists else Layout.WIDE if is_wide else None


@dataclasses.dataclass(frozen=True)
class _Given:
    """What the options of an import say."""

    format: "files.FileFormat"
    catalogue: Path | None
    catalogue_format: "files.CatalogueFormat"
    max_refused: float
    report: Path | None


def _import(origin: "_Origin", given: _Given, *, as_json: bool) -> None:
    from reckeeper.events import files

    console = Console(stderr=True)
    settings = installation.settings()
    database = made_or_opened(settings)
    written_to = installation.database_of(settings)
    removed: list[int] = []
    shown, unit = _shown(origin)
    whole = str(origin) if isinstance(origin, Path) else shown
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.closing(database))
        called = None
        if origin == _STANDARD_INPUT:
            shown = whole = called = files.STANDARD_INPUT
            origin = stack.enter_context(files.spooled(sys.stdin.buffer, settings))
        advance = stack.enter_context(progress_bar(console, f"Importing {shown}"))
        done = files.import_file(
            database,
            origin,
            format=given.format,
            settings=settings,
            actor="cli",
            called=called,
            catalogue=given.catalogue,
            catalogue_format=given.catalogue_format,
            refused_report=given.report,
            before_first_row=lambda: removed.append(clear_demo(settings, database)[0]),
            on_progress=lambda progress: advance(
                progress.bytes_done, progress.bytes_total, progress.rows
            ),
        )
    demo_removed = sum(removed)
    if as_json:
        print_json(
            {**dataclasses.asdict(done), "demo_removed": demo_removed, "database": written_to}
        )
    else:
        _print_report(
            Console(), done, source=shown, unit=unit, demo_removed=demo_removed, database=written_to
        )
    if not done.accepted + done.duplicates:
        first = done.first_refused[0]
        of = f"{first.file}, " if isinstance(origin, list) else ""
        raise DataError(
            f"No row of {whole} could be used. {of}{unit if of else unit.capitalize()} "
            f"{first.line}: {first.column} {first.value!r} {first.reason}."
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


def _origin(paths: list[Path] | None, from_database: str | None, query: str | None) -> "_Origin":
    from reckeeper.events import files

    if paths and from_database is None and query is None:
        found = files_of(paths)
        if len(found) > 1 and _STANDARD_INPUT in found:
            raise typer.BadParameter("Give either - or files.")
        return found[0] if len(found) == 1 else found
    if not paths and from_database is not None and query is not None:
        return files.Query(from_database, query)
    raise typer.BadParameter("Give either a FILE, or --database with --query.")


def _shown(origin: "_Origin") -> tuple[str, str]:
    """Return what is read, in few words, and what its rows are counted in."""
    if isinstance(origin, Path):
        return origin.name, "line"
    if isinstance(origin, list):
        return f"{len(origin)} files", "line"
    return origin.masked_url, "row"


def with_given(format: Any, **given: Any) -> Any:
    """Return a format with what options give; None is not given."""
    return dataclasses.replace(
        format, **{name: value for name, value in given.items() if value is not None}
    )


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
    for name, form in report.read_as.items():
        console.print(f"{name} was read as {form}.", markup=False, highlight=False, soft_wrap=True)
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
        console.print(NEXT, highlight=False)


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
