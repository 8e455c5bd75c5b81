"""What was accepted is never lost: kills, and many processes that write at once."""

import csv
import signal
import subprocess
import sys
import threading

import httpx
import pytest
from tests.system.installation import (
    BIN,
    ROOT,
    free_port,
    is_alive,
    training_pid,
    wait_until,
)

# A program of its own, which sends N interactions in batches and fails at the first error.
WRITER = """
import sys
import httpx

url, name, n_rows, batch_rows = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
with httpx.Client(base_url=url, timeout=120, trust_env=False) as client:
    for first in range(0, n_rows, batch_rows):
        rows = [
            {
                "event_id": f"{name}-{number}",
                "user_id": f"{name} {number % 50}",
                "item_id": f"item {number % 37}",
                "interaction_type": "click" if number % 20 else "watchlist_add",
            }
            for number in range(first, first + batch_rows)
        ]
        answer = client.post("/user_interactions", json=rows)
        assert answer.status_code == 200, (answer.status_code, answer.text)
        assert answer.json() == {"status": "ok", "accepted": batch_rows, "duplicates": 0}
"""


@pytest.mark.fault(
    "The server is killed (`kill -9`) while eight clients post",
    seen="connections end; the next start answers",
    kept="every row that was answered with 200; a row sent again is a duplicate",
    heals="the next start, or `up`, which starts it again",
)
def test_what_was_acknowledged_survives_a_kill_of_the_server(installation):
    server = installation.start_server()
    acknowledged = []
    enough = threading.Event()

    def post(thread):
        number = 0
        with httpx.Client(base_url=installation.server.base_url, trust_env=False) as client:
            while True:
                event_id = f"{thread}-{number}"
                row = {
                    "event_id": event_id,
                    "user_id": f"u{thread}",
                    "item_id": f"i{number % 7}",
                    "interaction_type": "click",
                }
                try:
                    answer = client.post("/user_interactions", json=row)
                except httpx.HTTPError:
                    return
                assert answer.status_code == 200
                acknowledged.append(event_id)
                number += 1
                if len(acknowledged) > 400:
                    enough.set()

    threads = [threading.Thread(target=post, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    assert enough.wait(60)
    server.kill()
    for thread in threads:
        thread.join()

    installation.start_server()

    with installation.database() as connection:
        stored = {row[0] for row in connection.execute("SELECT event_id FROM user_interactions")}
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert len(acknowledged) > 400
    assert not set(acknowledged) - stored
    # Each thread had one post under way at most when the server went.
    assert len(stored - set(acknowledged)) <= len(threads)
    again = installation.server.post(
        "/user_interactions",
        json={
            "event_id": acknowledged[-1],
            "user_id": "u",
            "item_id": "i",
            "interaction_type": "click",
        },
    )
    assert again.json() == {"status": "ok", "accepted": 0, "duplicates": 1}


@pytest.mark.fault(
    "Two servers, an import and a worker write into one SQLite file while trainings run",
    seen="nothing",
    kept="every row, once",
    heals="nothing is broken",
)
def test_several_processes_write_while_a_training_runs(trained):
    other_port = free_port()
    trained.start_worker()
    trained.start_server()
    trained.start_server(RECKEEPER_SERVER_PORT=str(other_port))
    with trained.database() as connection:
        (n_before,) = connection.execute("SELECT count(*) FROM user_interactions").fetchone()
    file = trained.folder / "events.csv"
    with file.open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(["user_id", "item_id"])
        rows.writerows(
            (f"imported {number % 60}", f"item {number % 41}") for number in range(10_000)
        )

    def start(*command):
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env=trained.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def writer(port, name, batch_rows):
        url = f"http://127.0.0.1:{port}"
        return start(sys.executable, "-c", WRITER, url, name, "10000", str(batch_rows))

    writers = [
        writer(trained.server_port, "first", 250),
        writer(trained.server_port, "second", 500),
        writer(other_port, "third", 200),
        start(BIN / "reckeeper", "import", file),
    ]
    n_retrains = 0
    try:
        while n_retrains == 0 or any(process.poll() is None for process in writers):
            trained.retrain()
            n_retrains += 1
    finally:
        said = [process.communicate(timeout=120)[1] for process in writers]

    assert [process.returncode for process in writers] == [0, 0, 0, 0], said
    with trained.database() as connection:
        counts = dict(
            connection.execute(
                "SELECT substr(user_id, 1, instr(user_id, ' ') - 1), count(*) "
                "FROM user_interactions WHERE user_id LIKE '% %' GROUP BY 1"
            ).fetchall()
        )
        (n_after,) = connection.execute("SELECT count(*) FROM user_interactions").fetchone()
    assert counts == {"first": 10_000, "second": 10_000, "third": 10_000, "imported": 10_000}
    assert n_after == n_before + 40_000
    trained.retrain()
    assert trained.active()["training_samples"] == n_after


@pytest.mark.fault(
    "The worker is killed during a training",
    seen="the job reads `interrupted`; lists go on",
    kept="the versions, the active one among them",
    heals="the next worker trains again",
)
def test_a_kill_of_the_worker_ends_the_training_and_the_next_one_works(trained):
    trained.start_server()
    worker = trained.start_worker()
    before = trained.server.get("/models").json()

    with trained.held_training(worker) as job:
        child = training_pid(worker, job["job_id"])
        worker.kill()
        assert is_alive(child)
    wait_until(lambda: not is_alive(child), "the training process ends with its worker")
    trained.start_worker()

    assert trained.server.get("/models").json() == before
    assert trained.server.get("/recommendations/u1").json()["model_version"] == 2
    lost = trained.wait_for_job(job["job_id"], seconds=30)
    assert lost["status"] == "interrupted"
    assert lost["error"]["code"] == "interrupted"
    assert lost["version"] is None
    assert lost["finished_at"]
    assert trained.server.get("/models").json() == before
    assert trained.retrain() == 3
    assert trained.active()["version"] == 3


@pytest.mark.fault(
    "The worker is stopped (SIGTERM) during a training",
    seen="the job reads `interrupted` at once",
    kept="the versions",
    heals="the next worker trains again",
)
def test_a_stop_of_the_worker_ends_the_training_in_good_order(trained):
    trained.start_server()
    worker = trained.start_worker()

    with trained.held_training(worker) as job:
        child = training_pid(worker, job["job_id"])
        assert worker.stop() == 0
        assert not is_alive(child)
    ended = trained.server.get(f"/jobs/{job['job_id']}").json()["job"]
    assert ended["status"] == "interrupted"  # at once, not after a silence
    trained.start_worker()
    assert trained.retrain() == 3


def test_connections_that_stay_open_do_not_hold_up_a_stop(trained):
    server = trained.start_server()
    worker = trained.start_worker()
    for caller in (trained.server, trained.worker):
        assert caller.get("/models").status_code == 200  # and keeps its connection

    assert {server.pid, worker.pid} <= set(trained.pids())
    # uvicorn tidies up and then dies of the signal, as a shell expects.
    assert server.stop() in {0, -signal.SIGTERM}
    assert worker.stop() == 0
    assert "Traceback" not in server.text() + worker.text()
    assert not trained.pids()
