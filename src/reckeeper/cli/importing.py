"""`reckeeper import`: interactions from a file or a database, straight into the database."""

import contextlib
import dataclasses
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from reckeeper.cli import installation
from reckeeper.cli.data import Json, clear_demo, print_json, progress_bar
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
from reckeeper.cli.import_columns import (
    AllowOld,
    CatalogueItemColumn,
    CategoryColumn,
    Decimal,
    DefaultTime,
    EventIdColumn,
    InteractionType,
    ItemColumn,
    MinRating,
    Null,
    RatingColumn,
    TimeColumn,
    TimeFormat,
    TimeUnit,
    Timezone,
    TitleColumn,
    TypeColumn,
    UserColumn,
    WeightColumn,
    Weights,
)  # fmt: skip
from reckeeper.cli.import_question import is_terminal, settled
from reckeeper.cli.import_report import print_report, tell_reading
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
_MaxRefused = Annotated[
    float,
    typer.Option(
        min=0, max=1, help="End with status 1 where a larger share of the rows is refused."
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


_Yes = Annotated[
    bool,
    typer.Option("--yes", "-y", help="Do not ask, on a terminal, whether columns are right."),
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
    user_column: UserColumn = None,
    item_column: ItemColumn = None,
    catalogue_item_column: CatalogueItemColumn = None,
    title_column: TitleColumn = None,
    category_column: CategoryColumn = None,
    category_separator: CategorySeparator = None,
    type_column: TypeColumn = None,
    interaction_type: InteractionType = None,
    weight_column: WeightColumn = None,
    time_column: TimeColumn = None,
    time_unit: TimeUnit = None,
    time_format: TimeFormat = None,
    timezone: Timezone = None,
    default_time: DefaultTime = None,
    allow_old: AllowOld = False,
    event_id_column: EventIdColumn = None,
    null: Null = None,
    decimal: Decimal = None,
    weights: Weights = None,
    rating_column: RatingColumn = None,
    min_rating: MinRating = None,
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
    yes: _Yes = False,
    as_json: Json = False,
) -> None:
    """Import interactions from a file or a database; a repeat adds only what is missing."""
    if catalogue is None and preset is None:
        _spare_memory()
    from reckeeper.events import files
    from reckeeper.events.weights import parse_weights

    origin = _origin(paths, from_database, query)
    chosen = {PresetName.MOVIELENS: files.MOVIELENS}[preset] if preset else None
    if chosen and paths and catalogue is None:
        beside = paths[0].with_name(chosen.catalogue_name)
        catalogue = beside if beside.is_file() else None
    form = {
        "delimiter": delimiter,
        "encoding": encoding,
        "has_quotes": quote and quote.has_quotes,
        "has_escapes": quote and quote.has_escapes,
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
        time_format=time_format,
        timezone=timezone,
        default_time=default_time,
        allow_old=allow_old or None,
        event_id_column=event_id_column,
        null_words=tuple(null) if null else None,
        decimal=decimal and decimal.value,
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
    given = _Given(
        format=interactions_format,
        catalogue=catalogue,
        catalogue_format=catalogue_format,
        weights=parse_weights(weights) if weights else {},
        max_refused=max_refused,
        report=report,
        is_asked=is_terminal() and not yes and not as_json,
    )
    _import(origin, given, as_json=as_json)


class _NoPandas:
    """Finds no pandas, wherever it is."""

    def find_spec(self, name: str, _path: object, _target: object = None) -> None:
        if name == "pandas":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def _spare_memory() -> None:
    """Have Arrow take less, 35 MB without pandas and 30 MB without large pages of its own.

    It imports pandas with the first array of Python values, to look whether they are pandas'. A
    catalogue may have nanoseconds, which become Python's times with pandas alone.
    """
    import pyarrow as pa

    finder = _NoPandas()
    sys.meta_path.insert(0, finder)
    try:
        pa.array([])
    finally:
        sys.meta_path.remove(finder)
    pa.set_memory_pool(pa.system_memory_pool())


def _layout(*, has_lists: bool, is_wide: bool) -> "Layout | None":
    from reckeeper.tabular import Layout

    if has_lists and is_wide:
        raise typer.BadParameter("A file has either --lists or is --wide.")
    return Layout.LISTS if has_lists else Layout.WIDE if is_wide else None


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Given:
    """What the options of an import say."""

    format: "files.FileFormat"
    catalogue: Path | None
    catalogue_format: "files.CatalogueFormat"
    weights: dict[str, float]
    max_refused: float
    report: Path | None
    is_asked: bool


def _import(origin: "_Origin", given: _Given, *, as_json: bool) -> None:
    from reckeeper.events import files

    console = Console(stderr=True)
    settings = installation.settings()
    database = made_or_opened(settings)
    written_to = installation.database_of(settings)
    removed: list[int] = []
    shown = _shown(origin)
    whole = str(origin) if isinstance(origin, Path) else shown
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.closing(database))
        called = None
        if origin == _STANDARD_INPUT:
            shown = whole = called = files.STANDARD_INPUT
            origin = stack.enter_context(files.spooled(sys.stdin.buffer, settings))
        format = given.format
        if given.is_asked and not isinstance(origin, files.Query):
            path = origin if isinstance(origin, Path) else origin[0]
            format = settled(database, settings, path, format, weights=given.weights)
        advance = stack.enter_context(progress_bar(console, f"Importing {shown}"))
        done = files.import_file(
            database,
            origin,
            format=format,
            settings=settings,
            actor="cli",
            called=called,
            catalogue=given.catalogue,
            catalogue_format=given.catalogue_format,
            weights=given.weights,
            refused_report=given.report,
            before_first_row=lambda: removed.append(clear_demo(settings, database)[0]),
            on_progress=lambda progress: advance(
                progress.bytes_done, progress.bytes_total, progress.rows
            ),
            before_indexes=lambda seconds: console.print(
                "Making the indexes by user and by item: others who write to the database wait up "
                f"to about {max(1, round(seconds)):,} s for each.",
                highlight=False,
            ),
        )
    demo_removed = sum(removed)
    tell_reading(done, format, with_guesses=not given.is_asked)
    if as_json:
        print_json(
            {**dataclasses.asdict(done), "demo_removed": demo_removed, "database": written_to}
        )
    else:
        print_report(Console(), done, source=shown, demo_removed=demo_removed, database=written_to)
    _see_that_rows_were_used(done, given, whole)


def _see_that_rows_were_used(done: "files.ImportReport", given: _Given, source: str) -> None:
    if not done.accepted + done.duplicates:
        first, unit = done.first_refused[0], done.refusals[0].unit
        of = f"{first.file}, " if len(done.read_as) > 1 else ""
        raise DataError(
            f"No row of {source} could be used. {of}{unit if of else unit.capitalize()} "
            f"{first.line}: {first.column} {first.value!r} {first.reason}."
        )
    n_rows = done.accepted + done.duplicates + done.refused + done.items
    if done.refused > given.max_refused * n_rows:
        Console(stderr=True).print(
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


def _shown(origin: "_Origin") -> str:
    """Return what is read, in few words."""
    if isinstance(origin, Path):
        return origin.name
    return f"{len(origin)} files" if isinstance(origin, list) else origin.masked_url


def with_given(format: Any, **given: Any) -> Any:
    """Return a format with what options give; None is not given."""
    return dataclasses.replace(
        format, **{name: value for name, value in given.items() if value is not None}
    )
