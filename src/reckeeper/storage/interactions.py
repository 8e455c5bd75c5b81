"""`user_interactions`, and the watchlist that is projected from it."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import sqlalchemy as sa

from reckeeper.storage.tables import imports, user_interactions, watchlist

WATCHLIST_ADD = "watchlist_add"
WATCHLIST_REMOVE = "watchlist_remove"

SCHEMA = pa.schema(
    [
        ("user_id", pa.string()),
        ("item_id", pa.string()),
        ("interaction_type", pa.string()),
        ("weight", pa.float64()),
        ("occurred_at", pa.int64()),
    ]
)
"""What `read_batches` and `of_user` give: interactions in the order of their numbers."""


class Interaction(NamedTuple):
    """One valid interaction, as `append` takes it; `occurred_at` in microseconds UTC."""

    event_id: str
    user_id: str
    item_id: str
    interaction_type: str
    weight: float
    occurred_at: int


_APPEND = (
    "INSERT INTO user_interactions (event_id, user_id, item_id, interaction_type, weight, "
    "occurred_at, import_id) VALUES (?, ?, ?, ?, ?, ?, {import_id}) "
    "ON CONFLICT (event_id) DO NOTHING"
)

# The latest change of a pair decides, whatever order the changes come in.
_PROJECT = """
    INSERT INTO watchlist (user_id, item_id, is_listed, changed_at)
    SELECT user_id, item_id, interaction_type = 'watchlist_add', occurred_at
    FROM user_interactions AS changes
    WHERE interaction_type IN ('watchlist_add', 'watchlist_remove') AND {changes}
    ORDER BY occurred_at, id
    ON CONFLICT (user_id, item_id)
    DO UPDATE SET is_listed = excluded.is_listed, changed_at = excluded.changed_at
    WHERE excluded.changed_at >= watchlist.changed_at
"""


def append(
    connection: sa.Connection,
    interactions: Sequence[tuple[Any, ...]],
    *,
    import_id: int | None = None,
) -> int:
    """Append interactions and project the watchlist, in the caller's transaction.

    Parameters
    ----------
    connection : sqlalchemy.Connection
        Of `Database.write`.
    interactions : sequence of Interaction
        Valid ones, or tuples of the same six values. Of several with one
        `event_id` the first stands, wherever it came from.
    import_id : int, optional
        The import that they belong to.

    Returns
    -------
    int
        How many were new.
    """
    if not interactions:
        return 0
    before = last_id(connection)
    statement = _APPEND.format(import_id="NULL" if import_id is None else int(import_id))
    accepted = connection.exec_driver_sql(statement, interactions).rowcount
    if accepted and any(row[3] in (WATCHLIST_ADD, WATCHLIST_REMOVE) for row in interactions):
        connection.execute(
            sa.text(_PROJECT.format(changes="changes.id > :before")), {"before": before}
        )
    return accepted


def last_id(connection: sa.Connection) -> int:
    """Return the largest number given to an interaction so far, 0 at first."""
    last = connection.execute(
        sa.text("SELECT seq FROM sqlite_sequence WHERE name = 'user_interactions'")
    ).scalar()
    return int(last or 0)


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
    query = sa.select(sa.func.min(user_interactions.c.id)).where(
        user_interactions.c.occurred_at > moment
    )
    found = connection.execute(query).scalar()
    return None if found is None else int(found)


def sizes(connection: sa.Connection) -> tuple[int, int, int]:
    """Return the numbers of interactions, of users and of items; reads the whole table."""
    columns = user_interactions.c
    row = connection.execute(
        sa.select(
            sa.func.count(),
            sa.func.count(sa.distinct(columns.user_id)),
            sa.func.count(sa.distinct(columns.item_id)),
        ).select_from(user_interactions)
    ).one()
    return int(row[0]), int(row[1]), int(row[2])


def is_empty(connection: sa.Connection) -> bool:
    """Return whether there is no interaction."""
    return connection.execute(sa.select(user_interactions.c.id).limit(1)).first() is None


def read_batches(
    connection: sa.Connection, *, batch_rows: int = 100_000
) -> Iterator[pa.RecordBatch]:
    """Read all interactions in bounded memory, as batches of `SCHEMA`."""
    columns = user_interactions.c
    cursor = connection.execute(
        sa.select(*(columns[name] for name in SCHEMA.names)).order_by(columns.id)
    )
    while rows := cursor.fetchmany(batch_rows):
        yield _batch(rows)


def of_user(connection: sa.Connection, user_id: str, *, after: int = 0) -> pa.RecordBatch:
    """Read the interactions of one user numbered above `after`, as a batch of `SCHEMA`."""
    columns = user_interactions.c
    rows = connection.execute(
        sa.select(*(columns[name] for name in SCHEMA.names))
        .where(columns.user_id == user_id, columns.id > after)
        .order_by(columns.id)
    ).all()
    return _batch(rows)


def latest_of_user(connection: sa.Connection, user_id: str, *, n: int) -> list[dict[str, Any]]:
    """Return a user's `n` latest interactions by time, the latest first."""
    columns = user_interactions.c
    rows = connection.execute(
        sa.select(
            columns.event_id,
            columns.item_id,
            columns.interaction_type,
            columns.weight,
            columns.occurred_at,
        )
        .where(columns.user_id == user_id)
        .order_by(columns.occurred_at.desc(), columns.id.desc())
        .limit(n)
    )
    return [dict(row) for row in rows.mappings()]


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


def delete_imported(connection: sa.Connection, import_id: int, *, limit: int) -> int:
    """Delete up to `limit` interactions of an import, and what the watchlist had of them.

    Returns
    -------
    int
        How many were deleted; 0 when none is left.
    """
    bounds = connection.execute(
        sa.select(imports.c.first_id, imports.c.last_id).where(imports.c.import_id == import_id)
    ).one()
    if bounds.first_id is None:
        return 0
    chosen = {
        "import_id": import_id,
        "first": bounds.first_id,
        "last": bounds.last_id,
        "limit": limit,
    }
    for statement in (
        """CREATE TEMP TABLE undone AS
           SELECT id, user_id, item_id, interaction_type FROM user_interactions
           WHERE import_id = :import_id AND id BETWEEN :first AND :last
           ORDER BY id DESC LIMIT :limit""",
        """DELETE FROM watchlist WHERE (user_id, item_id) IN (
           SELECT user_id, item_id FROM undone
           WHERE interaction_type IN ('watchlist_add', 'watchlist_remove'))""",
        "DELETE FROM user_interactions WHERE id IN (SELECT id FROM undone)",
        _PROJECT.format(
            changes="""user_id IN (SELECT user_id FROM undone
            WHERE interaction_type IN ('watchlist_add', 'watchlist_remove'))
            AND (user_id, item_id) IN (SELECT user_id, item_id FROM undone)"""
        ),
        "UPDATE imports SET last_id = (SELECT min(id) FROM undone) WHERE import_id = :import_id"
        " AND EXISTS (SELECT 1 FROM undone)",
    ):
        connection.execute(sa.text(statement), chosen)
    deleted = int(connection.execute(sa.text("SELECT count(*) FROM undone")).scalar_one())
    connection.execute(sa.text("DROP TABLE undone"))
    return deleted


_NONE = pa.RecordBatch.from_pylist([], schema=SCHEMA)


def _batch(rows: Sequence[Any]) -> pa.RecordBatch:
    if not rows:
        return _NONE
    columns = zip(*rows, strict=True)
    return pa.RecordBatch.from_arrays(
        [pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)],
        schema=SCHEMA,
    )
