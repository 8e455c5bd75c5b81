"""The dead letters: records that were no interactions, kept with the reason."""

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from confluent_kafka import KafkaError, KafkaException, Message, Producer
from confluent_kafka.admin import AdminClient
from pydantic_core import from_json

from reckeeper import audit, storage
from reckeeper.config import Settings
from reckeeper.errors import Action, NotFoundError, UnavailableError
from reckeeper.events.kafka import topics
from reckeeper.events.kafka.messages import ORIGIN_HEADER, Refused, headers_of, origin_of
from reckeeper.telemetry import KAFKA_DEAD_LETTERS, get_logger

_PREFIX = "reckeeper."
_REASON, _CODE, _TOPIC, _PARTITION, _OFFSET, _TIMESTAMP, _TRUNCATED = (
    f"{_PREFIX}{name}"
    for name in ("reason", "code", "topic", "partition", "offset", "timestamp", "truncated")
)
_OURS = {_REASON, _CODE, _TOPIC, _PARTITION, _OFFSET, _TIMESTAMP, _TRUNCATED}

# Tried one after the other where a topic does not take a letter as it is.
_CUTS = (None, 512 * 1024, 1024)
_SEND_SECONDS = 10.0
_SURE_CHARACTERS = 4
"""A shorter id is found in any text."""

_log = get_logger(__name__)

_Headers = list[tuple[str, str | bytes | None]]


class DeadLetterWriter:
    """Puts refused records on the topic of the dead letters, at least once.

    Parameters
    ----------
    settings : Settings
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._topic = topics.dead_letter_topic(settings)
        self._producer = _producer(settings)
        self._must_see_to_topic = False

    def write(self, refused: Sequence[Refused]) -> None:
        """Write letters; they are on the topic when this returns.

        One that the topic does not take is cut to its first bytes.

        Raises
        ------
        UnavailableError
            Not all could be written; some may be there.
        """
        if self._must_see_to_topic:  # somebody may have deleted it
            admin = topics.make_client(AdminClient, self._settings)
            topics.ensure(self._settings, admin, timeout_seconds=2.0)
        self._must_see_to_topic = True
        waiting = list(refused)
        for cut in _CUTS:
            letters = [
                (bad.record.key(), bad.record.value(), _headers(bad, self._settings.kafka_topic))
                for bad in waiting
            ]
            if cut is not None:
                letters = [_cut(key, value, headers, cut) for key, value, headers in letters]
            too_large = _send(self._producer, self._topic, letters)
            waiting = [waiting[index] for index in too_large]
            if not waiting:
                break
        else:
            raise UnavailableError(
                f"The Kafka topic {self._topic} does not accept even 1 KiB: raise its "
                "max.message.bytes."
            )
        self._must_see_to_topic = False
        for bad in refused:
            KAFKA_DEAD_LETTERS.labels(bad.code).inc()


@dataclass(frozen=True)
class DeadLetter:
    """A record that was refused.

    Attributes
    ----------
    topic, partition, offset, timestamp
        Where it stood; the timestamp in milliseconds since 1970 UTC.
    code, reason : str
        Why it was refused, for programs and for people.
    key, value : bytes or None
        As they were; of a letter that was cut, the first bytes.
    full_bytes : int or None
        Size of the value of a letter that was cut.
    headers : list of tuple
        As they were.
    is_replayed : bool
        Whether `replay` has sent it again with all others.
    """

    topic: str
    partition: int
    offset: int
    timestamp: int
    code: str
    reason: str
    key: bytes | None
    value: bytes | None
    full_bytes: int | None
    headers: _Headers
    is_replayed: bool

    @property
    def place(self) -> str:
        """``PARTITION:OFFSET`` on its topic."""
        return f"{self.partition}:{self.offset}"


def letters(database: storage.Database, settings: Settings) -> Iterator[DeadLetter]:
    """Read the dead letters from the first to the present last, each once.

    Raises
    ------
    NotFoundError
        There is no such topic yet.
    UnavailableError
        No broker answers.
    """
    is_erased = _erased(database)
    for letter, _ in _read(settings, replayed=_replayed(database, settings)[1]):
        if not is_erased(letter):
            yield letter


def latest(database: storage.Database, settings: Settings, *, n: int) -> list[DeadLetter]:
    """Read the `n` letters that came last, the latest first, however many there are.

    Raises
    ------
    NotFoundError, UnavailableError
        As of `letters`.
    """
    replayed = _replayed(database, settings)[1]
    is_erased = _erased(database)
    found = [letter for letter, _ in _read(settings, replayed=replayed, at_most=n)]
    found = [letter for letter in found if not is_erased(letter)]
    return sorted(found, key=lambda letter: letter.timestamp, reverse=True)[:n]


@dataclass(frozen=True)
class Replayed:
    """What became of the letters of a replay.

    Attributes
    ----------
    sent : int
        Are on their topic again.
    cut : int
        Were not sent, for only their first bytes are there.
    """

    sent: int
    cut: int


def replay(
    database: storage.Database,
    settings: Settings,
    *,
    places: Collection[str] | None = None,
    actor: str,
    on_progress: Callable[[int], None] = lambda _: None,
) -> Replayed:
    """Send dead letters to their topic again, as they were.

    They carry where they stood at first, so that one without an event id keeps the one that
    it would have had. One that is refused again becomes another letter.

    Parameters
    ----------
    database : storage.Database
    settings : Settings
    places : collection of str, optional
        Letters to send, each as ``PARTITION:OFFSET`` on its topic. Default: all that came
        since the last replay of all.
    actor : str
        For the audit trail.
    on_progress : callable
        Is given how many were sent so far.

    Raises
    ------
    NotFoundError
        There is no such letter, or no topic of them; nothing was sent.
    UnavailableError
        Not all could be sent; those that were are counted once all the same.
    """
    topic_id, replayed = _replayed(database, settings)
    chosen = _chosen(settings, places, replayed=replayed)
    producer = _producer(settings)
    sent = cut = 0
    is_erased = _erased(database)
    reached: dict[int, int] = {}
    waiting: list[tuple[bytes | None, bytes | None, _Headers]] = []

    def send() -> None:
        if _send(producer, settings.kafka_topic, waiting):
            raise UnavailableError(
                f"The Kafka topic {settings.kafka_topic} does not take a letter of this size any "
                "more: raise its max.message.bytes, or replay the others one by one."
            )
        waiting.clear()
        on_progress(sent)

    for letter, (partition, offset) in chosen:
        reached[partition] = offset + 1
        if is_erased(letter):
            continue
        if letter.full_bytes is not None:
            cut += 1
            continue
        waiting.append((letter.key, letter.value, _with_origin(letter)))
        sent += 1
        if len(waiting) >= 1000:
            send()
    send()
    topic = topics.dead_letter_topic(settings)
    with database.write() as connection:
        if places is None:
            storage.stream_offsets.advance(connection, topic, topic_id=topic_id, offsets=reached)
        if sent:
            audit.record(
                connection,
                actor=actor,
                action="replay_dead_letters",
                subject=f"topic {settings.kafka_topic}",
                letters=sent,
            )
    return Replayed(sent, cut)


def count_naming(settings: Settings, user_ids: Collection[str]) -> int:
    """Return how many letters name a user, in their key or anywhere in their value.

    A topic gives single records back to nobody: they stay on it as long as its retention says.

    Raises
    ------
    UnavailableError
        No broker answers.
    """
    needles = [user_id.encode() for user_id in user_ids if len(user_id) >= _SURE_CHARACTERS]
    try:
        return sum(
            any(text in user_ids for text in _texts(letter))
            or any(needle in (letter.value or b"") for needle in needles)
            for letter, _ in _read(settings, replayed={})
        )
    except NotFoundError:
        return 0


def _erased(database: storage.Database) -> Callable[[DeadLetter], bool]:
    """Return a function that says whether a letter names somebody who was erased since."""
    with database.read() as connection:
        until = storage.tombstones.everyone(connection)
        key = storage.tombstones.key_of(connection)

    def is_erased(letter: DeadLetter) -> bool:
        named = storage.tombstones.among(_texts(letter), key=key, until=until) if until else ()
        return any(letter.timestamp * 1000 <= moment for _, moment in named)

    return is_erased


def _texts(letter: DeadLetter) -> Iterator[str]:
    """Yield what may be an id in a letter: its key, and all texts and whole numbers of its JSON."""
    if letter.key is not None:
        yield letter.key.decode("utf-8", "replace")
    try:
        waiting = [from_json(letter.value or b"null", allow_partial=True)]
    except ValueError:
        return
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
        elif isinstance(value, str) or type(value) is int:
            yield str(value)


def _chosen(
    settings: Settings, places: Collection[str] | None, *, replayed: Mapping[int, int]
) -> Iterator[tuple[DeadLetter, tuple[int, int]]]:
    """Return letters and where they stand on their topic: of `places`, or not replayed yet.

    Raises
    ------
    NotFoundError
        There is no letter of one of the places.
    """
    if places is None:
        return iter(_read(settings, start=replayed, replayed=replayed))
    found = [
        (letter, at) for letter, at in _read(settings, replayed=replayed) if letter.place in places
    ]
    missing = set(places) - {letter.place for letter, _ in found}
    if missing:
        raise NotFoundError(
            f"There is no dead letter {min(missing)}.", action=Action("list_dead_letters")
        )
    return iter(found)


def _replayed(database: storage.Database, settings: Settings) -> tuple[str, dict[int, int]]:
    """Return the id of the letters' topic, and by partition up to where they were replayed."""
    topic = topics.dead_letter_topic(settings)
    topic_id = topics.topic_id(topics.make_client(AdminClient, settings), settings, topic)
    with database.read() as connection:
        return topic_id, storage.stream_offsets.get(connection, topic, topic_id=topic_id)


def _read(
    settings: Settings,
    *,
    replayed: Mapping[int, int],
    start: Mapping[int, int] | None = None,
    at_most: int | None = None,
) -> Iterator[tuple[DeadLetter, tuple[int, int]]]:
    """Yield letters, each once, and where they stand on their own topic."""
    seen = set()
    topic = topics.dead_letter_topic(settings)
    for scanned in topics.scan(settings, topic, start=start or {}, at_most=at_most):
        for record in scanned.records:
            at = (record.partition() or 0, record.offset() or 0)
            letter = _letter(record, is_replayed=at[1] < replayed.get(at[0], 0))
            if letter is None:
                _log.warning("not_a_dead_letter", topic=topic, partition=at[0], offset=at[1])
                continue
            identity = (letter.topic, letter.partition, letter.offset, letter.timestamp)
            if identity not in seen:
                seen.add(identity)
                yield letter, at


def _letter(record: Message, *, is_replayed: bool) -> DeadLetter | None:
    headers = headers_of(record)
    ours = {
        name: value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
        for name, value in headers
        if name in _OURS
    }
    try:
        return DeadLetter(
            topic=ours[_TOPIC],
            partition=int(ours[_PARTITION]),
            offset=int(ours[_OFFSET]),
            timestamp=int(ours[_TIMESTAMP]),
            code=ours[_CODE],
            reason=ours[_REASON],
            key=record.key(),
            value=record.value(),
            full_bytes=int(ours[_TRUNCATED]) if _TRUNCATED in ours else None,
            headers=[(name, value) for name, value in headers if name not in _OURS],
            is_replayed=is_replayed,
        )
    except (KeyError, ValueError):  # somebody else's record
        return None


def _headers(bad: Refused, topic: str) -> _Headers:
    record = bad.record
    return [
        *((name, value) for name, value in headers_of(record) if name not in _OURS),
        (_REASON, bad.reason.encode("utf-8", "replace")),
        (_CODE, bad.code.encode()),
        (_TOPIC, topic.encode()),
        (_PARTITION, str(record.partition()).encode()),
        (_OFFSET, str(record.offset()).encode()),
        (_TIMESTAMP, str(record.timestamp()[1]).encode()),
    ]


def _with_origin(letter: DeadLetter) -> _Headers:
    if any(name == ORIGIN_HEADER for name, _ in letter.headers):
        return letter.headers  # it was replayed before, and refused again
    origin = origin_of(letter.topic, letter.partition, letter.offset, letter.timestamp)
    return [*letter.headers, (ORIGIN_HEADER, origin.encode())]


def _cut(
    key: bytes | None, value: bytes | None, headers: _Headers, n_bytes: int
) -> tuple[bytes | None, bytes | None, _Headers]:
    """Cut a letter to its first bytes; headers that are not ours go."""
    kept = [(name, text) for name, text in headers if name in _OURS]
    kept.append((_TRUNCATED, str(len(value or b"")).encode()))
    return (
        None if key is None else key[:n_bytes],
        None if value is None else value[:n_bytes],
        kept,
    )


def _producer(settings: Settings) -> Producer:
    return topics.make_client(
        Producer,
        settings,
        {
            "acks": "all",
            "linger.ms": 5,
            "batch.size": 100_000,  # one letter that is too large spoils its batch
            "compression.type": "lz4",
            "partitioner": "murmur2_random",
            "message.max.bytes": 4 * topics.MAX_LETTER_BYTES,
            "message.timeout.ms": int(_SEND_SECONDS * 1000),
            "request.timeout.ms": 5_000,
            "queue.buffering.max.kbytes": 256 * 1024,
        },
    )


def _send(
    producer: Producer,
    topic: str,
    messages: Sequence[tuple[bytes | None, bytes | None, _Headers]],
) -> list[int]:
    """Send messages and wait for all; return the indices of those that are too large.

    Raises
    ------
    UnavailableError
        One was not taken for another reason.
    """
    too_large: list[int] = []
    failures: list[str] = []

    def on_end(index: int) -> Callable[[KafkaError | None, Message], None]:
        def end(error: KafkaError | None, _message: Message) -> None:
            if error is not None and error.code() == KafkaError.MSG_SIZE_TOO_LARGE:
                too_large.append(index)
            elif error is not None:
                failures.append(error.str())

        return end

    deadline = time.monotonic() + 2 * _SEND_SECONDS
    for index, (key, value, headers) in enumerate(messages):
        while True:
            try:
                producer.produce(topic, value, key, headers=headers, on_delivery=on_end(index))
            except BufferError:
                producer.poll(0.1)
                if time.monotonic() < deadline:
                    continue
                failures.append("too many letters wait")
            except KafkaException as exc:
                if exc.args[0].code() == KafkaError.MSG_SIZE_TOO_LARGE:
                    too_large.append(index)
                else:
                    failures.append(exc.args[0].str())
            break
    producer.flush(2 * _SEND_SECONDS)
    if failures or len(producer):
        reason = failures[0] if failures else "no answer"
        raise UnavailableError(
            f"The Kafka topic {topic} cannot be written ({reason}). Check that the broker is "
            "running, and that this user may write to the topic."
        )
    return sorted(too_large)
