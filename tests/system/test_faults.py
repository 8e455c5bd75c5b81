"""Streams under faults: nothing is lost, doubled or put out of order, and all goes on by itself."""

import contextlib
import os
import subprocess
import time

import pytest
from benchmarks import faults
from tests.services import Broker, PostgreSQL
from tests.system.installation import Installation, require, wait_until

from reckeeper import storage
from reckeeper.config import Settings
from reckeeper.registry import Registry
from reckeeper.storage import engine

HELD_STILL_SECONDS = [
    15.0,  # longer than a lease, and than what a session and a request may take
    pytest.param(engine.BUSY_TIMEOUT_SECONDS + 15.0, marks=pytest.mark.long),  # than all time-outs
]


def rows(n, *, first=0):
    return [
        {
            "event_id": f"e{number}",
            "user_id": f"u{number % 40}",
            "item_id": f"i{number * 7 % 23}",
            "interaction_type": "click" if number % 9 else "watchlist_add",
            "weight": 1 + number % 3,
            "occurred_at": f"2026-01-{1 + number % 28:02}T10:00:00Z",
        }
        for number in range(first, first + n)
    ]


def send(site, events):
    answer = site.server.post("/user_interactions", json=events)
    assert answer.status_code == 202, answer.text
    assert answer.json()["accepted"] == len(events)


def stored(cluster):
    with cluster.connect("x") as connection:
        return connection.execute(
            "SELECT count(*), count(DISTINCT event_id) FROM user_interactions"
        ).fetchone()


def problems(site):
    return " ".join(site.worker.get("/health/ready").json()["problems"])


@pytest.mark.fault(
    "Two workers, the broker and PostgreSQL are killed at random under load",
    seen="503 with `Retry-After` now and then",
    kept="every message, once, each user's in order",
    heals="by itself, as they start again",
)
@pytest.mark.parametrize(
    ("n_rows", "n_kills"), [(8_000, 3), pytest.param(50_000, 10, marks=pytest.mark.long)]
)
def test_every_interaction_is_counted_once_while_everything_is_killed(tmp_path, n_rows, n_kills):
    found = faults.run(n_rows=n_rows, n_kills=n_kills, seed=10, folder=tmp_path)
    assert sum(found["kills"].values()) >= n_kills
    assert min(found["kills"].values()) >= 1, "a seed that kills each of them"


@pytest.fixture
def site(tmp_path):
    """Give a running installation on a broker and a database of its own."""
    with (
        PostgreSQL() as cluster,
        Broker() as broker,
        Installation(
            tmp_path, DATABASE_URL=cluster.create("x"), KAFKA_BOOTSTRAP_SERVERS=broker.bootstrap
        ) as made,
    ):
        made.cluster, made.broker = cluster, broker
        made.migrate()
        made.start_worker()
        made.start_server()
        send(made, rows(100))
        wait_until(lambda: stored(cluster) == (100, 100), "the first rows are stored")
        yield made


@pytest.mark.fault(
    "The broker hangs (SIGSTOP)",
    seen="posts: 503 with `Retry-After`; readiness of the worker names the broker; lists go on",
    kept="every row that was answered with 202",
    heals="by itself, when the broker answers",
)
@pytest.mark.parametrize("seconds", HELD_STILL_SECONDS)
def test_a_broker_that_is_held_still_is_told_and_nothing_of_it_is_lost(site, seconds):
    site.broker.suspend()
    answer = site.server.post("/user_interactions", json=rows(50, first=100))
    assert answer.status_code == 503, answer.text  # after all time-outs of the producer
    assert int(answer.headers["Retry-After"]) > 0
    wait_until(lambda: "broker" in problems(site), "the worker reports it")
    assert site.server.get("/recommendations/u1").status_code in {200, 503}
    time.sleep(seconds)
    site.broker.resume()

    def sent():
        answer = site.server.post("/user_interactions", json=rows(50, first=100))
        return answer.status_code == 202

    wait_until(sent, "the broker takes interactions again", seconds=60)
    wait_until(lambda: stored(site.cluster) == (150, 150), "all are stored", seconds=60)
    wait_until(lambda: not problems(site).count("broker"), "the worker tells that it is well")


@pytest.mark.fault(
    "PostgreSQL hangs (SIGSTOP), with Kafka before it",
    seen="posts are taken: 202",
    kept="every row that was answered with 202",
    heals="by itself, when the database answers",
)
@pytest.mark.parametrize("seconds", HELD_STILL_SECONDS)
def test_a_database_that_is_held_still_loses_nothing_that_was_accepted(site, seconds):
    site.cluster.suspend()
    send(site, rows(500, first=100))  # the broker has them
    time.sleep(seconds)
    assert site.worker.get("/health/live").status_code == 200
    site.cluster.resume()
    wait_until(lambda: stored(site.cluster) == (600, 600), "all are stored", seconds=60)
    assert site.retrain() == 1


@pytest.mark.fault(
    "The disk under PostgreSQL is full, with Kafka before it",
    seen="posts are taken; readiness of the worker names the database",
    kept="every row that was answered with 202",
    heals="by itself, when there is room",
)
def test_a_full_disk_under_the_database_loses_nothing(tmp_path):
    require(os.geteuid() == 0, "only root can make a small disk")
    disk = tmp_path.parent / f"{tmp_path.name}-disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=160m,mode=0755", "none", disk], check=False
    )
    require(mounted.returncode == 0, "no disk can be mounted")
    for parent in disk.parents:  # PostgreSQL runs as another user
        with contextlib.suppress(OSError):
            if parent.stat().st_uid == os.geteuid() and "pytest-of" in str(parent):
                parent.chmod(parent.stat().st_mode | 0o011)
    try:
        with (
            PostgreSQL(disk) as cluster,
            Broker() as broker,
            Installation(
                tmp_path, DATABASE_URL=cluster.create("x"), KAFKA_BOOTSTRAP_SERVERS=broker.bootstrap
            ) as site,
        ):
            site.migrate()
            worker = site.start_worker()
            server = site.start_server()
            send(site, rows(100))
            wait_until(lambda: stored(cluster) == (100, 100), "the first rows are stored")
            ballast = disk / "ballast"
            with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(64 * 1024))
            n_rows = 60_000
            for first in range(100, n_rows + 100, 10_000):
                send(site, rows(10_000, first=first))
            wait_until(lambda: "database" in problems(site), "the worker reports it", seconds=60)
            assert (worker.status, server.status) == (None, None)
            ballast.unlink()

            def is_whole():
                if cluster.pid is None:  # it may give up for lack of room
                    cluster.start()
                with contextlib.suppress(Exception):
                    return stored(cluster) == (n_rows + 100, n_rows + 100)

            wait_until(is_whole, "all are stored", seconds=90)
            assert (worker.status, server.status) == (None, None)
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


def test_both_ways_in_give_the_same_table_and_the_same_model(site, tmp_path):
    events = rows(3_000, first=100)
    with Installation(tmp_path / "embedded") as embedded:
        embedded.folder.mkdir()
        embedded.migrate()
        embedded.start_worker()
        embedded.start_server()
        embedded.send([*rows(100), *events])
        send(site, events)
        wait_until(lambda: stored(site.cluster) == (3_100, 3_100), "all are stored")
        assert (embedded.retrain(), site.retrain()) == (1, 1)

        tables, models = [], []
        for made in (embedded, site):
            settings = Settings.from_env(made.environ)
            with contextlib.closing(storage.open_database(settings)) as database:
                with database.read() as connection:
                    found = [
                        tuple(row.values())
                        for batch in storage.interactions.read_batches(connection)
                        for row in batch.to_pylist()
                    ]
                    watchlists = {
                        user: storage.interactions.watchlist_of(connection, user)
                        for user in {row[0] for row in found}
                    }
                # In the order of each user, which is what the topic keeps.
                tables.append((sorted(found, key=lambda row: row[0]), watchlists))
                models.append(Registry(database, settings.model_dir).versions.load(1).artifact)
        assert tables[0] == tables[1]
        first, second = models
        assert first.metadata.fingerprint == second.metadata.fingerprint
        assert first.items.ids == second.items.ids
        assert first.popularity.tolist() == second.popularity.tolist()
        lists = [
            made.server.get("/recommendations/u3", params={"n": 23}).json()["items"]
            for made in (embedded, site)
        ]
        assert [item["item_id"] for item in lists[0]] == [item["item_id"] for item in lists[1]]
        assert [item["score"] for item in lists[0]] == pytest.approx(
            [item["score"] for item in lists[1]], abs=1e-6
        )
