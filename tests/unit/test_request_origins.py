"""Which requests come from our own pages and programs, and which bodies are taken."""

import socket

import pytest
from tests import compose

from reckeeper import errors
from reckeeper.config import Settings
from reckeeper.origins import UNTYPED, Origins, check_type

OTHERS = [
    *("evil.example", "evil.example:8000", "localhost.evil.example", "10.0.0.7", "6.6.6.6", ""),
    *("localhost, evil.example", "localhost evil.example", "evil.example#localhost", "[::2]"),
]
SHOP, EVIL = "https://shop.example.org", "http://evil.example"


def origins(*pages, **environ):
    return Origins(Settings.from_env(environ), pages=pages)


def refusal(asked, method="GET", **told):
    """Return the class of the error for a request with these headers, None if there is none."""
    headers = {"host": "localhost:8000"} | {name.replace("_", "-"): told[name] for name in told}
    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    found = asked.refusal(method, raw)
    return None if found is None else type(found)


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:1", "127.0.0.1:8000", "127.0.0.2", "[::1]:8000", "localhost."]
)
def test_this_machine_is_known_by_its_own_names(host):
    assert refusal(origins(), host=host) is None


@pytest.mark.parametrize("host", OTHERS)
def test_other_hosts_are_not(host):
    for method in ("GET", "POST", "websocket"):
        assert refusal(origins(), method, host=host) is errors.UnknownHostError


def test_a_request_names_one_host():
    assert type(origins().refusal("GET", [])) is errors.UnknownHostError
    twice = [(b"host", b"localhost"), (b"host", b"localhost")]
    assert type(origins().refusal("GET", twice)) is errors.UnknownHostError


def test_the_refusal_of_a_host_says_what_to_do():
    found = origins().refusal("GET", [(b"host", b"evil.example:80")])
    assert found.details == {"host": "evil.example:80"}
    assert "name it in RECKEEPER_ALLOWED_HOSTS" in found.message


def test_hosts_that_are_named_are_ours_whatever_the_port():
    asked = origins(RECKEEPER_ALLOWED_HOSTS="Reckeeper.example.org:443, server")
    for host in ("reckeeper.example.org", "reckeeper.example.org:8443", "SERVER:8000"):
        assert refusal(asked, host=host) is None
    assert refusal(asked, host="other.example.org") is errors.UnknownHostError


def test_processes_know_the_names_by_which_they_call_each_other():
    asked = origins(
        RECKEEPER_SERVER_URL="http://server:8000",
        RECKEEPER_WORKER_URL="http://[fd00::7]:5000",
    )
    assert refusal(asked, host="server:8000") is None
    assert refusal(asked, host="[fd00:0::7]:5000") is None


def test_the_address_that_is_listened_on_is_ours():
    asked = origins(RECKEEPER_HOST="10.0.0.7")
    assert refusal(asked, host="10.0.0.7:8000") is None
    assert refusal(asked, host="10.0.0.8:8000") is errors.UnknownHostError
    assert refusal(asked, host=socket.gethostname()) is errors.UnknownHostError


@pytest.mark.parametrize("listened", ["0.0.0.0", "::"])
def test_on_all_addresses_any_address_is_ours_and_no_name(listened):
    asked = origins(RECKEEPER_HOST=listened)
    for host in ("10.0.0.7:8000", "[fd00::7]:8000", socket.gethostname()):
        assert refusal(asked, host=host) is None
    assert refusal(asked, host="evil.example") is errors.UnknownHostError


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "websocket", "TRACE"])
@pytest.mark.parametrize(
    "told",
    [
        {"origin": EVIL},
        {"origin": "null"},
        {"origin": "http://localhost:9999"},
        {"origin": "http://localhost"},
        {"origin": "http://127.0.0.1:8000"},
        {"origin": "http://localhost:8000.evil.example"},
        {"origin": "http://me@localhost:8000"},
        {"origin": "file://localhost:8000"},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
        {"sec_fetch_site": "cross-site", "origin": "http://localhost:8000"},
        {"sec_fetch_site": "same-origin", "origin": EVIL},
    ],
    ids=str,
)
def test_foreign_pages_change_nothing(method, told):
    assert refusal(origins(), method, **told) is errors.ForeignOriginError
    for harmless in ("GET", "HEAD", "OPTIONS"):
        assert refusal(origins(), harmless, **told) is None


@pytest.mark.parametrize(
    "told",
    [
        {},
        {"sec_fetch_site": "none"},
        {"sec_fetch_site": "same-origin", "origin": "http://localhost:8000"},
        {"origin": "HTTP://localhost:8000".lower()},
        {"host": "localhost", "origin": "http://localhost"},
        {"host": "localhost:443", "origin": "https://localhost"},
        {"host": "[::1]:8000", "origin": "http://[::1]:8000"},
    ],
    ids=str,
)
def test_programs_and_our_own_pages_do(told):
    assert refusal(origins(), "POST", **told) is None


def test_so_do_pages_of_the_origins_that_are_named():
    asked = origins(SHOP)
    assert refusal(asked, "POST", origin=SHOP, sec_fetch_site="cross-site") is None
    for other in (f"{SHOP}.evil.example", SHOP.replace("https", "http"), f"{SHOP}:8443"):
        assert refusal(asked, "POST", origin=other) is errors.ForeignOriginError


def test_behind_a_proxy_that_keeps_the_host_for_itself_its_origin_is_ours():
    asked = origins(RECKEEPER_ALLOWED_HOSTS="reckeeper.example.org")
    told = {"host": "127.0.0.1:8000", "sec_fetch_site": "same-origin"}
    assert refusal(asked, "POST", origin="https://reckeeper.example.org", **told) is None
    foreign = refusal(asked, "POST", origin="https://reckeeper.example.org:8443", **told)
    assert foreign is errors.ForeignOriginError


def test_the_refusal_of_a_page_says_what_to_do():
    raw = [(b"host", b"localhost"), (b"origin", EVIL.encode())]
    found = origins().refusal("POST", raw)
    assert found.details == {"origin": EVIL}
    assert f"{EVIL!r}" in found.message
    assert "RECKEEPER_CORS_ORIGINS" in found.message


@pytest.mark.parametrize("file", [compose.WHOLE, compose.SMALL])
def test_services_of_a_compose_file_know_each_other_and_this_machine(file):
    services = compose.read(
        file, POSTGRES_PASSWORD="secret", RECKEEPER_ALLOWED_HOSTS="reckeeper.example.org"
    )
    for service in ("server", "worker", "ui"):
        environ = {name: str(text) for name, text in services[service]["environment"].items()}
        asked = origins(**environ)
        for host in ("server:8000", "worker:5000", "ui:8501", "localhost:8000", "127.0.0.1:8000"):
            assert refusal(asked, "POST", host=host) is None
        assert refusal(asked, host="reckeeper.example.org") is None
        assert refusal(asked, host="evil.example") is errors.UnknownHostError


JSON, FILE = ["application/json"], [UNTYPED, "multipart/form-data"]


@pytest.mark.parametrize(
    ("given", "accepted"),
    [
        ("application/json", JSON),
        ("Application/JSON; charset=utf-8", JSON),
        ("application/merge-patch+json", JSON),
        (None, FILE),
        ("multipart/form-data; boundary=x", FILE),
    ],
)
def test_bodies_of_the_types_that_are_accepted_are_taken(given, accepted):
    check_type(given, accepted)


@pytest.mark.parametrize(
    ("given", "accepted"),
    [
        (None, JSON),
        ("", JSON),
        ("text/plain", JSON),
        ("text/plain;application/json", JSON),
        ("application/x-www-form-urlencoded", JSON),
        ("multipart/form-data; boundary=x", JSON),
        ("text/json+json", JSON),
        ("application/x-www-form-urlencoded", FILE),
        ("text/plain", FILE),
    ],
)
def test_others_are_refused_with_what_curl_would_have_to_say(given, accepted):
    with pytest.raises(errors.MediaTypeError) as caught:
        check_type(given, accepted)
    assert f"curl -H 'Content-Type: {accepted[0]}'" in caught.value.message
    assert caught.value.details == {"accepted": accepted}


def test_the_page_needs_no_database(start_python):
    code = "import sys; import reckeeper.page.guard; print('sqlalchemy' in sys.modules)"
    told, complaint = start_python(code).communicate()
    assert (told.strip(), complaint) == ("False", "")
