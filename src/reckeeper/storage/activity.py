"""`user_interactions` for people: what came last, of which types, from whom, and all of it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from reckeeper.interactions import Interaction
from reckeeper.storage.tables import user_interactions

_MINUTE = 60_000_000
_WIDTHS = tuple(_MINUTE * n for n in (1, 5, 15, 60, 240, 1440, 10_080, 43_200, 525_600))
_BUCKETS = 60
_BATCH_ROWS = 20_000


@dataclass(frozen=True)
class Bucket:
    """How many interactions of a type occurred from a moment on, for the length of a bucket."""

    start: int
    interaction_type: str
    n: int


@dataclass(frozen=True, kw_only=True)
class Activity:
    """What the latest interactions are; times are microseconds since 1970 UTC.

    Attributes
    ----------
    n : int
        So many were looked at.
    first_at, last_at : int or None
        Between which they occurred.
    bucket_seconds : int
        Length of a bucket.
    buckets : list of Bucket
        In the order of time; those without interactions are left out.
    types : dict of str to int
        How many are of each type.
    users, items : list of tuple
        Those with the most of them, and how many that is.
    """

    n: int
    first_at: int | None
    last_at: int | None
    bucket_seconds: int
    buckets: list[Bucket]
    types: dict[str, int]
    users: list[tuple[str, int]]
    items: list[tuple[str, int]]


def latest(
    connection: sa.Connection, *, n: int, interaction_type: str | None = None, among: int = 100_000
) -> list[Interaction]:
    """Return the `n` interactions that came last, the latest first.

    Parameters
    ----------
    connection : sqlalchemy.Connection
    n : int
    interaction_type : str, optional
        Only those of this type.
    among : int
        How many are looked at for it.
    """
    is_any = interaction_type is None
    table: sa.FromClause = user_interactions if is_any else _latest(among)
    query = sa.select(*(table.c[name] for name in Interaction._fields))
    if not is_any:
        query = query.where(table.c.interaction_type == interaction_type)
    rows = connection.execute(query.order_by(table.c.id.desc()).limit(n))
    return [Interaction(*row) for row in rows]


def rows(
    connection: sa.Connection,
    *,
    since: int | None = None,
    until: int | None = None,
    users: Sequence[str] = (),
    types: Sequence[str] = (),
) -> Iterator[Sequence[Interaction]]:
    """Read interactions in the order of their numbers, in bounded memory.

    Parameters
    ----------
    connection : sqlalchemy.Connection
        From `Database.read`.
    since, until : int, optional
        Those that occurred from a moment on, and before one.
    users, types : sequence of str
        Those of these alone; none: of all.
    """
    columns = user_interactions.c
    query = sa.select(*(columns[name] for name in Interaction._fields)).order_by(columns.id)
    if since is not None:
        query = query.where(columns.occurred_at >= since)
    if until is not None:
        query = query.where(columns.occurred_at < until)
    if users:
        query = query.where(columns.user_id.in_(users))
    if types:
        query = query.where(columns.interaction_type.in_(types))
    found = connection.execute(query, execution_options={"yield_per": _BATCH_ROWS})
    for part in found.partitions():
        yield [Interaction(*row) for row in part]


def summary(connection: sa.Connection, *, among: int, n_heaviest: int) -> Activity:
    """Tell of the latest interactions, `among` of them: the same time however many there are."""
    latest_ones = _latest(among).c
    count = sa.func.count()
    kind, at = latest_ones.interaction_type, latest_ones.occurred_at
    by_type = connection.execute(
        sa.select(kind, count, sa.func.min(at), sa.func.max(at)).group_by(kind).order_by(kind)
    ).all()
    first_at = min((row[2] for row in by_type), default=None)
    last_at = max((row[3] for row in by_type), default=None)
    width = _width((last_at or 0) - (first_at or 0))
    return Activity(
        n=sum(row[1] for row in by_type),
        first_at=first_at,
        last_at=last_at,
        bucket_seconds=width // 1_000_000,
        buckets=list(_buckets(connection, among, width)),
        types={row[0]: row[1] for row in by_type},
        users=_heaviest(connection, latest_ones.user_id, n_heaviest),
        items=_heaviest(connection, latest_ones.item_id, n_heaviest),
    )


def _width(span: int) -> int:
    return next((width for width in _WIDTHS if span < width * _BUCKETS), _WIDTHS[-1])


def _buckets(connection: sa.Connection, among: int, width: int) -> Iterator[Bucket]:
    latest_ones = _latest(among).c
    place = (latest_ones.occurred_at // sa.literal(width, sa.BigInteger)).label("place")
    kind = latest_ones.interaction_type
    query = sa.select(place, kind, sa.func.count()).group_by("place", kind).order_by("place", kind)
    for bucket, name, n in connection.execute(query):
        yield Bucket(int(bucket) * width, name, n)


def _heaviest(
    connection: sa.Connection, column: sa.ColumnElement[str], n: int
) -> list[tuple[str, int]]:
    count = sa.func.count().label("n")
    query = sa.select(column, count).group_by(column).order_by(count.desc(), column).limit(n)
    return [(row[0], row[1]) for row in connection.execute(query)]


def _latest(n: int) -> sa.Subquery:
    columns = user_interactions.c
    return sa.select(user_interactions).order_by(columns.id.desc()).limit(n).subquery()
