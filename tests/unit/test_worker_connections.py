"""What the worker takes of its clients: small requests, at once, on so many connections."""

import contextlib
import json
import shutil
import socket
import threading
import time

import httpx
import pytest
from tests.conftest import settings_in
from tests.system.installation import free_port
from tests.unit.test_connections import answer_of, assert_guarded, send_for_ever
from waitress import wasyncore

from reckeeper.worker import connections
from reckeeper.worker.app import create_app

GET = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory, migrated):
    settings = settings_in(tmp_path_factory.mktemp("worker")).replaced(worker_port=free_port())
    shutil.copytree(migrated, settings.data_dir)
    app = create_app(settings)
    server = connections.listen(app, settings)

    ending = threading.Event()

    def run():
        while not ending.is_set():
            wasyncore.loop(timeout=0.1, use_poll=True, map=server._map, count=1)

    thread = threading.Thread(target=run)
    thread.start()
    yield server
    ending.set()
    thread.join()
    server.task_dispatcher.shutdown()
    wasyncore.close_all(server._map)
    app.extensions["worker"].database.close()


@pytest.fixture
def client(server):
    url = f"http://127.0.0.1:{server.effective_port}"
    headers = {"Content-Type": "application/json"}
    with httpx.Client(
        base_url=url, headers=headers, trust_env=False, verify=False, timeout=30
    ) as client:
        yield client


@pytest.fixture
def connect(server):
    with contextlib.ExitStack() as stack:

        def make():
            place = ("127.0.0.1", int(server.effective_port))
            return stack.enter_context(socket.create_connection(place, timeout=30))

        yield make


@pytest.mark.parametrize("is_in_parts", [False, True])
def test_a_large_body_is_refused(client, server, is_in_parts):
    most = connections.LARGEST_BODY
    answer = client.post("/retrain", content=b" " * most)
    assert answer.json()["code"] == "not_enough_data"
    content = iter([b" " * 1_000] * 66) if is_in_parts else b" " * (most + 1)
    answer = client.post("/retrain", content=content)
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
    assert str(most) in answer.json()["message"]
    assert answer.headers["X-Reckeeper-Installation"] == server.installation_id
    assert client.post("/retrain", content=b"[" * most).status_code == 422


@pytest.mark.parametrize("part", [b"a: b\r\n" * 10, b"b" * 10_000, b"a: " + b"b" * 99 + b"\r\n"])
def test_an_endless_head_is_refused(client, connect, part):
    caller = connect()
    caller.sendall(GET)
    send_for_ever(caller, part)
    status, body, _ = answer_of(caller)
    assert (status, body["status"], body["code"]) == (431, "error", "too_large")
    assert client.get("/health/live").status_code == 200


def test_what_is_no_request_is_told_so(connect, client):
    caller = connect()
    caller.sendall(b"no request\r\n\r\n")
    status, body, head = answer_of(caller)
    assert (status, body["code"]) == (400, "invalid_data")
    assert_guarded(head)
    assert 'route="unknown",status="400"' in client.get("/metrics").text


def test_where_all_are_at_work_the_next_is_told_to_come_again(
    client, connect, server, wait_until, monkeypatch
):
    going_on = threading.Event()
    application = server.application

    def late(environ, start_response):
        going_on.wait(30)
        return application(environ, start_response)

    with monkeypatch.context() as full:
        full.setattr(server, "application", late)
        callers = [connect() for _ in range(4)]
        for caller in callers:
            caller.sendall(GET + b"\r\n")
        wait_until(lambda: sum(bool(each.requests) for each in server._channels()) >= 4)
        full.setattr(server.adj, "connection_limit", 4)
        wait_until(lambda: server.in_connection_overflow)
        status, body, head = answer_of(connect())
        assert (status, body["code"]) == (503, "unavailable")
        assert b"retry-after: " in head
        assert_guarded(head)
        going_on.set()
        for caller in callers:
            assert json.loads(answer_body(caller))["status"] == "ok"
    assert client.get("/health/live").status_code == 200


def channel_of(server, caller):
    return next(
        each for each in server.active_channels.values() if each.addr == caller.getsockname()
    )


@pytest.mark.parametrize(
    "start", [b"", GET, b"POST /retrain HTTP/1.1\r\nContent-Length: 9\r\n\r\n1"]
)
def test_who_is_slow_is_not_waited_for(server, connect, wait_until, start):
    caller = connect()
    caller.sendall(start)
    wait_until(lambda: any(e.addr == caller.getsockname() for e in server.active_channels.values()))
    channel = channel_of(server, caller)
    assert not channel.will_close
    if start:
        wait_until(lambda: channel.request is not None)
        channel._began -= connections.SECONDS + 1  # so long it has been at it
        caller.sendall(b"x")
    else:
        channel.last_activity -= connections.SECONDS + 1
    assert caller.recv(100) == b""


def test_hundreds_idle_and_the_worker_hears(client, connect):
    callers = [connect() for _ in range(300)]
    assert client.get("/health/live").status_code == 200
    callers[0].sendall(GET + b"\r\n")
    assert callers[0].recv(100).startswith(b"HTTP/1.1 200 ")


def test_who_idles_gives_way(client, connect, server, monkeypatch):
    monkeypatch.setattr(server.adj, "connection_limit", 20)
    for _ in range(40):
        connect()
    assert client.get("/health/live").status_code == 200
    text = client.get("/metrics").text
    assert 'reckeeper_http_connections_ended_total{reason="made_room"}' in text


def test_a_request_that_is_answered_late_is_waited_for(server, connect, wait_until, monkeypatch):
    """A retrain that waits for its job says nothing for as long as that takes."""
    going_on = threading.Event()
    application = server.application

    def late(environ, start_response):
        going_on.wait(30)
        return application(environ, start_response)

    monkeypatch.setattr(server, "application", late)
    caller = connect()
    caller.sendall(GET + b"\r\n")
    wait_until(
        lambda: any(
            each.addr == caller.getsockname() and each.requests
            for each in server.active_channels.values()
        )
    )
    server.maintenance(time.time() + 100 * connections.SECONDS)
    going_on.set()
    assert json.loads(answer_body(caller))["status"] == "ok"


def answer_body(caller):
    with caller.makefile("rb") as stream:
        lines = list(iter(stream.readline, b"\r\n"))
        (length,) = (row.split()[1] for row in lines if row.lower().startswith(b"content-length"))
        return stream.read(int(length))
