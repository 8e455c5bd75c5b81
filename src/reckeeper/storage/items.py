"""`items`: the catalogue."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import sqlalchemy as sa

from reckeeper.storage.engine import upsert
from reckeeper.storage.tables import items


class Item(NamedTuple):
    """One item of the catalogue; `attributes` holds JSON values."""

    item_id: str
    title: str | None
    attributes: dict[str, Any]


def put(
    connection: sa.Connection, catalogue: Iterable[Item], *, import_id: int | None = None
) -> int:
    """Add items, or replace those with the same id; return how many.

    An item that is replaced stays with the import that first brought it, so
    that undoing the later one does not take it away.
    """
    rows = [{**item._asdict(), "import_id": import_id} for item in catalogue]
    if rows:
        statement = upsert(connection, items)
        connection.execute(
            statement.on_conflict_do_update(
                index_elements=["item_id"],
                set_={name: statement.excluded[name] for name in ("title", "attributes")},
            ),
            rows,
        )
    return len(rows)


def get_many(connection: sa.Connection, item_ids: Iterable[str]) -> dict[str, Item]:
    """Return the items that are in the catalogue among `item_ids` (at most some thousands)."""
    columns = items.c
    rows = connection.execute(
        sa.select(columns.item_id, columns.title, columns.attributes).where(
            columns.item_id.in_(list(item_ids))
        )
    )
    return {row.item_id: Item(row.item_id, row.title, row.attributes) for row in rows}
