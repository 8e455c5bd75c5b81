"""What the commands that ask the server share: how they ask, and how they show the answer."""

import json
import re
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import BaseModel
from rich import filesize
from rich.console import Console
from rich.table import Table
from rich.text import Text
from typer.core import TyperGroup

from reckeeper.cli import installation
from reckeeper.config import Settings
from reckeeper.errors import DataError

if TYPE_CHECKING:  # many commands ask no server
    from reckeeper import wire
    from reckeeper.client import Client

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Limit = Annotated[int, typer.Option(min=1, max=1000, help="How many to list.")]
Before = Annotated[
    int | None, typer.Option(min=1, help="List those with lower numbers: the next page.")
]
Reason = Annotated[str | None, typer.Option(help="Kept in the audit trail.")]

_DEFAULT_URL = "http://127.0.0.1:8000"

# In what people have written, they would move the cursor or worse.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def group(*, help: str, default: str) -> typer.Typer:
    """Return a group of commands of which one is meant where none is named."""

    class Group(TyperGroup):
        def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
            if not args or (args[0].startswith("-") and args[0] != "--help"):
                args = [default, *args]
            return super().parse_args(ctx, args)

    return typer.Typer(cls=Group, help=f"{help} Without a command: {default}.")


def client() -> "Client":
    """Return a client of the installation's server; its calls name the command line.

    Where that is not at the default address, stderr says which one is asked.

    Raises
    ------
    ConfigError
        The server there is of another installation than the database of the
        settings. One that RECKEEPER_SERVER_URL names is not compared.
    """
    from reckeeper.client import Client

    settings = Settings.from_env()
    url = installation.server_url(settings)
    asked = Client(url, actor="cli", retry_first=False, key=settings.api_key or "")
    if url != _DEFAULT_URL:
        warn(f"Using the server at {asked.url}.", style="dim")
    if "server_url" not in settings.model_fields_set:
        known_id = installation.known_id(settings)
        if known_id is not None:
            installation.check(settings, known_id)
    return asked


def parse_settings(pairs: Sequence[str]) -> dict[str, Any]:
    """Return the settings that ``key=value`` pairs give.

    A value is read as JSON where it is JSON, so that numbers, ``true`` and
    ``null`` are what they look like; else it is text.

    Raises
    ------
    DataError
        A pair has no ``=``, no key, or a key that came before.
    """
    settings: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise DataError(f"--set {pair!r} is not of the form key=value, as in n_components=64.")
        if key in settings:
            raise DataError(f"--set gives {key} twice: leave one out.")
        try:
            settings[key] = json.loads(text)
        except (ValueError, RecursionError):
            settings[key] = text
    return settings


def print_json(content: object) -> None:
    """Print one line of JSON; it may have answers of the server in it."""
    typer.echo(json.dumps(content, default=_as_json))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, title: str = "") -> None:
    """Print a table; None is an empty cell."""
    table = Table(*columns, title=title or None, title_justify="left")
    for row in rows:
        table.add_row(*(_text(value) for value in row))
    _print(table)


def print_facts(facts: Iterable[tuple[str, Any]]) -> None:
    """Print names and values one below the other, without those that are None or empty."""
    table = Table(show_header=False)
    for name, value in facts:
        if value not in (None, ""):
            table.add_row(name, _text(value))
    _print(table)


def say(line: str) -> None:
    """Print a line."""
    typer.echo(_CONTROLS.sub("�", line))


def warn(line: str, *, style: str = "yellow") -> None:
    """Print a line on stderr, in yellow."""
    Console(stderr=True).print(
        Text(_CONTROLS.sub("�", line), style=style), soft_wrap=True, highlight=False
    )


def when(at: str | None) -> str:
    """Return a time of the API as ``2025-12-04 23:42:15``, in UTC; empty for None."""
    return (at or "")[:19].replace("T", " ")


def size(n_bytes: int | None) -> str:
    """Return a number of bytes as people read it; empty for None and 0."""
    return filesize.decimal(n_bytes) if n_bytes else ""


def compact(values: Any) -> str:
    """Return ``a=1, b={c=[2]}`` of a mapping, and JSON of anything else; text stays as it is."""
    if isinstance(values, dict):
        return ", ".join(
            f"{name}={{{compact(value)}}}"
            if isinstance(value, dict)
            else f"{name}={compact(value)}"
            for name, value in values.items()
        )
    return values if isinstance(values, str) else json.dumps(values, ensure_ascii=False)


_BARS = "▁▂▃▄▅▆▇█"


class DriftName(StrEnum):
    """How far users' next choices lean to popular items: those of `wire.Drift`."""

    NONE = "none"
    MILD = "mild"
    STRONG = "strong"


def tuning_note(progress: "wire.TuningProgress") -> str:
    """Say what tuning has found so far, and show how the best has risen."""
    parts = [f"{progress.n_tried} tried"]
    if progress.ndcg is not None:
        parts.append(f"best NDCG {progress.ndcg:.4f} {_rise(progress.history)}".rstrip())
    if progress.seconds_left is not None:
        parts.append(f"about {progress.seconds_left:.0f} s left")
    return ", ".join(parts)


def _rise(history: "Sequence[wire.BestSoFar]") -> str:
    """Draw a curve of one line, of the last dozen values; empty for fewer than two."""
    values = [best.ndcg for best in history][-12:]
    if len(values) < 2:
        return ""
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    return "".join(_BARS[round((value - low) / span * (len(_BARS) - 1))] for value in values)


def _print(table: Table) -> None:
    console = Console()
    # In a pipe or a file a row is a line, whole, for whoever searches it.
    (console if console.is_terminal else Console(width=100_000)).print(table)


def _as_json(value: object) -> "wire.JsonObject":
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    raise TypeError(f"{type(value).__name__} is no JSON value.")


def _text(value: Any) -> Text:
    return Text("" if value is None else _CONTROLS.sub("�", str(value)))
