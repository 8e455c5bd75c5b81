"""The server as several processes that share a port: they are started, replaced and ended here.

This process answers nothing itself. It imports what all of them need and starts no
thread, so that they can be copies of it and share that memory.
"""

import contextlib
import gc
import multiprocessing
import multiprocessing.connection
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

import pyarrow as pa

from reckeeper import errors, security, storage, telemetry
from reckeeper import policy as policies
from reckeeper.api import app
from reckeeper.api.family import Family
from reckeeper.api.siblings import Siblings
from reckeeper.config import Settings, address
from reckeeper.periodic import Periodic

if sys.platform == "darwin":  # whose own libraries do not survive in a copy
    _CONTEXT = multiprocessing.get_context("spawn")
else:
    _CONTEXT = multiprocessing.get_context("fork")

_LOOK_SECONDS = 0.1
_STOP_SECONDS = 8.0
"""How long the processes may take to end; `reckeeper up` waits for ten."""

_LONG_SECONDS = 10.0
"""A process that lived so long is replaced at once when it ends."""

_LONGEST_PAUSE_SECONDS = 30.0
_STOPS = (signal.SIGINT, signal.SIGTERM)

_log = telemetry.get_logger("server")


def serve(settings: Settings, folder: Path, *, is_supervised: bool = False) -> int:
    """Serve with several processes until a signal comes, and return the exit status.

    It is the signal's number below 0 where the process is to end by that, as a server in one
    process does.

    Parameters
    ----------
    settings : Settings
    folder : Path
        For what the processes share; `config.share_metrics` has been told of it.
    is_supervised : bool
        Whether what has started this process replaces it when it dies: until then its children
        go on answering.
    """
    telemetry.configure_logging("server")
    telemetry.forget_process(os.getpid())
    try:
        policies.first(settings)
        with contextlib.closing(storage.open_database(settings)) as database:
            security.see_that_guarded(database, settings)
            database.see_that_sound()
    except errors.ReckeeperError as exc:
        return app.refused(exc)
    try:
        family = Family(settings.data_dir, os.getppid() if is_supervised else None)
        sockets = _bound(settings.host, settings.server_port, shares=family.was_killed)
    except OSError as exc:
        _log.error("server_not_started", error=str(exc))
        return app.NOT_STARTED
    _prepare_arrow()
    gc.freeze()  # what nobody looks through stays shared
    with _stop_requests() as requests:
        status = _Processes(settings, folder, sockets, family).run(requests)
    family.end()
    return -signal.SIGTERM if signal.SIGTERM in requests else status


def _prepare_arrow() -> None:
    """Spare each process what PyArrow would take there: 25 MB of pandas, 30 MB of large pages."""
    pa.array([])  # imports pandas, as the first array of Python values does wherever it is made
    pa.set_memory_pool(pa.system_memory_pool())


def _bound(host: str, port: int, *, shares: bool) -> list[socket.socket]:
    """Return sockets that are bound to all addresses of a host, and do not listen yet.

    Where they share, others of the same kind may be listening there still.
    """
    bound = []
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    for family, kind, protocol, _, place in dict.fromkeys(found):
        sock = socket.socket(family, kind, protocol)
        if not shares:  # which is seen before others may share
            with socket.socket(family, kind, protocol) as probe:
                _bind(probe, family, place)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        _bind(sock, family, place)
        bound.append(sock)
    return bound


def _bind(sock: socket.socket, family: int, place: tuple[object, ...]) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    try:
        sock.bind(place)
    except OSError as exc:
        raise OSError(f"{place[0]}:{place[1]} cannot be listened on: {exc.strerror}") from exc


@contextlib.contextmanager
def _stop_requests() -> Iterator[list[int]]:
    """Collect the signals that ask for a stop, in the order of their coming."""
    requests: list[int] = []
    previous = {
        number: signal.signal(number, lambda received, _: requests.append(received))
        for number in _STOPS
    }
    try:
        yield requests
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@dataclass(frozen=True)
class _Started:
    process: BaseProcess
    at: float


class _Processes:
    """The processes by number, and when each that is missing is started again."""

    def __init__(
        self, settings: Settings, folder: Path, sockets: Sequence[socket.socket], family: Family
    ) -> None:
        self._settings = settings
        self._family = family
        self._sockets = sockets
        self._siblings = Siblings.family(folder, settings.server_processes)
        self._running: dict[int, _Started] = {}
        self._pause = dict.fromkeys(range(settings.server_processes), 0.0)
        self._start_at = dict.fromkeys(range(settings.server_processes), 0.0)
        self._is_announced = False

    def run(self, requests: Sequence[int]) -> int:
        """Keep the processes running until a stop is asked for or none of them can start."""
        status = 0
        try:
            while not requests and not status:
                self._start_missing()
                sentinels = [started.process.sentinel for started in self._running.values()]
                multiprocessing.connection.wait(sentinels, timeout=_LOOK_SECONDS)
                status = self._look()
        finally:
            self._end_all()
        return status

    def _start_missing(self) -> None:
        for number, siblings in enumerate(self._siblings):
            if number in self._running or time.monotonic() < self._start_at[number]:
                continue
            process = _CONTEXT.Process(
                target=_run,
                args=(self._settings, self._sockets, siblings, self._family),
                name=f"server-{number}",
            )
            # Until it has its own handlers it would only note a signal, as this process does.
            signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)
            process.start()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)
            self._running[number] = _Started(process, time.monotonic())

    def _look(self) -> int:
        """See who has ended, and who is up; return the exit status where it is no use."""
        ended = {
            number: started
            for number, started in self._running.items()
            if started.process.exitcode is not None
        }
        for number, started in ended.items():
            was_up = self._siblings[number].is_up
            self._put_away(number, started)
            status = started.process.exitcode
            if not was_up and status in {app.REFUSED, app.NOT_STARTED} and not self._any_is_up():
                return status
            _log.error("server_process_ended", pid=started.process.pid, status=status)
            lived_long = time.monotonic() - started.at > _LONG_SECONDS
            pause = 0.0 if lived_long else self._pause[number]
            self._start_at[number] = time.monotonic() + pause
            self._pause[number] = min(max(1.0, 2 * pause), _LONGEST_PAUSE_SECONDS)
        if not self._is_announced and all(each.is_up for each in self._siblings):
            url = address(self._settings.host, self._settings.server_port)
            _log.info("server_listening", url=url, processes=len(self._siblings))
            self._is_announced = True
            self._family.note_up()
        return 0

    def _any_is_up(self) -> bool:
        return any(siblings.is_up for siblings in self._siblings)

    def _put_away(self, number: int, started: _Started) -> None:
        del self._running[number]
        self._siblings[number].forget()
        if started.process.pid is not None:
            telemetry.forget_process(started.process.pid)

    def _end_all(self) -> None:
        """Ask all to end, and see that they do."""
        for started in self._running.values():
            started.process.terminate()
        ends = time.monotonic() + _STOP_SECONDS
        for started in self._running.values():
            started.process.join(max(0.0, ends - time.monotonic()))
        for started in self._running.values():
            if started.process.exitcode is None:
                _log.error("server_process_killed", pid=started.process.pid)
                started.process.kill()
                started.process.join()


def _run(
    settings: Settings, sockets: Sequence[socket.socket], siblings: Siblings, family: Family
) -> None:
    """Serve as one of the processes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which ends us
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)
    Periodic(family.end_without_parent, name="parent", every_seconds=0.25).start()
    sys.exit(app.serve(settings, sockets=sockets, siblings=siblings))
