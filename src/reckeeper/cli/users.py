"""`reckeeper users`: what is done with all that is known of a user."""

from typing import Annotated

import typer

from reckeeper.cli.terminal import AsJson, client, print_json, say


def register(app: typer.Typer) -> None:
    """Add the command `users` to the command line."""
    users = typer.Typer(help="What is done with all that is known of a user.", no_args_is_help=True)
    users.command("merge")(merge)
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
