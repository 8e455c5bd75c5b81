"""Notices for the webhook: an outbox in the database, and the courier who empties it."""

import asyncio
import contextlib
import hashlib
import hmac
import json
import socket
import threading
import urllib.request
from collections.abc import Coroutine, Mapping
from typing import Any, Literal

import httpx

from reckeeper import __version__, clock, errors, policy, security, storage
from reckeeper.config import Settings
from reckeeper.hosts import Address
from reckeeper.periodic import Periodic
from reckeeper.telemetry import get_logger

STOP_SECONDS = 5.0
"""How long `Courier.stop` waits at most."""

_STOP_LOOK_SECONDS = 0.1

_log = get_logger(__name__)

Event = Literal["job_failed", "rejected", "promoted", "stale", "retention"]


def notify(
    connection: storage.Connection,
    event: Event,
    payload: Mapping[str, Any],
    key: str | None = None,
) -> None:
    """Have the webhook told about an event, if this transaction commits.

    Parameters
    ----------
    connection : sqlalchemy.Connection
        From `Database.write`.
    event : str
        ``job_failed``, ``rejected``, ``promoted``, ``stale`` or ``retention``.
    payload : mapping
        JSON values.
    key : str, optional
        Only the first of several notices with one key is sent.
    """
    storage.notices.insert(connection, event=event, payload=dict(payload), key=key)


class Courier:
    """Delivers notices to the policy's webhook, each at least once.

    A notice is a POST of JSON, an object with ``event``, ``at`` (RFC 3339),
    ``notice_id`` and what else there is to tell. Its headers: the event as
    ``X-Reckeeper-Event``, the notice's number, by which a receiver knows a
    repetition, as ``X-Reckeeper-Delivery``, and where the policy has a
    ``webhook_secret``, three by which the receiver knows the sender. Of
    ``X-Reckeeper-Timestamp``, when this attempt was made in seconds since 1970,
    and the body, with a dot between them, ``X-Reckeeper-Timed-Signature:
    sha256=`` has the HMAC-SHA256 in hexadecimal;
    ``X-Reckeeper-Signature: sha256=`` has that of the body alone.

    A receiver at an internal address is refused unless the settings name it
    (`security.Receivers`). The host is looked up for each attempt, and the
    address that was checked is the one that is connected to.

    Any answer of 200 to 299 is a receipt; its body is not read. After any
    other, a redirect too, or none, the notice is sent again, after pauses that
    double, until it is given up. Without a webhook in the policy, notices are
    dropped when they are due. Several processes may deliver from one database:
    each attempt is one's alone.

    Parameters
    ----------
    database : storage.Database
    settings : Settings
        The policy while none is stored, and the receivers that may be internal. The outbox is
        read every fourth `poll_seconds`.
    timeout_seconds : float
        From the beginning of an attempt to the whole head of the answer.
    first_pause_seconds, longest_pause_seconds : float
        After the first attempt, and at most.
    give_up_seconds : float
        From the event to the last attempt.
    """

    def __init__(
        self,
        database: storage.Database,
        settings: Settings,
        *,
        timeout_seconds: float = 10.0,
        first_pause_seconds: float = 5.0,
        longest_pause_seconds: float = 3600.0,
        give_up_seconds: float = 86_400.0,
    ) -> None:
        self._database = database
        self._settings = settings
        self._receivers = security.Receivers(settings)
        self._timeout_seconds = timeout_seconds
        self._first_pause_seconds = first_pause_seconds
        self._longest_pause = longest_pause_seconds
        self._give_up_seconds = give_up_seconds
        self._stopping = threading.Event()
        self._looking = Periodic(
            self._deliver_due, name="courier", every_seconds=4 * settings.poll_seconds
        )

    @property
    def problem(self) -> str | None:
        """Why the outbox could not be read, in a sentence; None if it could."""
        return self._looking.problem

    def start(self) -> None:
        """Deliver until `stop`."""
        self._looking.start()

    def stop(self) -> None:
        """Break off the attempt under way; the notice is sent again after the next start."""
        self._stopping.set()
        self._looking.stop(timeout_seconds=STOP_SECONDS)

    def _deliver_due(self) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            while self._deliver_one():
                pass

    def _deliver_one(self) -> bool:
        """Try the oldest notice that is due; return whether there was one."""
        with self._database.read() as connection:
            notice = storage.notices.first_due(connection)
            if notice is None:
                return False
            in_force = policy.current(connection, self._settings).policy
        if in_force.webhook_url is None:
            with self._database.write() as connection:
                storage.notices.drop_due(connection)
            return False
        pause = _microseconds(
            min(self._first_pause_seconds * 2 ** min(notice.attempts, 30), self._longest_pause)
        )
        # Should this process die, the notice is due again when nobody can still be sending it.
        until = clock.now() + _microseconds(self._timeout_seconds) + pause
        with self._database.write() as connection:
            is_ours = storage.notices.take(connection, notice, until=until)
        if is_ours:
            sending = self._post(in_force.webhook_url, in_force.webhook_secret, notice)
            error = asyncio.run(self._unless_stopped(sending))
            self._note(notice, error, pause)
        return True

    async def _unless_stopped(self, sending: Coroutine[None, None, str | None]) -> str | None:
        """Return what `sending` returns.

        Raises
        ------
        asyncio.CancelledError
            `stop` was called first. Only an event loop ends an attempt on
            time, whatever the receiver does.
        """
        task = asyncio.create_task(sending)
        while not (await asyncio.wait({task}, timeout=_STOP_LOOK_SECONDS))[0]:
            if self._stopping.is_set():
                task.cancel()
        return await task

    async def _post(self, url: str, secret: str | None, notice: storage.Notice) -> str | None:
        """Send a notice; return what went wrong, None if nothing did."""
        body = json.dumps(
            {
                **notice.payload,
                "event": notice.event,
                "at": clock.rfc3339(notice.at),
                "notice_id": notice.notice_id,
            }
        ).encode()
        headers = {
            "Content-Type": "application/json",
            "User-Agent": f"reckeeper/{__version__}",
            "X-Reckeeper-Event": notice.event,
            "X-Reckeeper-Delivery": str(notice.notice_id),
            **_signatures(secret, body),
        }
        try:
            async with asyncio.timeout(self._timeout_seconds):
                status = await self._sent(httpx.URL(url), body, headers)
        except TimeoutError:
            return f"no answer within {self._timeout_seconds:g} seconds"
        except errors.DataError as exc:
            return exc.message
        except socket.gaierror as exc:
            return f"its host has no address: {exc.strerror}"
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as exc:
            return f"{type(exc).__name__}: {exc}"[:500]
        if 200 <= status < 300:
            return None
        if 300 <= status < 400:
            return f"the answer was {status}: redirects are not followed"
        return f"the answer was {status}"

    async def _sent(self, url: httpx.URL, body: bytes, headers: Mapping[str, str]) -> int:
        """Send a body, and return the status of the answer.

        What is connected to is what was checked: by now, a name could stand for another address.

        Raises
        ------
        DataError
            The receiver is at an internal address.
        """
        if _uses_proxy(url):
            await asyncio.to_thread(self._receivers.check, str(url))
            return await _status(url, body, headers)
        addresses = await asyncio.to_thread(self._receivers.addresses, str(url))
        failed: Exception = httpx.ConnectError(f"{url.host} has no address")
        for address in addresses:
            seconds = self._timeout_seconds / len(addresses)
            try:
                return await _status(url, body, headers, address=address, connect_seconds=seconds)
            except (httpx.ConnectError, httpx.ConnectTimeout) as exc:
                failed = exc
        raise failed

    def _note(self, notice: storage.Notice, error: str | None, pause: int) -> None:
        now, attempts = clock.now(), notice.attempts + 1
        about = {"notice_id": notice.notice_id, "kind": notice.event, "attempts": attempts}
        next_attempt_at: int | None = None
        if error is None:
            _log.info("notice_delivered", **about)
        elif now + pause <= notice.at + _microseconds(self._give_up_seconds):
            next_attempt_at = now + pause
            _log.warning("notice_not_delivered", **about, error=error, retry_seconds=pause / 1e6)
        else:
            _log.error("notice_given_up", **about, error=error)
        with self._database.write() as connection:
            storage.notices.set_outcome(
                connection,
                notice.notice_id,
                delivered_at=now if error is None else None,
                next_attempt_at=next_attempt_at,
                last_error=error,
            )


def _signatures(secret: str | None, body: bytes) -> dict[str, str]:
    """Return the headers by which a receiver knows who has sent a body, and when."""
    if secret is None:
        return {}
    at = str(clock.now() // 1_000_000)
    timed, plain = (
        hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()
        for signed in (f"{at}.".encode() + body, body)
    )
    return {
        "X-Reckeeper-Timestamp": at,
        "X-Reckeeper-Timed-Signature": f"sha256={timed}",
        "X-Reckeeper-Signature": f"sha256={plain}",
    }


async def _status(
    url: httpx.URL,
    body: bytes,
    headers: Mapping[str, str],
    *,
    address: Address | None = None,
    connect_seconds: float | None = None,
) -> int:
    """Send a body, and return the status of the answer, which is not read any further.

    Without an address the environment's proxy is sent to, which looks up the host itself.
    """
    name = url.raw_host.decode("ascii")
    async with (
        httpx.AsyncClient(
            trust_env=address is None,
            verify=httpx.create_ssl_context() if url.scheme == "https" else False,
            timeout=httpx.Timeout(None, connect=connect_seconds),
        ) as client,
        client.stream(
            "POST",
            url if address is None else url.copy_with(host=str(address)),
            content=body,
            headers={"Host": url.netloc.decode("ascii"), **headers},
            extensions={"sni_hostname": name},  # which the certificate is held against
        ) as response,
    ):
        return response.status_code


def _uses_proxy(url: httpx.URL) -> bool:
    """Return whether the environment names a proxy for a URL; none leads back to this machine."""
    if url.host in {"127.0.0.1", "::1", "localhost"} or urllib.request.proxy_bypass(url.host):
        return False
    return not urllib.request.getproxies().keys().isdisjoint({url.scheme, "all"})


def _microseconds(seconds: float) -> int:
    return int(seconds * 1e6)
