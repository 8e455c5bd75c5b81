"""Rows that are in the table already: known again, or about to be counted twice."""

from collections.abc import Sequence
from typing import NamedTuple

from reckeeper import storage
from reckeeper.errors import Action, ConflictError

LOOKED_AT = 100
"""So many of the first rows are looked for in the table."""


class Known(NamedTuple):
    """A row as it would be stored, and its event id."""

    event_id: str
    user_id: str
    item_id: str
    interaction_type: str
    weight: float
    occurred_at: int


def are_known_by_lines(connection: storage.Connection, fingerprint: str, *, is_timed: bool) -> bool:
    """Return whether the rows of a source are known by their lines in it.

    Those of one without times are, and those of one whose rows are in the table by their
    lines, as releases before this one took them.
    """
    return not is_timed or storage.interactions.has_events_from(connection, lines_of(fingerprint))


def lines_of(fingerprint: str) -> str:
    """Return how the event ids begin of rows that are known by their lines in a file."""
    return f"import-{fingerprint[:16]}-"


def warning(
    connection: storage.Connection,
    rows: Sequence[Known],
    *,
    name: str,
    fingerprint: str,
    is_timed: bool,
) -> str | None:
    """Say whether most of a file's first rows are in the table under other event ids.

    Raises
    ------
    ConflictError
        They are, and were read from this very file: it is read otherwise now.
    """
    if not _are_new(connection, rows):
        return None
    if is_timed:
        see_that_it_is_new(connection, rows, name=name, fingerprint=fingerprint)
    alike = [
        (row.user_id, row.item_id, row.interaction_type, row.occurred_at if is_timed else None)
        for row in rows
    ]
    n_alike = storage.interactions.count_alike(connection, alike)
    if 2 * n_alike <= len(rows):
        return None
    seen = f"{n_alike} of the first {len(rows)} rows are in the table already"
    undo = "undoing this import takes them out again"
    if is_timed:
        return (
            f"{seen} with the same user, item, type and time, but came in another way, so that "
            f"they count twice now; {undo}."
        )
    return (
        f"{seen} with the same user, item and type, and count twice now if they are the same: "
        "rows without a time are known by file and line alone. A column of times, or one that "
        f"names each row (--event-id-column), says what is new; {undo}."
    )


def _are_new(connection: storage.Connection, rows: Sequence[Known]) -> bool:
    if not rows or storage.interactions.is_empty(connection):
        return False
    return not storage.interactions.count_events(connection, [row.event_id for row in rows])


def see_that_it_is_new(
    connection: storage.Connection, rows: Sequence[Known], *, name: str, fingerprint: str
) -> None:
    """See that what is read was not read before, in another way.

    Raises
    ------
    ConflictError
        It was: an import of this fingerprint has brought its first rows, under other event ids.
    """
    before = storage.imports.of_file(connection, fingerprint)
    if before is None or not _are_new(connection, rows):
        return
    # Read with other times, or with another column of users; rows of types that were refused then
    # are none of these.
    otherwise: tuple[list[tuple[str | None, str, str, int | None]], ...] = (
        [(row.user_id, row.item_id, row.interaction_type, None) for row in rows],
        [(None, row.item_id, row.interaction_type, row.occurred_at) for row in rows],
    )
    if any(2 * storage.interactions.count_alike(connection, of) > len(rows) for of in otherwise):
        raise ConflictError(
            f"{name} was imported before (import {before}), and its rows are read otherwise now: "
            "each would count twice. To read it in another way, undo that import first.",
            action=Action("undo_import", {"import_id": before}),
        )
