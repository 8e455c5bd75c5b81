"""Who may send a request: decided from memory, in a few microseconds."""

import contextlib
from collections.abc import Mapping
from mmap import mmap

from reckeeper import clock, storage
from reckeeper.config import Settings
from reckeeper.errors import (
    Action,
    ConfigError,
    ForbiddenError,
    RateLimitError,
    StorageError,
    UnauthenticatedError,
)
from reckeeper.periodic import Periodic
from reckeeper.security import keys
from reckeeper.security.callers import Caller
from reckeeper.security.limits import Limits, SharedLimits
from reckeeper.security.roles import ANYONE, INCLUDED, SERVER, WORKER, Role, Routes
from reckeeper.security.worker_secret import WorkerSecret
from reckeeper.telemetry import get_logger

FAILURES_PER_MINUTE = 10
"""Keys that are not valid, of one address, before it is told to wait."""

_NOTED_EVERY = 60 * clock.SECOND
_OPEN = Caller()
_SERVER = Caller(is_server=True)
_NOBODY = Caller(roles=frozenset())
_SCHEME = "bearer "

_log = get_logger(__name__)


class Access:
    """The keys in memory, and what they allow.

    Safe to share between threads. Keys that another process makes or revokes count after two
    `poll_seconds` at most; while the database cannot be read, those that were read last do.
    A key that isn't valid is refused in the same time and words, whatever is wrong with it,
    but for one that has expired: whoever has its secret may know.

    Parameters
    ----------
    database : storage.Database
    settings : Settings
    is_worker : bool
        Whether the process is the worker.
    requests : mmap.mmap, optional
        Memory in which several processes count the requests of each key, as of `SharedLimits`.

    Raises
    ------
    StorageError
        The keys cannot be read.
    """

    def __init__(
        self,
        database: storage.Database,
        settings: Settings,
        *,
        is_worker: bool = False,
        requests: mmap | None = None,
    ) -> None:
        self._database = database
        self._settings = settings
        self._is_worker = is_worker
        self._routes = Routes(WORKER if is_worker else SERVER)
        self.worker_secret = WorkerSecret(settings)
        self._takes_keys = not is_worker or settings.is_local
        self._keys: Mapping[str, tuple[storage.ApiKey, Caller]] = {}
        self._state: tuple[int, ...] | None = None
        self._used: dict[str, int] = {}
        self._noted_at = clock.now()
        self._requests = Limits() if requests is None else SharedLimits(requests)
        self._failures = Limits()
        self._watching = Periodic(self._watch, name="keys", every_seconds=2 * settings.poll_seconds)
        self.refresh()

    @property
    def problem(self) -> str | None:
        """Why the keys could not be read the last time, in a sentence; None if they could."""
        problem = self._watching.problem
        return problem and f"The API keys cannot be read; those read last count. {problem}"

    @property
    def is_needed(self) -> bool:
        """Whether a request needs a key."""
        return bool(self._keys) or not (self._settings.is_local or self._settings.is_open)

    def start(self) -> None:
        """Look for what has changed, again and again until `stop`."""
        self._watching.start()

    def stop(self) -> None:
        """Look no more; note which keys were used."""
        self._watching.stop()
        if self._used:
            try:
                self._note_used()
            except StorageError as exc:
                _log.warning("key_use_not_noted", error=exc.in_full)

    def refresh(self) -> None:
        """Read the keys, if some were made or revoked.

        Raises
        ------
        StorageError
            They cannot be read.
        """
        with self._database.read() as connection:
            state = storage.api_keys.state(connection)
            if state != self._state:
                found = storage.api_keys.not_revoked(connection)
                self._keys = {key.key_id: (key, _caller(key)) for key in found}
                self._state = state

    def admit(self, method: str, path: str, sent: str | None, *, address: str) -> Caller:
        """Say who has sent a request to a route, if that one may.

        Parameters
        ----------
        method : str
        path : str
            As it was sent, or as the table has it.
        sent : str or None
            The header ``Authorization``.
        address : str
            Of the caller, for the limit on what fails.

        Raises
        ------
        UnauthenticatedError
            A key is needed, and none that is valid was sent.
        ForbiddenError
            Its role does not allow this.
        RateLimitError
            The key has asked too much in the last minute, or the address failed too often.
        """
        if not self.is_needed:
            return _OPEN
        role = self._routes.role("GET" if method == "HEAD" else method, path)
        if role == ANYONE:
            return self._anyone(sent, address)
        if sent is None:
            raise _unauthenticated("An API key is needed here")
        if self._is_secret(sent):
            return _SERVER
        if not self._takes_keys and role != "viewer":
            raise UnauthenticatedError(
                "The worker listens where others reach it, and so takes this of its server alone: "
                "ask the server (RECKEEPER_SERVER_URL)."
            )
        key, caller = self._valid(sent, address)
        if role is not None and role not in caller.roles:
            raise ForbiddenError(
                f"The key {key.name!r} has the role {key.role!r}, and this takes {role!r}: ask for "
                "another key.",
                details={"role": key.role, "needed": role},
            )
        self._count(key)
        return caller

    def still_admits(self, caller: Caller) -> bool:
        """Say whether the key of somebody who was admitted is neither revoked nor expired."""
        if caller.key_id is None:
            return True
        known = self._keys.get(caller.key_id)
        return known is not None and not keys.has_expired(known[0])

    def _anyone(self, sent: str | None, address: str) -> Caller:
        """Return who asks what anyone may ask: a probe never fails for its key."""
        if sent is not None and self._is_secret(sent):
            return _SERVER
        with contextlib.suppress(UnauthenticatedError, RateLimitError):
            return _NOBODY if sent is None else self._valid(sent, address)[1]
        return _NOBODY

    def _is_secret(self, sent: str) -> bool:
        """Say whether this is the worker, asked by its server."""
        return self._is_worker and self.worker_secret.is_in(_credentials(sent))

    def _valid(self, sent: str, address: str) -> tuple[storage.ApiKey, Caller]:
        """Return the valid key that was sent, and who has sent it."""
        key_id, secret = keys.parts(_credentials(sent)) or ("", "")
        known = self._keys.get(key_id)
        if known is None or not keys.is_secret_of(known[0], secret):
            problem = "The API key is not valid"
        elif keys.has_expired(known[0]):
            problem = f"The API key {known[0].name!r} has expired"
        else:
            return known
        # A valid one is never refused for what others behind the same address have sent: there
        # are too many to guess one at any rate.
        seconds = self._failures.take(address, per_minute=FAILURES_PER_MINUTE)
        if seconds:
            raise RateLimitError(
                f"Too many API keys that are not valid came from this address: try again in "
                f"{seconds} s.",
                details={"retry_seconds": seconds},
            )
        _log.warning("key_refused", key_id=key_id or None, address=address, reason=problem)
        raise _unauthenticated(problem)

    def _count(self, key: storage.ApiKey) -> None:
        self._used[key.key_id] = clock.now()
        if key.rate_limit is None:
            return
        seconds = self._requests.take(key.key_id, per_minute=key.rate_limit)
        if seconds:
            raise RateLimitError(
                f"The key {key.name!r} may ask {key.rate_limit:,} times a minute: try again in "
                f"{seconds} s.",
                details={"retry_seconds": seconds},
            )

    def _watch(self) -> None:
        self.refresh()
        if self._used and clock.now() - self._noted_at >= _NOTED_EVERY:
            self._note_used()

    def _note_used(self) -> None:
        used, self._used = self._used, {}
        self._noted_at = clock.now()
        try:
            with self._database.write() as connection:
                storage.api_keys.note_used(connection, used)
        except StorageError:
            self._used = {**used, **self._used}
            raise


def see_that_guarded(database: storage.Database, settings: Settings) -> None:
    """Refuse to begin where others would reach everything without a key.

    Raises
    ------
    ConfigError
        The settings let other machines in, nothing says that they are kept out elsewhere, and
        there is no key.
    """
    if settings.is_local or settings.is_open:
        return
    with database.read() as connection:
        if storage.api_keys.not_revoked(connection):
            return
    raise ConfigError(
        f"RECKEEPER_HOST={settings.host!r} lets other machines in, and there is no API key yet, so "
        "everybody could do everything. Make one, then start again; or set RECKEEPER_OPEN=1 if "
        "something in front guards every port.",
        action=Action("create_admin_key"),
    )


def _caller(key: storage.ApiKey) -> Caller:
    role = keys.role_of(key)
    roles: frozenset[Role] = frozenset() if role is None else INCLUDED[role]
    return Caller(actor=f"key:{key.name}", role=role, roles=roles, key_id=key.key_id)


def _credentials(sent: str) -> str:
    """Return what stands behind ``Bearer``; nothing where the header is another."""
    is_known = sent[: len(_SCHEME)].lower() == _SCHEME
    return sent[len(_SCHEME) :].strip() if is_known else ""


def _unauthenticated(problem: str) -> UnauthenticatedError:
    return UnauthenticatedError(
        f"{problem}. Send one in the header `Authorization: Bearer rk_…`; the administrators of "
        "this server make them."
    )
