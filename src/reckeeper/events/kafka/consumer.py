"""The worker's side of Kafka: records from the topic into the table, each once.

Where the partitions stand is kept in the database, in the transaction of the interactions;
what the group commits to Kafka is for those who watch. So a batch is there whole with its
offsets, or not at all, whatever dies. A worker that lost a partition and is late writes
rows that the next one finds already there, and moves no offset back.

Two threads: one belongs to the consumer, which must go on polling to stay in its group; the
other does what waits for the database or the dead letters, and tries until it succeeds.
"""

import enum
import threading
import time
from collections import deque
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from typing import Any

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient

from reckeeper import storage, telemetry
from reckeeper.config import Settings
from reckeeper.errors import ReckeeperError
from reckeeper.events.kafka import topics
from reckeeper.events.kafka.messages import Decoder
from reckeeper.events.kafka.store import Batch, Store, Task

BATCH_RECORDS = 10_000
"""Most records in one transaction."""

_LINGER_SECONDS = 0.02
_IDLE_SECONDS = 0.1
_IN_HAND = 2  # one is written, the next is decoded meanwhile
_PATIENCE_SECONDS = 1.0
_TRY_AGAIN_SECONDS = 1.0
_PROBE_EVERY_SECONDS = 5.0
_PROBE_SECONDS = 5.0
_STOP_SECONDS = 2.5

# An offset that the topic does not have, before its start or behind its end.
_NO_SUCH_OFFSET = {
    KafkaError._AUTO_OFFSET_RESET,
    KafkaError._LOG_TRUNCATION,
    KafkaError.OFFSET_OUT_OF_RANGE,
}
_FORBIDDEN = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
}

_log = telemetry.get_logger(__name__)


class ReaderState(enum.Enum):
    """What a `KafkaReader` is doing; see the diagram there."""

    JOINING = "joining"
    UNASSIGNED = "unassigned"
    UNPLACED = "unplaced"
    PLACING = "placing"
    READING = "reading"
    PAUSED = "paused"


class KafkaReader:
    """Stores what comes on the topic, as a member of the workers' group.

    ::

        JOINING ─► UNASSIGNED ─► UNPLACED ◄─► PLACING ─► READING ◄─► PAUSED
                       ▲            ▲                       │          │
                       │            └── has to begin again ─┴──────────┤
                       └─────── partitions are revoked or lost ────────┘

    ==========  ===================================================  ==========
    from        when                                                 to
    ==========  ===================================================  ==========
    JOINING     the topics exist, and the group is joined            UNASSIGNED
    UNASSIGNED  partitions are assigned                              UNPLACED
    UNPLACED    the database is asked for their positions            PLACING
    PLACING     it gives them; it was asked in vain                  READING; UNPLACED
    READING     enough batches are in hand                           PAUSED
    PAUSED      one of them is written                               READING
    all but     a batch was not written, an offset is gone, the      UNPLACED
    JOINING     topic was recreated, a step failed
    all but     partitions are revoked or lost                       UNASSIGNED
    JOINING
    ==========  ===================================================  ==========

    Parameters
    ----------
    database : storage.Database
    settings : Settings

    Raises
    ------
    ConfigError
        A setting of the client cannot be used.
    """

    def __init__(self, database: storage.Database, settings: Settings) -> None:
        self._settings = settings
        self._topic = settings.kafka_topic
        self._connection_error: str | None = None
        self._admin = topics.make_client(AdminClient, settings)
        self._consumer = topics.make_client(
            Consumer,
            settings,
            {
                "group.id": settings.kafka_group,
                "session.timeout.ms": 6_000,
                "heartbeat.interval.ms": 2_000,
                "partition.assignment.strategy": "range",
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                # Where to go on is decided here, and by nobody else.
                "auto.offset.reset": "error",
                "topic.metadata.refresh.interval.ms": 30_000,
                "queued.max.messages.kbytes": 32_768,
                "fetch.queue.backoff.ms": 100,
                "error_cb": self._on_connection_error,
            },
        )
        self._store = Store(database, settings, Decoder(self._topic, settings.kafka_fields))
        self._probe = _Probe(self._admin, settings)
        self._thread = threading.Thread(target=self._run, name="kafka-reader", daemon=True)
        self._stopping = threading.Event()
        self._problem: str | None = None
        self._failure: str | None = None
        self._state = ReaderState.JOINING
        self._granted: list[int] = []
        self._placing: Task | None = None
        self._placed_id: str | None = None
        self._from_start: set[int] = set()
        self._generation = 0  # another one drops what the last had in hand
        self._in_hand: deque[Batch] = deque()
        self._held: list[Message] = []
        self._stored: dict[int, int] = {}
        self._reached: dict[int, int] = {}  # by what is stored or in hand
        self._lag: dict[int, int] = {}
        self._lag_due = self._commit_due = self._ensure_due = 0.0
        self._uncommitted: dict[int, int] = {}

    def start(self) -> None:
        """Join the group; it waits for a broker or a database that is unavailable."""
        self._store.start()
        self._thread.start()

    def stop(self) -> None:
        """Store what is in hand and leave the group, within seconds whatever is unavailable."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(2 * _STOP_SECONDS)
        self._store.stop()

    def lag(self) -> dict[int, int]:
        """Return, by partition of this worker, how many messages are still to be stored."""
        return dict(self._lag)

    def problems(self) -> list[str]:
        """Return sentences that say what keeps interactions from the table, and what to do."""
        found = [self._failure, self._problem, self._probe.problem, self._store.problem]
        is_away = self._probe.problem is not None or self._state is ReaderState.JOINING
        if is_away and self._connection_error is not None:
            found.append(f"The last error of a connection to Kafka: {self._connection_error}.")
        n_behind, most = sum(self.lag().values()), self._settings.kafka_max_lag
        if n_behind > most:
            found.append(
                f"The table is behind the topic {self._topic} by {n_behind:,} messages, more than "
                f"RECKEEPER_KAFKA_MAX_LAG ({most:,}): wait, or start another worker on another "
                "machine."
            )
        return [problem for problem in found if problem is not None]

    # The consumer's thread

    def _run(self) -> None:
        has_failed = False
        while not self._stopping.is_set():
            try:
                if has_failed:
                    self._begin_again()
                    has_failed = False
                self._step()
                self._failure = None
            except Exception as exc:  # noqa: BLE001
                # Without this thread nothing would be stored any more.
                _log.exception("kafka_reader_failed")
                self._failure = (
                    f"The reader of Kafka fails ({type(exc).__name__}); the log has the details. "
                    "It tries again by itself."
                )
                has_failed = True
                self._stopping.wait(_TRY_AGAIN_SECONDS)
        try:
            self._leave()
        except Exception:  # noqa: BLE001
            # What is stored is stored; the group finds out when the session has run out.
            _log.exception("kafka_reader_not_left")

    def _step(self) -> None:
        is_absent = self._state is ReaderState.JOINING or self._probe.is_missing
        if is_absent and not self._subscribe():
            self._consumer.poll(_IDLE_SECONDS)  # which reports errors
            return
        self._probe.step()
        if self._probe.topic_id is not None and self._placed_id not in {None, self._probe.topic_id}:
            _log.warning("kafka_topic_recreated", topic=self._topic)
            telemetry.KAFKA_RESETS.labels("recreated").inc()
            self._begin_again()
        self._collect()
        self._note_lag()
        if self._state in {ReaderState.UNPLACED, ReaderState.PLACING}:
            self._place()
        if len(self._in_hand) >= _IN_HAND:
            self._wait_for_room()
        else:
            self._read()

    def _subscribe(self) -> bool:
        """See to the topics and join the group; return whether that was done."""
        if time.monotonic() < self._ensure_due:
            return False
        try:
            topics.ensure(self._settings, self._admin, timeout_seconds=2.0)
        except ReckeeperError as exc:
            if exc.message != self._problem:
                _log.error(
                    "kafka_topic_not_ready", error=exc.in_full, connection=self._connection_error
                )
            self._problem = exc.message
            self._ensure_due = time.monotonic() + _TRY_AGAIN_SECONDS
            return False
        self._problem = None
        self._probe.is_missing = False
        if self._state is not ReaderState.JOINING:
            return True
        self._consumer.subscribe(
            [self._topic],
            on_assign=self._on_assign,
            on_revoke=self._on_revoke,
            on_lost=self._on_lost,
        )
        self._state = ReaderState.UNASSIGNED
        _log.info("kafka_reader_started", topic=self._topic, group=self._settings.kafka_group)
        return True

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._granted = [partition.partition for partition in partitions]
        self._problem = None
        _log.info("kafka_partitions_assigned", partitions=self._granted)
        # The offsets come from the database, which may take its time.
        self._begin_again()

    def _on_revoke(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        # The next owner finds the offsets of what is just being written.
        self._drop(wait_seconds=_STOP_SECONDS)
        self._commit(at_once=True)
        self._give_up(partitions)
        consumer.unassign()

    def _on_lost(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._drop(wait_seconds=0.0)
        self._give_up(partitions)
        consumer.unassign()

    def _give_up(self, partitions: list[TopicPartition]) -> None:
        _log.info("kafka_partitions_left", partitions=[one.partition for one in partitions])
        self._granted = []
        self._state = ReaderState.UNASSIGNED
        self._placed_id = None
        self._forget_lag()

    def _begin_again(self) -> None:
        """Drop what is in hand, and go on from where the database says that the table is."""
        self._drop(wait_seconds=0.0)
        self._consumer.assign([])
        self._placed_id = None
        if self._state is not ReaderState.JOINING:
            self._state = ReaderState.UNPLACED if self._granted else ReaderState.UNASSIGNED

    def _drop(self, *, wait_seconds: float) -> None:
        self._generation += 1
        tasks: list[Task] = [*self._in_hand, *([self._placing] if self._placing else [])]
        # The last first: none may be written whose predecessor is dropped.
        for task in reversed(tasks):
            task.is_dropped.set()
        # One that is being written may still be done.
        wait_for([task.future for task in tasks], timeout=wait_seconds)
        self._collect()
        self._in_hand.clear()
        self._held.clear()
        self._placing = None

    def _place(self) -> None:
        """Ask for the positions of the partitions, and begin to read there once they are known."""
        if self._placing is None:
            # Asked again, for the topic may be another than before.
            topic_id = self._probe.fresh_id()
            if topic_id is None:
                return
            self._placed_id, self._state = topic_id, ReaderState.PLACING
            self._placing = self._store.ask_positions(topic_id, self._granted, self._from_start)
        if not self._placing.future.done():
            return
        positions: dict[int, int] | None = self._placing.future.result()
        self._placing = None
        if positions is None:
            self._state = ReaderState.UNPLACED
            return
        self._from_start = set()
        self._stored = dict(positions)
        self._reached = dict(positions)
        self._consumer.assign(
            [
                TopicPartition(self._topic, number, positions.get(number, OFFSET_BEGINNING))
                for number in self._granted
            ]
        )
        self._consumer.resume(self._consumer.assignment())
        self._state = ReaderState.READING
        _log.info("kafka_reading", positions={n: positions.get(n, 0) for n in self._granted})

    def _read(self) -> None:
        if self._state is ReaderState.PAUSED:
            self._consumer.resume(self._consumer.assignment())
            self._state = ReaderState.READING
        generation = self._generation
        records = self._consumer.consume(1, timeout=_IDLE_SECONDS)
        if records:
            records += self._consumer.consume(BATCH_RECORDS - 1, timeout=_LINGER_SECONDS)
        good = self._without_errors(records)
        if generation != self._generation:
            return  # they are read again
        if self._held:
            good, self._held = [*self._held, *good], []
        if good and self._placed_id is not None:
            self._problem = None
            base = {
                n: self._reached[n] for n in {r.partition() for r in good} if n in self._reached
            }
            batch = self._store.submit(good, topic_id=self._placed_id, base=base)
            self._reached.update(batch.offsets)
            self._in_hand.append(batch)

    def _wait_for_room(self) -> None:
        """Wait until a batch is written; stay in the group if that takes long."""
        patience = 0.0 if self._state is ReaderState.PAUSED else _PATIENCE_SECONDS
        if wait_for([self._in_hand[0].future], timeout=patience).done:
            return
        if self._state is not ReaderState.PAUSED:
            self._consumer.pause(self._consumer.assignment())
            self._state = ReaderState.PAUSED
        record = self._consumer.poll(_IDLE_SECONDS)
        if record is not None:
            generation = self._generation
            good = self._without_errors([record])
            if generation == self._generation:
                self._held += good  # was on its way already

    def _collect(self) -> None:
        """Note which batches are written."""
        while self._in_hand and self._in_hand[0].future.done():
            batch = self._in_hand.popleft()
            if batch.future.result() is not None:
                self._stored.update(batch.offsets)
                self._uncommitted.update(batch.offsets)
            elif not batch.is_dropped.is_set():
                self._begin_again()
        self._commit()

    def _commit(self, *, at_once: bool = False) -> None:
        """Tell Kafka up to where the table is, for those who watch the group there."""
        if not self._uncommitted or (not at_once and time.monotonic() < self._commit_due):
            return
        offsets = [TopicPartition(self._topic, n, at) for n, at in self._uncommitted.items()]
        self._uncommitted = {}
        self._commit_due = time.monotonic() + 1.0
        try:
            self._consumer.commit(offsets=offsets, asynchronous=True)
        except KafkaException as exc:
            _log.info("kafka_commit_not_made", error=str(exc))

    def _without_errors(self, records: list[Message]) -> list[Message]:
        good = [record for record in records if record.error() is None]
        if len(good) < len(records):
            for record in records:
                if (error := record.error()) is not None:
                    self._on_error(error, record.partition())
        return good

    def _on_connection_error(self, error: KafkaError) -> None:
        if error.code() != KafkaError._ALL_BROKERS_DOWN:
            self._connection_error = error.str()

    def _on_error(self, error: KafkaError, partition: int | None) -> None:
        code = error.code()
        if code in _NO_SUCH_OFFSET and partition is not None and partition >= 0:
            self._reset(partition)
        elif code in _FORBIDDEN:
            problem = (
                f"Kafka does not let this user read the topic {self._topic} in the group "
                f"{self._settings.kafka_group} ({error.str()}): allow it there."
            )
            if problem != self._problem:
                _log.error("kafka_forbidden", error=error.str())
            self._problem = problem
        elif not topics.is_unreachable(error):  # what the probe watches
            _log.warning("kafka_error", code=error.name(), error=error.str())

    def _reset(self, partition: int) -> None:
        """Read a partition from its start, for it does not have the offset any more, or yet."""
        stored = self._stored.get(partition)
        try:
            first, end = self._consumer.get_watermark_offsets(
                TopicPartition(self._topic, partition), timeout=2.0
            )
        except KafkaException:
            first, end = -1, -1
        reason = "beyond_end" if stored is not None and stored > end >= 0 else "gap"
        telemetry.KAFKA_RESETS.labels(reason).inc()
        _log.error(
            "kafka_position_lost",
            reason=reason,
            partition=partition,
            position=stored,
            first=first,
            end=end,
        )
        self._from_start.add(partition)
        self._begin_again()

    def _note_lag(self) -> None:
        if time.monotonic() < self._lag_due:
            return
        is_paused = self._state is ReaderState.PAUSED
        self._lag_due = time.monotonic() + (5.0 if is_paused else 1.0)
        if not is_paused and self._state is not ReaderState.READING:
            return
        for number in self._granted:
            place = TopicPartition(self._topic, number)
            try:
                # What is not fetched learns of no end.
                low, high = (
                    self._consumer.get_watermark_offsets(place, timeout=0.5)
                    if is_paused
                    else self._consumer.get_watermark_offsets(place, cached=True)
                )
            except KafkaException:
                continue
            if high >= 0:
                lag = max(high - max(self._stored.get(number, 0), low, 0), 0)
                self._lag[number] = lag
                telemetry.KAFKA_LAG.labels(number).set(lag)

    def _forget_lag(self) -> None:
        for number in self._lag:
            telemetry.KAFKA_LAG.remove(number)
        self._lag = {}

    def _leave(self) -> None:
        wait_for([batch.future for batch in self._in_hand], timeout=_STOP_SECONDS)
        self._drop(wait_seconds=0.0)
        self._commit(at_once=True)
        self._consumer.close()
        _log.info("kafka_reader_stopped")


class _Probe:
    """Asks the cluster now and then for the topic: does it answer, and is the topic the same?"""

    def __init__(self, admin: AdminClient, settings: Settings) -> None:
        self.problem: str | None = None
        self.topic_id: str | None = None
        self.is_missing = False
        self._admin = admin
        self._settings = settings
        self._due = 0.0
        self._answer: Future[Any] | None = None
        self._wants_fresh = False

    def step(self) -> None:
        """Ask if it is time, take an answer if there is one; waits for nothing."""
        if self._answer is None and time.monotonic() >= self._due:
            self._answer = self._ask()
        if self._answer is not None and self._answer.done():
            answer, self._answer = self._answer, None
            self._due = time.monotonic() + (
                _PROBE_EVERY_SECONDS if self._take(answer) else _TRY_AGAIN_SECONDS
            )

    def fresh_id(self) -> str | None:
        """Return the topic's id as asked for after the first of these calls; None until then."""
        if not self._wants_fresh:
            self._wants_fresh = True
            self.topic_id, self._answer = None, self._ask()
            return None
        if self.topic_id is None:
            return None
        self._wants_fresh = False
        return self.topic_id

    def _ask(self) -> "Future[Any]":
        topic = self._settings.kafka_topic
        asked = self._admin.describe_topics(
            TopicCollection([topic]), request_timeout=_PROBE_SECONDS
        )
        return asked[topic]

    def _take(self, answer: "Future[Any]") -> bool:
        try:
            self.topic_id = str(answer.result().topic_id)
            problem = None
        except KafkaException as exc:
            error = exc.args[0]
            self.is_missing = error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART
            problem = topics.unavailable(self._settings, error).message
            if not topics.is_unreachable(error):
                topic = self._settings.kafka_topic
                problem = f"Kafka cannot say what the topic {topic} is: {error.str()}."
        if (problem is None) != (self.problem is None):
            if problem is None:
                _log.info("kafka_answers_again")
            else:
                _log.error("kafka_unavailable", error=problem)
        self.problem = problem
        return problem is None
