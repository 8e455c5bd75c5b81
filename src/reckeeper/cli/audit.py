"""`reckeeper audit`: who changed what, and the proof that the trail is whole."""

import contextlib
import dataclasses
from typing import Annotated

import typer

from reckeeper.cli import installation
from reckeeper.cli.database import opened
from reckeeper.cli.terminal import (
    AsJson,
    Before,
    Limit,
    client,
    compact,
    group,
    print_json,
    print_table,
    say,
    when,
)


def register(app: typer.Typer) -> None:
    """Add the command `audit` to the command line."""
    audit = group(help="Who changed what, and is the trail whole?", default="list")
    audit.command("list")(list_entries)
    audit.command("verify")(verify)
    audit.command("accept")(accept)
    app.add_typer(audit, name="audit")


def list_entries(limit: Limit = 20, before: Before = None, as_json: AsJson = False) -> None:
    """List who changed what, the latest first."""
    with client() as server:
        entries = server.audit(limit=limit, before=before)
    if as_json:
        print_json(entries)
        return
    print_table(
        ("entry", "at (UTC)", "by", "action", "of", "details"),
        [
            (
                *(entry.entry_id, when(entry.at), entry.actor, entry.action),
                entry.subject,
                compact({n: value for n, value in entry.details.items() if value is not None}),
            )
            for entry in entries
        ],
    )


def verify(as_json: AsJson = False) -> None:
    """Prove that no entry was altered, removed, reordered or cut; needs no server.

    The exit status is 0 if the trail is whole, and 1 if it is not.
    """
    from reckeeper import audit as trail
    from reckeeper import storage, telemetry

    telemetry.configure_logging("cli")
    settings = installation.settings()
    with contextlib.closing(storage.open_database(settings)) as database:
        found = trail.verify(database, settings)
    if as_json:
        print_json(dataclasses.asdict(found))
    elif found.ok:
        say(f"The audit trail is whole: {found.n_entries:,} entries.")
    else:
        typer.secho(f"The audit trail is not whole. {found.problem}", fg="red", err=True)
        if found.problem is not None and trail.HEAD_NAME in found.problem:
            typer.secho("To accept it: reckeeper audit accept --reason TEXT", fg="red", err=True)
    raise typer.Exit(0 if found.ok else 1)


def accept(
    reason: Annotated[str, typer.Option(help="Why the file is gone or differs; kept for good.")],
) -> None:
    """Have the trail go on where the file that names its last entry is missing or differs.

    An entry says so, with the reason. The file is written again, and one that differs kept
    under another name. Needs no server.
    """
    from reckeeper import audit as trail
    from reckeeper.security import checked_reason

    settings = installation.settings()
    with contextlib.closing(opened(settings)) as database:
        entry_id = trail.accept(database, actor="cli", reason=checked_reason(reason) or "")
    say(f"Entry {entry_id} says so; verify the trail to see that it is whole.")
