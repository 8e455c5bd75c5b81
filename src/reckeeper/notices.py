"""Notices for the webhook: an outbox in the database, and the courier who empties it."""

import asyncio
import contextlib
import hashlib
import hmac
import json
import threading
from collections.abc import Coroutine, Mapping
from typing import Any, Literal

import httpx

from reckeeper import __version__, clock, policy, storage
from reckeeper.config import Settings
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
    ``webhook_secret``, ``X-Reckeeper-Signature: sha256=`` with the HMAC-SHA256
    of the body in hexadecimal.

    Any answer of 200 to 299 is a receipt; its body is not read. After any
    other, a redirect too, or none, the notice is sent again, after pauses that
    double, until it is given up. Without a webhook in the policy, notices are
    dropped when they are due. Several processes may deliver from one database:
    each attempt is one's alone.

    Parameters
    ----------
    database : storage.Database
    settings : Settings
        The policy while none is stored. The outbox is read every fourth `poll_seconds`.
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
        }
        if secret is not None:
            signature = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
            headers["X-Reckeeper-Signature"] = f"sha256={signature}"
        try:
            # A proxy of the environment leads out of this machine, never back to it.
            is_here = httpx.URL(url).host in {"127.0.0.1", "::1", "localhost"}
            async with (
                asyncio.timeout(self._timeout_seconds),
                httpx.AsyncClient(trust_env=not is_here, timeout=None) as client,
                client.stream("POST", url, content=body, headers=headers) as response,
            ):
                status = response.status_code
        except TimeoutError:
            return f"no answer within {self._timeout_seconds:g} seconds"
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as exc:
            return f"{type(exc).__name__}: {exc}"[:500]
        if 200 <= status < 300:
            return None
        if 300 <= status < 400:
            return f"the answer was {status}: redirects are not followed"
        return f"the answer was {status}"

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


def _microseconds(seconds: float) -> int:
    return int(seconds * 1e6)
