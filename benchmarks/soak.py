"""Everything at once, for an hour: ``python -m benchmarks.soak [--seconds N] [--plot FILE]``.

Posts, lists, retrains and promotions go on while a browser has the page open. Memory of each
process and the 99th percentile of the lists' times are noted all along; `flat` compares the last
quarter with the second: the first one warms up. At the end every row that was acknowledged must be
in the table, once.
"""

import argparse
import contextlib
import itertools
import json
import random
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
from tests.system.conftest import CHROMIUM_FLAGS
from tests.system.installation import Installation

N_USERS, N_ITEMS = 5_000, 2_000
POSTS_A_SECOND, ROWS_A_POST = 10, 10
LISTS_A_SECOND = 100
RETRAIN_EVERY_SECONDS = 60.0
N_SAMPLES = 120


class _Load:
    """What is sent, each kind from a thread of its own, and what came of it."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        self._numbers = itertools.count()
        self._drawn = random.Random(5)
        self.n_acknowledged = 0
        self.n_lists = 0
        self.n_promotions = 0
        self.failures: list[str] = []
        self.list_seconds: list[float] = []

    def begin(self) -> None:
        for act, pause in (
            (self._post, 1 / POSTS_A_SECOND),
            (self._list, 1 / LISTS_A_SECOND),
            (self._retrain, RETRAIN_EVERY_SECONDS),
        ):
            self._threads.append(threading.Thread(target=self._repeat, args=(act, pause)))
            self._threads[-1].start()

    def end(self) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def rows(self, n_rows: int) -> list[dict[str, Any]]:
        draw = self._drawn
        return [
            {
                "event_id": f"e{next(self._numbers)}",
                "user_id": f"u{draw.randrange(N_USERS)}",
                "item_id": f"i{int(N_ITEMS * draw.random() ** 2)}",
                "interaction_type": "click",
            }
            for _ in range(n_rows)
        ]

    def _repeat(self, act: Callable[[httpx.Client], None], pause: float) -> None:
        due = time.monotonic() + pause
        with httpx.Client(base_url=self._url, timeout=300, trust_env=False) as client:
            while not self._stopping.wait(max(0.0, due - time.monotonic())):
                due = max(
                    due + pause, time.monotonic() - 1
                )  # what was late is made up for a second
                try:
                    act(client)
                except httpx.HTTPError as exc:
                    self.failures.append(f"{type(exc).__name__}: {exc}")

    def _post(self, client: httpx.Client) -> None:
        rows = self.rows(ROWS_A_POST)
        self.n_acknowledged += (
            client.post("/user_interactions", json=rows).raise_for_status().json()["accepted"]
        )

    def _list(self, client: httpx.Client) -> None:
        began = time.perf_counter()
        user = f"u{random.randrange(N_USERS)}"
        client.get(f"/recommendations/{user}").raise_for_status()
        self.list_seconds.append(time.perf_counter() - began)
        self.n_lists += 1

    def _retrain(self, client: httpx.Client) -> None:
        client.post("/retrain").raise_for_status()
        client.post("/models/rollback").raise_for_status()
        self.n_promotions += 2


@contextlib.contextmanager
def _open_page(site: Installation) -> Iterator[None]:
    """Keep the page of the versions open in a browser, which follows what happens."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        found = shutil.which("chromium") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(executable_path=found, args=CHROMIUM_FLAGS)
        page = browser.new_page()
        page.goto(f"{site.page_url}/Model_Management")
        page.get_by_role("heading", name="Model Management").first.wait_for(timeout=60_000)
        yield
        browser.close()


def _megabytes(pid: int) -> float:
    """Return what a process and its children hold, each shared page in equal parts."""
    process = psutil.Process(pid)
    n_bytes = 0
    for one in (process, *process.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            n_bytes += one.memory_full_info().pss
    return n_bytes / 1e6


def run(seconds: int = 3600, plot: Path | None = None) -> dict[str, Any]:
    """Load an installation for a while, and say whether anything grew, failed or was lost."""
    with (
        tempfile.TemporaryDirectory(prefix="reckeeper-soak-") as folder,
        Installation(Path(folder)) as site,
    ):
        site.migrate()
        server = site.start_server(is_copy=False)
        worker = site.start_worker(is_copy=False)
        page = site.start_page()
        load = _Load(str(site.server.base_url))
        first = load.rows(50_000)
        site.send(first)
        load.n_acknowledged = len(first)
        site.retrain()
        site.retrain()
        samples: list[dict[str, float]] = []
        with _open_page(site):
            load.begin()
            try:
                samples = list(_samples(load, seconds, server=server, worker=worker, page=page))
            finally:
                load.end()
        with site.database() as connection:
            n_stored, n_ids = connection.execute(
                "SELECT count(*), count(DISTINCT event_id) FROM user_interactions"
            ).fetchone()
    if plot is not None:
        _draw(samples, plot)
    if load.failures or not load.n_acknowledged == n_stored == n_ids:
        told = f"{load.n_acknowledged} rows acknowledged, {n_stored} stored, {n_ids} ids"
        raise RuntimeError(f"{told}; failures: {load.failures[:5]} ({len(load.failures)})")
    quarter = len(samples) // 4
    return {
        "benchmark": "soak",
        "seconds": seconds,
        "n_rows": n_stored,
        "n_lists": load.n_lists,
        "n_promotions": load.n_promotions,
        "flat": {
            name: [
                round(statistics.median(sample[name] for sample in part), 1)
                for part in (samples[quarter : 2 * quarter], samples[-quarter:])
            ]
            for name in samples[0]
            if name != "seconds"
        },
    }


def _samples(load: _Load, seconds: int, **processes: Any) -> Iterator[dict[str, float]]:
    began = time.monotonic()
    load.list_seconds.clear()
    for number in range(1, N_SAMPLES + 1):
        time.sleep(max(0.0, began + number * seconds / N_SAMPLES - time.monotonic()))
        times, load.list_seconds = load.list_seconds, []
        yield {
            "seconds": time.monotonic() - began,
            "p99_ms": 1000 * statistics.quantiles(times, n=100)[-1],
            **{f"{name}_mb": _megabytes(process.pid) for name, process in processes.items()},
        }


def _draw(samples: list[dict[str, float]], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    minutes = [sample["seconds"] / 60 for sample in samples]
    figure, (memory, speed) = pyplot.subplots(2, 1, sharex=True, figsize=(8, 5))
    for name, label in (
        ("server_mb", "server"),
        ("worker_mb", "worker, with its training"),
        ("page_mb", "page"),
    ):
        memory.plot(minutes, [sample[name] for sample in samples], label=label)
    memory.set(ylabel="memory, MB", ylim=0)
    memory.legend()
    speed.plot(minutes, [sample["p99_ms"] for sample in samples])
    speed.set(ylabel="lists: 99th percentile, ms", xlabel="minutes", ylim=0)
    figure.tight_layout()
    figure.savefig(path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=3600)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    print(json.dumps(run(options.seconds, options.plot)))
