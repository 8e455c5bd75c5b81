"""`items`: the catalogue, and its revision, which every change raises in its own transaction."""

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

from reckeeper.clock import now
from reckeeper.storage.engine import is_postgresql, upsert
from reckeeper.storage.tables import catalogue, items, removed_items

_BATCH_ROWS = 10_000


class Item(NamedTuple):
    """One item of the catalogue.

    Attributes
    ----------
    item_id : str
    title : str or None
    attributes : dict
        JSON values.
    categories : tuple of str
    available : bool
        False: it was withdrawn.
    available_from, available_until : int or None
        Microseconds since 1970 UTC. It is available from the first moment on, and from the
        second on no longer.
    """

    item_id: str
    title: str | None
    attributes: dict[str, Any]
    categories: tuple[str, ...] = ()
    available: bool = True
    available_from: int | None = None
    available_until: int | None = None

    def is_available(self, moment: int) -> bool:
        """Return whether it may be recommended at a moment in microseconds since 1970 UTC."""
        return (
            self.available
            and (self.available_from is None or self.available_from <= moment)
            and (self.available_until is None or moment < self.available_until)
        )


class RawItem(NamedTuple):
    """An item as it stands in the table: `attributes` and `categories` are JSON text.

    `added_at` is when it came into the catalogue, in microseconds since 1970 UTC.
    """

    item_id: str
    title: str | None
    attributes: str
    categories: str
    available: bool
    available_from: int | None
    available_until: int | None
    added_at: int


def put(connection: sa.Connection, changed: Iterable[Item], *, import_id: int | None = None) -> int:
    """Add items, or replace those with the same id; return how many.

    An item that is replaced stays with the import that first brought it, so
    that undoing the later one does not take it away, and was added when it was.
    """
    rows = [item._asdict() for item in changed]
    if rows:
        revision, added_at = _next_revision(connection), now()
        for row in rows:
            row["search_text"] = f"{folded(row['title'] or '')}\n{folded(row['item_id'])}"
            row["added_at"] = added_at
            row["import_id"] = import_id
            row["revision"] = revision
        statement = upsert(connection, items)
        kept = {"item_id", "import_id", "added_at"}
        connection.execute(
            statement.on_conflict_do_update(
                index_elements=["item_id"],
                set_={name: statement.excluded[name] for name in rows[0] if name not in kept},
            ),
            rows,
        )
    return len(rows)


def get_many(connection: sa.Connection, item_ids: Iterable[str]) -> dict[str, Item]:
    """Return the items that are in the catalogue among `item_ids` (at most some thousands)."""
    query = sa.select(*_columns()).where(items.c.item_id.in_(list(item_ids)))
    return {row.item_id: _item(row) for row in connection.execute(query)}


def delete(connection: sa.Connection, item_id: str) -> bool:
    """Take an item out of the catalogue; return whether it was there."""
    return _delete(connection, items.c.item_id == item_id) > 0


def delete_imported(connection: sa.Connection, import_id: int) -> int:
    """Take out the items that an import brought; return how many."""
    return _delete(connection, items.c.import_id == import_id)


def page(
    connection: sa.Connection,
    *,
    limit: int,
    after: str | None = None,
    text: str | None = None,
    available: bool | None = None,
    moment: int,
) -> list[Item]:
    """Return up to `limit` items by id; a search reads the whole table, about 0.3 s a million.

    Parameters
    ----------
    connection : sqlalchemy.Connection
    limit : int
    after : str, optional
        Ids above this one.
    text : str, optional
        What title or id have in them, in whatever case.
    available : bool, optional
        Those alone that are available at `moment`, or are not.
    moment : int
        Microseconds since 1970 UTC.
    """
    columns = items.c
    query = sa.select(*_columns()).order_by(columns.item_id).limit(limit)
    if after is not None:
        query = query.where(columns.item_id > after)
    if text is not None:
        position = sa.func.strpos if is_postgresql(connection) else sa.func.instr
        query = query.where(position(columns.search_text, folded(text)) > 0)
    if available is not None:
        has_begun = sa.func.coalesce(columns.available_from, moment) <= moment
        is_over = sa.func.coalesce(columns.available_until, moment + 1) <= moment
        is_now = sa.and_(columns.available, has_begun, sa.not_(is_over))
        query = query.where(is_now if available else sa.not_(is_now))
    return [_item(row) for row in connection.execute(query)]


def revision_of(connection: sa.Connection) -> int:
    """Return the revision of the catalogue: it grows with every change."""
    return int(connection.execute(sa.select(catalogue.c.revision)).scalar_one())


def changed_since(connection: sa.Connection, revision: int) -> Iterator[Sequence[RawItem]]:
    """Read the items that were changed after a revision, in bounded memory; 0 reads all."""
    columns = items.c
    query = sa.select(
        columns.item_id,
        columns.title,
        sa.cast(columns.attributes, sa.Text),
        sa.cast(columns.categories, sa.Text),
        columns.available,
        columns.available_from,
        columns.available_until,
        columns.added_at,
    )
    if revision:
        query = query.where(columns.revision > revision)
    found = connection.execute(query, execution_options={"yield_per": _BATCH_ROWS})
    for rows in found.partitions():
        yield [RawItem(*row) for row in rows]


def removed_since(connection: sa.Connection, revision: int) -> list[str]:
    """Return the ids of items that were taken out after a revision; some may be back."""
    query = sa.select(removed_items.c.item_id).where(removed_items.c.revision > revision)
    return list(connection.execute(query).scalars())


def folded(text: str) -> str:
    """Return a text in the form in which it is searched: the same in whatever case it was."""
    return unicodedata.normalize("NFKC", text).casefold()


def _next_revision(connection: sa.Connection) -> int:
    raised = sa.update(catalogue).values(revision=catalogue.c.revision + 1)
    return int(connection.execute(raised.returning(catalogue.c.revision)).scalar_one())


def _delete(connection: sa.Connection, which: sa.ColumnElement[bool]) -> int:
    if connection.execute(sa.select(items.c.item_id).where(which).limit(1)).first() is None:
        return 0
    revision = _next_revision(connection)
    statement = upsert(connection, removed_items).from_select(
        ["item_id", "revision"],
        sa.select(items.c.item_id, sa.literal(revision, sa.BigInteger)).where(which),
    )
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=["item_id"], set_={"revision": statement.excluded.revision}
        )
    )
    return connection.execute(sa.delete(items).where(which)).rowcount


def _columns() -> list[sa.Column[Any]]:
    return [items.c[name] for name in Item._fields]


def _item(row: sa.Row[Any]) -> Item:
    item = Item._make(row)
    return item._replace(categories=tuple(item.categories))
