"""What waits for the database or the dead letters: positions and batches, one after the other."""

import queue
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from confluent_kafka import Message

from reckeeper import policy as policies
from reckeeper import storage, telemetry
from reckeeper.config import Settings
from reckeeper.errors import ReckeeperError, StorageError
from reckeeper.events.kafka.dead_letters import DeadLetterWriter
from reckeeper.events.kafka.messages import Decoded, Decoder

_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 5.0
_SILENCE_SECONDS = 10.0
_TYPES_SECONDS = 5.0

_log = telemetry.get_logger(__name__)


@dataclass
class Task:
    """Something that is tried until it succeeds or is dropped; its future gives None if so."""

    is_dropped: threading.Event = field(default_factory=threading.Event)
    future: "Future[Any]" = field(default_factory=Future)


@dataclass
class Positions(Task):
    """Where partitions stand; its future gives the next offset of those that were read before."""

    topic_id: str = ""
    partitions: tuple[int, ...] = ()
    from_start: frozenset[int] = frozenset()


@dataclass
class Batch(Task):
    """Records, and what they are to the table; its future gives True once they are there.

    `base` says from which offset on: what lies before must be stored, or else these are not,
    and the future gives None.
    """

    topic_id: str = ""
    records: list[Message] = field(default_factory=list)
    decoded: Decoded = field(default_factory=lambda: Decoded([], []))
    types: frozenset[str] = frozenset()
    base: dict[int, int] = field(default_factory=dict)
    offsets: dict[int, int] = field(default_factory=dict)
    letters_are_written: bool = False


class Store:
    """A thread that does one task after the other, each until it succeeds.

    Parameters
    ----------
    database : storage.Database
    settings : Settings
    decoder : Decoder
        Decodes the topic's records.
    """

    def __init__(self, database: storage.Database, settings: Settings, decoder: Decoder) -> None:
        self._problem: str | None = None
        self._busy_since: float | None = None
        self._database = database
        self._topic = settings.kafka_topic
        self._decoder = decoder
        self._settings = settings
        self._types: frozenset[str] = frozenset()
        self._types_due = 0.0
        self._letters = DeadLetterWriter(settings)
        self._tasks: queue.SimpleQueue[Positions | Batch | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="kafka-store", daemon=True)

    @property
    def problem(self) -> str | None:
        """What keeps the present task from success, or None."""
        busy_since = self._busy_since
        if self._problem is None and busy_since is not None:
            seconds = time.monotonic() - busy_since
            if seconds > _SILENCE_SECONDS:
                return (
                    "The database does not take the interactions from Kafka: it has not answered "
                    f"for {seconds:.0f} s. Check that it is running and that nothing "
                    "holds its lock."
                )
        return self._problem

    def start(self) -> None:
        """Start doing tasks."""
        self._thread.start()

    def stop(self) -> None:
        """End after the tasks that wait; one that hangs is left behind."""
        self._tasks.put(None)
        if self._thread.is_alive():
            self._thread.join(1.0)

    def ask_positions(
        self, topic_id: str, partitions: list[int], from_start: set[int]
    ) -> Positions:
        """Have the positions read; of `from_start`, they are put back to 0."""
        task = Positions(
            topic_id=topic_id, partitions=tuple(partitions), from_start=frozenset(from_start)
        )
        self._tasks.put(task)
        return task

    def submit(self, records: list[Message], *, topic_id: str, base: dict[int, int]) -> Batch:
        """Decode records, and have them stored."""
        offsets = {record.partition() or 0: (record.offset() or 0) + 1 for record in records}
        task = Batch(
            topic_id=topic_id, records=records, types=self._types, base=base, offsets=offsets
        )
        task.decoded = self._decoder.decode(records, types=task.types)
        self._tasks.put(task)
        return task

    def _run(self) -> None:
        while (task := self._tasks.get()) is not None:
            task.future.set_result(self._until_done(task))

    def _until_done(self, task: Positions | Batch) -> Any:
        pause = _FIRST_PAUSE_SECONDS
        while not task.is_dropped.is_set():
            self._busy_since = time.monotonic()
            try:
                done = self._positions(task) if isinstance(task, Positions) else self._write(task)
            except ReckeeperError as exc:
                self._note(exc.message, is_database=isinstance(exc, StorageError))
            except Exception as exc:  # noqa: BLE001
                # Without this thread nothing would be stored any more.
                _log.exception("kafka_batch_failed")
                self._note(f"{type(exc).__name__}: {exc}", is_database=False)
            else:
                if self._problem is not None:
                    _log.info("kafka_storing_again")
                self._problem = None
                return done
            finally:
                self._busy_since = None
            task.is_dropped.wait(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
        return None

    def _note(self, reason: str, *, is_database: bool) -> None:
        problem = reason
        if is_database:
            problem = f"The database does not take the interactions from Kafka. {reason}"
        if self._problem is None:
            _log.error("kafka_not_stored", error=problem)
        self._problem = problem

    def _positions(self, task: Positions) -> dict[int, int]:
        self._types = self._accepted_types()
        if task.from_start:
            start = dict.fromkeys(task.from_start, 0)
            with self._database.write() as connection:
                # Only for another topic do offsets go back.
                for topic_id in (f"before {task.topic_id}", task.topic_id):
                    storage.stream_offsets.advance(
                        connection, self._topic, topic_id=topic_id, offsets=start
                    )
        with self._database.read() as connection:
            found = storage.stream_offsets.get(connection, self._topic, topic_id=task.topic_id)
        return {
            number: offset
            for number, offset in found.items()
            if number in task.partitions and number not in task.from_start
        }

    def _accepted_types(self) -> frozenset[str]:
        with self._database.read() as connection:
            return frozenset(policies.current(connection, self._settings).policy.weights)

    def _write(self, batch: Batch) -> bool | None:
        if not batch.letters_are_written:
            # A type may have been added or removed since the types were last asked for.
            if batch.decoded.refused or time.monotonic() > self._types_due:
                self._types = self._accepted_types()
                self._types_due = time.monotonic() + _TYPES_SECONDS
            if self._types != batch.types:
                batch.types = self._types
                batch.decoded = self._decoder.decode(batch.records, types=batch.types)
            if batch.decoded.refused:
                self._letters.write(batch.decoded.refused)
            batch.letters_are_written = True
        began = time.perf_counter()
        with self._database.write() as connection:
            stored = storage.stream_offsets.get(connection, self._topic, topic_id=batch.topic_id)
            if any(stored.get(number, 0) < offset for number, offset in batch.base.items()):
                # One before it was dropped: these would be taken for all that there is.
                _log.warning("kafka_batch_out_of_turn", base=batch.base, stored=stored)
                return None
            n_new = storage.interactions.append(connection, batch.decoded.interactions)
            storage.stream_offsets.advance(
                connection, self._topic, topic_id=batch.topic_id, offsets=batch.offsets
            )
        telemetry.KAFKA_COMMIT_SECONDS.observe(time.perf_counter() - began)
        telemetry.KAFKA_BATCH_RECORDS.observe(len(batch.records))
        n_good, n_refused = len(batch.decoded.interactions), len(batch.decoded.refused)
        telemetry.KAFKA_RECORDS.labels("stored").inc(n_new)
        telemetry.KAFKA_RECORDS.labels("duplicate").inc(n_good - n_new)
        telemetry.KAFKA_RECORDS.labels("refused").inc(n_refused)
        return True
