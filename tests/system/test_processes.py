"""One server as several processes that share its port."""

import contextlib
import itertools
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from random import Random
from typing import Self

import httpx
import psutil
import pytest
from fastapi.testclient import TestClient
from tests.system.installation import (
    BIN,
    Installation,
    Process,
    is_alive,
    is_listening,
    wait_until,
)

from reckeeper.api.app import create_app
from reckeeper.config import Settings

TWO = {"RECKEEPER_SERVER_PROCESSES": "2"}


class Pair:
    """A server in two processes, and a connection to each."""

    def __init__(self, made: Installation) -> None:
        self.made = made
        # A fresh one: the library of the metrics looks at the environment when it is imported.
        self.server = made.start_server(is_copy=False, **TWO)
        self.log = self.server.events
        wait_until(lambda: self.log("server_listening"), "both listen")
        self.clients = [self.connected(pid) for pid in self.pids()]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        for client in self.clients:
            client.close()

    def pids(self) -> list[int]:
        return sorted(child.pid for child in psutil.Process(self.server.pid).children())

    def connected(self, pid: int) -> httpx.Client:
        """Return a client whose one connection is to a process: the others hold still meanwhile."""
        others = [other for other in self.pids() if other != pid]
        for other in others:
            os.kill(other, signal.SIGSTOP)
        client = httpx.Client(
            base_url=f"http://127.0.0.1:{self.made.server_port}", timeout=60, trust_env=False
        )
        assert client.get("/health/live").status_code == 200
        for other in others:
            os.kill(other, signal.SIGCONT)
        return client


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, trained_once: Installation) -> Iterator[Pair]:
    with Installation(tmp_path_factory.mktemp("pair")) as made:
        made.take_over(trained_once)
        with Pair(made) as pair:
            yield pair


def answer(client: httpx.Client, user_id: str) -> dict[str, object]:
    told = client.get(f"/recommendations/{user_id}", params={"n": 12})
    assert told.status_code == 200, told.text
    return told.json()


def ids(answered: dict[str, object]) -> list[str]:
    return [item["item_id"] for item in answered["items"]]  # type: ignore[attr-defined,index]


def test_what_one_process_did_counts_in_the_other(pair):
    for number, (one, other) in enumerate(itertools.permutations(pair.clients)):
        for item in (f"i{number}", f"i{number + 4}", f"i{number + 8}"):
            check_that_it_counts(one, other, item)


def check_that_it_counts(one: httpx.Client, other: httpx.Client, item: str) -> None:
    """Click, activate, withdraw and take back in `one`, and see the lists of `other` follow."""
    users = ["u1", "u5", "visitor"]
    before = [answer(other, user) for user in users]  # so that lists are kept there
    assert any(item in ids(told) for told in before)

    body = {"user_id": "visitor", "item_id": item, "interaction_type": "click"}
    assert one.post("/user_interactions", json=body).status_code == 200
    assert item not in ids(answer(one, "visitor"))
    wait_until(lambda: item not in ids(answer(other, "visitor")), "the click")
    assert answer(other, "visitor")["strategy"] == "fold_in"

    version = 3 - before[0]["model_version"]
    assert one.post(f"/models/{version}/activate").status_code == 200
    assert answer(one, "u1")["model_version"] == version
    wait_until(lambda: answer(other, "u1")["model_version"] == version, "the swap")

    assert one.patch(f"/items/{item}", json={"available": False}).status_code == 200
    assert not any(item in ids(answer(one, user)) for user in users)
    assert not any(item in ids(answer(other, user)) for user in users)
    assert one.patch(f"/items/{item}", json={"available": True}).status_code == 200
    kept = [ids(answer(one, user)) for user in users]
    assert [ids(answer(other, user)) for user in users] == kept


@pytest.mark.parametrize("n_changes", [10, pytest.param(200, marks=pytest.mark.long)])
def test_no_list_is_stale(pair, n_changes):
    """Whatever is done in whichever process, each answers as one that has never kept a list."""
    random = Random(n_changes)
    users = [f"u{number}" for number in range(8)] + ["visitor", "another"]
    away: set[str] = set()
    for _ in range(n_changes):
        one, other = random.sample(pair.clients, 2)
        for client in (one, other):  # some lists are kept when they change
            answer(client, random.choice(users))
        change(one, random, users, away)

        true = lists_made_anew(pair.made, users)
        assert {user: list_of(answer(one, user)) for user in users} == true
        wait_until(
            lambda other=other, true=true: (
                {user: list_of(answer(other, user)) for user in users} == true
            ),
            "the other process knows of it",
        )


def change(client: httpx.Client, random: Random, users: list[str], away: set[str]) -> None:
    """Change something, through one process, that lists depend on; `away` has what is withdrawn."""
    item = f"i{random.randrange(12)}"
    match random.choice(["click", "dismiss", "withdraw", "return", "swap", "merge"]):
        case "withdraw":
            told = client.patch(f"/items/{item}", json={"available": False})
            away.add(item)
        case "return":
            item = min(away, default=item)
            told = client.patch(f"/items/{item}", json={"available": True})
            away.discard(item)
        case "swap":
            told = client.post(f"/models/{random.choice([1, 2])}/activate")
        case "merge":
            told = client.post("/users/u1/merge", json={"from": f"v{random.random()}"})
        case kind:
            body = {"user_id": random.choice(users), "item_id": item, "interaction_type": kind}
            told = client.post("/user_interactions", json=body)
    assert told.status_code in {200, 404, 409}, told.text


def list_of(answered: dict[str, object]) -> tuple[object, ...]:
    """Return what must be the same everywhere: what is popular is counted every few seconds."""
    items = [(item["item_id"], item["score"]) for item in answered["items"]]  # type: ignore[attr-defined,index]
    if answered["strategy"] == "popular":
        items = sorted((item_id, None) for item_id, _ in items)
    return answered["model_version"], answered["strategy"], items


def lists_made_anew(made: Installation, users: list[str]) -> dict[str, tuple[object, ...]]:
    with TestClient(create_app(Settings.from_env(made.environ)), "http://localhost") as client:
        return {user: list_of(answer(client, user)) for user in users}


def test_metrics_are_of_all_processes(pair):
    def counted(client: httpx.Client) -> list[float]:
        text = client.get("/metrics").text
        found = [
            re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
            for name in (
                'reckeeper_recommendations_total{strategy="popular"}',
                'reckeeper_http_requests_total{method="GET",route="/health/live",status="200"}',
                "reckeeper_model_swaps_total",
                "reckeeper_served_version",
            )
        ]
        return [0.0 if each is None else float(each[1]) for each in found]

    one, other = pair.clients
    before = counted(one)
    for number in range(3):
        answer(one, f"nobody{number}")
    answer(other, "nobody")
    other.get("/health/live")
    after = counted(other)

    assert after == counted(one)
    assert [new - old for new, old in zip(after, before, strict=True)] == [4, 1, 0, 0]
    assert after[2] >= 2
    assert after[3] in {1, 2}
    assert "reckeeper_served_quality{" in one.get("/metrics").text


@pytest.mark.fault(
    "One of several server processes is killed",
    seen="nothing but its own open connections",
    kept="everything",
    heals="another takes its place at once",
)
def test_a_process_that_dies_is_replaced(pair):
    killed, other = pair.pids()
    os.kill(killed, signal.SIGKILL)

    def another() -> set[int]:
        return set(pair.pids()) - {killed, other}

    wait_until(another, "there are two again")
    (replacement,) = another()
    assert other in pair.pids()
    assert pair.log("server_process_ended")[0]["status"] == -signal.SIGKILL
    wait_until(lambda: len(pair.log("Application startup complete.")) == 3, "it has started")
    with contextlib.closing(pair.connected(replacement)) as client:
        assert list_of(answer(client, "u1")) == list_of(answer(pair.clients[1], "u1"))
        served = re.search(r"^reckeeper_served_version (\S+)$", client.get("/metrics").text, re.M)
        assert served is not None
        assert float(served[1]) in {1, 2}
        assert client.get("/health/ready").json()["status"] == "ok"


def end_by_signal(server: Process) -> None:
    assert server.stop() == -signal.SIGTERM


def end_by_key(server: Process) -> None:
    server.interrupt()
    assert server.wait() == 0


def end_by_force(server: Process) -> None:
    server.kill()


@pytest.mark.fault(
    "The first of several server processes ends, or is killed",
    seen="the server is gone",
    kept="everything",
    heals="its children end with it; start the server again",
)
@pytest.mark.parametrize("end", [end_by_signal, end_by_key, end_by_force])
def test_they_end_together(installation, end):
    scratch = installation.folder / "scratch"
    scratch.mkdir()
    server = installation.start_server(is_copy=False, TMPDIR=str(scratch), **TWO)
    children = [child.pid for child in psutil.Process(server.pid).children()]
    assert len(children) == 2
    wait_until(lambda: server.events("server_listening"), "both listen")

    end(server)

    wait_until(lambda: not any(map(is_alive, children)), "they end")
    assert not is_listening(installation.server_port)
    assert "Traceback" not in server.text()
    assert len(server.events("server_listening")) == 1
    if end is not end_by_force:
        assert list(scratch.iterdir()) == []


def test_why_they_cannot_start_is_said_once(tmp_path):
    with Installation(tmp_path) as made:
        command = [str(BIN / "python"), "server/server.py"]
        without = made.start("without", command, **TWO)
        assert without.wait() == 2
        assert without.text().count("reckeeper migrate") == 1

        made.migrate()
        taken = subprocess.Popen(
            [BIN / "python", "-m", "http.server", str(made.server_port), "-b", "127.0.0.1"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_until(lambda: is_listening(made.server_port), "the port is taken")
        refused = made.start("refused", command, **TWO)
        assert refused.wait() == 3
        said = refused.text()
        taken.kill()
        taken.wait()
        assert "Traceback" not in said
        assert len(refused.events("server_not_started")) == 1
        assert str(made.server_port) in said


def test_a_server_without_the_model_folder_fetches_the_version_from_one_that_has_it(
    trained: Installation,
) -> None:
    trained.start_server()
    there = trained.server
    settings = Settings.from_env(
        trained.environ
        | {
            "RECKEEPER_MODEL_DIR": str(trained.folder / "other"),
            "RECKEEPER_MODEL_SOURCE_URL": str(there.base_url),
        }
    )

    def items(answer: httpx.Response) -> tuple[int, list[str]]:
        found = answer.json()
        return found["model_version"], [item["item_id"] for item in found["items"]]

    with TestClient(create_app(settings), "http://localhost") as here:
        for version in (2, 1):
            path = "/recommendations/u1"
            assert items(here.get(path)) == items(there.get(path))
            assert items(here.get(path))[0] == version
            if version == 2:
                here.post("/models/rollback").raise_for_status()
                wait_until(
                    lambda: items(there.get("/recommendations/u1"))[0] == 1, "the other swaps"
                )
        names = {path.name for path in (trained.folder / "other").glob("*.safetensors")}
        assert names == {"model-000001.safetensors", "model-000002.safetensors"}
