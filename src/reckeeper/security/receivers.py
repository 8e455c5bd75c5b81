"""Where a webhook may lead: not back into this machine, and not into the network around it."""

import contextlib
import socket
from urllib.parse import urlsplit

from reckeeper import errors, hosts
from reckeeper.config import Settings
from reckeeper.hosts import Address


class Receivers:
    """Tells the hosts to which something may be sent from the others.

    An internal address, see `hosts.is_internal`, is refused unless the settings name it, a network
    that has it, or the host that stands for it. If any of a host's addresses is refused, all are:
    which of them is connected to would be chance.

    Parameters
    ----------
    settings : Settings
    """

    def __init__(self, settings: Settings) -> None:
        self._allowed = settings.webhook_allow

    def addresses(self, url: str) -> list[Address]:
        """Look up the host of a URL; it may wait for a name server.

        Returns
        -------
        list of ipaddress.IPv4Address or ipaddress.IPv6Address
            In the order in which they are to be tried.

        Raises
        ------
        DataError
            One of them is internal.
        OSError, ValueError
            It has none, or is no host.
        """
        host = urlsplit(url).hostname or ""
        # An address may be written in ways that only the system's own parser knows: 127.1.
        told = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        texts = dict.fromkeys(str(sockaddr[0]).partition("%")[0] for *_, sockaddr in told)
        found = [address for text in texts if (address := hosts.address_in(text)) is not None]
        name = host.lower().removesuffix(".")
        for address in found:
            if hosts.is_internal(address) and not hosts.is_among(name, address, self._allowed):
                stands_for = "" if name == str(address) else f" stands for {address}, which"
                raise errors.DataError(
                    f"{host}{stands_for} is an internal address, where other programs than a "
                    "receiver may listen. If the receiver is there, name it in "
                    "RECKEEPER_WEBHOOK_ALLOW."
                )
        return found

    def check(self, url: str) -> None:
        """Refuse a URL whose host stands for an internal address; nothing else is refused.

        Raises
        ------
        DataError
            It does.
        """
        with contextlib.suppress(OSError, ValueError):
            self.addresses(url)
