"""Hosts, as headers, URLs and settings have them."""

import ipaddress

import pytest

from reckeeper import hosts

NO_HOSTS = [
    *("", ".", ":80", "a b", "a\n", "a:b", "a:", "a:123456", "a:80:80", "me@a", "a/b", "::1"),
    *("[a]", "[::1", "a,b", "http://a", "ä"),
]
INTERNAL = [
    *("127.0.0.1", "127.9.9.9", "10.0.0.7", "172.16.0.1", "192.168.1.1", "169.254.169.254"),
    *("0.0.0.0", "100.64.0.1", "224.0.0.1", "255.255.255.255", "192.0.2.1"),
    *("::1", "::", "fe80::1", "fd00::1", "ff02::1", "2001:db8::1"),
    *("::ffff:127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::"),
    *("::127.0.0.1", "::ffff:0:127.0.0.1", "64:ff9b:1::7f00:1", "fec0::1", "168.63.129.16"),
]


@pytest.mark.parametrize(
    ("authority", "found"),
    [
        ("localhost", ("localhost", None)),
        ("LocalHost:8000", ("localhost", 8000)),
        ("shop.example.org.", ("shop.example.org", None)),
        ("127.0.0.1:8000", ("127.0.0.1", 8000)),
        ("[::1]:8000", ("::1", 8000)),
        ("[0:0::0:1]", ("::1", None)),
        ("my_service-1:80", ("my_service-1", 80)),
    ],
)
def test_a_host_is_told_from_its_port(authority, found):
    assert hosts.split(authority) == found


@pytest.mark.parametrize("authority", NO_HOSTS)
def test_what_is_no_host_is_none(authority):
    assert hosts.split(authority) is None


def test_lists_have_commas_and_no_ports():
    assert hosts.listed("Shop.example.org:443, 10.0.0.7,[::1]:80, 0::1") == (
        *("shop.example.org", "10.0.0.7"),
        *("::1", "::1"),
    )
    assert hosts.listed("") == hosts.listed(" ,") == ()
    assert hosts.listed_with_networks("hooks.internal,10.0.0.0/8, fd00::/8") == (
        *("hooks.internal", "10.0.0.0/8"),
        "fd00::/8",
    )


@pytest.mark.parametrize("address", INTERNAL)
def test_what_cannot_be_reached_from_outside_is_internal(address):
    assert hosts.is_internal(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:2800:220:1::1", "64:ff9b::5db8:d822"])
def test_what_can_is_not(address):
    assert not hosts.is_internal(ipaddress.ip_address(address))


def test_a_host_is_listed_by_its_name_its_address_or_a_network():
    address = ipaddress.ip_address("10.1.2.3")
    for listed in ("hooks.internal", "10.1.2.3", "10.1.0.0/16"):
        assert hosts.is_among("hooks.internal", address, (listed,))
    assert not hosts.is_among("hooks.internal", address, ("internal", "10.2.0.0/16", "fd00::/8"))
