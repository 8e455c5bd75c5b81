"""The database and the broker that other tests, and users, start."""

import itertools
import os
import shutil
import subprocess
import sys

import psutil
import psycopg
import pytest
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient
from tests.services import KAFKA_LIBS, Broker, PostgreSQL, quick_start
from tests.system.installation import ROOT, free_port, is_alive, is_listening, wait_until

names = (f"made_{number}" for number in itertools.count())


@pytest.fixture
def database(postgresql):
    name = next(names)
    postgresql.create(name)
    yield name
    postgresql.drop(name)


def send(bootstrap, topic, *values):
    """Send messages and wait until the broker has acknowledged all."""
    refused = []
    producer = Producer({"bootstrap.servers": bootstrap, "acks": "all"})
    for value in values:
        producer.produce(
            topic, value, on_delivery=lambda error, _: refused.append(error) if error else None
        )
    assert producer.flush(60) == 0
    assert refused == []


def receive(bootstrap, topic, count):
    """Return the first `count` messages of a topic."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": next(names),
            "auto.offset.reset": "earliest",
        }
    )
    consumer.subscribe([topic])
    found = []

    def all_are_there():
        message = consumer.poll(1)
        if message is not None and message.error() is None:
            found.append(message.value())
        return len(found) >= count

    try:
        wait_until(all_are_there, f"{count} messages of {topic}", seconds=60)
    finally:
        consumer.close()
    return found


def test_postgresql_answers_with_the_password_alone(postgresql, database):
    with psycopg.connect(postgresql.url(database).replace("+psycopg", "")) as connection:
        found = connection.execute("SELECT version()").fetchone()[0]
        shown = {
            name: connection.execute(f"SHOW {name}").fetchone()[0]
            for name in ("server_encoding", "listen_addresses")
        }
    assert found.startswith("PostgreSQL ")
    assert shown == {"server_encoding": "UTF8", "listen_addresses": "127.0.0.1"}
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(
            host="127.0.0.1", port=postgresql.port, user=postgresql.ROLE, password="another"
        )


def test_a_database_is_a_copy_of_its_template(postgresql, database):
    with postgresql.connect(database) as connection:
        connection.execute("CREATE TABLE t AS SELECT 7 AS n")
    copy = next(names)
    postgresql.create(copy, template=database)
    with postgresql.connect(copy) as connection:
        assert connection.execute("SELECT n FROM t").fetchall() == [(7,)]
        postgresql.drop(copy)
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")


def test_postgresql_has_what_was_committed_before_it_was_killed():
    with PostgreSQL() as cluster:
        with cluster.connect() as connection:
            assert connection.execute("SHOW fsync").fetchone() == ("on",)
            connection.execute("CREATE TABLE t (n int)")
            connection.execute("INSERT INTO t VALUES (1)")
            first = psutil.Process(cluster.pid)
            family = [first, *first.children()]
            cluster.kill()
            with pytest.raises(psycopg.OperationalError):
                connection.execute("INSERT INTO t VALUES (2)")
        assert len(family) > 3
        assert not any(is_alive(process.pid) for process in family)
        assert cluster.pid is None
        cluster.start()
        assert cluster.pid != first.pid
        with cluster.connect() as connection:
            assert connection.execute("SELECT n FROM t").fetchall() == [(1,)]
        cluster.stop()
        assert not is_listening(cluster.port)
        cluster.start()
        with cluster.connect() as connection:
            assert connection.execute("SELECT n FROM t").fetchall() == [(1,)]
    assert not cluster.folder.exists()


def test_postgresql_that_is_held_still_answers_later(postgresql):
    with postgresql.connect() as connection:
        postgresql.suspend()
        try:
            with pytest.raises(psycopg.errors.ConnectionTimeout):
                psycopg.connect(
                    postgresql.url("postgres").replace("+psycopg", ""), connect_timeout=2
                )
        finally:
            postgresql.resume()
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_two_clusters_stand_side_by_side(postgresql, database):
    with PostgreSQL() as other, other.connect() as there, postgresql.connect() as here:
        assert (other.port, other.folder) != (postgresql.port, postgresql.folder)
        query = "SELECT datname FROM pg_database WHERE datname = %s"
        assert here.execute(query, [database]).fetchone()
        assert not there.execute(query, [database]).fetchone()


def test_a_broker_has_what_it_acknowledged_before_it_was_killed():
    with Broker() as killed:
        send(killed.bootstrap, "kept", b"1", b"2")
        before = killed.pid
        killed.kill()
        assert not is_listening(killed.port)
        killed.start()
        assert killed.pid != before
        send(killed.bootstrap, "kept", b"3")
        assert sorted(receive(killed.bootstrap, "kept", 3)) == [b"1", b"2", b"3"]
    assert not is_listening(killed.port)
    assert not killed.folder.exists()


def test_a_broker_starts_whatever_its_cluster_is_called(tmp_path, monkeypatch):
    # The random bytes that give the signs which are no letters and no digits.
    head = tmp_path / "head"
    head.write_text("#!/bin/sh\nprintf '\\373\\357\\276\\377%.0s' 1 2 3 4\n")
    head.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with Broker() as broker:
        send(broker.bootstrap, "first", b"one")


def test_a_broker_that_is_held_still_answers_later(broker_to_harm):
    broker_to_harm.suspend()
    producer = Producer({"bootstrap.servers": broker_to_harm.bootstrap, "acks": "all"})
    try:
        producer.produce("still", b"1")
        assert producer.flush(1) == 1
    finally:
        broker_to_harm.resume()
    assert producer.flush(60) == 0
    assert receive(broker_to_harm.bootstrap, "still", 1) == [b"1"]


def test_services_end_with_the_process_that_started_them(postgresql):
    code = (
        "from tests.services import PostgreSQL\n"
        "with PostgreSQL() as cluster:\n"
        "    print(cluster.pid, cluster.port, cluster.folder, flush=True)\n"
        "    cluster.suspend()\n"
        "    input()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    with process:
        pid, port, folder = process.stdout.readline().split()
        process.kill()
    wait_until(lambda: not is_alive(int(pid)), "PostgreSQL has ended")
    wait_until(lambda: not os.path.exists(folder), "its folder is gone")
    assert not is_listening(int(port))


def test_make_starts_and_stops_a_broker(tmp_path, broker):
    """As a user does, in a checkout whose path has a space."""
    checkout = tmp_path / "a checkout"
    shutil.copytree(ROOT / "services", checkout / "services")
    shutil.copy(ROOT / "Makefile", checkout)
    port = free_port()
    assert port != broker.port
    environ = {
        "KAFKA_LIBS": str(KAFKA_LIBS),
        "KAFKA_PORT": str(port),
        "JAVA_TOOL_OPTIONS": quick_start(),
    }

    def make(target):
        return subprocess.run(
            ["make", "--no-print-directory", target],
            cwd=checkout,
            env=os.environ | environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=200,
            check=True,
        ).stdout

    try:
        said = make("kafka")
        assert f"KAFKA_BOOTSTRAP_SERVERS=127.0.0.1:{port} make run" in said
        metadata = AdminClient({"bootstrap.servers": f"127.0.0.1:{port}"}).list_topics(timeout=30)
        assert list(metadata.brokers) == [1]
        assert "answers already" in make("kafka")
    finally:
        make("kafka-stop")
    assert not is_listening(port)
    assert "No Kafka broker runs" in make("kafka-stop")
    assert (checkout / ".services" / "kafka" / "data" / "meta.properties").exists()
