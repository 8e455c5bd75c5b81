"""Reading the topic again, beside the group: what is missing in the table is added."""

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from reckeeper import audit, storage
from reckeeper import policy as policies
from reckeeper.config import Settings
from reckeeper.events.kafka import topics
from reckeeper.events.kafka.messages import Decoder

_DATABASE_SECONDS = 60.0


@dataclass(frozen=True)
class ReplayReport:
    """What a replay has found.

    Attributes
    ----------
    read : int
        Records.
    new, duplicates : int
        Interactions that were missing, and that were there; these were not changed.
    refused : int
        Records that are no interactions; the workers have put them to the dead letters.
    """

    read: int
    new: int
    duplicates: int
    refused: int


def replay(
    database: storage.Database,
    settings: Settings,
    *,
    start: int | datetime,
    actor: str,
    on_progress: Callable[[int, int, int], None] = lambda done, total, n_read: None,
) -> ReplayReport:
    """Read the topic from a place to its present end, and add what the table has not.

    The workers may run meanwhile, and their positions stay as they are. Repeatable: after an
    interruption the same call finds what it has written as duplicates.

    Parameters
    ----------
    database : storage.Database
    settings : Settings
    start : int or datetime
        Offset in every partition, or a time with a zone, of whose records on is read.
    actor : str
        For the audit trail.
    on_progress : callable
        Is given offsets done, of how many, and records read.

    Raises
    ------
    NotFoundError
        There is no such topic.
    UnavailableError
        No broker answers.
    StorageError
        The database did not answer for a minute.
    """
    with database.read() as connection:
        types = policies.current(connection, settings).policy.weights
    decoder = Decoder(settings.kafka_topic, settings.kafka_fields)
    n_read = n_new = n_good = n_refused = 0
    began = time.monotonic()
    for scanned in topics.scan(settings, settings.kafka_topic, start=start):
        decoded = decoder.decode(scanned.records, types=types)
        rows = decoded.interactions
        append = functools.partial(storage.interactions.append, interactions=rows)
        n_new += database.retrying(append, seconds=_DATABASE_SECONDS)
        n_read += len(scanned.records)
        n_good += len(rows)
        n_refused += len(decoded.refused)
        on_progress(scanned.n_done, scanned.n_total, n_read)
    report = ReplayReport(n_read, n_new, n_good - n_new, n_refused)
    with database.write() as connection:
        audit.record(
            connection,
            actor=actor,
            action="replay",
            subject=f"topic {settings.kafka_topic}",
            start=start if isinstance(start, int) else start.isoformat(),
            **vars(report),
            seconds=round(time.monotonic() - began, 3),
        )
    return report
