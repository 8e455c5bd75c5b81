"""Erasing a person: everything that is kept of them, and a tombstone against its return."""

import functools
import time
from collections.abc import Mapping, Sequence

from reckeeper import audit, clock, snapshot, storage
from reckeeper.config import Settings
from reckeeper.errors import ReckeeperError
from reckeeper.people import outside, receipts, reports
from reckeeper.registry import Registry
from reckeeper.telemetry import get_logger

_AT_ONCE = 1_000
"""Rows of a transaction: so many lie on as many pages, and others wait a quarter of a second."""

_TURN_SECONDS = 0.01
"""Pause after each, in which whoever waits for the writers' lock gets it."""

_DATABASE_SECONDS = 60.0

_log = get_logger(__name__)


def erase(
    database: storage.Database,
    registry: Registry,
    settings: Settings,
    user_id: str,
    *,
    actor: str,
    reason: str | None = None,
) -> storage.Erasure:
    """Remove all that is kept of a person, and take nothing of it again.

    Of a visitor who became an account, and of an account, both go, with all other visitors of it.
    Known or not, what occurred before now is not taken again from anywhere; what occurs later is.
    What an active version has learned ends with the next retrain, which `Aftercare` starts.

    In several transactions, so that others write in between. After a crash `Aftercare` removes
    the rest.

    Parameters
    ----------
    database : storage.Database
    registry : Registry
    settings : Settings
    user_id : str
    actor : str
    reason : str, optional

    Returns
    -------
    storage.Erasure
        The receipt: what was removed, and what is still to be done.

    Raises
    ------
    StorageError
        The database or a file did not take it: ask again.
    """
    begin = functools.partial(_begin, user_id=user_id, actor=actor, reason=reason)
    erasure, user_ids = database.retrying(begin, seconds=_DATABASE_SECONDS)
    keep_outside(database, registry)
    return remove(database, registry, settings, erasure, user_ids)


def remove(
    database: storage.Database,
    registry: Registry,
    settings: Settings,
    erasure: storage.Erasure,
    user_ids: Sequence[str],
) -> storage.Erasure:
    """Remove what there is of a person's ids, after their tombstones were set."""
    while database.retrying(
        functools.partial(
            storage.erasures.delete_interactions,
            user_ids=user_ids,
            until=erasure.until,
            limit=_AT_ONCE,
        ),
        seconds=_DATABASE_SECONDS,
    ):
        time.sleep(_TURN_SECONDS)
    tables = functools.partial(_clear_tables, user_ids=user_ids, until=erasure.until)
    removed, named_in = database.retrying(tables, seconds=_DATABASE_SECONDS)
    removed = {"user_interactions": erasure.interactions, **removed}
    with_them = registry.pickles.with_any(user_ids)
    erased = registry.pickles.erase(with_them, actor=erasure.actor, erasure_id=erasure.erasure_id)
    removed["pickles"] = len(with_them) - len(erased.left)
    removed["pickles_set_aside"] = registry.pickles.delete_aside(user_ids)
    snapshot.discard(registry.store.folder)
    with database.read() as connection:
        files = reports.all_in(connection, settings.data_dir)
    removed["report_rows"] = reports.scrub(files, user_ids)
    remains = [*_remains(database, named_in), *_left_on_topics(settings, user_ids)]
    found = {
        "removed": {name: n for name, n in removed.items() if n},
        "shaped_versions": sorted({*erasure.shaped_versions, *named_in}),
        "pickles_deleted": erased.deleted,
        "pickles_rewritten": erased.rewritten,
        "pickles_left": erased.left,
        # Until it is known to be otherwise.
        "remains": [_REMNANTS, *remains],
    }
    note = functools.partial(_note, erasure_id=erasure.erasure_id, found=found)
    database.retrying(note, seconds=_DATABASE_SECONDS)
    # The ids stood in the row of the erasure too, up to here.
    wiped = storage.wiping.wipe(database, user_ids)
    end = functools.partial(
        _end,
        erasure_id=erasure.erasure_id,
        is_wiped=wiped.log_is_empty,
        remains=remains if wiped.is_clean else [_REMNANTS, *remains],
    )
    return database.retrying(end, seconds=_DATABASE_SECONDS)


def keep_outside(database: storage.Database, registry: Registry) -> None:
    """Write the tombstones to the model folder that are not there yet."""
    folder = registry.store.folder
    with database.read() as connection:
        installation_id = storage.installation.id_of(connection)
        key = storage.tombstones.key_of(connection).hex()
        until = storage.tombstones.everyone(connection)
    there = {
        (line.key, line.user, line.until)
        for line in outside.lines(folder, installation_id=installation_id)
    }
    outside.add(
        folder,
        [
            outside.Line(installation_id, key, user, moment)
            for user, moment in sorted(until.items())
            if (key, user, moment) not in there
        ],
    )


def begin(
    connection: storage.Connection,
    user_ids: Sequence[str],
    *,
    until: int,
    actor: str,
    reason: str | None,
) -> storage.Erasure:
    """Set the tombstones of a person's ids, and note that the erasure begins."""
    n, first, latest = storage.erasures.extent(connection, user_ids)
    until = max(until, latest if reason != RESTORED else until)
    key = storage.tombstones.key_of(connection)
    hashes = [storage.tombstones.hash_of(each, key) for each in user_ids]
    storage.erasures.forbid(connection, hashes, until=until)
    shaped = [] if first is None else storage.erasures.versions_that_saw(connection, first)
    erasure_id = storage.erasures.insert(
        connection,
        subject=audit.pseudonym(connection, user_ids[0]),
        erased_at=clock.now(),
        until=until,
        actor=actor,
        reason=reason,
        status=storage.erasures.ERASING,
        interactions=n,
        removed={},
        shaped_versions=shaped,
        pickles_deleted=[],
        pickles_left=[],
        is_wiped=False,
        remains=[],
        signature="",
        user_ids=list(user_ids),
    )
    # Also where nothing is there: lists that processes hold may have the id.
    storage.installation.raise_generation(connection)
    return receipts.found(connection, erasure_id)


RESTORED = "the database was restored from before an erasure"
"""The reason of an erasure that is done again."""


def note_restored(connection: storage.Connection) -> None:
    """Note that tombstones were taken in of people of whom nothing is there."""
    erasure_id = storage.erasures.insert(
        connection,
        subject="",
        erased_at=clock.now(),
        until=0,
        actor="start",
        reason=RESTORED,
        status=storage.erasures.COMPLETE,
        interactions=0,
        removed={},
        shaped_versions=[],
        pickles_deleted=[],
        pickles_left=[],
        is_wiped=True,
        remains=[],
        completed_at=clock.now(),
        signature="",
    )
    receipts.change(connection, erasure_id)


def _begin(
    connection: storage.Connection, user_id: str, actor: str, reason: str | None
) -> tuple[storage.Erasure, list[str]]:
    account = storage.merges.account_of(connection, user_id) or user_id
    user_ids = [account, *storage.merges.visitors_of(connection, account)]
    erasure = begin(connection, user_ids, until=clock.now(), actor=actor, reason=reason)
    return erasure, user_ids


def _clear_tables(
    connection: storage.Connection, user_ids: Sequence[str], until: int
) -> tuple[dict[str, int], list[int]]:
    """Clear the tables beside the interactions; return what went, and versions that name them."""
    n_policies, named_in = storage.erasures.leave_in(connection, user_ids)
    counts = {
        "watchlist": storage.erasures.delete_listed(connection, user_ids, until=until),
        "user_merges": storage.erasures.delete_merges(connection, user_ids),
        "policies": n_policies,
        **storage.erasures.scrub(connection, user_ids),
    }
    return counts, named_in


_REMNANTS = (
    "Parts of the database file that are not in use may still have remnants: the file is too "
    "large to be written anew while others write. Have it done in a quiet hour (wipe)."
)


def _remains(database: storage.Database, named_in: Sequence[int]) -> list[str]:
    """Return what is left of a person where it could not be removed, in sentences."""
    said = []
    if database.sqlite_file is None:
        said.append(
            "PostgreSQL keeps deleted rows in its files until VACUUM has passed over them, and in "
            "the archives of its log and in backups as long as these are kept."
        )
    if named_in:
        numbers = ", ".join(map(str, named_in))
        said.append(
            f"The files of versions {numbers} name the person among those that the policy left "
            "out of training: delete these versions."
        )
    return said


def _left_on_topics(settings: Settings, user_ids: Sequence[str]) -> list[str]:
    if not settings.uses_kafka:
        return []
    from reckeeper.events.kafka import dead_letters

    try:
        n_letters: object = dead_letters.count_naming(settings, user_ids)
    except ReckeeperError as exc:
        _log.warning("dead_letters_not_read", error=exc.message)
        n_letters = "an unknown number of"
    return [
        f"On the Kafka topic {settings.kafka_topic} stay the messages that were sent, and on that "
        f"of the dead letters {n_letters} letters that name the person, until the topics' own "
        "retention ends: they are not stored, shown or sent again."
    ]


def _note(connection: storage.Connection, erasure_id: int, found: Mapping[str, object]) -> None:
    """Note what was removed, unless another process has brought the erasure to its end."""
    if receipts.found(connection, erasure_id).status != storage.erasures.ERASING:
        return
    status = storage.erasures.RETRAINING
    erasure = receipts.change(connection, erasure_id, **found, status=status, user_ids=None)
    audit.record(
        connection,
        actor=erasure.actor,
        action="erase",
        subject=f"user {erasure.subject}",
        erasure=erasure_id,
        removed=erasure.removed,
        shaped_versions=erasure.shaped_versions,
        pickles_deleted=erasure.pickles_deleted,
        pickles_rewritten=erasure.pickles_rewritten,
        reason=erasure.reason,
    )


def _end(
    connection: storage.Connection, erasure_id: int, is_wiped: bool, remains: list[str]
) -> storage.Erasure:
    """Note how far the erasure has come, and whether that was all."""
    erasure = receipts.found(connection, erasure_id)
    if erasure.status == storage.erasures.COMPLETE:
        return erasure
    active = storage.models.active_version(connection)
    is_complete = active not in erasure.shaped_versions and not erasure.pickles_left and is_wiped
    return receipts.change(
        connection,
        erasure_id,
        is_wiped=is_wiped,
        remains=remains,
        status=storage.erasures.COMPLETE if is_complete else storage.erasures.RETRAINING,
        completed_at=clock.now() if is_complete else None,
    )
