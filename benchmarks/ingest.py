"""Interactions on their way into the table: ``python -m benchmarks.ingest``.

``batches``: lists of 10,000 posted to one server process by 8 clients, on
SQLite and on PostgreSQL, into a table that holds a million; each answer comes
after the commit. ``stream``: a million messages that wait in Kafka, until all
are rows of PostgreSQL, with broker, database and worker on this machine.
``latency``: from a single post, answered by the broker, until the row can be
read. ``takeover``: from the death of a worker until the others store what was
its own. Beside them, in the same run, what the database does when ready rows are
handed to it in one process.
"""

import argparse
import asyncio
import contextlib
import json
import statistics
import time
import urllib.parse
from collections.abc import Iterator
from typing import Any

from benchmarks import harness
from reckeeper import storage
from reckeeper.config import Settings
from reckeeper.interactions import Interaction

BATCH_ROWS = 10_000
N_CLIENTS = 8
N_USERS, N_ITEMS = 100_000, 20_000


def rows(first: int, n: int) -> list[dict[str, Any]]:
    """Return interactions with known ids; which user and item is as good as drawn."""
    return [
        {
            "event_id": f"bench-{number:012}",
            "user_id": f"user-{number * 7919 % N_USERS}",
            "item_id": f"item-{number * 104_729 % N_ITEMS}",
            "interaction_type": "click",
            "occurred_at": "2025-12-04T23:42:15Z",
        }
        for number in range(first, first + n)
    ]


def ready_rows(first: int, n: int) -> list[Interaction]:
    """Return the same as the database takes them."""
    return [
        Interaction(
            row["event_id"], row["user_id"], row["item_id"], "click", 1.0, 1_764_891_735_000_000
        )
        for row in rows(first, n)
    ]


@contextlib.contextmanager
def postgresql() -> Iterator[dict[str, str]]:
    """Give the settings that name a fresh PostgreSQL."""
    from tests.services import PostgreSQL

    with PostgreSQL() as cluster:
        yield {"DATABASE_URL": cluster.create("bench")}


@contextlib.contextmanager
def kafka() -> Iterator[dict[str, str]]:
    """Give the settings that name a fresh broker."""
    from tests.services import Broker

    with Broker() as broker:
        yield {"KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap}


def _fill(database: storage.Database, first: int, n: int) -> float:
    """Write ready rows in batches; return rows a second."""
    seconds = 0.0
    for start in range(first, first + n, BATCH_ROWS):
        batch = ready_rows(start, BATCH_ROWS)
        began = time.perf_counter()
        with database.write() as connection:
            storage.interactions.append(connection, batch)
        seconds += time.perf_counter() - began
    return n / seconds


def _count(database: storage.Database) -> int:
    with database.read() as connection:
        return storage.interactions.count(connection)


async def _client(url: str, bodies: list[bytes], expected: bytes) -> None:
    address = urllib.parse.urlsplit(url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    while bodies:
        body = bodies.pop()
        head = b"POST /user_interactions HTTP/1.1\r\nHost: localhost\r\n"
        length = b"Content-Length: %d\r\n" % len(body)
        writer.write(head + length + b"Content-Type: application/json\r\n\r\n" + body)
        answer = await reader.readuntil(b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 " + expected), answer
        n_bytes = int(answer.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        await reader.readexactly(n_bytes)
    writer.close()
    await writer.wait_closed()


async def _post_all(url: str, bodies: list[bytes], expected: bytes) -> float:
    began = time.perf_counter()
    await asyncio.gather(*(_client(url, bodies, expected) for _ in range(N_CLIENTS)))
    return time.perf_counter() - began


def batches(environ: dict[str, str], *, n_there: int, n_rows: int) -> dict[str, Any]:
    """Measure lists that are posted to one server process."""
    with harness.installation(**environ) as settings:
        database = storage.open_database(settings)
        _fill(database, 0, n_there)
        limit = _fill(database, n_there, n_rows)
        with harness.process("server/server.py", settings, url=settings.server_url) as server:
            bodies = [
                json.dumps(rows(first, BATCH_ROWS)).encode()
                for first in range(n_there + n_rows, n_there + 2 * n_rows, BATCH_ROWS)
            ]
            seconds = asyncio.run(_post_all(settings.server_url, bodies, b"200"))
            peak = harness.memory_bytes(server.pid)
        assert _count(database) == n_there + 2 * n_rows
        database.close()
    return {
        "rows_per_second": round(n_rows / seconds),
        "limit_ready_rows_per_second": round(limit),
        "rows_there": n_there + n_rows,
        "server_peak_memory_bytes": peak,
    }


def stream(environ: dict[str, str], *, n_rows: int = 1_000_000) -> dict[str, Any]:
    """Measure a million messages that wait, until all of them are rows."""
    with harness.installation(**environ) as settings:
        database = storage.open_database(settings)
        _send(settings, n_rows)
        with harness.process("kafka_worker/kafka_worker.py", settings, url=settings.worker_url) as (
            worker
        ):
            while _count(database) == 0:
                time.sleep(0.01)
            began, first = time.perf_counter(), _count(database)
            while (n := _count(database)) < n_rows:
                time.sleep(0.1)
            seconds = time.perf_counter() - began
            peak = harness.memory_bytes(worker.pid)
        database.close()
    return {
        "rows_per_second": round((n - first) / seconds),
        "rows": n,
        "worker_peak_memory_bytes": peak,
    }


def _send(settings: Settings, n_rows: int) -> None:
    """Put messages on the topic through a server, as a user would."""
    with harness.process("server/server.py", settings, url=settings.server_url):
        bodies = [
            json.dumps(rows(first, BATCH_ROWS)).encode() for first in range(0, n_rows, BATCH_ROWS)
        ]
        seconds = asyncio.run(_post_all(settings.server_url, bodies, b"202"))
    print(json.dumps({"posted_to_the_broker_per_second": round(n_rows / seconds)}))


def latency(environ: dict[str, str], *, n_posts: int = 500) -> dict[str, Any]:
    """Measure single posts through Kafka, one at a time, until the row can be read."""
    with (
        harness.installation(**environ) as settings,
        harness.process("server/server.py", settings, url=settings.server_url),
        harness.process("kafka_worker/kafka_worker.py", settings, url=settings.worker_url),
        contextlib.closing(storage.open_database(settings)) as database,
    ):
        answered, stored = [], []
        for number in range(n_posts + 20):
            body = json.dumps({**rows(number, 1)[0], "user_id": f"single-{number}"}).encode()
            began = time.perf_counter()
            asyncio.run(_client(settings.server_url, [body], b"202"))
            answered.append(time.perf_counter() - began)
            while True:
                with database.read() as connection:
                    if storage.interactions.of_user(connection, f"single-{number}").num_rows:
                        break
                time.sleep(0.001)
            stored.append(time.perf_counter() - began)
    cut = statistics.quantiles(stored[20:], n=100)
    return {
        "answered_p50_ms": round(statistics.median(answered[20:]) * 1000, 1),
        "stored_p50_ms": round(cut[49] * 1000, 1),
        "stored_p99_ms": round(cut[98] * 1000, 1),
        "stored_worst_ms": round(max(stored[20:]) * 1000, 1),
    }


def takeover(environ: dict[str, str], *, n_runs: int = 5) -> dict[str, Any]:
    """Measure from the ``kill -9`` of one of three workers until its partitions go on."""
    seconds = []
    with (
        harness.installation(**environ) as settings,
        harness.process("server/server.py", settings, url=settings.server_url),
        contextlib.closing(storage.open_database(settings)) as database,
    ):
        n_sent = 0

        def send_and_wait() -> float:
            nonlocal n_sent
            body = json.dumps(rows(n_sent, 600)).encode()  # users of all partitions
            began = time.perf_counter()
            asyncio.run(_post_all(settings.server_url, [body], b"202"))
            n_sent += 600
            while _count(database) < n_sent:
                time.sleep(0.01)
            assert _count(database) == n_sent
            return time.perf_counter() - began

        for _ in range(n_runs):
            with contextlib.ExitStack() as stack:
                workers = []
                for _ in range(3):
                    port = harness.free_port()
                    each = settings.replaced(worker_port=port)
                    url = f"http://127.0.0.1:{port}"
                    workers.append(
                        stack.enter_context(
                            harness.process("kafka_worker/kafka_worker.py", each, url=url)
                        )
                    )
                while send_and_wait() > 0.5:  # the group has settled
                    pass
                workers[1].kill()
                seconds.append(send_and_wait())
    return {
        "median_seconds": round(statistics.median(seconds), 1),
        "worst_seconds": round(max(seconds), 1),
        "runs": n_runs,
    }


def run(n_there: int = 1_000_000, n_rows: int = 500_000, n_stream: int = 1_000_000) -> Any:
    """Measure all parts."""
    results: dict[str, Any] = {"benchmark": "ingest"}
    results["batches_sqlite"] = batches({}, n_there=n_there, n_rows=n_rows)
    with postgresql() as database:
        results["batches_postgresql"] = batches(database, n_there=n_there, n_rows=n_rows)
    with postgresql() as database, kafka() as broker:
        results["stream"] = stream(database | broker, n_rows=n_stream)
    with postgresql() as database, kafka() as broker:
        results["latency"] = latency(database | broker)
    with postgresql() as database, kafka() as broker:
        results["takeover"] = takeover(database | broker)
    return results


_STREAMED = {"stream": stream, "latency": latency, "takeover": takeover}

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("part", nargs="?", choices=["sqlite", "postgresql", *_STREAMED])
    chosen = parser.parse_args().part
    if chosen is None:
        print(json.dumps(run()))
    elif chosen == "sqlite":
        print(json.dumps(batches({}, n_there=1_000_000, n_rows=500_000)))
    else:
        with postgresql() as found, contextlib.ExitStack() as stack:
            if chosen == "postgresql":
                print(json.dumps(batches(found, n_there=1_000_000, n_rows=500_000)))
            else:
                found |= stack.enter_context(kafka())
                print(json.dumps(_STREAMED[chosen](found)))
