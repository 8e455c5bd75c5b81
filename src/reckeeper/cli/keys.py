"""`reckeeper keys`: API keys made, listed and revoked."""

import contextlib
import getpass
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from reckeeper.cli import installation
from reckeeper.cli.terminal import (
    AsJson,
    Reason,
    client,
    print_json,
    print_table,
    say,
    warn,
    when,
)
from reckeeper.errors import DataError

if TYPE_CHECKING:  # the help of a command does without them
    from reckeeper import audit, storage, wire

_UNITS = {"h": "hours", "d": "days", "w": "weeks"}


def register(app: typer.Typer) -> None:
    """Add the command `keys` to the command line."""
    keys = typer.Typer(
        help="API keys: who may do what.\n\n"
        "With RECKEEPER_API_KEY these commands ask the server. Without it they open the database, "
        "as whoever may read the data folder can, and the audit trail says so.",
        no_args_is_help=True,
    )
    keys.command("create")(create)
    keys.command("list")(list_keys)
    keys.command("revoke")(revoke)
    app.add_typer(keys, name="keys")


def create(
    name: Annotated[str, typer.Argument(help="Who or what uses it, as the audit trail names it.")],
    role: Annotated[
        str, typer.Option(help="viewer, ingest, recommend, operator or admin.", show_default=False)
    ],
    expires: Annotated[
        str | None, typer.Option(help="After which it is not valid: 90d, 12h, or 2027-01-31.")
    ] = None,
    rate_limit: Annotated[
        int | None, typer.Option(min=1, max=1_000_000, help="Requests a minute that are answered.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a key and print it, this once; what else is to say goes to stderr."""
    expires_at = None if expires is None else _expiry(expires)
    if _asks_server():
        from reckeeper import clock

        with client() as server:
            made = server.create_key(
                name,
                role,  # type: ignore[arg-type]  # the server says which there are
                expires_at=None if expires_at is None else clock.rfc3339(expires_at),
                rate_limit=rate_limit,
            )
        secret, key = made.secret, made.key
    else:
        from reckeeper import security

        with _database(may_make=True) as database:
            new = security.keys.create(
                database,
                name,
                role,
                actor=_actor(),
                expires_at=expires_at,
                rate_limit=rate_limit,
                way=_WAY,
            )
        secret, key = new.text, _told(new.stored)
    if as_json:
        print_json({"key": key.model_dump(mode="json"), "secret": secret})
        return
    say(secret)
    warn(
        f"That is the key {key.name!r}, with the role {key.role!r}. It is shown this once: keep it "
        "where other secrets are kept. Send it as `Authorization: Bearer …`, or set "
        "RECKEEPER_API_KEY for the command line and the Python client."
    )


def list_keys(as_json: AsJson = False) -> None:
    """List all keys, those that were revoked or have expired too, the latest first."""
    if _asks_server():
        with client() as server:
            found = server.api_keys()
    else:
        from reckeeper import security

        with _database() as database:
            found = [_told(key) for key in security.keys.every(database)]
    if as_json:
        print_json(found)
        return
    print_table(
        ("id", "name", "role", "state", "made (UTC)", "by", "expires", "last used", "a minute"),
        [
            (
                *(key.key_id, key.name, key.role, key.state, when(key.created_at), key.created_by),
                *(when(key.expires_at), when(key.last_used_at), key.rate_limit),
            )
            for key in found
        ],
    )


def revoke(
    key: Annotated[str, typer.Argument(help="Its name or its id.")],
    reason: Reason = None,
    as_json: AsJson = False,
) -> None:
    """Revoke a key for good; servers that run refuse it within a second."""
    if _asks_server():
        with client() as server:
            revoked = server.revoke_key(key, reason=reason)
            is_last = not any(each.state != "revoked" for each in server.api_keys())
    else:
        from reckeeper import security

        with _database() as database:
            revoked = _told(
                security.keys.revoke(database, key, actor=_actor(), reason=reason, way=_WAY)
            )
            is_last = all(each.revoked_at for each in security.keys.every(database))
    if as_json:
        print_json(revoked)
        return
    say(f"The key {revoked.name!r} ({revoked.key_id}) is revoked.")
    if is_last:
        settings = installation.settings()
        is_open = settings.is_local or settings.is_open
        then = "everybody may do everything" if is_open else "nobody may do anything"
        warn(f"It was the last one: until there is another, {then} there.")


_WAY = "on the machine of the database, without a key"


def _asks_server() -> bool:
    return installation.settings().api_key is not None


@contextlib.contextmanager
def _database(*, may_make: bool = False) -> "Iterator[storage.Database]":
    from reckeeper.cli import database as databases

    opened = databases.made_or_opened if may_make else databases.opened
    with contextlib.closing(opened(installation.settings())) as database:
        yield database


def _actor() -> "audit.Actor":
    """Return the command line, and beside it the user of this machine."""
    from reckeeper import audit

    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a number without a name, as in a container
        user = None
    return audit.Actor("cli", said=user)


def _told(key: "storage.ApiKey") -> "wire.Key":
    from reckeeper import security, wire

    return wire.Key.model_validate(security.keys.describe(key))


def _expiry(text: str) -> int:
    """Return the time that `90d`, `12h` or a date means, in microseconds since 1970."""
    from reckeeper import clock

    now = datetime.now(UTC)
    try:
        if found := re.fullmatch(r"(\d{1,5})([hdw])", text):
            moment = now + timedelta(**{_UNITS[found[2]]: int(found[1])})
        else:
            moment = datetime.fromisoformat(text)
    except ValueError as exc:
        raise DataError(
            f"--expires {text!r} is no time: write 90d, 12h, 2w, 2027-01-31 or "
            "2027-01-31T12:00:00Z."
        ) from exc
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    if moment <= now:
        raise DataError(f"--expires {text!r} lies in the past.")
    return clock.microseconds(moment)
