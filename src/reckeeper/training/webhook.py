"""Telling a webhook what happened: an outbox in the database, and who empties it."""

import asyncio
import hashlib
import hmac
import json
import threading
from collections.abc import Mapping
from typing import Any, Literal

import httpx

from reckeeper import __version__, clock, storage
from reckeeper.config import Settings
from reckeeper.errors import ReckeeperError
from reckeeper.telemetry import get_logger
from reckeeper.training import policy as policies

STOP_SECONDS = 5.0
"""How long `Courier.stop` waits at most."""

_log = get_logger(__name__)

Event = Literal["job_failed", "rejected", "promoted", "stale"]


def notify(
    connection: storage.Connection,
    event: Event,
    payload: Mapping[str, Any],
    key: str | None = None,
) -> None:
    """Have the webhook told of an event, if this transaction comes to its end.

    Parameters
    ----------
    connection : sqlalchemy.Connection
        Of `Database.write`.
    event : str
        ``job_failed``, ``rejected``, ``promoted`` or ``stale``.
    payload : mapping
        JSON values.
    key : str, optional
        Of several notices with one key only the first is told.
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
        The policy while none is stored.
    timeout_seconds : float
        From the begin of an attempt to the whole head of the answer.
    first_pause_seconds, longest_pause_seconds : float
        After the first attempt, and at most.
    give_up_seconds : float
        From the event to the last attempt.
    look_seconds : float
        How often the outbox is looked into.
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
        look_seconds: float = 1.0,
    ) -> None:
        self._database = database
        self._settings = settings
        self._timeout_seconds = timeout_seconds
        self._first_pause_seconds = first_pause_seconds
        self._longest_pause = longest_pause_seconds
        self._give_up_seconds = give_up_seconds
        self._look_seconds = look_seconds
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._stopping = asyncio.Event()

    def start(self) -> None:
        """Deliver until `stop`."""
        # An event loop, as nothing else ends an attempt on time whatever the receiver does.
        loop = self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._work, args=(loop,), name="courier", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Break off what is under way; it is sent again after the next start."""
        if self._thread is not None and self._loop is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join(STOP_SECONDS)

    def _work(self, loop: asyncio.AbstractEventLoop) -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(self._until_stop())

    async def _until_stop(self) -> None:
        following = asyncio.create_task(self._follow())
        await self._stopping.wait()
        following.cancel()

    async def _follow(self) -> None:
        while True:
            try:
                while await self._deliver_one():
                    pass
            except ReckeeperError as exc:
                _log.warning("outbox_not_read", error=exc.message)
            except Exception:  # noqa: BLE001
                # This thread must not die: without it nobody would be told anything again.
                _log.exception("courier_failed")
            await asyncio.sleep(self._look_seconds)

    async def _deliver_one(self) -> bool:
        """Try the oldest notice that is due; return whether there was one."""
        with self._database.read() as connection:
            notice = storage.notices.first_due(connection)
            if notice is None:
                return False
            policy = policies.current(connection, self._settings).policy
        if policy.webhook_url is None:
            with self._database.write() as connection:
                storage.notices.drop_due(connection)
            return False
        pause = _microseconds(
            min(self._first_pause_seconds * 2 ** min(notice["attempts"], 30), self._longest_pause)
        )
        # Should this process die, the notice is due again when nobody can still be sending it.
        until = clock.now() + _microseconds(self._timeout_seconds) + pause
        with self._database.write() as connection:
            is_ours = storage.notices.take(connection, notice, until=until)
        if is_ours:
            error = await self._post(policy.webhook_url, policy.webhook_secret, notice)
            self._note(notice, error, pause)
        return True

    async def _post(self, url: str, secret: str | None, notice: Mapping[str, Any]) -> str | None:
        """Send a notice; return what went wrong, None if nothing did."""
        body = json.dumps(
            {
                **notice["payload"],
                "event": notice["event"],
                "at": clock.rfc3339(notice["at"]),
                "notice_id": notice["notice_id"],
            }
        ).encode()
        headers = {
            "Content-Type": "application/json",
            "User-Agent": f"reckeeper/{__version__}",
            "X-Reckeeper-Event": notice["event"],
            "X-Reckeeper-Delivery": str(notice["notice_id"]),
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

    def _note(self, notice: Mapping[str, Any], error: str | None, pause: int) -> None:
        now, attempts = clock.now(), notice["attempts"] + 1
        about = {"notice_id": notice["notice_id"], "kind": notice["event"], "attempts": attempts}
        next_attempt_at: int | None = None
        if error is None:
            _log.info("notice_delivered", **about)
        elif now + pause <= notice["at"] + _microseconds(self._give_up_seconds):
            next_attempt_at = now + pause
            _log.warning("notice_not_delivered", **about, error=error, retry_seconds=pause / 1e6)
        else:
            _log.error("notice_given_up", **about, error=error)
        with self._database.write() as connection:
            storage.notices.update(
                connection,
                notice["notice_id"],
                delivered_at=now if error is None else None,
                next_attempt_at=next_attempt_at,
                last_error=error,
            )


def _microseconds(seconds: float) -> int:
    return int(seconds * 1e6)
