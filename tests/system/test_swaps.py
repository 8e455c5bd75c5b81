"""Many swaps under load: every answer comes, and each is one version's."""

import contextlib
import http.client
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator

import pytest
from tests.system.installation import Installation, wait_until
from tests.system.test_processes import Pair, answer

USERS = [f"u{number}" for number in range(8)]
N_CLIENTS = 4


class Client(threading.Thread):
    """Asks for one user's list after the other, so many a second; notes what each answer was."""

    def __init__(self, port: int, *, every_seconds: float, stop: threading.Event) -> None:
        super().__init__(daemon=True)
        self._port = port
        self._every_seconds = every_seconds
        self._stop_asked = stop
        self.began = time.monotonic()
        self.failures: list[str] = []
        self.answers: Counter[tuple[str, int, str]] = Counter()

    @property
    def n_answers(self) -> int:
        return sum(self.answers.values())

    def _until(self, turn: int) -> float:
        return max(0.0, self.began + turn * self._every_seconds - time.monotonic())

    def run(self) -> None:
        turn = 0
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self._port)) as connection:
            while not self._stop_asked.wait(self._until(turn)):
                user = USERS[turn % len(USERS)]
                turn += 1
                try:
                    connection.request("GET", f"/recommendations/{user}?n=12")
                    told = connection.getresponse()
                    body = json.loads(told.read())
                    assert told.status == 200, body
                    self.answers[user, body["model_version"], written(body)] += 1
                except (OSError, http.client.HTTPException, AssertionError, ValueError) as exc:
                    self.failures.append(repr(exc))
                    connection.close()


def written(answered: dict[str, object]) -> str:
    return json.dumps(answered["items"])


@contextlib.contextmanager
def asking(made: Installation, *, every_seconds: float = 0.0) -> Iterator[list[Client]]:
    """Give clients that ask within the block."""
    stop = threading.Event()
    clients = [
        Client(made.server_port, every_seconds=every_seconds, stop=stop) for _ in range(N_CLIENTS)
    ]
    for client in clients:
        client.start()
    try:
        yield clients
    finally:
        stop.set()
        for client in clients:
            client.join()


@pytest.mark.long
def test_no_swap_is_noticed(trained):
    trained.start_worker()
    with Pair(trained) as pair:
        asked = {"recipe": "popularity", "promote": "always"}
        retrained = trained.server.post("/retrain", json=asked)
        assert retrained.status_code == 200, retrained.text
        true = {}
        for version in (2, 3):
            swap(pair, version)
            for user in USERS:
                one, other = (answer(client, user) for client in pair.clients)
                assert one["items"] == other["items"]
                true[user, version] = written(one)
        assert sum(true[user, 2] != true[user, 3] for user in USERS) >= 3

        with asking(trained) as clients:
            wait_until(lambda: clients[0].n_answers >= 300, "answers as fast as they come")
            seconds = time.monotonic() - clients[0].began
        most = sum(client.n_answers for client in clients) / seconds
        with asking(trained, every_seconds=2 * N_CLIENTS / most) as clients:
            for number in range(100):
                swap(pair, 2 + number % 2)

        assert [client.failures for client in clients] == [[]] * N_CLIENTS
        found = {key for client in clients for key in client.answers}
        assert {version for _, version, _ in found} == {2, 3}
        assert found <= {(user, version, items) for (user, version), items in true.items()}
        assert "Traceback" not in pair.server.text()


def swap(pair: Pair, version: int) -> None:
    """Activate a version, and see that both processes have it."""
    told = pair.made.server.post(f"/models/{version}/activate")
    assert told.status_code == 200, told.text
    for client in pair.clients:
        wait_until(lambda client=client: answer(client, "u1")["model_version"] == version, "a swap")
