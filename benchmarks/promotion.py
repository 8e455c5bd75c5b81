"""From registered to served by every server process: ``python -m benchmarks.promotion``.

A worker and three servers on one database. A version is registered when its
row is committed, and served by a process when its ``GET /health/ready`` names
it; both are looked for every few milliseconds. In between the worker loads
the file, answers a trial request from it and activates it. Beside it, in the
same run: ``POST /models/{version}/activate`` at one server until all serve it.
"""

import contextlib
import functools
import http.client
import json
import random
import statistics
import threading
import time
import urllib.parse
from typing import Any

from benchmarks import harness
from reckeeper import clock, storage
from reckeeper.config import Settings
from reckeeper.interactions import Interaction

N_SERVERS = 3


def _fill(settings: Settings, *, n_users: int, n_items: int, n_interactions: int) -> None:
    draw = random.Random(7)
    now = clock.now()
    database = storage.open_database(settings)
    with database.write() as connection:
        storage.interactions.append(
            connection,
            [
                Interaction(
                    f"e{number}",
                    f"u{draw.randrange(n_users)}",
                    f"i{int(n_items * draw.random() ** 2)}",
                    "click",
                    1.0,
                    now - draw.randrange(10**12),
                )
                for number in range(n_interactions)
            ],
        )
    database.close()


def _call(url: str, method: str, path: str, body: str | None = None) -> Any:
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(url).netloc, timeout=60)
    try:
        headers = {"Content-Type": "application/json"} if body else {}
        connection.request(method, path, body, headers)
        return json.loads(connection.getresponse().read())
    finally:
        connection.close()


class _Watch:
    """Notes when each server first names a version as the one that it serves."""

    def __init__(self, urls: list[str]) -> None:
        self.seen: dict[tuple[str, int], float] = {}
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._follow, args=(url,)) for url in urls]
        for thread in self._threads:
            thread.start()

    def _follow(self, url: str) -> None:
        while not self._stopping.wait(0.005):
            version = _call(url, "GET", "/health/ready")["model_version"]
            if version is not None:
                self.seen.setdefault((url, version), time.perf_counter())

    def forget(self) -> None:
        self.seen.clear()

    def stop(self) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()


def _until(condition: Any) -> Any:
    ends = time.monotonic() + 120
    while not (found := condition()):
        if time.monotonic() > ends:
            raise RuntimeError("nothing came of it in two minutes")
        time.sleep(0.002)
    return found


def run(n_promotions: int = 20, n_users: int = 5000, n_items: int = 2000) -> dict[str, object]:
    """Measure median and worst over promotions, each until the last server serves it."""
    promoted: list[float] = []
    activated: list[float] = []
    with contextlib.ExitStack() as stack:
        settings = stack.enter_context(harness.installation())
        _fill(settings, n_users=n_users, n_items=n_items, n_interactions=200_000)
        urls = []
        for number in range(N_SERVERS):
            port = settings.server_port if number == 0 else harness.free_port()
            server = settings.replaced(server_port=port, server_url=f"http://127.0.0.1:{port}")
            stack.enter_context(harness.process("server/server.py", server, url=server.server_url))
            urls.append(server.server_url)
        worker = settings.worker_url
        stack.enter_context(harness.process("kafka_worker/kafka_worker.py", settings, url=worker))
        watch = _Watch(urls)
        stack.callback(watch.stop)
        database = storage.open_database(settings)
        stack.callback(database.close)

        def newer_than(version: int) -> int:
            with database.read() as connection:
                last = storage.models.last_version(connection)
            return last if last > version else 0

        def seconds_until_served(version: int, began: float) -> float:
            _until(lambda: all((url, version) in watch.seen for url in urls))
            return max(watch.seen[url, version] for url in urls) - began

        version = 0
        for _ in range(n_promotions):
            _call(worker, "POST", "/retrain?wait=false")
            version = _until(functools.partial(newer_than, version))
            promoted.append(seconds_until_served(version, time.perf_counter()))
            _until(lambda: _call(urls[0], "GET", "/jobs?limit=1")["jobs"][0]["status"] != "running")
        for target in (version - 1, version) * (n_promotions // 2):
            watch.forget()
            began = time.perf_counter()
            _call(urls[0], "POST", f"/models/{target}/activate")
            activated.append(seconds_until_served(target, began))
    return {
        "benchmark": "promotion",
        "servers": N_SERVERS,
        "promotions": n_promotions,
        "registered_to_served_s": _summary(promoted),
        "activate_to_served_s": _summary(activated),
    }


def _summary(seconds: list[float]) -> dict[str, float]:
    return {"median": round(statistics.median(seconds), 3), "worst": round(max(seconds), 3)}


if __name__ == "__main__":
    print(json.dumps(run()))
