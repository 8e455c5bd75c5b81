"""What the server takes of its clients: heads, bodies, time and connections have limits."""

import asyncio
import contextlib
import functools
import gc
import json
import resource
import shutil
import socket
import threading

import httpx
import pytest
import structlog
from prometheus_client import REGISTRY
from tests.conftest import settings_in
from tests.system.installation import free_port

from reckeeper import machine, origins, training
from reckeeper.api import app, connections

GET = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n"
POST = b"POST /user_interactions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
CLICK = b'{"user_id": "u1", "item_id": "i1", "interaction_type": "click"}'


class Served:
    """A server in a thread of this process, whose seconds a test lets pass."""

    def __init__(self, settings):
        self.port = settings.server_port
        self.server = app._Server(app.create_app(settings), settings)
        self.state = self.server.server_state
        self.loop = None
        self.callers = []
        self._thread = threading.Thread(target=self.server.run)
        self.client = httpx.Client(
            base_url=settings.server_url,
            headers={"Content-Type": "application/json"},
            trust_env=False,
            verify=False,
        )

    def start(self, wait_until):
        """Start it; its own looks, once a second, do not come."""

        async def on_tick(counter):
            self.loop = asyncio.get_running_loop()
            return self.server.should_exit

        self.server.on_tick = on_tick
        self._thread.start()
        wait_until(lambda: self.loop is not None)

    def stop(self):
        self.client.close()
        self.server.should_exit = True
        self._thread.join()
        gc.unfreeze()

    def within(self, function):
        """Call a function in the thread of the server, and return what it gives."""

        async def call():
            return function()

        return asyncio.run_coroutine_threadsafe(call(), self.loop).result(30)

    def pass_seconds(self, n_seconds):
        for _ in range(n_seconds):
            self.within(self.state.look)

    def connect(self, *, receive_bytes=None):
        caller = socket.socket()
        if receive_bytes is not None:
            caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        caller.settimeout(30)
        caller.connect(("127.0.0.1", self.port))
        self.callers.append(caller)
        self.settle()
        return caller

    def send(self, caller, content):
        """Send what fits into the system's buffers, and see it received."""
        caller.sendall(content)
        self.settle()

    def settle(self):
        """Let the loop of the server go round once: it takes what has come."""
        for _ in range(2):
            self.within(lambda: None)

    def is_open(self, caller):
        port = caller.getsockname()[1]
        return self.within(
            lambda: any(each.client == ("127.0.0.1", port) for each in self.state.connections)
        )

    def counted(self, reason):
        text = self.client.get("/metrics").text
        name = f'reckeeper_http_connections_ended_total{{reason="{reason}"}} '
        return sum(float(line[len(name) :]) for line in text.splitlines() if line.startswith(name))


@pytest.fixture(scope="module")
def served(tmp_path_factory, migrated, wait_until):
    settings = settings_in(tmp_path_factory.mktemp("connections"))
    shutil.copytree(migrated, settings.data_dir)
    port = free_port()
    made = Served(settings.replaced(server_port=port, server_url=f"http://127.0.0.1:{port}"))
    made.start(wait_until)
    yield made
    made.stop()


@pytest.fixture(autouse=True)
def hang_up(served):
    yield
    while served.callers:
        served.callers.pop().close()


def answer_of(caller):
    """Read to the end of a connection; return the status and what the body says."""
    received = b"".join(iter(functools.partial(caller.recv, 2**16), b""))
    head, _, body = received.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body), head.lower()


def assert_guarded(head):
    """See that an answer has the headers of all answers."""
    for name, value in origins.HEADERS:
        assert f"{name}: {value}".lower().encode() in head


def send_for_ever(caller, part):
    """Send until the other end has had enough; what it answered can be read."""
    with contextlib.suppress(OSError):
        for _ in range(10**9 // len(part)):
            caller.sendall(part)


CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("start", "part"),
    [
        (GET, b"a: b\r\n" * 10),
        (GET, b"a: " + b"b" * 2_000 + b"\r\n"),
        (GET + b"a: ", b"b" * 10_000),
        (GET, b"b" * 10_000),
        (b"", b"\r\n" * 5_000),
        (CHUNKED + b"1;", b"extension" * 1_000),
        (CHUNKED + b"1\r\n \r\n0\r\n", b"trailer: b\r\n" * 10),
        (CHUNKED + b"1\r\n \r\n0\r\na: ", b"b" * 10_000),
    ],
)
def test_an_endless_head_is_refused(served, start, part):
    before = served.counted("head_too_large")
    caller = served.connect()
    caller.sendall(start)
    send_for_ever(caller, part)
    status, body, head = answer_of(caller)
    assert (status, body["status"], body["code"]) == (431, "error", "too_large")
    assert f"{connections.MOST_HEADERS} headers" in body["message"]
    assert f"x-reckeeper-installation: {served.state.installation_id}".encode() in head
    assert served.counted("head_too_large") == before + 1
    assert served.client.get("/health/live").status_code == 200


def test_a_head_that_browsers_and_proxies_make_is_taken(served):
    headers = {f"X-{number}": "v" * 500 for number in range(connections.MOST_HEADERS - 20)}
    assert served.client.get("/health/live", headers=headers).status_code == 200
    assert served.client.get("/health/live", headers={"Cookie": "c" * 60_000}).status_code == 200


@pytest.mark.parametrize("other", ["h2c", "websocket"])
def test_a_request_to_speak_something_else_is_answered_as_if_it_had_not_asked(served, other):
    answer = served.client.get("/health/live", headers={"Upgrade": other, "Connection": "Upgrade"})
    assert answer.status_code == 200


@pytest.mark.parametrize("sent", [b"no request\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01"])
def test_what_is_no_request_is_told_so(served, sent):
    caller = served.connect()
    caller.sendall(sent)
    status, body, head = answer_of(caller)
    assert (status, body["code"]) == (400, "invalid_data")
    assert "HTTP/1.1" in body["message"]
    assert_guarded(head)
    labels = {"method": "unknown", "route": "unknown", "status": "400"}
    assert REGISTRY.get_sample_value("reckeeper_http_requests_total", labels) >= 1


def read_an_answer(stream):
    lines = list(iter(stream.readline, b"\r\n"))
    (length,) = (line.split()[1] for line in lines if line.lower().startswith(b"content-length"))
    assert lines[0].startswith(b"HTTP/1.1 200 ")
    return stream.read(int(length))


@pytest.mark.parametrize("comes_again", [False, True])
def test_a_head_takes_seconds_and_no_longer(served, comes_again):
    caller = served.connect()
    if comes_again:
        caller.sendall(GET + b"\r\n")
        read_an_answer(caller.makefile("rb"))
        served.pass_seconds(4)
    for letter in GET[: connections.HEAD_SECONDS]:
        served.send(caller, bytes([letter]))
        served.pass_seconds(1)
    assert served.is_open(caller)
    served.pass_seconds(1)
    status, body, _ = answer_of(caller)
    assert (status, body["code"]) == (408, "http_error")
    assert "head" in body["message"]


def test_who_says_nothing_is_not_waited_for(served):
    caller = served.connect()
    served.pass_seconds(connections.HEAD_SECONDS)
    assert served.is_open(caller)
    served.pass_seconds(1)
    assert caller.recv(100) == b""


@pytest.mark.parametrize(
    ("n_bytes", "is_enough"), [(connections.LEAST_BYTES_A_SECOND * 31, True), (100, False)]
)
def test_a_body_keeps_a_pace(served, n_bytes, is_enough):
    before = served.counted("slow_body")
    caller = served.connect()
    served.send(caller, POST + b"Content-Length: 90000\r\n\r\n")
    served.pass_seconds(1)
    served.send(caller, b" " * n_bytes)
    served.pass_seconds(connections.WINDOW_SECONDS)
    assert served.counted("slow_body") == before + (not is_enough)
    if not is_enough:
        status, body, _ = answer_of(caller)
        assert (status, body["code"]) == (408, "http_error")
        assert "500 bytes a second" in body["message"]


def test_whose_turn_it_is_not_is_never_slow(served):
    """A body that is to be asked for, and a long job's answer that is waited for."""
    waiting = threading.Event()
    going_on = threading.Event()

    expire = training.expire_silent

    def hold(database):
        waiting.set()
        going_on.wait(30)
        expire(database)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "expire_silent", hold)
        caller = served.connect()
        caller.sendall(b"GET /jobs HTTP/1.1\r\nHost: localhost\r\n\r\n")
        waiting.wait(30)
        served.pass_seconds(3 * connections.WINDOW_SECONDS)
        assert served.is_open(caller)
        going_on.set()
        assert caller.recv(100).startswith(b"HTTP/1.1 200 ")


def test_an_answer_that_nobody_reads_is_given_up(served, wait_until):
    before = served.counted("slow_reader")
    caller = served.connect(receive_bytes=4_096)
    caller.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * 50)

    def is_stuck():
        (found,) = (
            each for each in served.state.connections if each.client == caller.getsockname()
        )
        return found.flow.write_paused

    wait_until(lambda: served.within(is_stuck))
    served.pass_seconds(connections.WINDOW_SECONDS)
    assert served.is_open(caller)
    served.pass_seconds(2)
    assert not served.is_open(caller)
    assert served.counted("slow_reader") == before + 1


def test_requests_that_are_sent_ahead_wait_outside(served):
    caller = served.connect()
    many = b"GET / HTTP/1.1\r\n\r\n"
    caller.settimeout(0.5)  # it blocks once the other end reads no more
    with contextlib.suppress(TimeoutError):
        for _ in range(500):
            caller.sendall(many * 1_000)
    longest = served.within(lambda: max(len(each.pipeline) for each in served.state.connections))
    assert longest < 2**18 / len(many)


def test_all_that_are_sent_ahead_are_answered(served):
    caller = served.connect()
    caller.sendall((GET + b"\r\n") * 300)
    with caller.makefile("rb") as stream:
        for _ in range(300):
            read_an_answer(stream)
        caller.sendall(POST + b"Content-Length: %d\r\n\r\n" % len(CLICK) + CLICK)
        assert json.loads(read_an_answer(stream))["accepted"] == 1


def test_there_is_room_for_so_many_and_who_idles_gives_way(served, monkeypatch):
    n_open = served.within(lambda: len(served.state.connections))
    monkeypatch.setattr(served.state, "most", n_open + 20)
    idle = [served.connect() for _ in range(20)]
    status, body, head = answer_of(served.connect())
    assert (status, body["code"]) == (503, "unavailable")
    assert b"retry-after: " in head
    with structlog.testing.capture_logs() as lines:
        served.state._told_at = -1e9
        served.pass_seconds(1)
    (line,) = (each for each in lines if each["event"] == "connections_ended")
    assert (line["full"], line["most"]) == (1, n_open + 20)

    caller = served.connect()
    caller.sendall(GET + b"\r\n")
    assert caller.recv(100).startswith(b"HTTP/1.1 200 ")
    assert sum(map(served.is_open, idle)) < 20
    monkeypatch.undo()
    assert served.counted("full") >= 1
    assert served.counted("made_room") >= 1


def test_fewer_connections_than_files():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 1_000), hard))
        n_files = machine.open_files()
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == n_files == min(hard, 16_384)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    for n_files in (64, 1_024, 16_384):
        made = connections.Connections(n_files, "")
        assert made.most + made.backlog < n_files
    assert made.most == 10_000


@pytest.mark.parametrize(
    "path", ["/user_interactions", "/items", "/items/similar", "/recommendations/batch"]
)
def test_a_body_of_very_many_values_is_refused_before_it_is_parsed(served, path):
    body = b"[" + b"[]," * 1_000_000 + b"[]]"
    answer = served.client.post(path, content=body)
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
    assert "values; at most 400,000" in answer.json()["message"]


@pytest.mark.parametrize(
    ("method", "path"),
    [("PUT", "/policy"), ("POST", "/retrain"), ("PATCH", "/models/1"), ("POST", "/users/u1/merge")],
)
def test_a_body_that_is_parsed_at_once_is_small(served, method, path):
    for content in (b" " * 262_145, iter([b" " * 1_000] * 300)):
        answer = served.client.request(method, path, content=content)
        assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
        assert "262144 bytes" in answer.json()["message"]
    answer = served.client.request(method, path, content=b"[" * 262_144)
    assert answer.status_code == 422


@pytest.mark.parametrize(
    ("path", "shape"),
    [
        ("/user_interactions", "[%s]"),
        ("/items", "[%s]"),
        ("/recommendations", "%s"),
        ("/recommendations", '{"history": [%s]}'),
        ("/items/similar", "%s"),
    ],
)
def test_of_very_many_unknown_fields_one_is_named(served, path, shape):
    wide = json.dumps({f"x{number}": number for number in range(50_000)})
    answer = served.client.post(path, content=shape % wide)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_data")
    assert "x0" in answer.json()["message"]
