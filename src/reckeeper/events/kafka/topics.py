"""The cluster: how clients reach it, and the topics that Reckeeper needs there."""

import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from confluent_kafka import (
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from reckeeper.config import Settings
from reckeeper.errors import ConfigError, NotFoundError, UnavailableError
from reckeeper.telemetry import get_logger

MAX_LETTER_BYTES = 16 * 1024 * 1024
"""Size of a record on the dead-letter topic, where Reckeeper makes it."""

_LETTERS_KEPT_MS = 365 * 24 * 3600 * 1000
_SCAN_RECORDS = 10_000
_SILENCE_SECONDS = 30.0
_TRY_AGAIN_SECONDS = 0.02

# A client whose broker is unavailable would log each try; its state is logged where it is watched.
_NOISE = re.compile("FAIL|ERROR|GETPID|REQTMOUT")

_log = get_logger(__name__)

C = TypeVar("C")


def dead_letter_topic(settings: Settings) -> str:
    """Return the name of the topic of the dead letters."""
    return f"{settings.kafka_topic}.dlq"


def make_client(
    kind: Callable[[dict[str, Any]], C], settings: Settings, more: Mapping[str, Any] | None = None
) -> C:
    """Make a client of the cluster; connects in the background.

    Parameters
    ----------
    kind : callable
        ``AdminClient``, ``Consumer`` or ``Producer``.
    settings : Settings
    more : mapping, optional
        Settings of librdkafka; those of the environment come before them.

    Raises
    ------
    ConfigError
        A setting cannot be used; the message names its variable.
    """
    configuration: dict[str, Any] = {
        "bootstrap.servers": settings.kafka_bootstrap_servers,
        "client.id": "reckeeper",
        # A broker that is back is found within seconds, one that hangs is noticed.
        "reconnect.backoff.max.ms": 2000,
        "socket.timeout.ms": 15_000,
        "socket.keepalive.enable": True,
        "log.connection.close": False,
        "logger": _logger("debug" in settings.kafka_options),
        **(more or {}),
        **settings.kafka_options,
    }
    try:
        return kind(configuration)
    except KafkaException as exc:
        reason = exc.args[0].str()
        named = next((name for name in settings.kafka_options if f'"{name}"' in reason), None)
        variable = "the variables KAFKA_*"
        if named is not None:
            variable = f"KAFKA_{named.upper().replace('.', '_')}"
            reason = reason.replace(settings.kafka_options[named], "***")
        raise ConfigError(
            f"{variable} cannot be used: {reason}. Correct it or unset it; librdkafka's "
            "CONFIGURATION.md lists its settings."
        ) from exc


def ensure(
    settings: Settings, admin: AdminClient | None = None, *, timeout_seconds: float = 10.0
) -> None:
    """See that the two topics are there; make what is missing, if that is allowed.

    The topic has the settings' partitions and retention and the replication that is the
    broker's default. The topic of the dead letters has one partition, takes large records
    and keeps them for a year.

    Raises
    ------
    UnavailableError
        No broker answers.
    ConfigError
        A topic is missing and may not be made; the message says what to make. Or a
        setting cannot be used.
    """
    admin = make_client(AdminClient, settings) if admin is None else admin
    letters = dead_letter_topic(settings)
    retention = settings.kafka_retention_hours * 3_600_000
    wanted = {
        settings.kafka_topic: NewTopic(
            settings.kafka_topic,
            num_partitions=settings.kafka_partitions,
            replication_factor=-1,
            config={"retention.ms": str(retention)},
        ),
        letters: NewTopic(
            letters,
            num_partitions=1,
            replication_factor=-1,
            config={
                "max.message.bytes": str(MAX_LETTER_BYTES),
                "retention.ms": str(_LETTERS_KEPT_MS),
            },
        ),
    }
    missing = [
        new
        for name, new in wanted.items()
        if not _exists(admin, settings, name, seconds=timeout_seconds)
    ]
    if not missing:
        return
    made = admin.create_topics(missing, request_timeout=timeout_seconds)
    for topic, future in made.items():
        try:
            future.result(timeout=timeout_seconds + 5)
        except TimeoutError as exc:
            raise unavailable(settings, None) from exc
        except KafkaException as exc:
            error = exc.args[0]
            if error.code() == KafkaError.TOPIC_ALREADY_EXISTS:
                continue
            if is_unreachable(error):
                raise unavailable(settings, error) from exc
            raise ConfigError(
                f"The Kafka topic {topic} does not exist, and the cluster did not create it "
                f"({error.str()}). Create {settings.kafka_topic} with {settings.kafka_partitions} "
                f"partitions or so, and {letters} with one partition and "
                f"max.message.bytes={MAX_LETTER_BYTES}; then start again."
            ) from exc
        _log.info("kafka_topic_made", topic=topic)
    # The controller has them; the broker that is asked learns of it a moment later.
    deadline = time.monotonic() + timeout_seconds
    for topic in made:
        while not _exists(admin, settings, topic, seconds=timeout_seconds):
            if time.monotonic() > deadline:
                raise unavailable(settings, None)
            time.sleep(_TRY_AGAIN_SECONDS)


def topic_id(admin: AdminClient, settings: Settings, topic: str, *, seconds: float = 5.0) -> str:
    """Return what the cluster calls a topic; one that is created again has another name.

    Raises
    ------
    NotFoundError
        There is no such topic.
    UnavailableError
        No broker answers.
    """
    (future,) = admin.describe_topics(TopicCollection([topic]), request_timeout=seconds).values()
    try:
        return str(future.result(timeout=seconds + 5).topic_id)
    except KafkaException as exc:
        error = exc.args[0]
        if error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
            raise NotFoundError(f"There is no Kafka topic {topic}.") from exc
        raise unavailable(settings, error) from exc
    except TimeoutError as exc:
        raise unavailable(settings, None) from exc


def is_unreachable(error: KafkaError) -> bool:
    """Return whether an error says that no broker answered."""
    return error.code() in {
        KafkaError._TIMED_OUT,
        KafkaError._TRANSPORT,
        KafkaError._ALL_BROKERS_DOWN,
        KafkaError._RESOLVE,
        KafkaError.REQUEST_TIMED_OUT,
        KafkaError.BROKER_NOT_AVAILABLE,
    }


def unavailable(settings: Settings, error: KafkaError | None) -> UnavailableError:
    """Return the error that says that no broker answers."""
    reason = f": {error.str()}" if error is not None else ""
    return UnavailableError(
        "Kafka does not answer. See that the broker runs where KAFKA_BOOTSTRAP_SERVERS names it, "
        "and that the KAFKA_* settings are those that it asks for.",
        private=f"{settings.kafka_bootstrap_servers}{reason}",
    )


@dataclass(frozen=True)
class Scanned:
    """Some records of a `scan`, and how far it is.

    Attributes
    ----------
    records : list of confluent_kafka.Message
    n_done, n_total : int
        Offsets behind it, of all.
    """

    records: list[Message]
    n_done: int
    n_total: int


def scan(
    settings: Settings,
    topic: str,
    *,
    start: int | datetime | Mapping[int, int] = 0,
    at_most: int | None = None,
) -> Iterator[Scanned]:
    """Read a topic up to its present end, without being in a group.

    Parameters
    ----------
    settings : Settings
    topic : str
    start : int, datetime or mapping
        Offset in all partitions; a time with a zone, of whose records on is read; or offsets
        by partition, 0 where none is named. What is not kept any more is passed over.
    at_most : int, optional
        Only so many records of each partition are read, the last ones.

    Raises
    ------
    NotFoundError
        There is no such topic.
    UnavailableError
        No broker answers, or none for `_SILENCE_SECONDS`.
    """
    consumer = make_client(
        Consumer,
        settings,
        {
            "group.id": settings.kafka_group,  # asked for, but there is no group in this
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "earliest",
            "queued.max.messages.kbytes": 32_768,
        },
    )
    try:
        bounds = _bounds(consumer, settings, topic, start)
        if at_most is not None:
            bounds = [(number, (max(first, end - at_most), end)) for number, (first, end) in bounds]
        consumer.assign([TopicPartition(topic, number, first) for number, (first, _) in bounds])
        reached = {number: first for number, (first, _) in bounds}
        ends = {number: end for number, (first, end) in bounds if first < end}
        n_total = sum(end - first for _, (first, end) in bounds)
        n_before = sum(first for _, (first, _) in bounds)
        heard_at = time.monotonic()
        while ends:
            records = []
            for record in consumer.consume(_SCAN_RECORDS, timeout=0.2):
                partition, offset = record.partition(), record.offset()
                if partition not in reached or offset is None:
                    continue  # an error of the connection, or of none of them
                error = record.error()
                if error is None and offset < ends.get(partition, 0):
                    records.append(record)
                    reached[partition] = offset + 1
                at_end = error is not None and error.code() == KafkaError._PARTITION_EOF
                if at_end or (error is None and offset + 1 >= ends.get(partition, 0)):
                    reached[partition] = ends.pop(partition, reached[partition])
                heard_at = time.monotonic()
            if records or not ends:
                yield Scanned(records, sum(reached.values()) - n_before, n_total)
                heard_at = time.monotonic()
            elif time.monotonic() - heard_at > _SILENCE_SECONDS:
                raise unavailable(settings, None)
    finally:
        consumer.close()


def _bounds(
    consumer: Consumer, settings: Settings, topic: str, start: int | datetime | Mapping[int, int]
) -> list[tuple[int, tuple[int, int]]]:
    """Return the partitions of a topic, each with its first offset to be read and its end."""
    try:
        found = consumer.list_topics(topic, timeout=10.0).topics[topic]
        if found.error is not None:
            raise NotFoundError(
                f"There is no Kafka topic {topic} ({found.error.str()}). The worker makes it when "
                "it starts; RECKEEPER_KAFKA_TOPIC names another."
            )
        bounds = []
        for number in sorted(found.partitions):
            low, high = consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=10.0)
            if isinstance(start, datetime):
                asked = TopicPartition(topic, number, int(start.timestamp() * 1000))
                (answer,) = consumer.offsets_for_times([asked], timeout=10.0)
                first = answer.offset if answer.offset >= 0 else high  # nothing is so late
            else:
                first = start if isinstance(start, int) else start.get(number, 0)
            bounds.append((number, (min(max(first, low), high), high)))
    except KafkaException as exc:
        raise unavailable(settings, exc.args[0]) from exc
    return bounds


def _exists(admin: AdminClient, settings: Settings, topic: str, *, seconds: float) -> bool:
    try:
        topic_id(admin, settings, topic, seconds=seconds)
    except NotFoundError:
        return False
    return True


def _logger(is_debugging: bool) -> logging.Logger:
    logger = logging.getLogger("librdkafka")
    if not is_debugging and not logger.filters:
        logger.addFilter(lambda record: not _NOISE.match(record.getMessage()))
    return logger
