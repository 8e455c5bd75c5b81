"""Very many connections, idle and slow ones, and a server that has few files to open."""

import contextlib
import re
import socket
import sys

import httpx
import pytest
from tests.system.installation import clicks, require, wait_until

from reckeeper import machine

HALF_A_HEAD = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nX-Slow: "
HALF_A_BODY = (
    b"POST /user_interactions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b"Content-Length: 1000\r\n\r\n["
)


@contextlib.contextmanager
def connections(port, n_connections, *, saying=b""):
    with contextlib.ExitStack() as stack:
        opened = []
        for _ in range(n_connections):
            caller = stack.enter_context(socket.socket())
            caller.connect(("127.0.0.1", port))
            caller.settimeout(30)
            with contextlib.suppress(OSError):  # refused already
                caller.sendall(saying)
            opened.append(caller)
        yield opened


def answers(port):
    """Ask on a connection of one's own."""
    try:
        answer = httpx.get(
            f"http://127.0.0.1:{port}/health/live", trust_env=False, verify=False, timeout=10
        )
    except httpx.TransportError:
        return False
    return answer.status_code == 200


@pytest.mark.fault(
    "A thousand connections that idle or are slow, and a server that may open 512 files",
    seen="whoever comes is answered; `connections_ended` in the log and the metrics",
    kept="everything",
    heals="those that idle give way, slow ones are ended after 10 seconds",
)
def test_a_thousand_that_idle_lock_nobody_out(installation):
    require(machine.open_files() > 1_500, "this process may open too few files")
    command = f"ulimit -n 512; exec {sys.executable} server/server.py"
    port = installation.server_port
    server = installation.start(
        "server", ["bash", "-c", command], health_url=f"http://127.0.0.1:{port}/health/live"
    )
    with connections(port, 500), connections(port, 500, saying=HALF_A_HEAD):
        wait_until(lambda: answers(port), "somebody else is answered")
        rows = [{"user_id": "u1", "item_id": f"i{n}", "interaction_type": "click"} for n in "abc"]
        installation.send(rows)
        wait_until(lambda: server.events("connections_ended"), "the log says so")
    (told, *_) = server.events("connections_ended")
    assert told["most"] == 512 * 3 // 4
    text = installation.server.get("/metrics").text
    found = re.findall(r'connections_ended_total{reason="(?:full|made_room)"} (\S+)', text)
    assert sum(map(float, found)) >= 1_000 - told["most"]
    assert "Traceback" not in server.text()


@pytest.mark.fault(
    "Ten thousand connections at once",
    seen="all are answered",
    kept="everything",
    heals="nothing has to",
)
def test_ten_thousand_connections_are_answered(installation):
    n_files = machine.open_files()
    n_connections = min(9_500, n_files * 3 // 4 - 500)
    require(n_connections >= 500, "this process may open too few files")
    installation.start_server()
    request = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
    port = installation.server_port
    with connections(port, n_connections) as opened:
        installation.send(clicks(8, 12))
        asking = opened[:: -n_connections // 500]
        for caller in asking:
            with contextlib.suppress(OSError):
                caller.sendall(request)
        # The first have idled for ten seconds where the last take so long to come.
        assert sum(map(is_answered, asking)) > len(asking) // 2
        assert answers(port)


def is_answered(caller):
    try:
        return caller.recv(12) == b"HTTP/1.1 200"
    except OSError:
        return False


@pytest.mark.fault(
    "Clients that send a head or a body a byte at a time",
    seen="408, after 10 seconds for a head, 30 to 60 for a body",
    kept="everything: what has not come whole is not stored",
    heals="the connection ends",
)
def test_slow_clients_are_told_and_keep_nobody_waiting(installation):
    server = installation.start_server()
    port = installation.server_port
    with connections(port, 200, saying=HALF_A_HEAD) as slow:
        with connections(port, 50, saying=HALF_A_BODY):
            assert answers(port)
            installation.send(clicks(8, 12))

        def are_told():
            with contextlib.suppress(OSError):
                for caller in slow:
                    caller.sendall(b"x")
            text = installation.server.get("/metrics").text
            return 'reckeeper_http_connections_ended_total{reason="slow_head"} 200.0' in text

        wait_until(are_told, "all are told")
        assert {caller.recv(12) for caller in slow} == {b"HTTP/1.1 408"}
    assert "Traceback" not in server.text()
