"""Answers a second: ``python -m benchmarks.serving [--users N] [--keep FOLDER]``.

One server, 50,000 items, 100,000 users with 5 to 500 interactions each,
`spectral` with 256 components, lists of 10, 16 connections by wrk, which runs on
the same machine. *First time*: each user is asked for once; *warm*: 2,000 users
again and again; *mixed*: the same, and one request in ten posts an interaction.
The limit beside it, in the same run: the same server's ``GET /health/live``.
*Half*: the same at half of that rate, in random intervals, for what an answer takes
then; *training*: the latter of *warm* while a training runs. And single requests: lists for
1,000 users, and for a history of 10,000 items. Medians of so many rounds. With ``--keep`` the
installation is made once. Beside the rates stands what the server itself takes for a request,
``processor_us``: others on the machine change it less. ``--processes`` has several of them answer.
"""

import argparse
import contextlib
import http.client
import json
import multiprocessing
import os
import re
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import psutil

from benchmarks import harness
from reckeeper import storage
from reckeeper.config import Settings
from reckeeper.registry import Registry
from reckeeper.training import child, pipeline

N_USERS, N_ITEMS = 100_000, 50_000
N_WARM = 2_000
_GROUPS = 200
_SHORTEST, _LONGEST = 5, 500
_BEGAN = 1_700_000_000_000_000

_HEAD = """
local file = {}
for line in io.lines("%s") do file[#file + 1] = line end
local place = %d
"""
_GET = """
request = function()
  place = place + 1
  return wrk.format("GET", "/recommendations/" .. file[(place - 1) %% #file + 1] .. "?n=10")
end
"""
_MIXED = """
local headers = {["Content-Type"] = "application/json"}
request = function()
  place = place + 1
  local user = file[(place - 1) %% #file + 1]
  if place %% 10 == 0 then
    return wrk.format("POST", "/user_interactions", headers, string.format(
      '{"user_id": "%%s", "item_id": "i%%05d", "interaction_type": "click"}',
      user, place %% 1000))
  end
  return wrk.format("GET", "/recommendations/" .. user .. "?n=10")
end
"""

# Each of the connections waits so long, in ms and at random, before its next request.
_PAUSED = """
delay = function() return 0.5 - %f * math.log(1 - math.random()) end
"""
_CONNECTIONS = 16


def write_interactions(database: storage.Database, n_users: int, *, seed: int = 0) -> int:
    """Draw users' histories, long-tailed and of 200 tastes, and store them."""
    random = np.random.default_rng(seed)
    per_group = N_ITEMS // _GROUPS
    n_rows = 0
    for first in range(0, n_users, 1_000):
        rows = []
        for user in range(first, min(first + 1_000, n_users)):
            length = int(_SHORTEST * (_LONGEST / _SHORTEST) ** random.random())
            own = np.where(
                random.random(length) < 0.7, user % _GROUPS, random.integers(_GROUPS, size=length)
            )
            place = (per_group * random.random(length) ** 2).astype(int)
            times = _BEGAN + np.sort(random.integers(0, 10**13, length))
            rows += [
                (f"e{n_rows + len(rows) + number}", f"u{user:06}", f"i{item:05}", "click", 1.0, at)
                for number, (item, at) in enumerate(
                    zip((own * per_group + place).tolist(), times.tolist(), strict=True)
                )
            ]
        with database.write() as connection:
            storage.interactions.append(connection, rows)
        n_rows += len(rows)
    return n_rows


def train(database: storage.Database, settings: Settings) -> None:
    """Train `spectral` on all and make it the active version."""
    with database.write() as connection:
        request = {"recipe": "spectral", "settings": {"n_components": 256}}
        job_id = storage.jobs.insert(connection, trigger="manual", request=request)
        job = storage.jobs.get(connection, job_id)
    version = pipeline.run(database, settings, job=job, report=lambda *_, **__: None)
    with database.write() as connection:
        storage.jobs.end(connection, job_id, status=storage.jobs.SUCCEEDED, version=version)
    registry = Registry(database, settings.model_dir)
    assert version is not None
    registry.switch.activate(registry.versions.load(version), actor="benchmark")


@contextlib.contextmanager
def installation(n_users: int, keep: Path | None) -> Iterator[Settings]:
    """Give a trained installation; one that is kept is made once."""
    folders = {}
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        folders = {
            "RECKEEPER_DATA_DIR": f"{keep}/data",
            "RECKEEPER_MODEL_DIR": f"{keep}/models",
        }
    with harness.installation(**folders) as settings:
        database = storage.open_database(settings)
        with database.read() as connection:
            n_interactions = storage.interactions.last_id(connection)
        if not n_interactions:
            write_interactions(database, n_users)
            train(database, settings)
        database.close()
        yield settings


def load(
    url: str, script: str, *, seconds: int, connections: int = _CONNECTIONS
) -> dict[str, float]:
    """Run wrk with a script; return requests a second, median and 99th percentile in ms."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
        file.write(script)
        file.flush()
        done = subprocess.run(
            ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "-s", file.name, url],
            capture_output=True,
            text=True,
            check=True,
        )
    failed = re.search(r"Non-2xx or 3xx responses: (\d+)|Socket errors: (.*)", done.stdout)
    if failed:
        raise SystemExit(f"requests failed: {done.stdout}")
    rate = float(re.search(r"Requests/sec:\s*([\d.]+)", done.stdout)[1])  # type: ignore[index]
    found = {"per_second": round(rate)}
    for name, percentile in (("p50_ms", "50"), ("p99_ms", "99")):
        value, unit = re.search(rf"{percentile}%\s+([\d.]+)(us|ms|s)\b", done.stdout).groups()  # type: ignore[union-attr]
        found[name] = round(float(value) * {"us": 1e-3, "ms": 1, "s": 1e3}[unit], 2)
    return found


def ask_once(url: str, users: list[str]) -> None:
    """Ask for each user's list once, so that it is kept."""
    with contextlib.closing(http.client.HTTPConnection(urlsplit(url).netloc)) as connection:
        for user in users:
            connection.request("GET", f"/recommendations/{user}?n=10")
            connection.getresponse().read()


def ask(url: str, path: str, body: dict[str, Any]) -> float:
    """Return how many ms a posted request takes, the median of five."""
    content = json.dumps(body)
    taken = []
    with contextlib.closing(http.client.HTTPConnection(urlsplit(url).netloc)) as connection:
        for _ in range(5):
            began = time.perf_counter()
            connection.request("POST", path, content, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            answer.read()
            taken.append(1e3 * (time.perf_counter() - began))
            if answer.status != 200:
                raise SystemExit(f"{path} answered {answer.status}")
    return round(statistics.median(taken), 1)


@contextlib.contextmanager
def training(settings: Settings) -> Iterator[None]:
    """Have a training run on the same machine meanwhile; nothing comes of it."""
    context = multiprocessing.get_context("forkserver")  # as a worker does, with its niceness
    context.set_forkserver_preload(["reckeeper.training.child"])
    process = context.Process(target=_train_there, args=(settings,))
    process.start()
    time.sleep(3.0)  # it imports, and begins to read
    try:
        yield
        if process.exitcode is not None:
            raise SystemExit("the training was over before the load was")
    finally:
        process.kill()
        process.join()
        with (
            contextlib.closing(storage.open_database(settings)) as database,
            database.write() as connection,
        ):
            job = storage.jobs.running(connection)
            if job is not None:
                storage.jobs.end(connection, job.job_id, status=storage.jobs.CANCELLED)


def _train_there(settings: Settings) -> None:
    os.nice(child.NICENESS)
    with contextlib.closing(storage.open_database(settings)) as database:
        train(database, settings)


def processor_seconds(pid: int) -> float:
    """Return what a process and its children have taken so far."""
    first = psutil.Process(pid)
    times = [each.cpu_times() for each in (first, *first.children())]
    return sum(each.user + each.system for each in times)


def run(
    n_users: int, *, keep: Path | None, rounds: int, seconds: int, processes: int
) -> dict[str, Any]:
    """Measure all loads, one server for all rounds."""
    result: dict[str, Any] = {"benchmark": "serving", "users": n_users, "items": N_ITEMS}
    with (
        installation(n_users, keep) as settings,
        tempfile.NamedTemporaryFile("w") as users,
        tempfile.NamedTemporaryFile("w") as warm,
    ):
        random = np.random.default_rng(1)
        order = random.permutation(n_users).tolist()
        users.write("\n".join(f"u{user:06}" for user in order))
        users.flush()
        warm.write("\n".join(f"u{user:06}" for user in order[:N_WARM]))
        warm.flush()
        settings = settings.replaced(server_processes=processes)
        url = settings.server_url
        with harness.process("server/server.py", settings, url=url) as server:
            harness.wait_for(f"{url}/recommendations/u000001", server)
            result["memory_bytes_at_rest"] = harness.memory_bytes(server.pid)
            taken: dict[str, list[dict[str, float]]] = {}
            place = N_WARM
            for number in range(rounds):
                live = 'request = function() return wrk.format("GET", "/health/live") end'
                loads = {
                    "health": live,
                    "first time": _HEAD % (users.name, place) + _GET % (),
                    "warm": _HEAD % (warm.name, 0) + _GET % (),
                    "mixed": _HEAD % (warm.name, number) + _MIXED % (),
                }
                ask_once(url, [f"u{user:06}" for user in order[:N_WARM]])
                for name, script in loads.items():
                    before = processor_seconds(server.pid)
                    found = load(url, script, seconds=seconds)
                    used = processor_seconds(server.pid) - before
                    found["processor_us"] = round(1e6 * used / (found["per_second"] * seconds))
                    taken.setdefault(name, []).append(found)
                    if name == "first time":
                        place += int(found["per_second"] * seconds * 1.1)
                    if name in {"first time", "warm"}:
                        pause = _PAUSED % (2e3 * _CONNECTIONS / found["per_second"])
                        if name == "first time":
                            script = _HEAD % (users.name, place) + _GET % ()
                        half = load(url, script + pause, seconds=seconds)
                        taken.setdefault(f"{name}, half", []).append(half)
                        place += int(half["per_second"] * seconds * 1.1)
                ask_once(url, [f"u{user:06}" for user in order[:N_WARM]])  # who has posted, too
                with training(settings):
                    script = loads["warm"] + pause
                    half = load(url, script, seconds=seconds)
                    taken.setdefault("warm, half, training", []).append(half)
            result |= {
                name: {key: statistics.median(one[key] for one in found) for key in found[0]}
                for name, found in taken.items()
            }
            some = [f"u{user:06}" for user in order[-1000:]]
            result["batch_of_1000_ms"] = ask(
                url, "/recommendations/batch", {"user_ids": some, "n": 10}
            )
            told = [f"i{item:05}" for item in range(10_000)]
            result["history_of_10000_ms"] = ask(url, "/recommendations", {"history": told})
            result["peak_memory_bytes"] = harness.memory_bytes(server.pid)
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=N_USERS)
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args()
    print(
        json.dumps(
            run(
                options.users,
                keep=options.keep,
                rounds=options.rounds,
                seconds=options.seconds,
                processes=options.processes,
            )
        )
    )
