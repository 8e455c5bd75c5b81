"""Changes to the catalogue: each in one transaction with its revision and its audit entry."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from reckeeper import audit, clock, storage
from reckeeper.catalogue.content import Change, Given, at_index, whole
from reckeeper.errors import DataError, NotFoundError
from reckeeper.storage import Item


class Found(NamedTuple):
    """An item that is known, and whether the catalogue has it or interactions alone."""

    item: Item
    in_catalogue: bool


class Upserted(NamedTuple):
    """How many items an upsert added and changed, and of how many it said nothing new."""

    created: int
    changed: int
    unchanged: int


def find(connection: storage.Connection, item_id: str) -> Found:
    """Return an item that the catalogue or an interaction knows.

    Raises
    ------
    NotFoundError
        Neither does.
    """
    item = storage.items.get_many(connection, [item_id]).get(item_id)
    if item is not None:
        return Found(item, True)
    if not storage.interactions.knows_item(connection, item_id):
        raise NotFoundError(
            f"Nobody knows an item {item_id!r}: neither the catalogue nor any interaction has it."
        )
    return Found(_unsaid(item_id), False)


def put(database: storage.Database, item_id: str, given: Given, *, actor: str) -> Item:
    """Say all of an item, whether it is known or not: what is not given has its default.

    Parameters
    ----------
    database : storage.Database
    item_id : str
    given : Given
        As of `stored_forms`.
    actor : str
        Name in the audit trail.

    Raises
    ------
    DataError
        The fields do not agree; nothing was changed.
    """
    after = _with(_unsaid(item_id), given)
    with database.write() as connection:
        before = storage.items.get_many(connection, [item_id]).get(item_id)
        _store(connection, before, after, actor=actor, action="put_item")
    return after


def patch(database: storage.Database, item_id: str, given: Given, *, actor: str) -> Item:
    """Change some fields of an item: a merge patch (RFC 7396), in the attributes too.

    Parameters
    ----------
    database : storage.Database
    item_id : str
        Known to the catalogue, or to an interaction: then it comes into the catalogue.
    given, actor
        As of `put`. An attribute that is None is removed.

    Raises
    ------
    NotFoundError
        Nobody knows the item.
    DataError
        The fields would not agree; nothing was changed.
    """
    with database.write() as connection:
        found = find(connection, item_id)
        attributes = given.get("attributes")
        if attributes is not None:
            given = {**given, "attributes": _merged(found.item.attributes, attributes)}
        after = _with(found.item, given)
        before = found.item if found.in_catalogue else None
        _store(connection, before, after, actor=actor, action="patch_item")
    return after


def upsert(database: storage.Database, changes: Sequence[Change], *, actor: str) -> Upserted:
    """Add items, or change those that are there: see `apply`; one entry in the audit trail.

    Raises
    ------
    DataError
        The fields of one do not agree; nothing was changed, and `details` has its index.
    """
    with database.write() as connection:
        done = apply(connection, changes)
        if done.created or done.changed:
            audit.record(
                connection,
                actor=actor,
                action="put_items",
                subject="catalogue",
                created=done.created,
                changed=done.changed,
            )
    return done


def apply(
    connection: storage.Connection,
    changes: Sequence[Change],
    *,
    import_id: int | None = None,
    on_refused: Callable[[int, DataError], None] | None = None,
) -> Upserted:
    """Add items, or change those that are there, one after the other.

    A field that is given takes the place of what is there, the attributes as
    a whole; one that is not given stays as it is. So a feed that knows nothing
    of withdrawals leaves them alone.

    Parameters
    ----------
    connection : storage.Connection
        From `Database.write`.
    changes : sequence of Change
        At most some thousands; one item may come several times.
    import_id : int, optional
        The import that brings them; what is there stays with the one that brought it.
    on_refused : callable, optional
        Takes the index of a change whose fields do not agree, and the error, in
        place of raising it; the others are made.

    Raises
    ------
    DataError
        The fields of one do not agree; `details` has its index.
    """
    there = storage.items.get_many(connection, {change.item_id for change in changes})
    after: dict[str, Item] = {}
    for index, (item_id, given) in enumerate(changes):
        item = after.get(item_id) or there.get(item_id) or _unsaid(item_id)
        try:
            after[item_id] = _with(item, given)
        except DataError as exc:
            if on_refused is None:
                raise at_index(index, exc) from exc
            on_refused(index, exc)
    new = [item for item_id, item in after.items() if there.get(item_id) != item]
    storage.items.put(connection, new, import_id=import_id)
    created = sum(item_id not in there for item_id in after)
    return Upserted(created, len(new) - created, len(after) - len(new))


def delete(database: storage.Database, item_id: str, *, actor: str) -> None:
    """Take an item out of the catalogue; its interactions stay.

    Raises
    ------
    NotFoundError
        The catalogue does not have it.
    """
    with database.write() as connection:
        before = storage.items.get_many(connection, [item_id]).get(item_id)
        if before is None:
            raise NotFoundError(f"The catalogue has no item {item_id!r}.")
        storage.items.delete(connection, item_id)
        audit.record(
            connection,
            actor=actor,
            action="delete_item",
            subject=f"item {item_id}",
            before=_shown(before, Item._fields[1:]),
        )


def _unsaid(item_id: str) -> Item:
    """Return an item of which nothing is said."""
    return Item(item_id, None, {})


def _with(item: Item, given: Given) -> Item:
    attributes = given.get("attributes", item.attributes) or {}
    return whole(item._replace(**{**given, "attributes": attributes}))  # type: ignore[arg-type]


def _store(
    connection: storage.Connection, before: Item | None, after: Item, *, actor: str, action: str
) -> None:
    if after == before:
        return
    storage.items.put(connection, [after])
    compared = before or _unsaid(after.item_id)
    names = [name for name in Item._fields if getattr(after, name) != getattr(compared, name)]
    audit.record(
        connection,
        actor=actor,
        action=action,
        subject=f"item {after.item_id}",
        before=None if before is None else _shown(before, names),
        after=_shown(after, names),
    )


def _shown(item: Item, names: Sequence[str]) -> dict[str, object]:
    """Return fields for the trail: of the attributes the names, since they may be large."""
    shown: dict[str, object] = {}
    for name in names:
        value = getattr(item, name)
        if name == "attributes":
            value = sorted(value)
        elif name in ("available_from", "available_until") and value is not None:
            value = clock.rfc3339(value)
        shown[name] = value
    return shown


def _merged(target: object, change: Mapping[str, object]) -> dict[str, object]:
    """Return what a merge patch makes of a value."""
    merged = dict(target) if isinstance(target, Mapping) else {}
    for name, value in change.items():
        if value is None:
            merged.pop(name, None)
        elif isinstance(value, Mapping):
            merged[name] = _merged(merged.get(name), value)
        else:
            merged[name] = value
    return merged
