"""The webhook's courier, with a real receiver."""

import contextlib
import hashlib
import hmac
import http.server
import itertools
import json
import re
import socket
import threading
import time

import pytest
import structlog
from tests.conftest import ROOT

from reckeeper import __version__, clock, notices, policy, storage
from reckeeper.errors import DataError
from reckeeper.notices import Courier

SECRET = "a secret of the receiver"


class Receiver(http.server.ThreadingHTTPServer):
    """Keeps what it is sent, and answers with the statuses given, then 200."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.statuses = []
        self.received = []
        self.headers = {}
        self.body = b"ok"
        self.url = f"http://127.0.0.1:{self.server_port}/hook?team=1"


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.received.append((self.path, dict(self.headers), body))
        status = self.server.statuses.pop(0) if self.server.statuses else 200
        self.send_response(status)
        for name, value in self.server.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(self.server.body)))
        self.end_headers()
        self.wfile.write(self.server.body)

    def do_GET(self):
        self.server.received.append((self.path, dict(self.headers), None))
        self.send_error(404)

    def log_message(self, *_arguments):
        """Say nothing."""

    def handle(self):
        with contextlib.suppress(ConnectionError):  # the courier reads nothing after the head
            super().handle()


def signature(signed):
    return f"sha256={hmac.new(SECRET.encode(), signed, hashlib.sha256).hexdigest()}"


@pytest.fixture
def settings(settings):
    """Return settings that let the webhook lead to this machine, where the receiver is."""
    return settings.replaced(webhook_allow=("127.0.0.1",))


@pytest.fixture
def receiver():
    receiver = Receiver()
    thread = threading.Thread(target=receiver.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield receiver
    receiver.shutdown()
    thread.join()
    receiver.server_close()


@pytest.fixture
def store(database, settings):
    """Return a function that stores a policy of the fields given."""
    return lambda **content: policy.store(database, settings, content, actor="test")


@pytest.fixture
def tell(database):
    """Return a function that writes a notice and returns the number of the last one."""

    def tell(event="promoted", payload=None, **options):
        with database.write() as connection:
            notices.notify(connection, event, payload or {"version": 3}, **options)
            return next(
                number
                for number in itertools.count(1)
                if storage.notices.get(connection, number + 1) is None
            )

    return tell


@pytest.fixture
def notice(database):
    def notice(notice_id):
        with database.read() as connection:
            return storage.notices.get(connection, notice_id)

    return notice


@pytest.fixture
def courier(database, settings):
    """Return a function that starts a courier in a hurry."""
    couriers = []

    def start(**options):
        hurried = {"first_pause_seconds": 0.05, **options}
        courier = Courier(database, settings.replaced(poll_seconds=0.002), **hurried)
        couriers.append(courier)
        courier.start()
        return courier

    yield start
    for courier in couriers:
        courier.stop()


def test_a_notice_is_sent_until_it_is_received(receiver, store, tell, notice, courier, wait_until):
    store(webhook_url=receiver.url, webhook_secret=SECRET)
    receiver.statuses = [500, 500]
    notice_id = tell("rejected", {"version": 3, "sentence": "Worse by 5 % – “no”."})
    with structlog.testing.capture_logs() as lines:
        courier()
        wait_until(lambda: notice(notice_id).delivered_at)
    assert len(receiver.received) == 3
    assert len({body for _, _, body in receiver.received}) == 1
    path, headers, body = receiver.received[-1]
    assert path == "/hook?team=1"
    assert json.loads(body) == {
        "event": "rejected",
        "at": clock.rfc3339(notice(notice_id).at),
        "notice_id": notice_id,
        "version": 3,
        "sentence": "Worse by 5 % – “no”.",
    }
    assert headers["X-Reckeeper-Event"] == "rejected"
    assert headers["X-Reckeeper-Delivery"] == str(notice_id)
    assert headers["Content-Type"] == "application/json"
    assert headers["User-Agent"] == f"reckeeper/{__version__}"
    assert headers["X-Reckeeper-Signature"] == signature(body)
    at = headers["X-Reckeeper-Timestamp"]
    assert abs(int(at) - time.time()) < 60
    assert headers["X-Reckeeper-Timed-Signature"] == signature(at.encode() + b"." + body)
    assert headers["Host"] == f"127.0.0.1:{receiver.server_port}"
    done = notice(notice_id)
    assert (done.attempts, done.next_attempt_at, done.last_error) == (3, None, None)
    assert [(line["event"], line.get("error")) for line in lines] == [
        ("notice_not_delivered", "the answer was 500"),
        ("notice_not_delivered", "the answer was 500"),
        ("notice_delivered", None),
    ]
    assert [line.get("retry_seconds") for line in lines] == [0.05, 0.1, None]
    assert SECRET not in str(lines)


def test_without_a_secret_there_is_no_signature(receiver, store, tell, courier, wait_until):
    store(webhook_url=receiver.url)
    tell()
    courier()
    wait_until(lambda: receiver.received)
    headers = receiver.received[0][1]
    assert not [name for name in headers if "Signature" in name or "Timestamp" in name]


def test_the_example_of_the_documentation_tells_what_is_genuine(
    receiver, store, tell, courier, wait_until, monkeypatch
):
    page = (ROOT / "docs" / "use" / "policy.md").read_text(encoding="utf-8")
    example = {}
    exec(re.search(r"^```python\n(.*?)^```$", page, re.M | re.S)[1], example)
    is_genuine = example["is_genuine"]
    store(webhook_url=receiver.url, webhook_secret=SECRET)
    tell()
    courier()
    wait_until(lambda: receiver.received)
    _, headers, body = receiver.received[0]
    assert is_genuine(headers, body, SECRET)
    assert not is_genuine(headers, body + b" ", SECRET)
    assert not is_genuine(headers, body, SECRET[::-1])
    later = int(headers["X-Reckeeper-Timestamp"]) + 1
    assert not is_genuine(headers | {"X-Reckeeper-Timestamp": str(later)}, body, SECRET)
    monkeypatch.setattr(time, "time", lambda: later + 300)
    assert not is_genuine(headers, body, SECRET)


def test_each_attempt_has_its_own_time(receiver, store, tell, notice, courier, wait_until):
    """One that was overheard long ago is told from one that comes now."""
    store(webhook_url=receiver.url, webhook_secret=SECRET)
    receiver.statuses = [500]
    notice_id = tell()
    courier(first_pause_seconds=1.1)
    wait_until(lambda: notice(notice_id).delivered_at)
    first, second = (headers["X-Reckeeper-Timestamp"] for _, headers, _ in receiver.received)
    assert int(second) > int(first)


def test_notices_are_sent_in_their_order(receiver, store, tell, notice, courier, wait_until):
    store(webhook_url=receiver.url)
    numbers = [tell(payload={"version": version}) for version in range(5)]
    courier()
    wait_until(lambda: notice(numbers[-1]).delivered_at)
    assert [json.loads(body)["version"] for _, _, body in receiver.received] == [0, 1, 2, 3, 4]


def test_a_notice_that_is_not_received_stops_no_other(
    receiver, store, tell, notice, courier, wait_until
):
    store(webhook_url=receiver.url)
    receiver.statuses = [503]
    first, second = tell(), tell()
    courier(first_pause_seconds=600.0)
    wait_until(lambda: notice(second).delivered_at)
    found = notice(first)
    assert (found.delivered_at, found.last_error) == (None, "the answer was 503")
    assert 590e6 < found.next_attempt_at - clock.now() <= 600e6


def test_pauses_double_up_to_the_longest(receiver, store, tell, notice, courier, wait_until):
    store(webhook_url=receiver.url)
    receiver.statuses = [500] * 5
    notice_id = tell()
    with structlog.testing.capture_logs() as lines:
        courier(first_pause_seconds=0.01, longest_pause_seconds=0.05)
        wait_until(lambda: notice(notice_id).delivered_at)
    pauses = [line.get("retry_seconds") for line in lines]
    assert pauses == [0.01, 0.02, 0.04, 0.05, 0.05, None]


def test_a_notice_is_given_up_in_the_end(receiver, store, tell, notice, courier, wait_until):
    store(webhook_url=receiver.url)
    receiver.statuses = [500] * 1000
    notice_id = tell()
    with structlog.testing.capture_logs() as lines:
        courier(longest_pause_seconds=0.05, give_up_seconds=3.0)
        wait_until(lambda: notice(notice_id).next_attempt_at is None)
    found = notice(notice_id)
    assert (found.delivered_at, found.last_error) == (None, "the answer was 500")
    assert found.attempts == len(receiver.received) > 1
    assert [line["event"] for line in lines][-2:] == ["notice_not_delivered", "notice_given_up"]


@pytest.mark.parametrize("host", ["127.0.0.2", "127.2", "[::ffff:127.0.0.2]"])
def test_a_receiver_at_an_internal_address_is_refused(
    database, settings, receiver, store, tell, notice, courier, wait_until, host
):
    """One that was stored before this was checked, or that stands for another address by now."""
    url = receiver.url.replace("127.0.0.1", host)
    with pytest.raises(DataError, match=r"^webhook_url: .* name it in RECKEEPER_WEBHOOK_ALLOW"):
        store(webhook_url=url)
    with database.write() as connection:
        content = policy.first(settings).policy.model_copy(update={"webhook_url": url})
        storage.policies.insert(
            connection, policy=content.model_dump(), actor="before", reason=None
        )
    notice_id = tell()
    courier(first_pause_seconds=600.0)
    wait_until(lambda: notice(notice_id).last_error)
    assert "is an internal address" in notice(notice_id).last_error
    assert notice(notice_id).delivered_at is None
    assert receiver.received == []


def test_what_is_connected_to_is_what_was_checked(
    receiver, store, tell, notice, courier, wait_until, monkeypatch
):
    """A name that stands for a public address when it is checked, and for this machine after."""
    store(webhook_url=f"http://rebinds.invalid:{receiver.server_port}/")
    asked = []

    def look_up(host, *_arguments, **_options):
        asked.append(host)
        # The first leads nowhere from here.
        address = "127.0.0.1" if len(asked) > 1 else "64:ff9b::5db8:d822"
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        return [(family, socket.SOCK_STREAM, 6, "", (address, 0))]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    notice_id = tell()
    courier(first_pause_seconds=600.0, timeout_seconds=1.0)
    wait_until(lambda: notice(notice_id).last_error)
    assert notice(notice_id).delivered_at is None
    assert receiver.received == []
    assert asked.count("rebinds.invalid") == 1


def test_redirects_are_not_followed(receiver, store, tell, notice, courier, wait_until):
    store(webhook_url=receiver.url)
    receiver.statuses = [302]
    receiver.headers = {"Location": f"http://127.0.0.1:{receiver.server_port}/elsewhere"}
    notice_id = tell()
    courier(first_pause_seconds=600.0)
    wait_until(lambda: notice(notice_id).last_error)
    assert notice(notice_id).last_error == "the answer was 302: redirects are not followed"
    assert [path for path, _, _ in receiver.received] == ["/hook?team=1"]


def test_a_body_without_end_is_not_read(store, tell, notice, courier, wait_until):
    sent = []

    def answer(connection):
        connection.recv(65536)
        try:
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 10000000000000\r\n\r\n")
            while True:
                connection.sendall(bytes(65536))
                sent.append(65536)
        except OSError:
            connection.close()

    with _receiver(answer) as url:
        store(webhook_url=url)
        notice_id = tell()
        courier()
        wait_until(lambda: notice(notice_id).delivered_at)
    assert sum(sent) < 50_000_000


def test_a_receiver_that_hangs_is_left(store, tell, notice, courier, wait_until):
    with _receiver(lambda connection: connection.recv(65536)) as url:
        store(webhook_url=url)
        notice_id = tell()
        courier(timeout_seconds=0.2, first_pause_seconds=600.0)
        wait_until(lambda: notice(notice_id).last_error)
    assert notice(notice_id).last_error == "no answer within 0.2 seconds"


def test_a_receiver_that_drips_is_left(store, tell, notice, courier, wait_until):
    """No single read is late: the whole is."""
    pause = threading.Event()

    def drip(connection):
        try:
            connection.sendall(b"HTTP/1.1 200 OK\r\nX-Slow: ")
            while not pause.wait(0.02):
                connection.sendall(b"a")
        except OSError:
            connection.close()

    with _receiver(drip) as url:
        store(webhook_url=url)
        notice_id = tell()
        courier(timeout_seconds=0.5, first_pause_seconds=600.0)
        wait_until(lambda: notice(notice_id).last_error)
    pause.set()
    assert notice(notice_id).last_error == "no answer within 0.5 seconds"


def test_a_stop_waits_for_no_receiver(store, tell, notice, courier, wait_until):
    reached = threading.Event()
    with _receiver(lambda connection: connection.recv(65536) and reached.set()) as url:
        store(webhook_url=url)
        notice_id = tell()
        stopped = courier(timeout_seconds=600.0)
        assert reached.wait(20)
        stopped.stop()
        assert not [thread for thread in threading.enumerate() if thread.name == "courier"]
    found = notice(notice_id)
    assert (found.delivered_at, found.attempts) == (None, 1)
    assert found.next_attempt_at - clock.now() > 590e6


def test_after_a_stop_a_notice_is_sent_again(receiver, store, tell, notice, courier, wait_until):
    reached = threading.Event()
    with _receiver(lambda connection: connection.recv(65536) and reached.set()) as url:
        store(webhook_url=url)
        notice_id = tell()
        stopped = courier(timeout_seconds=1.0)
        assert reached.wait(20)
        stopped.stop()
    assert notice(notice_id).delivered_at is None
    store(webhook_url=receiver.url)
    courier()
    wait_until(lambda: notice(notice_id).delivered_at)
    assert notice(notice_id).attempts == 2


@pytest.mark.parametrize("host", ["127.0.0.1", "a" * 64 + ".invalid"])
def test_a_receiver_that_is_not_there_is_told(store, tell, notice, courier, wait_until, host):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    store(webhook_url=f"http://{host}:{port}/")
    notice_id = tell()
    courier(first_pause_seconds=600.0)
    wait_until(lambda: notice(notice_id).last_error)
    assert notice(notice_id).delivered_at is None
    assert "Error" in notice(notice_id).last_error


def test_without_a_webhook_notices_are_dropped(receiver, store, tell, notice, courier, wait_until):
    first, second = tell(), tell()
    courier()
    wait_until(lambda: notice(second).next_attempt_at is None)
    assert notice(first).next_attempt_at is None
    assert [notice(number).delivered_at for number in (first, second)] == [None, None]
    store(webhook_url=receiver.url)
    third = tell()
    wait_until(lambda: notice(third).delivered_at)
    assert len(receiver.received) == 1


def test_of_several_couriers_one_sends_a_notice(receiver, store, tell, notice, courier, wait_until):
    store(webhook_url=receiver.url)
    for _ in range(3):
        courier()
    numbers = [tell() for _ in range(20)]
    wait_until(lambda: all(notice(number).delivered_at for number in numbers))
    sent = [json.loads(body)["notice_id"] for _, _, body in receiver.received]
    assert sorted(sent) == numbers


def test_an_attempt_is_one_couriers_alone(database, tell, notice):
    notice_id = tell()
    seen = notice(notice_id)
    until = clock.now() + 60_000_000
    with database.write() as connection:
        assert storage.notices.take(connection, seen, until=until)
        assert not storage.notices.take(connection, seen, until=until + 1)
    with database.read() as connection:
        assert storage.notices.first_due(connection) is None
    assert (notice(notice_id).attempts, notice(notice_id).next_attempt_at) == (1, until)


def test_of_notices_with_one_key_the_first_is_told(tell, notice):
    first = tell("stale", {"version": 1}, key="stale:1")
    assert tell("stale", {"version": 2}, key="stale:1") == first
    assert tell("stale", {"version": 3}, key="stale:3") == first + 1
    assert notice(first).payload == {"version": 1}


def test_a_notice_of_a_transaction_that_failed_is_not_told(database, notice):
    with contextlib.suppress(RuntimeError), database.write() as connection:
        notices.notify(connection, "promoted", {"version": 1})
        raise RuntimeError
    assert notice(1) is None


def test_a_courier_outlives_what_nobody_thought_of(
    database, receiver, store, tell, notice, courier, wait_until
):
    with database.write() as connection:
        storage.policies.insert(connection, policy={"mood": 5}, actor="later", reason=None)
    notice_id = tell()
    with structlog.testing.capture_logs() as lines:
        courier()
        wait_until(lambda: lines)
        store(webhook_url=receiver.url)
        wait_until(lambda: notice(notice_id).delivered_at)
    assert lines[0]["event"] == "periodic_failed"


def test_a_courier_that_was_not_started_can_be_stopped(database, settings):
    Courier(database, settings).stop()


class _receiver:
    """A receiver that does with each connection what `answer` does, and leaves it open."""

    def __init__(self, answer):
        self._answer = answer
        self._server = socket.create_server(("127.0.0.1", 0))
        self._connections = []
        self._threads = [threading.Thread(target=self._accept)]

    def __enter__(self):
        self._threads[0].start()
        return f"http://127.0.0.1:{self._server.getsockname()[1]}/"

    def __exit__(self, *_exc):
        self._server.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        for connection in self._connections:
            connection.close()
        for thread in self._threads:
            thread.join()
        self._server.close()

    def _accept(self):
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            self._connections.append(connection)
            self._threads.append(threading.Thread(target=self._answer, args=(connection,)))
            self._threads[-1].start()
