"""Batches from Kafka: none is stored whose predecessor is missing."""

import types

import pytest

from reckeeper import storage
from reckeeper.events.kafka.messages import Decoder
from reckeeper.events.kafka.store import Store


class Record:
    """A record as librdkafka gives it."""

    def __init__(self, offset):
        self._offset = offset

    def topic(self):
        return "t"

    def partition(self):
        return 0

    def offset(self):
        return self._offset

    def key(self):
        return b"u"

    def value(self):
        return b'{"user_id": "u", "item_id": "i", "interaction_type": "click"}'

    def headers(self):
        return None

    def timestamp(self):
        return 1, 1_700_000_000_000 + self._offset


@pytest.fixture
def store(database, settings):
    settings = types.SimpleNamespace(
        **{**vars(settings), "kafka_bootstrap_servers": "127.0.0.1:1", "kafka_topic": "t"}
    )
    store = Store(database, settings, Decoder("t", None), lambda: {"click"})
    store.start()
    asked = store.ask_positions("id", [0], set())
    assert asked.future.result(30) == {}
    yield store
    store.stop()


def submit(store, first, last, *, base):
    records = [Record(offset) for offset in range(first, last)]
    return store.submit(records, topic_id="id", base={} if base is None else {0: base})


def stored(database):
    with database.read() as connection:
        offsets = storage.stream_offsets.get(connection, "t", topic_id="id")
        return storage.interactions.count(connection), offsets


def test_batches_that_follow_each_other_are_stored(store, database):
    assert submit(store, 0, 5, base=None).future.result(30) is True
    assert submit(store, 5, 9, base=5).future.result(30) is True
    assert stored(database) == (9, {0: 9})


def test_a_batch_whose_predecessor_was_dropped_is_not_stored(store, database):
    assert submit(store, 0, 5, base=None).future.result(30) is True
    assert submit(store, 9, 12, base=9).future.result(30) is None
    assert stored(database) == (5, {0: 5})
    assert submit(store, 5, 12, base=5).future.result(30) is True
    assert stored(database) == (12, {0: 12})


def test_a_late_batch_changes_nothing_and_moves_nothing_back(store, database):
    assert submit(store, 0, 9, base=None).future.result(30) is True
    assert submit(store, 3, 6, base=3).future.result(30) is True
    assert stored(database) == (9, {0: 9})
