"""The count: ``python -m benchmarks.faults [ROWS] [KILLS] [SEED]``.

Interactions with known ids go through a real broker into PostgreSQL, while
two workers, broker and database are killed with ``-9`` and started again at
random moments. At the end every id must be there exactly once, each user's
in the order in which they were sent, and a training must count them all.
"""

import json
import random
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from confluent_kafka import Producer
from tests.services import Broker, PostgreSQL
from tests.system import copies
from tests.system.installation import Installation, Process, free_port, wait_until

N_USERS, N_ITEMS = 2_000, 500
HELD_STILL_SECONDS = 15.0
"""Longer than what a session, a request and a lease may be silent for."""
_OUT_OF_ORDER = """
    SELECT count(*) FROM (
        SELECT event_id < lag(event_id) OVER (PARTITION BY user_id ORDER BY id) AS is_late
        FROM user_interactions
    ) AS pairs WHERE is_late
"""


class _Sender(threading.Thread):
    """Sends numbered messages at an even pace; each is acknowledged in the end."""

    def __init__(self, bootstrap: str, *, n_rows: int, seconds: float, chance: random.Random):
        super().__init__(daemon=True)
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap,
                "enable.idempotence": True,
                "acks": "all",
                "message.timeout.ms": 0,  # tries for ever
                "linger.ms": 5,
                "log_level": 0,
            }
        )
        self._n_rows = n_rows
        self._pace = seconds / n_rows
        self._chance = chance
        self.n_acknowledged = 0
        self.refused: list[str] = []

    def run(self) -> None:
        began = time.monotonic()
        for number in range(self._n_rows):
            user_id = f"user-{self._chance.randrange(N_USERS)}"
            message = {
                "version": 1,
                "event_id": f"count-{number:09}",
                "user_id": user_id,
                "item_id": f"item-{self._chance.randrange(N_ITEMS)}",
                "interaction_type": "watchlist_add" if number % 10 == 0 else "click",
            }
            while True:
                try:
                    self._producer.produce(
                        "user_interactions",
                        json.dumps(message).encode(),
                        user_id.encode(),
                        on_delivery=self._on_delivery,
                    )
                    break
                except BufferError:
                    self._producer.poll(0.1)
            if number % 500 == 0:
                self._producer.poll(0)
                time.sleep(max(0.0, began + number * self._pace - time.monotonic()))
        self._producer.flush()

    def _on_delivery(self, error: Any, _message: Any) -> None:
        if error is None:
            self.n_acknowledged += 1
        else:
            self.refused.append(str(error))


class _Workers:
    """Two members of the group, each on a port of its own."""

    def __init__(self, site: Installation) -> None:
        self._site = site
        self._ports = [free_port(), free_port()]
        self.running: list[Process | None] = [None, None]

    def start(self, number: int) -> None:
        self.running[number] = self._site.start(
            f"worker{number}",
            [sys.executable, "kafka_worker/kafka_worker.py"],
            is_copy=copies.CAN_COPY,
            RECKEEPER_WORKER_PORT=str(self._ports[number]),
        )

    def see_that_they_run(self) -> None:
        for number, process in enumerate(self.running):
            if process is None or process.status is not None:
                self.start(number)


def run(
    n_rows: int = 1_000_000, n_kills: int = 50, seed: int = 1, folder: Path | None = None
) -> dict[str, Any]:
    """Send, kill, and count; raises if anything was lost, doubled or put out of order."""
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="reckeeper-faults-") as made:
            return run(n_rows, n_kills, seed, Path(made))
    chance = random.Random(seed)
    killed = {"worker": 0, "broker": 0, "database": 0}
    began = time.monotonic()
    with (
        PostgreSQL() as cluster,
        Broker() as broker,
        Installation(
            folder,
            DATABASE_URL=cluster.create("count"),
            KAFKA_BOOTSTRAP_SERVERS=broker.bootstrap,
        ) as site,
    ):
        site.migrate()
        workers = _Workers(site)
        workers.see_that_they_run()
        wait_until(
            lambda: all(worker.events("worker_started") for worker in workers.running),
            "both workers have started",
        )
        # Five seconds a kill is what starting again takes, all told.
        sender = _Sender(
            broker.bootstrap,
            n_rows=n_rows,
            seconds=5.0 * n_kills,
            chance=random.Random(-seed),  # its own, so that the kills are those of the seed
        )
        sender.start()
        while sum(killed.values()) < n_kills:
            for victim in chance.sample(
                ["worker", "worker", "broker", "database"], 1 + (chance.random() < 0.3)
            ):
                killed[victim] += 1
                if victim == "worker":
                    process = chance.choice(workers.running)
                    if process.status is None:
                        process.kill()
                else:
                    {"broker": broker, "database": cluster}[victim].kill()
            time.sleep(chance.uniform(0, 2))
            for service in chance.sample([broker, cluster], 2):
                if service.pid is None:
                    service.start()
            workers.see_that_they_run()
            time.sleep(chance.uniform(0, 4))
        sender.join()
        sent_after = time.monotonic() - began
        assert not sender.refused, sender.refused[:3]
        assert sender.n_acknowledged == n_rows

        def stored() -> int:
            workers.see_that_they_run()
            with cluster.connect("count") as connection:
                row = connection.execute("SELECT count(*) FROM user_interactions").fetchone()
            assert row is not None
            return int(row[0])

        wait_until(lambda: stored() >= n_rows, "all rows are stored", seconds=300)
        with cluster.connect("count") as connection:
            distinct, first, last = connection.execute(
                "SELECT count(DISTINCT event_id), min(event_id), max(event_id) "
                "FROM user_interactions"
            ).fetchone() or (0, "", "")
            (n_late,) = connection.execute(_OUT_OF_ORDER).fetchone() or (-1,)
            (n_users,) = connection.execute(
                "SELECT count(DISTINCT user_id) FROM user_interactions"
            ).fetchone() or (-1,)
        assert (stored(), distinct) == (n_rows, n_rows), (stored(), distinct)
        assert (first, last) == (f"count-{0:09}", f"count-{n_rows - 1:09}")
        assert n_late == 0, f"{n_late} rows are out of order"
        site.start_server(RECKEEPER_WORKER_URL=f"http://127.0.0.1:{workers._ports[0]}")
        answer = site.server.post("/retrain", timeout=300)
        assert answer.status_code == 200, answer.text
        details = answer.json()["details"]
        assert details["training_samples"] == n_rows, details
        assert details["n_users"] == n_users, details
    return {
        "benchmark": "faults",
        "rows": n_rows,
        "kills": killed,
        "seed": seed,
        "sent_after_seconds": round(sent_after),
        "lost": 0,
        "doubled": 0,
        "out_of_order": n_late,
    }


if __name__ == "__main__":
    print(json.dumps(run(*map(int, sys.argv[1:]))))
