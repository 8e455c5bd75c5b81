"""`reckeeper users`: what is done with all that is known of a user."""

import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reckeeper.cli import database, installation
from reckeeper.cli.terminal import (
    AsJson,
    Before,
    Limit,
    Reason,
    client,
    print_json,
    print_table,
    say,
)
from reckeeper.errors import DataError

if TYPE_CHECKING:  # the help of a command does without them
    from reckeeper import wire


def register(app: typer.Typer) -> None:
    """Add the command `users` to the command line."""
    users = typer.Typer(help="What is done with all that is known of a user.", no_args_is_help=True)
    users.command("merge")(merge)
    users.command("erase")(erase)
    users.command("export")(export)
    users.command("erasures")(erasures)
    users.command("wipe")(wipe)
    users.callback()(lambda: None)
    app.add_typer(users, name="users")


def merge(
    user_id: Annotated[str, typer.Argument(help="The account.")],
    visitor_id: Annotated[str, typer.Argument(help="The id before the login.")],
    as_json: AsJson = False,
) -> None:
    """Give a visitor's interactions and watchlist to an account; this cannot be taken back.

    Whatever comes under the visitor's id from then on is the account's too.
    """
    with client() as server:
        merged = server.merge(user_id, visitor_id)
    if as_json:
        print_json(merged)
    elif merged.interactions:
        say(f"Moved {merged.interactions:,} interactions to the account.")
    else:
        say("There was nothing to move; what comes later goes to the account.")


def erase(
    user_id: Annotated[str, typer.Argument(help="The person, known or not.")],
    reason: Reason = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Erase a person for good: everything that is kept of them; on a terminal it asks first."""
    if sys.stdin.isatty() and not yes:
        typer.confirm("Erase everything that is kept of this person?", abort=True, err=True)
    with client() as server:
        erasure = server.erase(user_id, reason=reason)
    if as_json:
        print_json(erasure)
        return
    for line in _in_words(erasure):
        say(line)


def export(
    user_id: Annotated[str, typer.Argument(help="The person.")],
    file: Annotated[
        Path | None, typer.Argument(help="File to write, for you alone. Default: the terminal.")
    ] = None,
) -> None:
    """Give a person all that is kept of them, as JSON."""
    with client() as server:
        content = server.export_user(user_id).model_dump_json(indent=2) + "\n"
    if file is None:
        typer.echo(content, nl=False)
        return
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "w", encoding="utf-8") as stream:
            stream.write(content)
    except OSError as exc:
        raise DataError(f"{file} cannot be written: {exc.strerror}. Name another file.") from exc
    say(f"Everything that is kept of this person is in {file}.")


def erasures(limit: Limit = 20, before: Before = None, as_json: AsJson = False) -> None:
    """List the receipts of erasures, the latest first; they name nobody."""
    with client() as server:
        listed = server.erasures(limit=limit, before=before)
    if as_json:
        print_json(listed)
        return
    print_table(
        ["erasure", "person", "at", "state", "removed", "shaped versions", "ended by version"],
        [
            (
                each.erasure_id,
                each.subject,
                each.erased_at,
                each.state,
                sum(each.removed.values()),
                ", ".join(map(str, each.shaped_versions)),
                each.version,
            )
            for each in listed
        ],
    )


def wipe() -> None:
    """Write the database's file anew, without remnants of what was deleted.

    Nobody else can write meanwhile: about a second for 50 MB.
    """
    from reckeeper import storage

    with contextlib.closing(database.opened(installation.settings())) as opened:
        if opened.sqlite_file is None:
            raise DataError("PostgreSQL does this itself: VACUUM FULL user_interactions.")
        wiped = storage.wiping.wipe(opened, rewrites=True)
    say("The file is written anew.")
    if not wiped.log_is_empty:
        say("Somebody reads what was there before: run this again when no training runs.")


def _in_words(erasure: "wire.Erasure") -> list[str]:
    lines = [f"Erasure {erasure.erasure_id}, of the person {erasure.subject} in the audit trail."]
    removed = [f"{n:,} {name.replace('_', ' ')}" for name, n in erasure.removed.items()]
    lines.append(f"Removed: {', '.join(removed)}." if removed else "There was nothing to remove.")
    if erasure.shaped_versions:
        versions = ", ".join(map(str, erasure.shaped_versions))
        lines.append(f"Versions that were trained on what they did: {versions}.")
    if erasure.state == "retraining":
        lines.append("The worker retrains; `reckeeper users erasures` says when that has ended.")
    return lines + erasure.remains
