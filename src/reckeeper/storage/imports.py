"""`imports`: files and demo data that were taken in, and can be taken out again."""

from collections.abc import Sequence

import sqlalchemy as sa

from reckeeper.clock import now
from reckeeper.storage import interactions
from reckeeper.storage.records import Import, every, one
from reckeeper.storage.tables import imports

RUNNING, COMPLETE, FAILED = "running", "complete", "failed"
UNDOING, UNDONE = "undoing", "undone"


def begin(
    connection: sa.Connection,
    *,
    source: str,
    fingerprint: str,
    is_demo: bool = False,
    actor: str | None = None,
    holder: str | None = None,
) -> int:
    """Record that an import starts, and return its number."""
    import_id = connection.execute(
        sa.insert(imports)
        .values(
            source=source,
            fingerprint=fingerprint,
            is_demo=is_demo,
            status=RUNNING,
            accepted=0,
            duplicates=0,
            refused=0,
            started_at=now(),
            without_taste=0,
            items=0,
            bytes_done=0,
            bytes_total=0,
            updated_at=now(),
            refusals=[],
            notes=[],
            actor=actor,
            holder=holder,
        )
        .returning(imports.c.import_id)
    )
    return int(import_id.scalar_one())


def append(
    connection: sa.Connection,
    import_id: int,
    rows: Sequence[tuple[str, str, str, str, float, int]],
    *,
    refused: int = 0,
    timeless: int | None = None,
) -> int:
    """Append a batch of an import's interactions; return how many were new.

    `rows` and `timeless` are as `interactions.append` takes them; `refused` counts
    those of the batch that were not valid.
    """
    before = interactions.last_id(connection)
    accepted = interactions.append(connection, rows, import_id=import_id, timeless=timeless)
    columns = imports.c
    connection.execute(
        sa.update(imports)
        .where(columns.import_id == import_id)
        .values(
            accepted=columns.accepted + accepted,
            duplicates=columns.duplicates + len(rows) - accepted,
            refused=columns.refused + refused,
            first_id=sa.func.coalesce(columns.first_id, before + 1),
            last_id=interactions.last_id(connection),
            updated_at=now(),
        )
    )
    return accepted


def note(connection: sa.Connection, import_id: int, **changes: object) -> None:
    """Store columns of an import as they are by now, and with them a sign of life."""
    update = sa.update(imports).where(imports.c.import_id == import_id)
    connection.execute(update.values(updated_at=now(), **changes))


def fail(connection: sa.Connection, import_id: int, *, reason: str) -> None:
    """End an import that cannot go on; one that does not run any more stays as it is."""
    is_it = sa.and_(imports.c.import_id == import_id, imports.c.status == RUNNING)
    ended = {"status": FAILED, "reason": reason, "finished_at": now(), "updated_at": now()}
    connection.execute(sa.update(imports).where(is_it).values(ended))


def set_status(connection: sa.Connection, import_id: int, status: str) -> None:
    """Set the status of an import; `COMPLETE` and `UNDONE` also end it."""
    update = sa.update(imports).where(imports.c.import_id == import_id).values(status=status)
    if status in (COMPLETE, UNDONE):
        update = update.values(finished_at=now())
    connection.execute(update)


def all_imports(connection: sa.Connection) -> list[Import]:
    """Return all imports, the latest first."""
    return every(
        Import, connection.execute(sa.select(imports).order_by(imports.c.import_id.desc()))
    )


def page(connection: sa.Connection, *, limit: int, before: int | None) -> list[Import]:
    """Return up to `limit` imports, the latest first, with numbers below `before`."""
    query = sa.select(imports).order_by(imports.c.import_id.desc()).limit(limit)
    if before is not None:
        query = query.where(imports.c.import_id < before)
    return every(Import, connection.execute(query))


def get(connection: sa.Connection, import_id: int) -> Import | None:
    """Return an import, or None."""
    query = sa.select(imports).where(imports.c.import_id == import_id)
    return one(Import, connection.execute(query))


def of_file(connection: sa.Connection, fingerprint: str) -> int | None:
    """Return the latest import that has brought rows of a file, or None."""
    columns = imports.c
    query = sa.select(sa.func.max(columns.import_id)).where(
        columns.fingerprint == fingerprint,
        columns.accepted > 0,
        columns.status.not_in([UNDOING, UNDONE]),
    )
    found = connection.execute(query).scalar()
    return None if found is None else int(found)


def demo(connection: sa.Connection) -> Import | None:
    """Return the import of the demo data that is in the database, or None."""
    query = sa.select(imports).where(imports.c.is_demo, imports.c.status != UNDONE)
    return one(Import, connection.execute(query))
