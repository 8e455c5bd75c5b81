"""Taking out again what an import brought."""

import functools
from collections.abc import Callable
from dataclasses import dataclass

from reckeeper import audit, storage
from reckeeper.errors import Action, ConflictError, NotFoundError

_UNDO_ROWS = 20_000
_DATABASE_SECONDS = 60.0


@dataclass(frozen=True)
class Undone:
    """What an undo took out."""

    interactions: int
    items: int


def undo(
    database: storage.Database,
    import_id: int,
    *,
    actor: str,
    on_progress: Callable[[int], None] | None = None,
) -> Undone:
    """Take out the interactions and catalogue items that an import brought.

    In several transactions, so that others write in between; after a crash
    the same call takes out the rest. Models that were trained on the rows
    keep what they learned until the next retrain.

    Parameters
    ----------
    database : storage.Database
    import_id : int
    actor : str
        Name in the audit trail.
    on_progress : callable, optional
        Called with the number of interactions taken out so far.

    Raises
    ------
    NotFoundError
        There is no import of this number.
    ConflictError
        It has been undone already.
    """

    def begin(connection: storage.Connection) -> str:
        row = storage.imports.get(connection, import_id)
        if row is None:
            raise NotFoundError(f"There is no import {import_id}.", action=Action("list_imports"))
        if row.status == storage.imports.UNDONE:
            raise ConflictError(f"Import {import_id} has been undone already.")
        storage.imports.set_status(connection, import_id, storage.imports.UNDOING)
        return row.source

    def end(connection: storage.Connection) -> int:
        items = storage.items.delete_imported(connection, import_id)
        row = storage.imports.get(connection, import_id)
        if row is not None and row.status != storage.imports.UNDONE:
            storage.imports.set_status(connection, import_id, storage.imports.UNDONE)
            audit.record(
                connection,
                actor=actor,
                action="undo_import",
                subject=f"import {import_id}",
                source=source,
                interactions=interactions,
                items=items,
            )
        return items

    take_out = functools.partial(
        storage.interactions.delete_imported, import_id=import_id, limit=_UNDO_ROWS
    )
    source = database.retrying(begin, seconds=_DATABASE_SECONDS)
    interactions = 0
    while deleted := database.retrying(take_out, seconds=_DATABASE_SECONDS):
        interactions += deleted
        if on_progress is not None:
            on_progress(interactions)
    return Undone(interactions, database.retrying(end, seconds=_DATABASE_SECONDS))
