"""Interactions through a real broker: each once in the table, whatever is sent, and dies."""

import collections
import concurrent.futures
import contextlib
import itertools
import json
import random
import signal
import sqlite3
import subprocess
import threading
import uuid
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa
import streamlit as st
from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic
from tests.services import Broker
from tests.system.installation import Installation, wait_until
from tests.unit import test_frontend

from reckeeper import clock, people, policy, storage
from reckeeper.client import Client
from reckeeper.errors import ConfigError, NotFoundError, UnavailableError
from reckeeper.events.kafka import KafkaReader, KafkaWriter, dead_letters, topics
from reckeeper.events.kafka.replay import replay
from reckeeper.interactions import Interaction
from reckeeper.registry import Registry

GOOD = {"user_id": "u", "item_id": "i", "interaction_type": "click"}


def kafka_environ(bootstrap):
    name = f"t-{uuid.uuid4().hex[:12]}"
    return {
        "KAFKA_BOOTSTRAP_SERVERS": bootstrap,
        "RECKEEPER_KAFKA_TOPIC": name,
        "RECKEEPER_KAFKA_GROUP": name,
        "RECKEEPER_KAFKA_PARTITIONS": "3",
    }


def with_kafka(settings, bootstrap):
    environ = kafka_environ(bootstrap)
    return settings.replaced(
        kafka_bootstrap_servers=bootstrap,
        kafka_topic=environ["RECKEEPER_KAFKA_TOPIC"],
        kafka_group=environ["RECKEEPER_KAFKA_GROUP"],
        kafka_partitions=3,
    )


@pytest.fixture
def settings(settings, broker):
    """Return settings with a topic and a group of their own."""
    return with_kafka(settings, broker.bootstrap)


@pytest.fixture
def start_reader(database, settings):
    """Return a function that starts a reader in this process."""
    started = []

    def start(**changed):
        reader = KafkaReader(database, settings.replaced(**changed))
        started.append(reader)
        reader.start()
        return reader

    yield start
    for reader in started:
        reader.stop()


@pytest.fixture
def writer(settings):
    writer = KafkaWriter(settings)
    writer.start()
    yield writer
    writer.close()


@pytest.fixture
def event_ids(database):
    """Return a function that gives the event ids in the table, in the order of their numbers."""

    def read():
        with database.read() as connection:
            return list(
                connection.execute(
                    sa.text("SELECT event_id FROM user_interactions ORDER BY id")
                ).scalars()
            )

    return read


def send(bootstrap, topic, *values, key=b"k", headers=None):
    """Put values on a topic as another producer would, and wait until they are there."""
    refused = []
    producer = Producer({"bootstrap.servers": bootstrap, "message.max.bytes": 32_000_000})
    for value in values:
        value = json.dumps(value).encode() if isinstance(value, dict) else value
        producer.produce(
            topic,
            value,
            key,
            headers=headers,
            on_delivery=lambda error, _: refused.append(error) if error else None,
        )
    assert producer.flush(60) == 0
    assert refused == []


def messages(numbers, **fields):
    return [{**GOOD, "event_id": f"e{number}", **fields} for number in numbers]


def clicks(numbers):
    return [Interaction(f"e{n}", f"u{n % 7}", f"i{n % 5}", "click", 1.0, n) for n in numbers]


# From HTTP into the table


@pytest.fixture
def site(tmp_path, broker):
    """Give an installation whose interactions come in through Kafka; nothing runs yet."""
    with Installation(tmp_path, **kafka_environ(broker.bootstrap)) as made:
        made.migrate()
        yield made


def stored(site, user_id):
    answer = site.server.get(f"/user_interactions/{user_id}", params={"n": 1000})
    return answer.json()["interactions"]


def test_what_is_answered_202_is_in_the_table_shortly(site):
    site.start_worker()
    site.start_server()
    one = site.server.post("/user_interactions", json={**GOOD, "event_id": "one"})
    assert one.status_code == 202
    assert one.json() == {
        "status": "ok",
        "accepted": 1,
        "duplicates": 0,
        "message": "Acknowledged by the broker; in the table shortly.",
    }
    batch = messages(range(500), user_id="batch", weight=2.5, occurred_at="2025-12-04T23:42:15Z")
    assert site.server.post("/user_interactions", json=batch).json()["accepted"] == 500
    mixed = site.server.post(
        "/user_interactions?on_error=skip", json=[{**GOOD, "event_id": "two"}, {"user_id": "u"}]
    )
    assert mixed.status_code == 202
    assert mixed.json()["accepted"] == len(mixed.json()["refused"]) == 1
    refused = site.server.post("/user_interactions", json=[GOOD, {"user_id": "u"}])
    assert refused.status_code == 422
    rows = wait_until(
        lambda: (rows := stored(site, "batch")) and len(rows) == 500 and rows, "500 rows"
    )
    assert {row["event_id"] for row in rows} == {f"e{number}" for number in range(500)}
    assert {(row["weight"], row["occurred_at"]) for row in rows} == {
        (2.5, "2025-12-04T23:42:15.000000Z")
    }
    wait_until(
        lambda: {row["event_id"] for row in stored(site, "u")} == {"one", "two"},
        "single posts are in the table",
    )
    # Sent again they are accepted, and counted once.
    assert site.server.post("/user_interactions", json=batch).status_code == 202
    wait_until(
        lambda: (
            'reckeeper_kafka_records_total{outcome="duplicate"} 500.0'
            in site.worker.get("/metrics").text
        ),
        "the worker has seen the duplicates",
    )
    assert len(stored(site, "batch")) == 500
    ready = site.worker.get("/health/ready").json()
    assert ready["problems"] == []
    assert "reckeeper_kafka_lag_messages" in site.worker.get("/metrics").text


def test_the_watchlist_follows_every_change(site):
    site.start_worker()
    site.start_server()

    def listed():
        return [item["item_id"] for item in site.server.get("/watchlist/u").json()["items"]]

    with Client(f"http://127.0.0.1:{site.server_port}") as client:
        # The table may lag behind: the last change counts, and none is taken for one too many.
        for _ in range(5):
            assert client.add_to_watchlist("u", "a").accepted == 1
            assert client.remove_from_watchlist("u", "a").accepted == 1
        assert client.add_to_watchlist("u", "b").accepted == 1
        wait_until(lambda: listed() == ["b"], "only b is on the watchlist")
        assert len(client.interactions("u", n=100)) == 11


def test_the_documentation_names_202(site):
    site.start_server()
    paths = site.server.get("/openapi.json").json()["paths"]
    for path, method in (
        ("/user_interactions", "post"),
        ("/watchlist/{user_id}/{item_id}", "post"),
        ("/watchlist/{user_id}/{item_id}", "delete"),
    ):
        responses = paths[path][method]["responses"]
        assert "acknowledged by the broker" in responses["202"]["description"]
        assert responses["200"]["description"] == "Done"


@pytest.mark.fault(
    "The broker is killed, or hangs",
    seen="posts: 503 with `Retry-After`; readiness of the worker says so",
    kept="every row that was answered with 202",
    heals="by itself, when it is back",
)
def test_a_broker_that_is_away_or_hangs_is_a_503_and_nothing_that_was_answered_is_lost(
    tmp_path, broker_to_harm
):
    broker = broker_to_harm
    with Installation(tmp_path, **kafka_environ(broker.bootstrap)) as site:
        site.migrate()
        worker = site.start_worker()
        site.start_server()
        numbers = itertools.count()
        acknowledged = set()

        def post():
            event_id = f"e{next(numbers)}"
            answer = site.server.post("/user_interactions", json={**GOOD, "event_id": event_id})
            if answer.status_code == 202:
                acknowledged.add(event_id)
            return answer

        def is_told():
            return any(
                "Kafka" in one for one in site.worker.get("/health/ready").json()["problems"]
            )

        assert post().status_code == 202
        for stop, start in ((broker.kill, broker.start), (broker.suspend, broker.resume)):
            stop()
            answer = post()
            assert answer.status_code == 503
            assert answer.json()["code"] == "unavailable"
            assert answer.headers["Retry-After"] == "5"
            assert "event_id" in answer.json()["message"]
            wait_until(is_told, "the worker says that the broker is unavailable")
            assert site.worker.get("/health/live").status_code == 200
            start()
            wait_until(lambda: post().status_code == 202, "posts are taken again", seconds=60)
            wait_until(lambda: not is_told(), "the worker is well again", seconds=60)
        wait_until(
            lambda: acknowledged <= {row["event_id"] for row in stored(site, "u")},
            "all that was acknowledged is stored",
            seconds=120,
        )
        # A state is logged once, not each try.
        assert 1 <= len(worker.events("kafka_unavailable")) <= 4
        assert "Connection refused" not in "".join(
            line for line in worker.text().splitlines() if '"librdkafka"' in line
        )


@pytest.mark.fault(
    "Server and worker start without a broker",
    seen="posts: 503; readiness `degraded`",
    kept="everything",
    heals="by itself, when it is there",
)
def test_a_server_starts_without_a_broker_and_takes_posts_once_it_is_there(tmp_path):
    broker = Broker()
    with Installation(tmp_path, **kafka_environ(broker.bootstrap)) as site:
        site.migrate()
        worker = site.start_worker()
        site.start_server()
        answer = site.server.post("/user_interactions", json=GOOD)
        assert answer.status_code == 503
        assert answer.headers["Retry-After"] == "5"
        assert "does not answer" in answer.json()["message"]
        readiness = site.server.get("/health/ready").json()
        assert readiness["status"] == "degraded"
        assert "does not answer" in readiness["problems"][0]
        ready = site.worker.get("/health/ready").json()
        wait_until(
            lambda: (
                "does not answer" in " ".join(ready["problems"])
                or ready.update(site.worker.get("/health/ready").json())
            ),
            "the worker tells",
        )
        with broker:
            wait_until(
                lambda: site.server.post("/user_interactions", json=GOOD).status_code == 202,
                "posts are taken",
                seconds=60,
            )
            wait_until(lambda: stored(site, "u"), "the row is there", seconds=60)
            assert site.server.get("/health/ready").json()["problems"] == []
            assert worker.stop() == 0


# Poison


@pytest.mark.fault(
    "Messages that cannot be read are among good ones",
    seen="dead letters with their reasons",
    kept="every good message",
    heals="`reckeeper dlq` lists them and sends them again",
)
def test_each_poison_is_a_dead_letter_with_its_reason_and_all_good_ones_are_stored(
    broker, settings, start_reader, event_ids, database
):
    admin = AdminClient({"bootstrap.servers": broker.bootstrap})
    large = NewTopic(settings.kafka_topic, 3, config={"max.message.bytes": "20000000"})
    admin.create_topics([large])[settings.kafka_topic].result()
    ten_megabytes = random.Random(1).randbytes(10_000_000)
    poison = [
        (b"not json", "not_json"),
        (b'{"version": 2, "user_id": "u"}', "unknown_version"),
        (b'{"user_id": "u", "item_id": "i"}', "invalid_data"),
        (ten_megabytes, "too_large"),
        (b'{"user_id": "\xff\xfe"}', "not_utf8"),
        (None, "no_value"),
        (b"[]", "not_an_object"),
        (b"17", "not_an_object"),
        (b'{"user_id": "\\ud83d", "item_id": "i", "interaction_type": "click"}', "not_json"),
        (b"[" * 50_000, "not_json"),
    ]
    start_reader()
    for number, (value, _) in enumerate(poison):
        send(broker.bootstrap, settings.kafka_topic, *messages([number]))
        key = None if value is None else b"\xff key"
        send(
            broker.bootstrap,
            settings.kafka_topic,
            value,
            key=key,
            headers=[("trace", b"\x00\x01")],
        )
    send(broker.bootstrap, settings.kafka_topic, {**GOOD, "event_id": "last"}, key=None)
    good = {f"e{number}" for number in range(len(poison))} | {"last"}
    wait_until(lambda: set(event_ids()) == good, "all good ones are stored")
    letters = wait_until(
        lambda: (
            len(found := list(dead_letters.letters(database, settings))) == len(poison) and found
        ),
        "a letter for each",
    )
    assert sorted(((one.value, one.code) for one in letters), key=repr) == sorted(poison, key=repr)
    for letter in letters:
        assert letter.key == (None if letter.value is None else b"\xff key")
        assert letter.headers == [("trace", b"\x00\x01")]
        assert letter.topic == settings.kafka_topic
        assert letter.reason
        assert letter.full_bytes is None
    assert len({(letter.partition, letter.offset) for letter in letters}) == len(poison)


def test_a_topic_of_dead_letters_that_was_deleted_is_made_anew_with_its_limits(settings, database):
    with Broker(properties="auto.create.topics.enable=false\n") as broker:
        streaming = with_kafka(settings, broker.bootstrap)
        topic = topics.dead_letter_topic(streaming)
        admin = AdminClient({"bootstrap.servers": broker.bootstrap})
        reader = KafkaReader(database, streaming)
        reader.start()

        def codes():
            with contextlib.suppress(NotFoundError):
                return [letter.code for letter in dead_letters.letters(database, streaming)]

        try:
            wait_until(reader.lag, "it reads", seconds=60)
            send(broker.bootstrap, streaming.kafka_topic, b"bad")
            wait_until(lambda: codes() == ["not_json"], "a first letter")
            admin.delete_topics([topic])[topic].result()
            send(broker.bootstrap, streaming.kafka_topic, b"[]", *messages([1]))
            wait_until(lambda: codes() == ["not_an_object"], "a second one", seconds=60)
            wait_until(lambda: not sum(reader.lag().values()), "nothing waits", seconds=60)
        finally:
            reader.stop()
        resource = ConfigResource(ConfigResource.Type.TOPIC, topic)
        limits = admin.describe_configs([resource])[resource].result()
        assert limits["max.message.bytes"].value == str(topics.MAX_LETTER_BYTES)


def test_a_type_that_is_taken_no_more_becomes_a_dead_letter(
    writer, start_reader, event_ids, database, settings, monkeypatch
):
    monkeypatch.setattr("reckeeper.events.kafka.store._TYPES_SECONDS", 0.0)
    start_reader()
    writer.append(clicks(range(10))).result()
    wait_until(lambda: len(event_ids()) == 10, "they are stored")
    policy.store(database, settings, {"weights": {"view": 1.0}}, actor="test")
    writer.append(clicks(range(10, 13))).result()

    def letters():
        return [letter.reason for letter in dead_letters.letters(database, settings)]

    wait_until(lambda: len(letters()) == 3, "they are dead letters")
    assert all("'click' has no weight" in reason for reason in letters())
    assert len(event_ids()) == 10


def test_a_letter_that_is_too_large_for_its_topic_is_cut(
    broker, settings, start_reader, event_ids, database
):
    admin = AdminClient({"bootstrap.servers": broker.bootstrap})
    made = admin.create_topics(
        [
            NewTopic(settings.kafka_topic, 1, config={"max.message.bytes": "20000000"}),
            NewTopic(topics.dead_letter_topic(settings), 1, config={"max.message.bytes": "9000"}),
        ]
    )
    for future in made.values():
        future.result()
    start_reader()
    value = random.Random(2).randbytes(3_000_000)
    send(broker.bootstrap, settings.kafka_topic, b"small", value, *messages([1]))
    wait_until(lambda: event_ids() == ["e1"], "the good one is stored")
    small, large = dead_letters.letters(database, settings)
    assert (small.value, small.full_bytes) == (b"small", None)
    assert large.value == value[:1024]
    assert large.full_bytes == len(value)
    assert large.code == "too_large"
    assert dead_letters.replay(database, settings, actor="test") == dead_letters.Replayed(1, 1)


@pytest.fixture
def shown(site, monkeypatch):
    """Return a function that gives the dead letters, as the page shows them and as a client does.

    The server must run.
    """
    monkeypatch.setenv("RECKEEPER_SERVER_URL", f"http://127.0.0.1:{site.server_port}")
    st.cache_resource.clear()

    def read():
        at = test_frontend.opened("pages/3_Interactions.py")
        rows = test_frontend.rows(at, "Records from Kafka that were refused")
        with Client(f"http://127.0.0.1:{site.server_port}") as client:
            answer = client.dead_letters()
        assert answer.uses_kafka
        return rows, answer.letters

    yield read
    st.cache_resource.clear()


def test_letters_are_listed_and_sent_again_once_their_type_is_known(site, broker, shown):
    site.start_worker()
    topic = site.environ["RECKEEPER_KAFKA_TOPIC"]
    send(broker.bootstrap, topic, b"x", {**GOOD, "interaction_type": "purchase"})

    def letters():
        return json.loads(site.run("dlq", "list", "--json").stdout)

    found = wait_until(lambda: len(found := letters()) == 2 and found, "two letters")
    assert {letter["code"] for letter in found} == {"not_json", "invalid_data"}
    assert not any(letter["replayed"] for letter in found)
    (purchase,) = (letter for letter in found if letter["code"] == "invalid_data")
    listed = site.run("dlq", "list").stdout
    assert "'purchase' has no weight" in listed
    site.start_server()
    rows, told = shown()
    places = {f"{letter['partition']}:{letter['offset']}": letter for letter in found}
    assert {letter.place for letter in told} == {row["place"] for row in rows} == places.keys()
    for letter, row in zip(told, rows, strict=True):
        assert (letter.place, letter.value, letter.reason) == tuple(
            row[name] for name in ("place", "value", "why")
        )
        assert letter.reason == places[letter.place]["reason"]
        assert (letter.is_replayed, row["replayed"]) == (False, "")
    site.run("policy", "set", "weights.purchase=3")
    place = f"{purchase['partition']}:{purchase['offset']}"
    assert json.loads(site.run("dlq", "replay", place, "--json").stdout) == {"sent": 1, "cut": 0}
    (row,) = wait_until(lambda: stored(site, "u"), "the purchase is in the table")
    # It has the name and the time that it would have had at first.
    assert row["event_id"].startswith(f"{topic}-{purchase['partition']}-{purchase['offset']}-")
    assert row["interaction_type"] == "purchase"
    assert row["occurred_at"] == purchase["timestamp"]
    # Sent again with all others it is a duplicate; what is refused again is another letter.
    assert json.loads(site.run("dlq", "replay", "--json").stdout) == {"sent": 2, "cut": 0}
    wait_until(lambda: len(letters()) == 3, "the other one came back")
    assert [letter["replayed"] for letter in letters()] == [True, True, False]
    rows, told = shown()
    assert [letter.is_replayed for letter in told] == [False, True, True]
    assert [row["replayed"] for row in rows] == ["", "yes", "yes"]
    assert json.loads(site.run("dlq", "replay", "--json").stdout) == {"sent": 1, "cut": 0}
    assert len(stored(site, "u")) == 1
    missing = site.run("dlq", "replay", "9:9", check=False)
    assert missing.returncode == 2
    assert "no dead letter 9:9" in missing.stderr
    assert site.run("dlq", "replay", "nine", check=False).returncode == 2


# Reading again


def test_replay_adds_what_is_missing_and_changes_nothing(
    settings, writer, start_reader, event_ids, database
):
    reader = start_reader()
    writer.append(clicks(range(100))).result()
    send(settings.kafka_bootstrap_servers, settings.kafka_topic, b"poison")
    wait_until(lambda: len(event_ids()) == 100, "all are stored")
    reader.stop()
    with database.write() as connection:
        connection.execute(sa.text("DELETE FROM user_interactions WHERE event_id IN ('e3', 'e50')"))
    kept = event_ids()
    steps = []
    report = replay(
        database,
        settings,
        start=0,
        actor="test",
        on_progress=lambda *step: steps.append(step),
    )
    assert vars(report) == {"read": 101, "new": 2, "duplicates": 98, "refused": 1}
    assert steps[-1] == (101, 101, 101)
    assert event_ids()[:-2] == kept
    assert set(event_ids()[-2:]) == {"e3", "e50"}
    now = datetime.now(UTC)
    hour = timedelta(hours=1)
    for start, n_read in ((10**12, 0), (now + hour, 0), (now - hour, 101)):
        report = replay(database, settings, start=start, actor="test")
        assert (report.read, report.new) == (n_read, 0)


def test_the_command_replays(site):
    worker = site.start_worker()
    site.start_server()
    assert site.server.post("/user_interactions", json=messages(range(20))).status_code == 202
    wait_until(lambda: len(stored(site, "u")) == 20, "all are stored")
    assert worker.stop() == 0
    with sqlite3.connect(site.data_dir / "reckeeper.sqlite3") as connection:
        connection.execute("DELETE FROM user_interactions")
    connection.close()
    done = json.loads(site.run("replay", "--from", "2020-01-01T00:00:00Z", "--json").stdout)
    assert done == {"read": 20, "new": 20, "duplicates": 0, "refused": 0}
    assert "20 were there already" in site.run("replay", "--from", "0").stdout
    refused = site.run("replay", "--from", "yesterday", check=False)
    assert refused.returncode == 2
    assert "2026-01-31T12:00:00Z" in refused.stderr
    without = site.run("replay", "--from", "0", check=False, KAFKA_BOOTSTRAP_SERVERS="")
    assert without.returncode == 2
    assert "KAFKA_BOOTSTRAP_SERVERS" in without.stderr


# What dies, and what is unavailable


@pytest.mark.fault(
    "The worker is killed again and again while it reads",
    seen="rows arrive later",
    kept="every message, once",
    heals="by itself, from where the database says",
)
def test_a_worker_that_is_killed_again_and_again_loses_nothing_and_doubles_nothing(site, broker):
    topic = site.environ["RECKEEPER_KAFKA_TOPIC"]
    worker = site.start_worker()
    n_sent = 0
    chance = random.Random(3)
    stop = threading.Event()

    def produce():
        nonlocal n_sent
        producer = Producer({"bootstrap.servers": broker.bootstrap, "enable.idempotence": True})
        while not stop.wait(0.1):
            for _ in range(200):
                # Without an event id: twice read must be once stored.
                row = {**GOOD, "user_id": f"u{n_sent % 17}", "item_id": f"{n_sent}"}
                producer.produce(topic, json.dumps(row), row["user_id"])
                n_sent += 1
            producer.poll(0)
        assert producer.flush(60) == 0

    sending = threading.Thread(target=produce)
    sending.start()
    file = site.data_dir / "reckeeper.sqlite3"

    def rows(columns="user_id, CAST(item_id AS INTEGER)"):
        with sqlite3.connect(f"file:{file}?mode=ro", uri=True) as connection:
            found = connection.execute(
                f"SELECT {columns} FROM user_interactions ORDER BY id"
            ).fetchall()
        connection.close()
        return found

    def n_rows():
        return rows("count(*)")[0][0]

    try:
        for _ in range(3):
            before = n_rows()
            more = chance.randrange(1, 3000)
            wait_until(
                lambda before=before, more=more: n_rows() > before + more,
                "rows come",
                seconds=60,
            )
            worker.kill()
            worker = site.start_worker()
    finally:
        stop.set()
        sending.join()
    wait_until(lambda: n_rows() >= n_sent, "all rows are there", seconds=60)
    found = rows()
    assert sorted(number for _, number in found) == list(range(n_sent))
    of_user = collections.defaultdict(list)
    for user_id, number in found:
        of_user[user_id].append(number)
    assert all(numbers == sorted(numbers) for numbers in of_user.values()), "per-user order"
    assert worker.stop() == 0
    assert worker.events("kafka_reader_stopped")


READ = """
import sys, threading
from reckeeper import storage
from reckeeper.config import Settings
from reckeeper.events.kafka import KafkaReader

settings = Settings.from_env()
reader = KafkaReader(storage.open_database(settings), settings)
reader.start()
sys.stdin.read()
reader.stop()
"""


@pytest.mark.fault(
    "One of three workers is killed",
    seen="rows arrive later",
    kept="every message, once",
    heals="the others take over its partitions",
)
def test_of_three_workers_one_dies_and_the_others_take_over(
    start_python, settings, writer, event_ids
):
    workers = [start_python(READ) for _ in range(3)]
    admin = AdminClient({"bootstrap.servers": settings.kafka_bootstrap_servers})

    def members():
        (future,) = admin.describe_consumer_groups([settings.kafka_group]).values()
        try:
            found = future.result().members
        except KafkaException:  # a broker that has just started has no coordinator yet
            return None
        return sorted(len(one.assignment.topic_partitions) for one in found)

    wait_until(lambda: members() == [1, 1, 1], "each has a partition", seconds=60)
    futures = []
    for batch in range(40):
        futures.append(writer.append(clicks(range(batch * 50, batch * 50 + 50))))
        if batch == 20:
            futures[-1].result()
            workers[0].send_signal(signal.SIGKILL)
    for future in futures:
        assert future.result().accepted == 50
    wait_until(lambda: len(event_ids()) >= 2000, "all are stored", seconds=60)
    assert sorted(event_ids()) == sorted(f"e{number}" for number in range(2000))
    wait_until(lambda: members() == [1, 2], "two share the partitions", seconds=60)
    for worker in workers:
        worker.communicate(timeout=20)  # closes what they wait for
    assert [worker.returncode for worker in workers] == [-signal.SIGKILL, 0, 0]
    wait_until(lambda: members() == [], "they have left in good order")


@pytest.mark.fault(
    "The database takes no rows while the worker reads",
    seen="readiness of the worker says so, and how far it is behind",
    kept="every message",
    heals="by itself",
)
def test_a_database_that_fails_is_waited_for(
    settings, writer, start_reader, event_ids, past_reckeeper, database
):
    writer.append(clicks(range(10))).result()
    with past_reckeeper.begin() as connection:
        connection.execute(sa.text("ALTER TABLE user_interactions RENAME TO away"))
    reader = start_reader(kafka_max_lag=5)
    wait_until(lambda: reader.problems(), "it says what is wrong")
    assert any("database does not take" in problem for problem in reader.problems())
    writer.append(clicks(range(10, 30))).result()
    send(settings.kafka_bootstrap_servers, settings.kafka_topic, b"poison")
    wait_until(lambda: sum(reader.lag().values()) == 31, "it knows how far it is behind")
    assert any(
        "behind the topic" in problem and "31" in problem and "RECKEEPER_KAFKA_MAX_LAG" in problem
        for problem in reader.problems()
    )
    # Another member comes and goes meanwhile.
    other = start_reader()
    wait_until(lambda: other.problems(), "the other one fails too")
    other.stop()
    with past_reckeeper.begin() as connection:
        connection.execute(sa.text("ALTER TABLE away RENAME TO user_interactions"))
    wait_until(lambda: len(event_ids()) == 30, "all are stored")
    wait_until(lambda: not reader.problems(), "all is well")
    assert len(list(dead_letters.letters(database, settings))) == 1


def test_stopping_is_quick_whoever_is_away(settings, database, past_reckeeper, broker_to_harm):
    broker = broker_to_harm
    streaming = with_kafka(settings, broker.bootstrap)
    readers = [KafkaReader(database, streaming) for _ in range(3)]
    writer = KafkaWriter(streaming)
    writer.start()
    for reader in readers[:2]:
        reader.start()
    wait_until(lambda: all(reader.lag() for reader in readers[:2]), "they read", seconds=60)
    began = clock.now()
    readers[0].stop()
    assert clock.now() - began < 5_000_000
    wait_until(lambda: len(readers[1].lag()) == 3, "the other one takes over")
    # The database does not answer, and the broker hangs.
    with past_reckeeper.connect() as holder:
        holder.exec_driver_sql("BEGIN IMMEDIATE")
        writer.append(clicks(range(10))).result()
        wait_until(lambda: sum(readers[1].lag().values()), "it is behind")
        broker.suspend()
        began = clock.now()
        readers[1].stop()
        assert clock.now() - began < 9_000_000
        future = writer.append(clicks(range(10, 20)))
        writer.close()
        with pytest.raises(UnavailableError, match="event_id"):
            future.result(timeout=1)
        with pytest.raises(UnavailableError, match="stopping"):
            writer.append(clicks([1]))
    broker.resume()
    readers[2].start()
    wait_until(lambda: sum(readers[2].lag().values()) == 0 and readers[2].lag(), "well again")
    readers[2].stop()


# Positions


def test_a_reader_goes_on_where_the_table_is_and_not_where_the_group_says(
    settings, writer, start_reader, event_ids, database
):
    reader = start_reader()
    writer.append(clicks(range(50))).result()
    wait_until(lambda: len(event_ids()) == 50, "all are stored")
    reader.stop()
    # A backup of the table is put back; the group in Kafka knows nothing of it.
    with database.write() as connection:
        connection.execute(sa.text("DELETE FROM user_interactions"))
        connection.execute(sa.text("DELETE FROM stream_offsets"))
    start_reader()
    wait_until(lambda: len(event_ids()) == 50, "they are read again")


def test_a_table_that_is_put_back_under_a_reader_loses_nothing(
    writer, start_reader, event_ids, database
):
    start_reader()
    writer.append(clicks(range(50))).result()
    wait_until(lambda: len(event_ids()) == 50, "all are stored")
    with database.write() as connection:
        connection.execute(sa.text("DELETE FROM user_interactions"))
        connection.execute(sa.text("DELETE FROM stream_offsets"))
    # What comes next does not follow what is stored: it must not pass for all that there is.
    writer.append(clicks(range(50, 100))).result()
    wait_until(lambda: len(event_ids()) == 100, "all are read again")
    assert len(set(event_ids())) == 100


@pytest.mark.fault(
    "The topic is deleted and made anew",
    seen="nothing",
    kept="every message of both",
    heals="by itself: it is read from its start",
)
def test_a_topic_that_is_made_anew_is_read_from_its_start(
    settings, broker, writer, start_reader, event_ids
):
    reader = start_reader()
    rows = [{**GOOD, "item_id": str(number)} for number in range(20)]
    send(broker.bootstrap, settings.kafka_topic, *rows)
    wait_until(lambda: len(event_ids()) == 20, "the first are stored")
    admin = AdminClient({"bootstrap.servers": broker.bootstrap})

    def make_anew():
        admin.delete_topics([settings.kafka_topic])[settings.kafka_topic].result()
        wait_until(
            lambda: settings.kafka_topic not in admin.list_topics(timeout=10).topics, "it is gone"
        )
        topics.ensure(settings)

    reader.stop()
    make_anew()
    # As many offsets as before, and more: none of them was read.
    send(broker.bootstrap, settings.kafka_topic, *rows, *rows)
    reader = start_reader()
    wait_until(lambda: len(event_ids()) == 60, "all of the new topic are stored")
    # While a reader runs, too.
    make_anew()
    send(broker.bootstrap, settings.kafka_topic, *rows)
    wait_until(lambda: len(event_ids()) == 80, "the reader has noticed", seconds=90)


def test_a_position_that_the_topic_does_not_have_begins_at_the_start(
    settings, broker, writer, start_reader, event_ids, database
):
    writer.append(clicks(range(30))).result()
    admin = AdminClient({"bootstrap.servers": broker.bootstrap})
    topic_id = topics.topic_id(admin, settings, settings.kafka_topic)
    ahead = dict.fromkeys(range(3), 1_000_000)
    with database.write() as connection:
        storage.stream_offsets.advance(
            connection, settings.kafka_topic, topic_id=topic_id, offsets=ahead
        )
    reader = start_reader()
    wait_until(lambda: len(event_ids()) == 30, "all are stored")
    reader.stop()
    # From then on the positions are true again.
    with database.read() as connection:
        positions = storage.stream_offsets.get(connection, settings.kafka_topic, topic_id=topic_id)
    assert sum(positions.values()) == 30


# Other formats, and settings


def test_a_topic_of_another_format_is_read_by_a_mapping(tmp_path, broker):
    environ = kafka_environ(broker.bootstrap) | {
        "RECKEEPER_KAFKA_FIELDS": "user_id=customer.id,item_id=sku,interaction_type='click',"
        "occurred_at=ts:ms"
    }
    with Installation(tmp_path, **environ) as site:
        site.migrate()
        site.start_worker()
        site.start_server()
        foreign = {"customer": {"id": 17}, "sku": "i7", "ts": 1_764_891_735_123, "page": "/"}
        send(broker.bootstrap, environ["RECKEEPER_KAFKA_TOPIC"], foreign)
        # What the server sends beside it is known as ours.
        own = site.server.post("/user_interactions", json={**GOOD, "user_id": "own"})
        assert own.status_code == 202
        (row,) = wait_until(lambda: stored(site, "17"), "the foreign row is there")
        assert row["item_id"] == "i7"
        assert row["occurred_at"] == "2025-12-04T23:42:15.123000Z"
        wait_until(lambda: stored(site, "own"), "our own row is there")


@pytest.mark.parametrize(
    ("options", "variable"),
    [
        ({"sasl.foo": "1"}, "KAFKA_SASL_FOO"),
        ({"security.protocol": "s3cret"}, "KAFKA_SECURITY_PROTOCOL"),
        ({"socket.timeout.ms": "soon"}, "KAFKA_SOCKET_TIMEOUT_MS"),
    ],
)
def test_an_option_that_cannot_be_used_is_named(settings, database, options, variable):
    settings = settings.replaced(kafka_options=options)
    for make in (
        lambda: KafkaWriter(settings),
        lambda: KafkaReader(database, settings),
    ):
        with pytest.raises(ConfigError, match=variable) as caught:
            make()
        assert "s3cret" not in caught.value.message


def test_what_the_broker_has_against_a_client_is_told(settings, database):
    refused = {
        "security.protocol": "SASL_PLAINTEXT",
        "sasl.mechanism": "PLAIN",
        "sasl.username": "u",
        "sasl.password": "s3cret",
    }
    settings = settings.replaced(kafka_options=refused)
    reader = KafkaReader(database, settings)
    writer = KafkaWriter(settings)
    reader.start()
    writer.start()
    wait_until(
        lambda: any("SASL PLAIN mechanism" in problem for problem in reader.problems()),
        "the reader tells",
    )
    with pytest.raises(UnavailableError, match="SASL PLAIN mechanism") as caught:
        writer.append(clicks([1]))
    assert "s3cret" not in " ".join([caught.value.message, *reader.problems()])
    reader.stop()
    writer.close()


def test_a_producer_that_failed_for_good_is_replaced(writer, start_reader, event_ids):
    start_reader()
    assert writer.append(clicks(range(10))).result().accepted == 10
    writer._on_error(KafkaError(KafkaError._FATAL, "out of sequence", True))

    def is_taken():
        with contextlib.suppress(UnavailableError):
            return writer.append(clicks(range(10, 20))).result().accepted == 10

    wait_until(is_taken, "interactions are taken again")
    wait_until(lambda: len(event_ids()) == 20, "all are stored")


def test_closing_while_requests_come_leaves_none_unanswered(writer, start_reader, event_ids):
    def send(thread):
        futures = []
        try:
            while True:
                number = thread * 1_000_000 + len(futures)
                futures.append(writer.append(clicks([number])))
        except UnavailableError:
            return futures

    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        senders = [threads.submit(send, thread) for thread in range(4)]
        writer.append(clicks([9_000_000])).result()
        writer.close()
        answers = [future for sender in senders for future in sender.result()]
    accepted = sum(future.exception(timeout=20) is None for future in answers)
    assert accepted
    start_reader()
    wait_until(lambda: len(event_ids()) >= accepted + 1, "all that was acknowledged is stored")


def test_topics_are_made_as_the_settings_say(settings):
    settings = settings.replaced(kafka_partitions=5)
    topics.ensure(settings)
    topics.ensure(settings)
    admin = AdminClient({"bootstrap.servers": settings.kafka_bootstrap_servers})
    found = admin.list_topics(timeout=10).topics
    assert len(found[settings.kafka_topic].partitions) == 5
    assert len(found[f"{settings.kafka_topic}.dlq"].partitions) == 1


SECURED = """
listeners=SASL_SSL://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=SASL_SSL://127.0.0.1:{port}
listener.security.protocol.map=CONTROLLER:PLAINTEXT,SASL_SSL:SASL_SSL
inter.broker.listener.name=SASL_SSL
sasl.enabled.mechanisms=PLAIN
sasl.mechanism.inter.broker.protocol=PLAIN
listener.name.sasl_ssl.plain.sasl.jaas.config=\
org.apache.kafka.common.security.plain.PlainLoginModule required \
username="keeper" password="s3cret, x=y" user_keeper="s3cret, x=y";
ssl.keystore.type=PEM
ssl.keystore.location=$folder/broker.pem
ssl.truststore.type=PEM
ssl.truststore.location=$folder/ca.pem
"""


def test_a_cluster_with_tls_and_passwords_is_used_by_the_names_of_librdkafka(tmp_path):
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", tmp_path / "key.pem", "-out", tmp_path / "ca.pem"),
        ],
        check=True,
        capture_output=True,
    )
    both = (tmp_path / "key.pem").read_text() + (tmp_path / "ca.pem").read_text()
    (tmp_path / "broker.pem").write_text(both)
    secured = SECURED.replace("$folder", str(tmp_path))
    with Broker(properties=secured) as broker:
        environ = kafka_environ(broker.bootstrap) | {
            "KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
            "KAFKA_SASL_MECHANISM": "PLAIN",
            "KAFKA_SASL_USERNAME": "keeper",
            "KAFKA_SASL_PASSWORD": "s3cret, x=y",
            "KAFKA_SSL_CA_LOCATION": str(tmp_path / "ca.pem"),
        }
        with Installation(tmp_path / "site", **environ) as made:
            made.folder.mkdir()
            made.migrate()
            worker, server = made.start_worker(), made.start_server()
            answer = made.server.post("/user_interactions", json=GOOD)
            assert answer.status_code == 202, answer.text

            def is_there():
                return made.server.get("/user_interactions/u").json()["interactions"]

            wait_until(is_there, "the interaction is in the table")
            assert "s3cret" not in worker.text() + server.text()
            server.stop()
            server = made.start_server(KAFKA_SASL_PASSWORD="guessed")
            answer = made.server.post("/user_interactions", json=GOOD)
            assert answer.status_code == 503
            assert "uthentication" in answer.json()["message"]
            assert "guessed" not in server.text() + answer.text
            server.stop()
            made.start_server(KAFKA_SSL_CA_LOCATION="")
            assert made.server.post("/user_interactions", json=GOOD).status_code == 503


def test_what_kafka_delivers_again_of_somebody_who_was_erased_stays_away(
    settings, database, start_reader, event_ids
):
    registry = Registry(database, settings.model_dir)
    start_reader()
    old = {**GOOD, "user_id": "erased-person", "event_id": "old"}  # its time is the record's
    letter = {**old, "event_id": "letter", "interaction_type": "unknown"}
    send(settings.kafka_bootstrap_servers, settings.kafka_topic, old, letter)
    wait_until(lambda: event_ids() == ["old"], "it is stored")
    wait_until(lambda: len(dead_letters.latest(database, settings, n=9)) == 1, "it is refused")
    receipt = people.erase(database, registry, settings, "erased-person", actor="test")
    assert receipt.removed["user_interactions"] == 1
    assert "1 letters that name the person" in receipt.remains[0]
    assert dead_letters.latest(database, settings, n=9) == []
    replayed = replay(database, settings, start=0, actor="test")
    assert (replayed.read, replayed.new) == (2, 0)
    policy.store(database, settings, {"weights": {"click": 1, "unknown": 1}}, actor="test")
    assert dead_letters.replay(database, settings, actor="test").sent == 0
    late = {**old, "event_id": "late", "occurred_at": "2020-01-01T00:00:00Z"}
    new = {**old, "event_id": "new"}
    send(settings.kafka_bootstrap_servers, settings.kafka_topic, late, new)
    wait_until(lambda: event_ids() == ["new"], "the new one is stored")
