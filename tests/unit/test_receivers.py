"""Where a webhook may lead."""

import socket

import pytest

from reckeeper.config import Settings
from reckeeper.errors import DataError
from reckeeper.security import Receivers

INTERNAL = [
    *("127.0.0.1", "127.1", "2130706433", "0x7f000001", "0", "localhost", "LOCALHOST"),
    *("10.0.0.7", "169.254.169.254"),
    *("[::1]", "[::ffff:127.0.0.1]", "[fe80::1]", "[64:ff9b::a00:7]"),
]


def receivers(*allowed):
    return Receivers(Settings.from_env({"RECKEEPER_WEBHOOK_ALLOW": ",".join(allowed)}))


@pytest.mark.parametrize("host", INTERNAL)
def test_internal_addresses_are_refused_however_they_are_written(host):
    for call in (receivers().check, receivers().addresses):
        with pytest.raises(DataError, match="name it in RECKEEPER_WEBHOOK_ALLOW"):
            call(f"http://{host}:8000/hook")


def test_the_refusal_says_what_a_name_stands_for():
    with pytest.raises(DataError, match=r"localhost stands for (127\.0\.0\.1|::1), which is an"):
        receivers().check("http://localhost/")


@pytest.mark.parametrize("allowed", ["127.0.0.1", "127.0.0.0/8"])
def test_what_is_named_is_taken(allowed):
    found = receivers(allowed).addresses("http://127.0.0.1:8000/hook")
    assert [str(address) for address in found] == ["127.0.0.1"]
    with pytest.raises(DataError):
        receivers(allowed).check("http://10.0.0.7/")


def test_a_host_that_is_named_may_stand_for_any_address():
    found = receivers("localhost").addresses("http://LOCALHOST:8000/")
    assert {str(address) for address in found} <= {"127.0.0.1", "::1"}
    with pytest.raises(DataError):
        receivers("localhost").check("http://127.0.0.1:8000/")


def test_public_addresses_are_taken():
    assert str(receivers().addresses("https://93.184.216.34/hook")[0]) == "93.184.216.34"


def test_a_host_without_an_address_is_not_refused_beforehand():
    receivers().check("http://nothing.invalid/")
    with pytest.raises(socket.gaierror):
        receivers().addresses("http://nothing.invalid/")
