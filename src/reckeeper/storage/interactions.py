"""`user_interactions`, and the watchlist that is projected from it."""

import functools
import itertools
import json
import math
from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from reckeeper.interactions import WATCHLIST_ADD, WATCHLIST_REMOVE, Interaction, schema
from reckeeper.storage import merges
from reckeeper.storage.engine import is_postgresql
from reckeeper.storage.installation import raise_generation
from reckeeper.storage.tables import imports, user_interactions, watchlist
from reckeeper.storage.tombstones import Tombstones

if TYPE_CHECKING:
    import pyarrow as pa

_COLUMNS = "event_id, user_id, item_id, interaction_type, weight, occurred_at"
_APPEND = f"""
    INSERT INTO user_interactions ({_COLUMNS}, import_id)
    {{rows}} ON CONFLICT (event_id) DO NOTHING
"""
# What comes under the id of a visitor who has become an account is that account's.
_ACCOUNT = """coalesce(
    (SELECT merged.user_id FROM user_merges AS merged WHERE merged.visitor_id = {user_id}),
    {user_id}
)"""
_TYPES = ("text", "text", "text", "text", "float8", "int8")

# SQLite looks up and stores the last number of the table with each statement: with fifty rows in
# one, a row takes half of the time. With more it takes as long, but a thread that makes the next
# rows is interrupted less often. SQLite takes 32,766 values in a statement.
_STATEMENT_ROWS = (500, 50, 1)

# Few rows go to PostgreSQL in one round trip, many by COPY, which is faster for each of them. For
# as many it pays to ask first whether anybody is another's account.
_COPY_ROWS = 200
_INCOMING = """
    CREATE TEMPORARY TABLE IF NOT EXISTS incoming (
        place int, event_id text, user_id text, item_id text, interaction_type text,
        weight float8, occurred_at int8
    ) ON COMMIT DELETE ROWS
"""

# The latest change of a pair decides, whatever order the changes come in.
_PROJECT = """
    INSERT INTO watchlist (user_id, item_id, is_listed, changed_at)
    SELECT user_id, item_id, interaction_type = 'watchlist_add', occurred_at
    FROM (
        SELECT *, row_number() OVER (
            PARTITION BY user_id, item_id ORDER BY occurred_at DESC, id DESC
        ) AS place
        FROM user_interactions AS changes
        WHERE interaction_type IN ('watchlist_add', 'watchlist_remove') AND {changes}
    ) AS latest
    WHERE place = 1
    ON CONFLICT (user_id, item_id)
    DO UPDATE SET is_listed = excluded.is_listed, changed_at = excluded.changed_at
    WHERE excluded.changed_at >= watchlist.changed_at
"""


def append(
    connection: sa.Connection,
    interactions: Sequence[tuple[str, str, str, str, float, int]],
    *,
    import_id: int | None = None,
    timeless: int | None = None,
) -> int:
    """Append interactions and project the watchlist, in the caller's transaction.

    What an erasure forbids is left out: of somebody who was erased what occurred before.

    Parameters
    ----------
    connection : sqlalchemy.Connection
        From `Database.write`.
    interactions : sequence of Interaction
        Valid ones, or tuples of the same six values. Where several
        have one `event_id` the first stands, wherever it came from. Their numbers
        grow in the order given.
    import_id : int, optional
        The import that they belong to.
    timeless : int, optional
        The time of those that have none of their own: see `Tombstones.spared`.

    Returns
    -------
    int
        How many were new.
    """
    if not interactions:
        return 0
    before, revision = connection.exec_driver_sql(_STATE[is_postgresql(connection)]).one()
    before = before or 0
    held: Tombstones = connection.get_execution_options()["reckeeper_tombstones"]
    interactions = held.spared(connection, interactions, revision=revision or 0, timeless=timeless)
    if not interactions:
        return 0
    import_number = "NULL" if import_id is None else str(int(import_id))
    if is_postgresql(connection):
        accepted = _append_to_postgresql(connection, interactions, import_number)
    else:
        accepted = _append_to_sqlite(connection, interactions, import_number)
    if accepted and any(row[3] in (WATCHLIST_ADD, WATCHLIST_REMOVE) for row in interactions):
        connection.execute(
            sa.text(_PROJECT.format(changes="changes.id > :before")), {"before": before}
        )
    return accepted


def _append_to_sqlite(
    connection: sa.Connection,
    interactions: Sequence[tuple[str, str, str, str, float, int]],
    import_number: str,
) -> int:
    has_merges = len(interactions) <= _COPY_ROWS or merges.are_there(connection)
    accepted = start = 0
    for n_rows in _STATEMENT_ROWS:
        stop = start + (len(interactions) - start) // n_rows * n_rows
        values = [
            tuple(itertools.chain.from_iterable(interactions[at : at + n_rows]))
            for at in range(start, stop, n_rows)
        ]
        if values:
            rows = _values(n_rows, import_number, has_merges=has_merges)
            accepted += connection.exec_driver_sql(_APPEND.format(rows=rows), values).rowcount
        start = stop
    return accepted


def _values(n_rows: int, import_number: str, *, has_merges: bool) -> str:
    """Return the clause that inserts so many rows, whose values are given one after the other."""
    rows = []
    for first in range(1, 6 * n_rows, 6):
        event_id, user_id, *others = (f"?{number}" for number in range(first, first + 6))
        user_id = _ACCOUNT.format(user_id=user_id) if has_merges else user_id
        rows.append(f"({', '.join([event_id, user_id, *others, import_number])})")
    return f"VALUES {', '.join(rows)}"


def _append_to_postgresql(
    connection: sa.Connection,
    interactions: Sequence[tuple[str, str, str, str, float, int]],
    import_number: str,
) -> int:
    driver: Any = connection.connection.driver_connection
    with driver.cursor() as cursor:
        if len(interactions) <= _COPY_ROWS:
            arrays = ", ".join(f"%s::{kind}[]" for kind in _TYPES)
            source = f"unnest({arrays}) WITH ORDINALITY AS incoming ({_COLUMNS}, place)"
            values = [list(column) for column in zip(*interactions, strict=True)]
        else:
            source, values = "incoming", None
            cursor.execute(_INCOMING)
            with cursor.copy("COPY incoming FROM STDIN (FORMAT BINARY)") as copy:
                copy.set_types(("int4", *_TYPES))
                for place, row in enumerate(interactions):
                    copy.write_row((place, *row))
        columns = _COLUMNS.replace("user_id", _ACCOUNT.format(user_id="incoming.user_id"))
        rows = f"SELECT {columns}, {import_number} FROM {source} ORDER BY place"
        cursor.execute(_APPEND.format(rows=rows), values, prepare=True)
        return int(cursor.rowcount)


_LAST_ID = {
    # The sequence has given numbers that are not committed. No number comes a second time.
    True: "SELECT max(id) FROM user_interactions",
    False: "SELECT seq FROM sqlite_sequence WHERE name = 'user_interactions'",
}
# Number of the last interaction, and of the last erasure; asked for together, in one round trip.
_STATE = {
    kind: f"SELECT ({query}), (SELECT max(erasure_id) FROM erasures)"
    for kind, query in _LAST_ID.items()
}


def last_id(connection: sa.Connection) -> int:
    """Return a number that all interactions so far are at or below, 0 at first.

    None that comes later gets it or a lower one.
    """
    query = _LAST_ID[is_postgresql(connection)]
    return int(connection.exec_driver_sql(query).scalar() or 0)


def count(connection: sa.Connection) -> int:
    """Return the number of interactions; walks an index, about 10 ms a million."""
    return int(
        connection.execute(sa.select(sa.func.count()).select_from(user_interactions)).scalar_one()
    )


def count_up_to(connection: sa.Connection, watermark: int) -> int:
    """Return the number of interactions that are numbered `watermark` or below."""
    query = sa.select(sa.func.count()).where(user_interactions.c.id <= watermark)
    return int(connection.execute(query).scalar_one())


def count_after(connection: sa.Connection, watermark: int, *, at_most: int) -> int:
    """Return how many interactions are numbered above `watermark`; counts to `at_most`."""
    newer = (
        sa.select(user_interactions.c.id)
        .where(user_interactions.c.id > watermark)
        .limit(at_most)
        .subquery()
    )
    return int(connection.execute(sa.select(sa.func.count()).select_from(newer)).scalar_one())


def first_later_than(connection: sa.Connection, moment: int) -> int | None:
    """Return the lowest number of an interaction that occurred after a moment, or None."""
    # Without the offset PostgreSQL walks all numbers from the first, and not its index by time.
    later = (
        sa.select(user_interactions.c.id)
        .where(user_interactions.c.occurred_at > moment)
        .offset(0)
        .subquery()
    )
    found = connection.execute(sa.select(sa.func.min(later.c.id))).scalar()
    return None if found is None else int(found)


def sizes(connection: sa.Connection) -> tuple[int, int, int]:
    """Return the numbers of interactions, of users and of items; reads the whole table."""
    columns = user_interactions.c

    # Each by itself: several distinct counts in one query make PostgreSQL sort all rows.
    def distinct(column: sa.Column[str]) -> sa.ScalarSelect[int]:
        values = sa.select(column).distinct().subquery()
        return sa.select(sa.func.count()).select_from(values).scalar_subquery()

    n_users, n_items = connection.execute(
        sa.select(distinct(columns.user_id), distinct(columns.item_id))
    ).one()
    return count(connection), int(n_users), int(n_items)


def is_empty(connection: sa.Connection) -> bool:
    """Return whether there is no interaction."""
    return connection.execute(sa.select(user_interactions.c.id).limit(1)).first() is None


def has_events_from(connection: sa.Connection, beginning: str) -> bool:
    """Return whether there is an interaction whose event id begins with a text."""
    name = user_interactions.c.event_id
    beyond = beginning[:-1] + chr(ord(beginning[-1]) + 1)
    query = sa.select(name).where(name >= beginning, name < beyond).limit(1)
    return connection.execute(query).first() is not None


def count_events(connection: sa.Connection, event_ids: Sequence[str]) -> int:
    """Return how many of some event ids there are."""
    query = sa.select(sa.func.count()).where(user_interactions.c.event_id.in_(event_ids))
    return int(connection.execute(query).scalar_one())


def count_alike(
    connection: sa.Connection, rows: Sequence[tuple[str | None, str, str, int | None]]
) -> int:
    """Return for how many rows there is an interaction of the same user, item, type and time.

    Where the user is None, of any user, and where the time is, of any time.
    """
    columns = user_interactions.c
    n_alike = 0
    for user_id, item_id, interaction_type, occurred_at in rows:
        query = sa.select(columns.id).where(
            columns.item_id == item_id, columns.interaction_type == interaction_type
        )
        if user_id is not None:
            query = query.where(columns.user_id == user_id)
        if occurred_at is not None:
            query = query.where(columns.occurred_at == occurred_at)
        n_alike += connection.execute(query.limit(1)).first() is not None
    return n_alike


def knows_item(connection: sa.Connection, item_id: str) -> bool:
    """Return whether there is an interaction with an item."""
    query = sa.select(user_interactions.c.id).where(user_interactions.c.item_id == item_id)
    return connection.execute(query.limit(1)).first() is not None


def any_weighs(connection: sa.Connection, types: Collection[str]) -> bool:
    """Return whether an interaction of some types has a weight above 0; stops at the first."""
    columns = user_interactions.c
    query = sa.select(columns.id).where(columns.weight > 0, columns.interaction_type.in_(types))
    return connection.execute(query.limit(1)).first() is not None


def most_popular(
    connection: sa.Connection,
    types: Collection[str],
    *,
    among: int,
    half_life: int | None = None,
    left_out: Collection[str] = (),
) -> list[tuple[str, float]]:
    """Return items with how many users have them, the most popular first.

    Parameters
    ----------
    connection : sqlalchemy.Connection
    types : collection of str
        The interaction types that count, where their weight is above 0.
    among : int
        How many interactions are read, the latest.
    half_life : int, optional
        Microseconds, at least 1, after which a user's latest interaction with
        an item counts half; it counts a quarter after twice as long, and in
        between what lies on a straight line. It counts 1 if it is the latest
        of all that count. Default: each counts 1.
    left_out : collection of str
        Users who do not count; any number.
    """
    latest = _latest(among)
    counts = sa.and_(latest.c.weight > 0, latest.c.interaction_type.in_(types))
    if left_out:
        counts = sa.and_(counts, latest.c.user_id.not_in(_texts(connection, left_out)))
    pairs = (
        sa.select(latest.c.item_id, sa.func.max(latest.c.occurred_at).label("last_at"))
        .where(counts)
        .group_by(latest.c.item_id, latest.c.user_id)
        .cte("pairs")
    )
    unit = sa.literal(half_life or 1, sa.BigInteger)
    newest = sa.select(sa.func.max(pairs.c.last_at)).scalar_subquery()
    age = newest - pairs.c.last_at if half_life else sa.literal(0, sa.BigInteger)
    # SQLite may have no powers: whole half-lives are told apart here, and halved below.
    n_halvings = (age // unit).label("n_halvings")
    n_users = sa.func.count()
    rest = sa.func.sum(sa.cast(age % unit, sa.Float))
    query = sa.select(pairs.c.item_id, n_halvings, n_users, rest)
    query = query.group_by(pairs.c.item_id, "n_halvings")
    totals: dict[str, float] = {}
    for item_id, halved, n, over in connection.execute(query):
        share = math.ldexp(n - over / (2 * (half_life or 1)), -halved)
        totals[item_id] = totals.get(item_id, 0.0) + share
    return sorted(totals.items(), key=lambda pair: (-pair[1], pair[0]))


def latest_users(connection: sa.Connection, *, among: int) -> list[str]:
    """Return the users of the latest interactions, `among` of them, ascending."""
    users = sa.select(_latest(among).c.user_id).distinct()
    return sorted(connection.execute(users).scalars())


def _latest(n: int) -> sa.Subquery:
    columns = user_interactions.c
    return sa.select(user_interactions).order_by(columns.id.desc()).limit(n).subquery()


def _texts(connection: sa.Connection, texts: Collection[str]) -> sa.Select[tuple[str]]:
    """Return a query for some texts: any number, where a statement takes so many parameters."""
    array = sa.literal(json.dumps(list(texts)), sa.Text)
    if is_postgresql(connection):
        elements = sa.func.json_array_elements_text(sa.cast(array, postgresql.JSON))
    else:
        elements = sa.func.json_each(array)
    return sa.select(elements.table_valued("value").c.value)


def read_batches(
    connection: sa.Connection, *, batch_rows: int = 100_000
) -> "Iterator[pa.RecordBatch]":
    """Read all interactions in bounded memory, as batches of `schema()`.

    Parameters
    ----------
    connection : sqlalchemy.Connection
        From `Database.read`. PostgreSQL's rows come over a second connection,
        on which the same moment is seen: by ADBC a fifth of the time of rows
        that Python makes.
    batch_rows : int
        Rows of a batch; PostgreSQL's are of about 16 MiB at most.
    """
    columns = user_interactions.c
    query = sa.select(*(columns[name] for name in schema().names)).order_by(columns.id)
    if is_postgresql(connection):
        from reckeeper.storage import postgres

        for batch in postgres.arrow_batches(connection, str(query), batch_rows):
            yield batch.cast(schema())
        return
    cursor = connection.execute(query)
    while rows := cursor.fetchmany(batch_rows):
        yield _batch(rows)


def of_user(connection: sa.Connection, user_id: str, *, after: int = 0) -> "pa.RecordBatch":
    """Read the interactions of one user numbered above `after`, as a batch of `schema()`."""
    columns = user_interactions.c
    rows = connection.execute(
        sa.select(*(columns[name] for name in schema().names))
        .where(columns.user_id == user_id, columns.id > after)
        .order_by(columns.id)
    ).all()
    return _batch(rows)


def of_users(
    connection: sa.Connection, user_ids: Sequence[str], *, after: int = 0
) -> "dict[str, tuple[list[int], pa.RecordBatch]]":
    """Read the interactions of users numbered above `after`: their numbers, and `of_user`'s batch.

    At most 10,000 users: each is a parameter of the statement.
    """
    if not user_ids:
        return {}
    columns = user_interactions.c
    query = sa.select(columns.id, *(columns[name] for name in schema().names)).where(
        columns.user_id.in_(user_ids), columns.id > after
    )
    of_user: dict[str, list[sa.Row[Any]]] = {user_id: [] for user_id in user_ids}
    for row in connection.execute(query.order_by(columns.id)):
        of_user[row.user_id].append(row)
    return {
        user_id: ([row.id for row in rows], _batch([row[1:] for row in rows]))
        for user_id, rows in of_user.items()
    }


def users(connection: sa.Connection) -> list[str]:
    """Return the ids of all who have interactions, in no order; walks an index."""
    return list(connection.execute(sa.select(user_interactions.c.user_id).distinct()).scalars())


def n_users(connection: sa.Connection) -> int:
    """Return how many users have interactions; walks an index."""
    distinct = sa.select(user_interactions.c.user_id).distinct().subquery()
    return int(connection.execute(sa.select(sa.func.count()).select_from(distinct)).scalar_one())


def user_page(connection: sa.Connection, *, after: str, limit: int) -> list[str]:
    """Return the ids of up to `limit` users who have interactions, ascending from behind one."""
    user_id = user_interactions.c.user_id
    query = sa.select(user_id).where(user_id > after).distinct().order_by(user_id).limit(limit)
    return list(connection.execute(query).scalars())


def users_first_after(connection: sa.Connection, watermark: int) -> list[str]:
    """Return the ids of users all of whose interactions are numbered above `watermark`."""
    columns, before = user_interactions.c, user_interactions.alias().c
    is_older = sa.exists().where(before.user_id == columns.user_id, before.id <= watermark)
    query = sa.select(columns.user_id).where(columns.id > watermark, ~is_older).distinct()
    return list(connection.execute(query).scalars())


def users_after(
    connection: sa.Connection, watermark: int, *, limit: int | None
) -> list[tuple[int, str]]:
    """Return number and user of up to `limit` interactions above `watermark`, in order."""
    columns = user_interactions.c
    rows = connection.execute(
        sa.select(columns.id, columns.user_id)
        .where(columns.id > watermark)
        .order_by(columns.id)
        .limit(limit)
    )
    return [(row.id, row.user_id) for row in rows]


def latest_of_user(connection: sa.Connection, user_id: str, *, n: int) -> list[Interaction]:
    """Return a user's `n` latest interactions by time, the latest first."""
    columns = user_interactions.c
    rows = connection.execute(
        sa.select(*(columns[name] for name in Interaction._fields))
        .where(columns.user_id == user_id)
        .order_by(columns.occurred_at.desc(), columns.id.desc())
        .limit(n)
    )
    return [Interaction(*row) for row in rows]


def watchlist_of(connection: sa.Connection, user_id: str) -> list[tuple[str, int]]:
    """Return the items on a user's watchlist, latest addition first, with its time."""
    rows = connection.execute(
        sa.select(watchlist.c.item_id, watchlist.c.changed_at)
        .where(watchlist.c.user_id == user_id, watchlist.c.is_listed)
        .order_by(watchlist.c.changed_at.desc(), watchlist.c.item_id)
    )
    return [(row.item_id, row.changed_at) for row in rows]


def watchlist_state(
    connection: sa.Connection, user_id: str, item_id: str
) -> tuple[bool, int] | None:
    """Return whether an item is on a user's watchlist and since when that is so.

    None if it never was.
    """
    row = connection.execute(
        sa.select(watchlist.c.is_listed, watchlist.c.changed_at).where(
            watchlist.c.user_id == user_id, watchlist.c.item_id == item_id
        )
    ).first()
    return None if row is None else (row.is_listed, row.changed_at)


def move(connection: sa.Connection, visitor_id: str, *, user_id: str) -> int:
    """Give a visitor's interactions and watchlist to an account; return how many interactions.

    Their numbers, event ids and imports stay: nothing is copied.
    """
    of_visitor = user_interactions.c.user_id == visitor_id
    moved = connection.execute(
        sa.update(user_interactions).where(of_visitor).values(user_id=user_id)
    ).rowcount
    connection.execute(sa.delete(watchlist).where(watchlist.c.user_id == visitor_id))
    if moved:
        project = sa.text(_PROJECT.format(changes="changes.user_id = :user_id"))
        connection.execute(project, {"user_id": user_id})
    return int(moved)


def delete_imported(connection: sa.Connection, import_id: int, *, limit: int) -> int:
    """Delete up to `limit` interactions of an import, and what the watchlist had of them.

    Returns
    -------
    int
        How many were deleted; 0 when none is left.
    """
    columns = user_interactions.c
    bounds = connection.execute(
        sa.select(imports.c.first_id, imports.c.last_id).where(imports.c.import_id == import_id)
    ).one()
    if bounds.first_id is None:
        return 0
    last_ones = (
        sa.select(columns.id)
        .where(columns.import_id == import_id, columns.id.between(*bounds))
        .order_by(columns.id.desc())
        .limit(limit)
        .subquery()
    )
    first = connection.execute(sa.select(sa.func.min(last_ones.c.id))).scalar()
    if first is None:
        return 0
    chosen = {"import_id": import_id, "first": first, "last": bounds.last_id}
    undone = "import_id = :import_id AND id BETWEEN :first AND :last"
    pairs = f"""(SELECT user_id, item_id FROM user_interactions WHERE {undone}
        AND interaction_type IN ('watchlist_add', 'watchlist_remove'))"""
    connection.execute(
        sa.text(f"DELETE FROM watchlist WHERE (user_id, item_id) IN {pairs}"), chosen
    )
    others = f"(import_id IS NULL OR NOT ({undone})) AND (user_id, item_id) IN {pairs}"
    connection.execute(sa.text(_PROJECT.format(changes=others)), chosen)
    deleted = connection.execute(sa.text(f"DELETE FROM user_interactions WHERE {undone}"), chosen)
    raise_generation(connection)
    connection.execute(
        sa.update(imports).where(imports.c.import_id == import_id).values(last_id=first)
    )
    return deleted.rowcount


@functools.cache
def _no_rows() -> "pa.RecordBatch":
    import pyarrow as pa

    # By way of lists it would import pandas.
    nothing = [pa.nulls(0, field.type) for field in schema()]
    return pa.RecordBatch.from_arrays(nothing, schema=schema())


def _batch(rows: Sequence[Sequence[object]]) -> "pa.RecordBatch":
    import pyarrow as pa

    if not rows:
        return _no_rows()
    columns = zip(*rows, strict=True)
    return pa.RecordBatch.from_arrays(
        [pa.array(column, field.type) for column, field in zip(columns, schema(), strict=True)],
        schema=schema(),
    )
