"""`reckeeper dlq` and `replay`: what was refused on its way through Kafka, and reading again."""

import base64
import contextlib
import dataclasses
import re
from collections import deque
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from reckeeper import clock
from reckeeper.cli import installation
from reckeeper.cli.data import progress_bar
from reckeeper.cli.database import opened, read_only
from reckeeper.cli.terminal import AsJson, print_json, print_table, say
from reckeeper.config import Settings
from reckeeper.errors import ConfigError, DataError

if TYPE_CHECKING:  # only where there is Kafka
    from reckeeper.events.kafka import dead_letters

_SHOWN_CHARACTERS = 80


def register(app: typer.Typer) -> None:
    """Add the commands `dlq list|replay` and `replay`."""
    letters = typer.Typer(no_args_is_help=True, help="Records from Kafka that were refused.")
    letters.command("list")(list_command)
    letters.command("replay")(replay_letters_command)
    app.add_typer(letters, name="dlq")
    app.command("replay")(replay_command)


def list_command(
    limit: Annotated[int, typer.Option(min=1, help="How many to list, the latest ones.")] = 100,
    as_json: AsJson = False,
) -> None:
    """List the dead letters, the latest last."""
    settings = _settings()
    from reckeeper.events.kafka import dead_letters

    with contextlib.closing(read_only()) as database:
        latest = deque(dead_letters.letters(database, settings), maxlen=limit)
    if as_json:
        print_json([_as_json(letter) for letter in latest])
        return
    if not latest:
        say("There is no dead letter.")
        return
    print_table(
        ("place", "time (UTC)", "reason", "key", "value", "replayed"),
        [
            (
                letter.place,
                _time(letter.timestamp)[:19].replace("T", " "),
                letter.reason,
                _text(letter.key),
                _text(letter.value),
                "yes" if letter.is_replayed else "",
            )
            for letter in latest
        ],
    )
    say("`reckeeper dlq replay` sends again those that have not been replayed yet.")


def replay_letters_command(
    places: Annotated[
        list[str] | None,
        typer.Argument(
            help="Letters as PARTITION:OFFSET, as `list` shows them. Default: all since the last "
            "replay.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Send dead letters to their topic again, once what refused them was put right."""
    for place in places or ():
        if not re.fullmatch(r"\d{1,10}:\d{1,19}", place):
            raise DataError(
                f"{place!r} is no dead letter: name it as PARTITION:OFFSET, such as 0:17."
            )
    settings = _settings()
    from reckeeper.events.kafka import dead_letters

    database = opened(settings)
    console = Console(stderr=True)
    with contextlib.closing(database), progress_bar(console, "Sending letters") as advance:
        done = dead_letters.replay(
            database,
            settings,
            places=places or None,
            actor="cli",
            on_progress=lambda sent: advance(sent, 0, sent),
        )
    if as_json:
        print_json(dataclasses.asdict(done))
        return
    say(f"{done.sent:,} dead letters are on the topic {settings.kafka_topic} again.")
    if done.cut:
        say(f"{done.cut:,} were not sent: only their first bytes were kept.")


def replay_command(
    start: Annotated[
        str,
        typer.Option(
            "--from",
            help="Offset in all partitions, 0 for all that is kept; or a time, as "
            "2026-01-31T12:00:00Z.",
        ),
    ],
    as_json: AsJson = False,
) -> None:
    """Read the topic again, and add what is missing; nothing that is there changes."""
    parsed = _start(start)
    settings = _settings()
    from reckeeper.events.kafka.replay import replay

    database = opened(settings)
    console = Console(stderr=True)
    title = f"Reading {settings.kafka_topic}"
    with contextlib.closing(database), progress_bar(console, title) as advance:
        done = replay(database, settings, start=parsed, actor="cli", on_progress=advance)
    if as_json:
        print_json(dataclasses.asdict(done))
        return
    say(
        f"{done.read:,} records were read: {done.new:,} interactions are new, "
        f"{done.duplicates:,} were there already, {done.refused:,} records were refused."
    )


def _settings() -> Settings:
    settings = installation.settings()
    if not settings.uses_kafka:
        raise ConfigError(
            "Interactions come straight into the database here, and not through Kafka: set "
            "KAFKA_BOOTSTRAP_SERVERS to the brokers that the worker reads from."
        )
    return settings


def _start(text: str) -> int | datetime:
    if re.fullmatch(r"\d{1,18}", text):
        return int(text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as exc:
        raise DataError(
            f"--from {text!r} is neither an offset nor a time such as 2026-01-31T12:00:00Z."
        ) from exc
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _as_json(letter: "dead_letters.DeadLetter") -> dict[str, Any]:
    return {
        "topic": letter.topic,
        "partition": letter.partition,
        "offset": letter.offset,
        "timestamp": _time(letter.timestamp),
        "code": letter.code,
        "reason": letter.reason,
        "key_base64": _base64(letter.key),
        "value_base64": _base64(letter.value),
        "full_bytes": letter.full_bytes,
        "replayed": letter.is_replayed,
    }


def _base64(content: bytes | None) -> str | None:
    return None if content is None else base64.b64encode(content).decode()


def _time(milliseconds: int) -> str:
    try:
        return clock.rfc3339(milliseconds * 1000)
    except (ValueError, OverflowError, OSError):  # the sender's clock may say anything
        return str(milliseconds)


def _text(content: bytes | None) -> str | None:
    if content is None:
        return None
    text = content[: 4 * _SHOWN_CHARACTERS].decode("utf-8", "replace")
    if len(text) <= _SHOWN_CHARACTERS and len(content) <= 4 * _SHOWN_CHARACTERS:
        return text
    return f"{text[:_SHOWN_CHARACTERS]}…"
