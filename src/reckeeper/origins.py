"""Where a request may come from: the hosts that are ours, and the pages that may change things.

A browser sends what any page asks of it, from inside the network. What tells such requests from
those of our own pages and programs is what a page can't choose: ``Host``, ``Origin``,
``Sec-Fetch-Site``, and that other types of bodies than a form's need our consent.
"""

import functools
import re
import socket
from collections.abc import Collection, Iterable
from urllib.parse import urlsplit

from reckeeper import errors, hosts
from reckeeper.config import Settings

HEADERS = (
    ("X-Frame-Options", "DENY"),
    ("Content-Security-Policy", "frame-ancestors 'none'"),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
)
"""What goes with every answer: no page frames it, guesses its type, hears of its URL, embeds it."""

RAW_HEADERS = tuple((name.lower().encode(), value.encode()) for name, value in HEADERS)
"""The same as an ASGI server takes them."""

UNTYPED = "application/octet-stream"
"""What a body without a type is taken for."""

_OF_FORMS = {"application/x-www-form-urlencoded", "multipart/form-data", "text/plain"}
"""What a browser sends for any page without asking first."""

_CHANGE_NOTHING = frozenset({"GET", "HEAD", "OPTIONS"})
_ALL_ADDRESSES = frozenset({"0.0.0.0", "::"})
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_ORIGIN = re.compile(r"(https?)://([^/@\s]+)")
_PORTS = {"http": 80, "https": 443}
_TELLING = frozenset({b"origin", b"sec-fetch-site"})


class Origins:
    """Tells requests of our own pages and programs from those of foreign pages.

    Our hosts are this machine's names for itself, the one on which a process listens, those in
    the URLs of server and worker, and those that the settings name. A process that listens on all
    addresses takes any address for one of its own: to an address no name can be rebound.

    Parameters
    ----------
    settings : Settings
    pages : collection of str
        Further origins whose pages may change something, as ``https://shop.example.org``.
    """

    def __init__(self, settings: Settings, *, pages: Collection[str] = ()) -> None:
        self._pages = frozenset(pages)
        self._named = frozenset(settings.allowed_hosts)
        self._takes_addresses = settings.host in _ALL_ADDRESSES
        ours = {*_LOOPBACK, *self._named}
        if self._takes_addresses:
            ours.add(socket.gethostname().lower())
        urls = (urlsplit(url).hostname for url in (settings.server_url, settings.worker_url))
        ours.update(found[0] for each in (settings.host, *urls) if (found := _host_of(each)))
        self._ours = frozenset(ours)
        # Nearly all requests name the same few hosts.
        self._is_ours = functools.lru_cache(maxsize=256)(self._is_known)

    def refusal(
        self, method: str, headers: Iterable[tuple[bytes, bytes]]
    ) -> errors.ReckeeperError | None:
        """Return why a request is refused; None if it is not.

        Parameters
        ----------
        method : str
            Of HTTP; any other word for what is to be held to the rules of a change.
        headers : iterable of (bytes, bytes)
            Names, in small letters, and values.
        """
        headers = list(headers)
        asked = [value for name, value in headers if name == b"host"]
        if len(asked) != 1 or not self._is_ours(asked[0]):
            return _unknown_host(b", ".join(asked))
        if method in _CHANGE_NOTHING:
            return None
        told = {name: value.decode("latin-1") for name, value in headers if name in _TELLING}
        origin, site = told.get(b"origin"), told.get(b"sec-fetch-site")
        if self._is_foreign(asked[0].decode("latin-1"), origin, site):
            return _foreign(origin)
        return None

    def _is_known(self, authority: bytes) -> bool:
        found = hosts.split(authority.decode("latin-1"))
        if found is None:
            return False
        address = hosts.address_in(found[0])
        if address is not None and (self._takes_addresses or address.is_loopback):
            return True
        return found[0] in self._ours

    def _is_foreign(self, asked: str, origin: str | None, site: str | None) -> bool:
        if origin in self._pages:
            return False
        if site in {"cross-site", "same-site"}:
            return True
        return origin is not None and not self._is_own(origin, asked)

    def _is_own(self, origin: str, asked: str) -> bool:
        """Return whether an origin is that of what it asks, or of a proxy that stands before us."""
        parts = _ORIGIN.fullmatch(origin)
        if parts is None:
            return False
        usual = _PORTS[parts[1]]
        own, of_page = hosts.split(asked), hosts.split(parts[2])
        if own is None or of_page is None:
            return False
        port = of_page[1] or usual
        if (of_page[0], port) == (own[0], own[1] or usual):
            return True
        return of_page[0] in self._named and port == usual


def check_type(given: str | None, accepted: Collection[str]) -> None:
    """Refuse a body whose type is none of those accepted; where JSON is, so is any kind of it.

    Parameters
    ----------
    given : str or None
        The header ``Content-Type``.
    accepted : collection of str
        Media types.

    Raises
    ------
    MediaTypeError
        It is another, or missing where `UNTYPED` is not accepted.
    """
    sent = (given or UNTYPED).partition(";")[0].strip().lower()
    if UNTYPED in accepted and sent not in _OF_FORMS:  # a file, whatever it is
        return
    is_json = sent.startswith("application/") and sent.endswith("+json")
    if sent in accepted or (is_json and "application/json" in accepted):
        return
    wanted = next(iter(accepted))
    what = f"is sent as {sent[:100]!r}" if given else "is sent without a type"
    raise errors.MediaTypeError(
        f"The body {what}, and {' or '.join(accepted)} is accepted. Name its type, as "
        f"curl -H 'Content-Type: {wanted}' does.",
        details={"accepted": list(accepted)},
    )


def _host_of(authority: str | None) -> tuple[str, int | None] | None:
    if authority is None:
        return None
    address = hosts.address_in(authority)
    return hosts.split(authority) if address is None else (str(address), None)


def _unknown_host(asked: bytes) -> errors.UnknownHostError:
    shown = asked.decode("latin-1")[:200]
    return errors.UnknownHostError(
        f"The request is for the host {shown!r}, which is none of this installation's names. If "
        "it is how people or programs come here, name it in RECKEEPER_ALLOWED_HOSTS, then start "
        "again.",
        details={"host": shown},
    )


def _foreign(origin: str | None) -> errors.ForeignOriginError:
    shown = "another site" if origin is None else f"{origin[:200]!r}"
    return errors.ForeignOriginError(
        f"A page of {shown} asks for a change, and pages of other origins may not. If its pages "
        "may call the API, name the origin in RECKEEPER_CORS_ORIGINS; behind a proxy, have that "
        "pass on the header Host, or name its host in RECKEEPER_ALLOWED_HOSTS.",
        details=None if origin is None else {"origin": origin[:200]},
    )
