"""The way in through Kafka: interactions onto the topic, answered when the broker has them."""

import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, InvalidStateError

from confluent_kafka import KafkaError, KafkaException, Message, Producer
from confluent_kafka.admin import AdminClient

from reckeeper.config import Settings
from reckeeper.errors import ReckeeperError, UnavailableError
from reckeeper.events.database import Accepted
from reckeeper.events.kafka import topics
from reckeeper.events.kafka.messages import VERSION, VERSION_HEADER, encode
from reckeeper.interactions import Interaction
from reckeeper.periodic import Periodic
from reckeeper.telemetry import INTERACTIONS, get_logger

TIMEOUT_SECONDS = 10.0
"""Within which a broker must have acknowledged a message."""

_QUEUED_MESSAGES = 200_000
_START_SECONDS = 5.0
_CLOSE_SECONDS = 5.0
_LOOK_SECONDS = 1.0
_ANSWER_SECONDS = 3.0

_log = get_logger(__name__)


class KafkaWriter:
    """Sends requests' interactions to the topic; many requests are on their way at once.

    A message is acknowledged once all replicas in sync have it, and stands on the topic
    once. Messages of one user go to one partition, in the order in which they were given.

    Parameters
    ----------
    settings : Settings

    Raises
    ------
    ConfigError
        A setting of the client cannot be used.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._topic = settings.kafka_topic
        # On a topic of another format, our own messages must be known as such.
        self._headers: list[tuple[str, str | bytes | None]] | None = None
        if settings.kafka_fields is not None:
            self._headers = [(VERSION_HEADER, str(VERSION))]
        self._failed = threading.Event()
        self._closing = threading.Event()
        self._counting = threading.Lock()
        self._n_appending = 0
        self._is_ready = False
        self._tried = threading.Event()
        self._problem = "it was not reached yet"
        self._connection_error: str | None = None
        self._away: str | None = None
        self._admin = topics.make_client(AdminClient, settings)
        self._producer = self._new_producer()
        self._polling = threading.Thread(target=self._poll, name="kafka-poll", daemon=True)
        self._looking = Periodic(self._look, name="kafka-topic", every_seconds=_LOOK_SECONDS)

    def start(self) -> None:
        """Start taking requests; until the topic was found or made, they are refused."""
        self._polling.start()
        self._looking.start()
        self._tried.wait(_START_SECONDS)

    @property
    def problem(self) -> str | None:
        """What keeps interactions from being taken, and what to do; None if nothing does."""
        if self._is_ready:
            return self._away
        return (
            f"Kafka does not take interactions: {self._problem}." if self._tried.is_set() else None
        )

    def close(self) -> None:
        """Send what waits, a few seconds long, then end; what is left is told that it failed."""
        with self._counting:
            self._closing.set()
        self._looking.stop(timeout_seconds=0.0)
        if not self._polling.is_alive():
            return
        self._polling.join(_CLOSE_SECONDS)
        self._producer.purge()  # of which the polling thread tells
        self._polling.join(1.0)

    def append(self, interactions: Sequence[Interaction]) -> "Future[Accepted]":
        """Hand interactions over; the future ends when the broker has them all, or fails.

        The future's error is an `UnavailableError`: some of the messages may be on the topic
        all the same. Sent again with the same event ids, they are counted once.
        """
        with self._counting:
            if self._closing.is_set():
                raise UnavailableError("The server is stopping: send the request again.")
            self._n_appending += 1
        try:
            return self._append(interactions)
        finally:
            with self._counting:
                self._n_appending -= 1

    def _append(self, interactions: Sequence[Interaction]) -> "Future[Accepted]":
        if not self._is_ready:
            error = self._connection_error
            connection = f" The last error of a connection: {error}." if error else ""
            raise UnavailableError(
                f"Kafka does not take interactions at the moment: {self._problem}.{connection} "
                "Nothing of this request was accepted; send it again."
            )
        request = _Request(len(interactions))
        if not interactions:
            request.future.set_result(Accepted(0, 0))
            return request.future
        producer = self._producer
        if len(producer) + len(interactions) > _QUEUED_MESSAGES:
            raise UnavailableError(
                "Too many interactions are waiting for Kafka. Nothing of this request was "
                "accepted; send it again in a few seconds."
            )
        try:
            if self._headers is None:
                batch = [
                    {"value": encode(row), "key": row.user_id.encode()} for row in interactions
                ]
                n_queued = producer.produce_batch(self._topic, batch, on_delivery=request.on_end)
                if n_queued < len(batch):
                    failed = next(message["_error"] for message in batch if "_error" in message)
                    request.fail(str(failed))
            else:
                for row in interactions:
                    producer.produce(
                        self._topic,
                        encode(row),
                        row.user_id.encode(),
                        on_delivery=request.on_end,
                        headers=self._headers,
                    )
        except (BufferError, KafkaException) as exc:
            request.fail(str(exc))
        return request.future

    def _poll(self) -> None:
        while not self._closing.is_set() or self._n_appending or len(self._producer):
            try:
                self._producer.poll(0.1)
                if self._failed.is_set():
                    self._replace()
            except Exception:  # noqa: BLE001
                # Without this thread no request would ever be answered.
                _log.exception("kafka_poll_failed")
                time.sleep(0.1)

    def _replace(self) -> None:
        """Take a new producer: one that has failed for good refuses everything."""
        failed, self._producer = self._producer, self._new_producer()
        self._failed.clear()
        _log.warning("kafka_producer_replaced")
        failed.purge()
        failed.flush(1.0)

    def _look(self) -> None:
        """See to the topic until it is there, then whether the broker is."""
        if self._is_ready:
            try:
                self._admin.list_topics(self._topic, timeout=_ANSWER_SECONDS)
                self._away = None
            except KafkaException as exc:
                self._away = topics.unavailable(self._settings, exc.args[0]).message
            return
        try:
            topics.ensure(self._settings, self._admin, timeout_seconds=5.0)
        except ReckeeperError as exc:
            self._not_ready(exc.message.rstrip("."))
        except Exception as exc:
            self._not_ready(str(exc).rstrip("."))
            raise
        else:
            self._is_ready = True
            self._tried.set()
            _log.info("kafka_topic_ready", topic=self._topic)

    def _not_ready(self, problem: str) -> None:
        if problem != self._problem:
            _log.error("kafka_topic_not_ready", error=problem, connection=self._connection_error)
        self._problem = problem
        self._tried.set()

    def _new_producer(self) -> Producer:
        return topics.make_client(
            Producer,
            self._settings,
            {
                "enable.idempotence": True,
                "acks": "all",
                "linger.ms": 1,
                "compression.type": "lz4",
                # As Java's clients choose, so that a user's order is kept beside other producers.
                "partitioner": "murmur2_random",
                "message.timeout.ms": int(TIMEOUT_SECONDS * 1000),
                "request.timeout.ms": 5_000,
                "queue.buffering.max.messages": 2 * _QUEUED_MESSAGES,
                "error_cb": self._on_error,
            },
        )

    def _on_error(self, error: KafkaError) -> None:
        if error.fatal():
            _log.error("kafka_producer_failed", error=error.str())
            self._failed.set()
        elif error.code() != KafkaError._ALL_BROKERS_DOWN:
            self._connection_error = error.str()


class _Request:
    """The messages of one request, until the last is acknowledged."""

    def __init__(self, n_messages: int) -> None:
        self.future: Future[Accepted] = Future()
        self.future.set_running_or_notify_cancel()
        self._n_messages = n_messages
        self._n_waiting = n_messages

    def on_end(self, error: KafkaError | None, _message: Message) -> None:
        # Called by the polling thread alone.
        self._n_waiting -= 1
        if error is not None:
            self.fail(error.str())
        elif not self._n_waiting and not self.future.done():
            INTERACTIONS.labels("accepted").inc(self._n_messages)
            self.future.set_result(Accepted(self._n_messages, 0))

    def fail(self, reason: str) -> None:
        if self.future.done():
            return
        INTERACTIONS.labels("unacknowledged").inc(self._n_messages)
        try:
            self.future.set_exception(
                UnavailableError(
                    f"Kafka has not acknowledged all interactions of this request ({reason}). "
                    "Part of them may have been accepted: send it again; those with the same "
                    "event_id are counted once."
                )
            )
        except InvalidStateError:  # the other thread was quicker
            return
