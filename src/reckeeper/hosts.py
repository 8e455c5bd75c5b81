"""Hosts: as they stand in headers, URLs and settings, and which addresses are internal."""

import contextlib
import ipaddress
import re
from collections.abc import Collection

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_AUTHORITY = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+))(?::([0-9]{1,5}))?")
_TRANSLATED = tuple(map(ipaddress.ip_network, ("64:ff9b::/96", "::ffff:0:0:0/96", "::/96")))
"""IPv6 addresses that lead to the IPv4 address in their last four bytes (RFC 6052, 7915, 4291)."""

_INTERNAL_TOO = tuple(
    map(ipaddress.ip_network, ("64:ff9b:1::/48", "fec0::/10", "5f00::/16", "168.63.129.16/32"))
)
"""What Python calls global and is none: translation within a network (RFC 8215), site-local
addresses, segment routing, and the address at which a cloud's host answers its machines."""


def split(authority: str) -> tuple[str, int | None] | None:
    """Return the host and the port of ``host:port``; None if it is neither that nor ``host``.

    The host is in small letters and without a dot at its end, an IPv6 address without brackets
    and in its shortest form.
    """
    found = _AUTHORITY.fullmatch(authority)
    if found is None:
        return None
    port = None if found[3] is None else int(found[3])
    if found[1] is None:
        host = found[2].lower().removesuffix(".")
        return (host, port) if host else None
    with contextlib.suppress(ValueError):
        return str(ipaddress.IPv6Address(found[1])), port
    return None


def address_in(host: str) -> Address | None:
    """Return the address that a host is, None if it is a name."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def listed(text: str) -> tuple[str, ...]:
    """Return the hosts in a setting, which has commas between them; ports are left out.

    Raises
    ------
    ValueError
        One is no host.
    """
    return tuple(_host(part) for part in _parts(text))


def listed_with_networks(text: str) -> tuple[str, ...]:
    """Return the hosts and networks in a setting, such as ``hooks.internal,10.0.0.0/8``.

    Raises
    ------
    ValueError
        One is neither.
    """
    return tuple(_network(part) if "/" in part else _host(part) for part in _parts(text))


def is_internal(address: Address) -> bool:
    """Return whether an address is of this machine or of a network without a way from outside.

    So are link-local addresses, those of groups, and IPv6 addresses that lead to such an IPv4
    address.
    """
    if isinstance(address, ipaddress.IPv6Address):
        within = _within(address)
        if within is not None:
            return is_internal(within)
    if any(address in network for network in _INTERNAL_TOO):
        return True
    return not address.is_global or address.is_multicast


def is_among(host: str, address: Address, listed: Collection[str]) -> bool:
    """Return whether a host, or the address that it stands for, is one of those listed.

    Parameters
    ----------
    host : str
    address : ipaddress.IPv4Address or ipaddress.IPv6Address
    listed : collection of str
        As of `listed_with_networks`.
    """
    if host in listed:
        return True
    networks = (ipaddress.ip_network(each) for each in listed if "/" in each or address_in(each))
    return any(address in network for network in networks)


def _within(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """Return the IPv4 address to which an IPv6 address leads, if it does."""
    if any(address in network for network in _TRANSLATED):
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour


def _parts(text: str) -> list[str]:
    return [part for each in text.split(",") if (part := each.strip())]


def _host(part: str) -> str:
    if ":" in part and address_in(part) is not None:  # an IPv6 address without brackets
        return str(address_in(part))
    found = split(part)
    if found is None:
        raise ValueError(
            f"{part!r} is no host: name hosts as reckeeper.example.org or 10.0.0.7, with commas "
            "between them"
        )
    return found[0]


def _network(part: str) -> str:
    try:
        return str(ipaddress.ip_network(part))
    except ValueError as exc:
        raise ValueError(f"{part!r} is no network: name networks as 10.0.0.0/8") from exc
