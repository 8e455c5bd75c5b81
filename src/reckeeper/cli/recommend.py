"""`reckeeper recommend`: a list for one user from the server, or lists of many as a file."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from reckeeper.cli import installation
from reckeeper.cli.data import progress_bar
from reckeeper.cli.database import read_only
from reckeeper.cli.terminal import AsJson, client, compact, print_json, print_table, say, warn
from reckeeper.errors import DataError
from reckeeper.interactions import checked_id

if TYPE_CHECKING:  # help does without it
    import pyarrow as pa

_User = Annotated[str | None, typer.Argument(metavar="USER", help="Show this user's list.")]
_Everyone = Annotated[
    bool, typer.Option("--all", help="Make lists for every user who has interactions.")
]
_Users = Annotated[
    Path | None,
    typer.Option(help="Make lists for the users in a file: an id a line, or a table."),
]
_UserColumn = Annotated[str, typer.Option(help="Column of ids, where FILE is a table.")]
_N = Annotated[int, typer.Option("--n", min=1, max=1000, help="Length of a list.")]
_Output = Annotated[
    Path | None, typer.Option(help="With --all or --users: the Parquet file to write.")
]


def register(app: typer.Typer) -> None:
    """Add the command `recommend` to the command line."""
    app.command("recommend")(recommend)


def recommend(
    user: _User = None,
    everyone: _Everyone = False,
    users: _Users = None,
    user_column: _UserColumn = "user_id",
    n: _N = 10,
    output: _Output = None,
    as_json: AsJson = False,
) -> None:
    """Recommend items to a user, or write the lists of many users to a file."""
    ways = {"USER": user is not None, "--all": everyone, "--users": users is not None}
    asked = [name for name, is_asked in ways.items() if is_asked]
    if len(asked) != 1:
        said = f"{' and '.join(asked)} do not go together" if asked else "Nobody is named"
        raise DataError(f"{said}: name a USER, or --all, or --users FILE.")
    if user is not None:
        if output is not None:
            raise DataError("--output goes with --all or --users FILE: leave it out.")
        _print_list(user, n=n, as_json=as_json)
        return
    if output is None:
        raise DataError(f"{asked[0]} writes a file: name it, as with --output lists.parquet.")
    _write_lists(users, user_column, n=n, output=output, as_json=as_json)


def _print_list(user: str, *, n: int, as_json: bool) -> None:
    with client() as server:
        answer = server.recommendations(user, n=n)
    if as_json:
        print_json(answer)
        return
    version = answer.model_version
    made_by = "no version yet" if version is None else f"version {version}"
    print_table(
        ("rank", "item", "score", "title", "attributes"),
        [
            (item.rank, item.item_id, f"{item.score:.4g}", item.title, compact(item.attributes))
            for item in answer.items
        ],
        title=f"{user}: {answer.strategy}, {made_by}",
    )


def _write_lists(users: Path | None, column: str, *, n: int, output: Path, as_json: bool) -> None:
    from reckeeper import tabular
    from reckeeper.policy import PolicyWatch
    from reckeeper.registry import Registry
    from reckeeper.serving import BulkLists, bulk

    tabular.check_output(output)
    n_users = 0 if users is None else sum(1 for _ in _ids_in(users, column))  # all are checked
    settings = installation.settings()
    progress = progress_bar(Console(stderr=True), f"Writing {output.name}")
    with contextlib.ExitStack() as opened:
        database = opened.enter_context(contextlib.closing(read_only()))
        policy = PolicyWatch(database, settings)
        policy.start()
        opened.callback(policy.stop)
        lists = BulkLists(database, Registry(database, settings.model_dir), policy)
        opened.enter_context(contextlib.closing(lists))
        if lists.problem is not None:
            warn(lists.problem)
        if users is None:
            n_users, ids = lists.n_users(), lists.users()
        else:
            ids = _ids_in(users, column)
        advance = opened.enter_context(progress)

        def made() -> "Iterator[pa.RecordBatch]":
            n_done = n_rows = 0
            for n_more, batch in lists.lists(ids, n=n):
                n_done, n_rows = n_done + n_more, n_rows + batch.num_rows
                advance(n_done, n_users, n_rows)
                yield batch

        n_rows = tabular.write_parquet(output, bulk.SCHEMA, made())
    if as_json:
        told = {"output": str(output), "users": n_users, "rows": n_rows}
        print_json(told | {"model_version": lists.version})
        return
    of = "1 user" if n_users == 1 else f"{n_users:,} users"
    say(f"Wrote the lists of {of}, {n_rows:,} rows, by version {lists.version}, to {output}.")


def _ids_in(path: Path, column: str) -> Iterator[str]:
    """Yield the ids of users in a file, each checked."""
    from reckeeper import tabular

    if path.exists() and not path.is_file():  # it is read twice
        raise DataError(f"{path} is no regular file: save the ids in one.")
    is_empty = True
    for line, value in tabular.read_ids(path, column=column):
        yield checked_id(f"{path}, line {line}: the id", value)
        is_empty = False
    if is_empty:
        raise DataError(f"{path} names no user: give an id a line.")
