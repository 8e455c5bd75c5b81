"""Single posts of interactions: ``python -m benchmarks.single_posts``.

One server process on SQLite (WAL, synchronous=FULL), each answer after the
disk has the row; with ``--on postgresql`` on that, with ``--on kafka`` each
answer after the broker has acknowledged. The limit beside it, in the same run:
the same server's ``GET /health/live``, which does no work.
"""

import argparse
import asyncio
import contextlib
import json
import statistics
import time
import urllib.parse

from benchmarks import harness
from benchmarks.ingest import kafka, postgresql
from reckeeper import storage


async def _client(host: str, port: int, requests: list[bytes], seconds: list[float]) -> None:
    reader, writer = await asyncio.open_connection(host, port)
    for request in requests:
        began = time.perf_counter()
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith((b"HTTP/1.1 200", b"HTTP/1.1 202")), head
        length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        await reader.readexactly(length)
        seconds.append(time.perf_counter() - began)
    writer.close()
    await writer.wait_closed()


def _post(host: str, body: bytes) -> bytes:
    head = f"POST /user_interactions HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"Content-Type: application/json\r\n\r\n" + body


async def _measure(url: str, n_clients: int, n_requests: int, *, posts: bool) -> dict[str, float]:
    address = urllib.parse.urlsplit(url)
    host, port = str(address.hostname), int(address.port or 80)
    jobs = []
    seconds: list[float] = []
    for client in range(n_clients):
        requests = [
            _post(
                host,
                json.dumps(
                    {
                        "user_id": f"user-{(client * 7919 + number) % 5000}",
                        "item_id": f"item-{number % 1000}",
                        "interaction_type": "click",
                    }
                ).encode(),
            )
            if posts
            else f"GET /health/live HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
            for number in range(n_requests)
        ]
        jobs.append(_client(host, port, requests, seconds))
    began = time.perf_counter()
    await asyncio.gather(*jobs)
    wall = time.perf_counter() - began
    cut = statistics.quantiles(seconds, n=100)
    return {
        "requests_per_second": round(len(seconds) / wall),
        "p50_ms": round(cut[49] * 1000, 2),
        "p99_ms": round(cut[98] * 1000, 2),
    }


def run(n_requests: int = 20_000, n_runs: int = 3, on: str = "sqlite") -> dict[str, object]:
    """Measure one client and sixteen; medians of the runs by requests a second."""
    results: dict[str, object] = {"benchmark": "single_posts", "on": on, "requests": n_requests}
    ways = {"sqlite": contextlib.nullcontext({}), "postgresql": postgresql(), "kafka": kafka()}
    with (
        ways[on] as environ,
        harness.installation(**environ) as settings,
        harness.process("server/server.py", settings, url=settings.server_url) as server,
    ):
        for name, n_clients, posts in (
            ("posts_1_client", 1, True),
            ("posts_16_clients", 16, True),
            ("limit_16_clients", 16, False),
        ):
            runs = [
                asyncio.run(
                    _measure(settings.server_url, n_clients, n_requests // n_clients, posts=posts)
                )
                for _ in range(n_runs)
            ]
            runs.sort(key=lambda measured: measured["requests_per_second"])
            results[name] = runs[len(runs) // 2]
        results["server_peak_memory_bytes"] = harness.memory_bytes(server.pid)
        database = storage.open_database(settings)
        with database.read() as connection:
            results["rows"] = storage.interactions.count(connection)
        database.close()
    return results


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--on", choices=["sqlite", "postgresql", "kafka"], default="sqlite")
    given = parser.parse_args()
    print(json.dumps(run(given.requests, on=given.on)))
