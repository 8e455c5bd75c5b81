"""The question of `import` on a terminal: is the file what it seems to be?"""

import dataclasses
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from reckeeper import clock
from reckeeper.cli.terminal import warn, when
from reckeeper.config import Settings

if TYPE_CHECKING:  # they bring Arrow's readers and SQL, which help does without
    from reckeeper import storage
    from reckeeper.events import files
    from reckeeper.events.columns import Choice
    from reckeeper.events.previews import Preview

_ROWS = 5
_FIELDS = {
    "user_id": "user_column",
    "item_id": "item_column",
    "interaction_type": "type_column",
    "weight": "weight_column",
    "occurred_at": "time_column",
    "event_id": "event_id_column",
    "rating": "rating_column",
}


def is_terminal() -> bool:
    """Return whether somebody is there who can answer."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def settled(
    database: "storage.Database",
    settings: Settings,
    path: Path,
    format: "files.FileFormat",
    *,
    weights: Mapping[str, float],
) -> "files.FileFormat":
    """Show what a file was found to be, and ask whether it is; return the format that it has.

    Where nothing was guessed there is nothing to be asked.
    """
    from reckeeper import policy as policies
    from reckeeper.events.previews import preview

    with database.read() as connection:
        types = {**policies.current(connection, settings).policy.weights, **weights}
    found = preview(path, format, types=types, n=_ROWS)
    if found.choices:
        chosen: dict[str, Any] = {
            _FIELDS[choice.part]: _chosen(path, choice) for choice in found.choices
        }
        format = dataclasses.replace(format, **chosen)
        found = preview(path, format, types=types, n=_ROWS)
    elif not any(part.is_guess for part in found.parts):
        return format
    _show(path, found)
    if not typer.confirm("Import it so?", default=True, err=True):
        warn("Nothing was imported. Options such as --user-column say what a column is.")
        raise typer.Exit(1)
    return format


def _chosen(path: Path, choice: "Choice") -> str:
    """Ask which column a part is; empty: none."""
    from reckeeper.events.columns import REQUIRED, WORDS

    word = WORDS[choice.part]
    warn(f"{path.name}: {choice.sentence}.")
    for number, name in enumerate(choice.columns, start=1):
        warn(f"  {number}  {name}", style="")
    may_be_none = choice.part not in REQUIRED
    ask = f"Which is the {word}{' (0: none)' if may_be_none else ''}?"
    number = -1
    while number not in range(0 if may_be_none else 1, len(choice.columns) + 1):
        number = typer.prompt(ask, type=int, err=True)
    return choice.columns[number - 1] if number else ""


def _show(path: Path, found: "Preview") -> None:
    from reckeeper.events.columns import WORDS

    warn(f"{path.name} is read as {found.form}.", style="")
    for part in found.parts:
        why = ", by its name" if part.is_guess else ""
        warn(f"  {WORDS[part.part]:9} {part.column!r}{why}", style="")
    table = Table(found.form.unit, "user", "item", "type", "weight", "time (UTC)")
    for row in found.rows:
        at = "now" if row.occurred_at is None else when(clock.rfc3339(row.occurred_at))
        ids = (str(row.line), row.user_id, row.item_id, row.interaction_type)
        table.add_row(*map(Text, (*ids, f"{row.weight:g}", at)))
    Console(stderr=True).print(table)
    for line in found.refused:
        unit = found.form.unit.capitalize()
        warn(f"{unit} {line.line} would be refused: {line.column} {line.value!r} {line.reason}.")
    for note in found.notes:
        warn(note)
