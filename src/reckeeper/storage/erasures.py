"""`erasures`, and the removal of interactions: a person's, or those older than a moment."""

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any

import sqlalchemy as sa

from reckeeper.storage.engine import upsert
from reckeeper.storage.installation import raise_generation
from reckeeper.storage.records import Erasure, every, one
from reckeeper.storage.tables import (
    erasures,
    imports,
    models,
    notices,
    policies,
    timeline,
    tombstones,
    training_jobs,
    user_interactions,
    user_merges,
    watchlist,
)

ERASING, RETRAINING, COMPLETE = "erasing", "retraining", "complete"

Names = Callable[[str], bool]
"""Says whether a text names somebody."""

JsonObject = dict[str, Any]

_ERASED = "[erased]"
_SURE = 4
"""Ids of fewer characters are looked for in sentences in quotes alone."""

_PAGE = 10_000

_TEXTS = (
    (imports, ("source", "reason", "refusals")),
    (training_jobs, ("error_message", "traceback")),
    (notices, ("payload", "last_error")),
    (models, ("note",)),
    (timeline, ("reason",)),
    (erasures, ("reason",)),
)


def insert(connection: sa.Connection, **values: object) -> int:
    """Add an erasure that begins, and return its number."""
    added = sa.insert(erasures).values(values).returning(erasures.c.erasure_id)
    return int(connection.execute(added).scalar_one())


def update(connection: sa.Connection, erasure_id: int, **values: object) -> None:
    """Change what an erasure says."""
    chosen = sa.update(erasures).where(erasures.c.erasure_id == erasure_id)
    connection.execute(chosen.values(values))


def forbid(connection: sa.Connection, hashes: Collection[str], *, until: int) -> None:
    """Take nothing of some users any more that occurred up to a moment; the latest one counts."""
    statement = upsert(connection, tombstones)
    later = statement.excluded.until > tombstones.c.until
    statement = statement.on_conflict_do_update(
        index_elements=["user_hash"], set_={"until": statement.excluded.until}, where=later
    )
    rows = [{"user_hash": user_hash, "until": until} for user_hash in hashes]
    connection.execute(statement, rows)


def get(connection: sa.Connection, erasure_id: int) -> Erasure | None:
    """Return an erasure, or None."""
    query = sa.select(erasures).where(erasures.c.erasure_id == erasure_id)
    return one(Erasure, connection.execute(query))


def page(connection: sa.Connection, *, limit: int, before: int | None) -> list[Erasure]:
    """Return up to `limit` erasures with numbers below `before`, the latest first."""
    query = sa.select(erasures).order_by(erasures.c.erasure_id.desc()).limit(limit)
    if before is not None:
        query = query.where(erasures.c.erasure_id < before)
    return every(Erasure, connection.execute(query))


def unfinished(connection: sa.Connection) -> list[Erasure]:
    """Return the erasures that are not complete, the earliest first."""
    query = sa.select(erasures).where(erasures.c.status == RETRAINING)
    return every(Erasure, connection.execute(query.order_by(erasures.c.erasure_id)))


def abandoned(connection: sa.Connection, *, before: int) -> list[Erasure]:
    """Return the erasures that began before a moment and did not come to their end."""
    columns = erasures.c
    query = sa.select(erasures).where(columns.status == ERASING, columns.erased_at < before)
    found = every(Erasure, connection.execute(query.order_by(columns.erasure_id)))
    return [row for row in found if row.user_ids]


def last_that_took(connection: sa.Connection) -> int:
    """Return the number of the last erasure of somebody who had interactions, 0 without one."""
    query = sa.select(sa.func.max(erasures.c.erasure_id)).where(erasures.c.interactions > 0)
    return int(connection.execute(query).scalar() or 0)


def extent(connection: sa.Connection, user_ids: Sequence[str]) -> tuple[int, int | None, int]:
    """Return how many interactions users have, the number of the first, and the latest time.

    The time is that of their watchlist too; 0 where there is none.
    """
    columns = user_interactions.c
    count, first, latest = connection.execute(
        sa.select(sa.func.count(), sa.func.min(columns.id), sa.func.max(columns.occurred_at)).where(
            columns.user_id.in_(user_ids)
        )
    ).one()
    listed = sa.select(sa.func.max(watchlist.c.changed_at)).where(watchlist.c.user_id.in_(user_ids))
    changed = connection.execute(listed).scalar()
    return int(count), first, max(latest or 0, changed or 0)


def delete_interactions(
    connection: sa.Connection, user_ids: Sequence[str], *, until: int, limit: int
) -> int:
    """Delete up to `limit` interactions of users up to a moment; return how many."""
    columns = user_interactions.c
    of_them = sa.and_(columns.user_id.in_(user_ids), columns.occurred_at <= until)
    return _delete(connection, sa.select(columns.id).where(of_them).limit(limit))


def delete_older(connection: sa.Connection, moment: int, *, first: int, last: int) -> int:
    """Delete interactions from before a moment that lie between two numbers; return how many."""
    columns = user_interactions.c
    old = sa.and_(columns.id.between(first, last), columns.occurred_at < moment)
    return _delete(connection, sa.select(columns.id).where(old))


def older(connection: sa.Connection, moment: int, *, after: int, limit: int) -> list[int]:
    """Return the numbers of up to `limit` interactions from before a moment, above one, in order.

    Reads the table.
    """
    columns = user_interactions.c
    query = sa.select(columns.id).where(columns.id > after, columns.occurred_at < moment)
    return list(connection.execute(query.order_by(columns.id).limit(limit)).scalars())


def _delete(connection: sa.Connection, chosen: sa.Select[tuple[int]]) -> int:
    columns = user_interactions.c
    deleted = connection.execute(
        sa.delete(user_interactions).where(columns.id.in_(chosen.scalar_subquery()))
    ).rowcount
    if deleted:
        raise_generation(connection)
    return int(deleted)


def delete_listed(connection: sa.Connection, user_ids: Sequence[str] | None, *, until: int) -> int:
    """Delete rows of the watchlist up to a moment, of users or of all; return how many."""
    chosen = sa.delete(watchlist).where(watchlist.c.changed_at <= until)
    if user_ids is not None:
        chosen = chosen.where(watchlist.c.user_id.in_(user_ids))
    return int(connection.execute(chosen).rowcount)


def delete_merges(connection: sa.Connection, user_ids: Sequence[str]) -> int:
    """Delete the merges of users, as visitors and as accounts; return how many."""
    columns = user_merges.c
    either = sa.or_(columns.visitor_id.in_(user_ids), columns.user_id.in_(user_ids))
    return int(connection.execute(sa.delete(user_merges).where(either)).rowcount)


def user_ids(connection: sa.Connection) -> Iterator[str]:
    """Yield all ids that the tables have of users, some of them more than once."""
    for column in (
        user_interactions.c.user_id,
        watchlist.c.user_id,
        user_merges.c.visitor_id,
        user_merges.c.user_id,
    ):
        yield from connection.execute(
            sa.select(column).distinct(), execution_options={"yield_per": _PAGE}
        ).scalars()


def is_named(user_ids: Collection[str]) -> Names:
    """Return a function that says whether a text is one of some ids, or names one."""
    pattern = _pattern(user_ids)
    return lambda text: text in user_ids or pattern.search(text) is not None


def scrub(connection: sa.Connection, user_ids: Collection[str]) -> dict[str, int]:
    """Take ids out of the sentences and examples of all tables; return in how many rows of each.

    Not out of the trail, which has pseudonyms.
    """
    pattern = _pattern(user_ids)
    changed: dict[str, int] = {}

    def scrubbed(value: object) -> object:
        if isinstance(value, str):
            return _ERASED if value in user_ids else pattern.sub(_ERASED, value)
        if isinstance(value, list):
            return [scrubbed(each) for each in value]
        if isinstance(value, dict):
            return {name: scrubbed(each) for name, each in value.items()}
        return value

    for table, names in _TEXTS:
        (key,) = table.primary_key.columns
        columns = [table.c[name] for name in names]
        is_there = sa.or_(*(column.is_not(None) for column in columns))
        for number, *values in connection.execute(sa.select(key, *columns).where(is_there)).all():
            after = [scrubbed(value) for value in values]
            if after != values:
                new = dict(zip(names, after, strict=True))
                connection.execute(sa.update(table).where(key == number).values(new))
                changed[table.name] = changed.get(table.name, 0) + 1
    return changed


def leave_in(connection: sa.Connection, user_ids: Collection[str]) -> tuple[int, list[int]]:
    """Take ids out of whom policies leave out of training, and of what versions say of that.

    Returns
    -------
    int
        Revisions of the policy that named one.
    list of int
        Versions that did, in whose files it stays.
    """

    def named(rows: Iterable[tuple[int, JsonObject]]) -> Iterator[tuple[int, JsonObject]]:
        for number, content in rows:
            patterns = content.get("left_out_users") if isinstance(content, dict) else None
            if isinstance(patterns, list) and any(each in user_ids for each in patterns):
                kept = [each for each in patterns if each not in user_ids]
                yield number, content | {"left_out_users": kept}

    found = []
    for table, column in ((policies, policies.c.policy), (models, models.c.data)):
        (key,) = table.primary_key.columns
        numbers = []
        for number, content in named(map(tuple, connection.execute(sa.select(key, column)).all())):
            connection.execute(sa.update(table).where(key == number).values({column: content}))
            numbers.append(number)
        found.append(numbers)
    return len(found[0]), found[1]


def versions_that_saw(connection: sa.Connection, number: int) -> list[int]:
    """Return the versions, not deleted, that may have been trained on an interaction."""
    columns = models.c
    query = sa.select(columns.version).where(
        columns.deleted_at.is_(None), columns.watermark >= number
    )
    return list(connection.execute(query.order_by(columns.version)).scalars())


def _pattern(user_ids: Collection[str]) -> re.Pattern[str]:
    parts = [
        rf"(?<!\w){re.escape(each)}(?!\w)"
        if len(each) >= _SURE
        else rf"(?<=['\"]){re.escape(each)}(?=['\"])"
        for each in user_ids
    ]
    return re.compile("|".join(parts))
