"""`reckeeper export`: what is in the database, as a file."""

import contextlib
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from reckeeper import clock
from reckeeper.cli.data import progress_bar
from reckeeper.cli.database import read_only
from reckeeper.cli.terminal import AsJson, print_json, say
from reckeeper.errors import DataError


class What(StrEnum):
    """What can be exported."""

    INTERACTIONS = "interactions"
    CATALOGUE = "catalogue"


_What = Annotated[What, typer.Argument(help="What to write.", show_choices=True)]
_Output = Annotated[
    Path, typer.Option(help="The file to write; its name ends in .csv, .csv.gz or .parquet.")
]
_Since = Annotated[
    str | None, typer.Option(help="Interactions from this time on, as 2025-12-04T23:42:15Z.")
]
_Until = Annotated[str | None, typer.Option(help="Interactions before this time.")]
_User = Annotated[
    list[str] | None, typer.Option(help="Interactions of this user; may be repeated.")
]
_Type = Annotated[
    list[str] | None, typer.Option("--type", help="Interactions of this type; may be repeated.")
]


def register(app: typer.Typer) -> None:
    """Add the command `export`."""
    app.command("export")(export)


def export(
    output: _Output,
    what: _What = What.INTERACTIONS,
    since: _Since = None,
    until: _Until = None,
    user: _User = None,
    type_: _Type = None,
    as_json: AsJson = False,
) -> None:
    """Write the interactions or the catalogue to a file that an import reads again."""
    from reckeeper.events.export import Chosen, export_interactions, export_items

    chosen = Chosen(
        since=_moment("--since", since),
        until=_moment("--until", until),
        users=tuple(user or ()),
        types=tuple(type_ or ()),
    )
    if what is What.CATALOGUE and not chosen.is_all:
        raise DataError("The options that choose are of interactions: leave them out.")
    progress = progress_bar(Console(stderr=True), f"Writing {output.name}")
    with contextlib.closing(read_only()) as database, progress as advance:

        def tell(n_rows: int, total: int) -> None:
            advance(n_rows, total, n_rows)

        if what is What.CATALOGUE:
            n_rows = export_items(database, output, on_progress=tell)
        else:
            n_rows = export_interactions(database, output, chosen, on_progress=tell)
    if as_json:
        print_json({"output": str(output), "rows": n_rows})
        return
    things = {What.INTERACTIONS: "interaction", What.CATALOGUE: "item"}[what]
    say(f"Wrote {n_rows:,} {things}{'' if n_rows == 1 else 's'} to {output}.")


def _moment(option: str, text: str | None) -> int | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as exc:
        raise DataError(f"{option} {text!r} is no time: write 2025-12-04T23:42:15Z.") from exc
    return clock.microseconds(moment if moment.tzinfo else moment.replace(tzinfo=UTC))
