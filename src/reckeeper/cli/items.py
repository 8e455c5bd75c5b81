"""`reckeeper items`: the catalogue."""

import contextlib
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from reckeeper.cli import installation
from reckeeper.cli.data import progress_bar
from reckeeper.cli.database import made_or_opened
from reckeeper.cli.file_options import (
    CategorySeparator,
    Delimiter,
    Encoding,
    MaxRatio,
    Quote,
    Sheet,
    SkipLines,
)
from reckeeper.cli.import_report import print_refused
from reckeeper.cli.importing import with_given
from reckeeper.cli.terminal import (
    AsJson,
    Limit,
    client,
    compact,
    group,
    print_facts,
    print_json,
    print_table,
    say,
)

if TYPE_CHECKING:  # help does without them
    from reckeeper import wire
    from reckeeper.events import files

_Item = Annotated[str, typer.Argument(metavar="ITEM", help="Id of the item.")]

_TitleColumn = Annotated[str | None, typer.Option(help="Default: title, where there is one.")]
_CategoryColumn = Annotated[
    str | None,
    typer.Option(
        help="Several categories, as a list or in one text. Default: categories, where there is "
        "one."
    ),
]
_AvailableColumn = Annotated[
    str | None, typer.Option(help="true or false. Default: available, where there is one.")
]
_FromColumn = Annotated[
    str | None, typer.Option(help="Default: available_from, where there is one.")
]
_UntilColumn = Annotated[
    str | None, typer.Option(help="Default: available_until, where there is one.")
]
_TimeUnit = Annotated[
    str | None,
    typer.Option(
        help="Unit of times that are numbers: s, ms, us or ns. Default: told from their size."
    ),
]
_Report = Annotated[
    Path | None,
    typer.Option(help="Where to list refused rows. Default: the data folder's imports/."),
]


def register(app: typer.Typer) -> None:
    """Add the command `items` to the command line."""
    items = group(help="What items are, and whether they may be in a list.", default="list")
    items.command("list")(list_items)
    items.command("show")(show)
    items.command("similar")(similar)
    items.command("withdraw")(withdraw)
    items.command("restore")(restore)
    items.command("import")(import_items)
    app.add_typer(items, name="items")


def list_items(
    q: Annotated[
        str | None, typer.Argument(metavar="TEXT", help="What title or id have in them.")
    ] = None,
    available: Annotated[
        bool | None,
        typer.Option(
            "--available/--unavailable", help="Those alone that may be in a list, or not."
        ),
    ] = None,
    limit: Limit = 20,
    after: Annotated[str | None, typer.Option(help="List ids behind this: the next page.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the items of the catalogue by id."""
    with client() as server:
        page = server.items(q, available=available, limit=limit, after=after)
    if as_json:
        print_json(page)
        return
    print_table(
        ("item", "title", "categories", "available", "attributes"),
        [
            (
                item.item_id,
                item.title,
                ", ".join(item.categories),
                _availability(item),
                compact(item.attributes),
            )
            for item in page.items
        ],
    )
    if page.next is not None:
        say(f"There are more: --after {page.next!r} lists them.")


def show(item: _Item, as_json: AsJson = False) -> None:
    """Show an item that the catalogue or an interaction knows."""
    with client() as server:
        found = server.item(item)
    _print(found, as_json=as_json)


def similar(
    items: Annotated[
        list[str], typer.Argument(metavar="ITEM", help="Id of the item; of several, together.")
    ],
    comes_next: Annotated[
        bool, typer.Option("--next", help="What people take after it, where that is known.")
    ] = False,
    n: Annotated[int, typer.Option("--n", "-n", min=1, max=1000, help="How many.")] = 10,
    as_json: AsJson = False,
) -> None:
    """Show what is like an item, and how that is known."""
    with client() as server:
        found = server.similar_to(items, kind="next" if comes_next else "alike", n=n)
    if as_json:
        print_json(found)
        return
    print_table(
        ("rank", "item", "title", "score"),
        [(item.rank, item.item_id, item.title, f"{item.score:.4g}") for item in found.items],
    )
    by = "no version yet" if found.model_version is None else f"version {found.model_version}"
    say(f"Kind {found.kind}, strategy {found.strategy}, {by}.")


def withdraw(item: _Item, as_json: AsJson = False) -> None:
    """Keep an item out of all lists, from the next request on."""
    with client() as server:
        found = server.withdraw(item)
    _print(found, as_json=as_json)


def restore(item: _Item, as_json: AsJson = False) -> None:
    """Let an item into lists again that was withdrawn."""
    with client() as server:
        found = server.restore(item)
    _print(found, as_json=as_json)


def import_items(
    file: Annotated[Path, typer.Argument(help="CSV, JSON, Parquet, Feather or Excel.")],
    item_column: Annotated[str | None, typer.Option(help="Default: item_id.")] = None,
    title_column: _TitleColumn = None,
    category_column: _CategoryColumn = None,
    category_separator: CategorySeparator = None,
    available_column: _AvailableColumn = None,
    from_column: _FromColumn = None,
    until_column: _UntilColumn = None,
    time_unit: _TimeUnit = None,
    delimiter: Delimiter = None,
    encoding: Encoding = None,
    quote: Quote = None,
    skip_lines: SkipLines = None,
    max_ratio: MaxRatio = None,
    sheet: Sheet = None,
    report: _Report = None,
    as_json: AsJson = False,
) -> None:
    """Read items from a file; its other columns are attributes, and what it lacks stays."""
    from reckeeper.events import files

    format = with_given(
        files.CatalogueFormat(),
        item_column=item_column,
        title_column=title_column,
        category_column=category_column,
        category_separator=category_separator,
        available_column=available_column,
        from_column=from_column,
        until_column=until_column,
        time_unit=time_unit,
        delimiter=delimiter,
        encoding=encoding,
        skip_lines=skip_lines,
        max_ratio=max_ratio,
        sheet=sheet,
        has_quotes=quote and quote.has_quotes,
        has_escapes=quote and quote.has_escapes,
    )
    settings = installation.settings()
    database = made_or_opened(settings)
    progress = progress_bar(Console(stderr=True), f"Importing {file.name}")
    with contextlib.closing(database), progress as advance:
        done = files.import_items(
            database,
            file,
            format=format,
            settings=settings,
            actor="cli",
            refused_report=report,
            on_progress=lambda at: advance(at.bytes_done, at.bytes_total, at.rows),
        )
    _print_import(done, installation.database_of(settings), as_json=as_json)


def _print_import(done: "files.ImportReport", written_to: str, *, as_json: bool) -> None:
    if as_json:
        first = [dataclasses.asdict(line) for line in done.first_refused]
        path = None if done.refused_report is None else str(done.refused_report)
        told = {"import_id": done.import_id, "items": done.items, "refused": done.refused}
        print_json({**told, "first_refused": first, "refused_report": path, "database": written_to})
        return
    for name, form in done.read_as.items():
        say(f"{name} was read as {form}.")
    items = "1 item is" if done.items == 1 else f"{done.items:,} items are"
    say(f"Import {done.import_id}: {items} new or changed, in {written_to}.")
    print_refused(Console(), done)


def _print(item: "wire.Item", *, as_json: bool) -> None:
    if as_json:
        print_json(item)
        return
    known = None if item.in_catalogue else "by interactions alone"
    print_facts(
        [
            ("item", item.item_id),
            ("title", item.title),
            ("categories", ", ".join(item.categories)),
            ("available", _availability(item)),
            ("attributes", compact(item.attributes) if item.attributes else None),
            ("known", known),
        ]
    )


def _availability(item: "wire.Item") -> str:
    """Return whether an item may be in a list now, and from when until when."""
    if not item.available:
        return "withdrawn"
    bounds = [
        f"{word} {moment[:16].replace('T', ' ')} UTC"
        for word, moment in (("from", item.available_from), ("until", item.available_until))
        if moment is not None
    ]
    return " ".join(["yes" if item.available_now else "no", *bounds])
