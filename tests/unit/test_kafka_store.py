"""Batches from Kafka: none is stored whose predecessor is missing."""

import pytest
from confluent_kafka import TIMESTAMP_CREATE_TIME, Message

from reckeeper import people, storage
from reckeeper.events.kafka.messages import Decoder
from reckeeper.events.kafka.store import Store


@pytest.fixture
def store(database, settings):
    settings = settings.replaced(kafka_bootstrap_servers="127.0.0.1:1", kafka_topic="t")
    store = Store(database, settings, Decoder("t", None))
    store.start()
    asked = store.ask_positions("id", [0], set())
    assert asked.future.result(30) == {}
    yield store
    store.stop()


def submit(store, first, last, *, base):
    records = [
        Message(
            topic="t",
            partition=0,
            offset=offset,
            key=b"u",
            value=b'{"user_id": "u", "item_id": "i", "interaction_type": "click"}',
            timestamp=(TIMESTAMP_CREATE_TIME, 1_700_000_000_000 + offset),
        )
        for offset in range(first, last)
    ]
    return store.submit(records, topic_id="id", base={} if base is None else {0: base})


def stored(database):
    with database.read() as connection:
        offsets = storage.stream_offsets.get(connection, "t", topic_id="id")
        return storage.interactions.count(connection), offsets


def test_what_was_on_its_way_when_a_visitor_logged_in_is_the_accounts(store, database):
    assert submit(store, 0, 2, base=None).future.result(30) is True
    assert people.merge(database, "account", "u", actor="test") == 2
    assert submit(store, 2, 5, base=2).future.result(30) is True
    with database.read() as connection:
        assert storage.interactions.of_user(connection, "account").num_rows == 5
        assert storage.interactions.of_user(connection, "u").num_rows == 0


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
