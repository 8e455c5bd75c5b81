"""`reckeeper up`: the three processes under supervisord, started and stopped as one."""

import contextlib
import dataclasses
import fcntl
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from reckeeper import durable
from reckeeper.cli import installation
from reckeeper.cli.ports import wait_for_those_before, with_free_ports
from reckeeper.config import Settings, address
from reckeeper.errors import ConfigError

START_SECONDS = 120.0
"""How long the processes may take until all of them answer."""

PROBLEM_SECONDS = 10.0
"""How long a process that answers may report problems before `up` goes on regardless."""

DEATHS_AT_START = 3
"""A process that ended this often before it answered will not come up."""

_PROBE_SECONDS = 2.0
_POLL_SECONDS = 0.2
_LOG_LINES = 20
_ROOM_BYTES = 1024 * 1024
_LOG_BYTES = 10 * 1024 * 1024
_LOG_FILES = 4


@dataclass(frozen=True)
class _Process:
    name: str
    address: str
    health_path: str
    module: str
    """What Python runs."""
    stop_seconds: int = 10
    """How long it may take to stop before it is killed."""
    end: str = "SIGTERM"
    """The signal that it gets when its supervisor is gone."""


@dataclass(frozen=True)
class _Health:
    is_up: bool
    problems: tuple[str, ...] = ()


def up(settings: Settings, *, console: Console, explicit_worker_port: bool) -> int:
    """Run worker, server and page until a signal comes, then stop all of them.

    supervisord does the supervising: it starts a process that died again,
    waiting a second longer after each failed try, and writes a line into
    ``supervisor.log``. Its configuration and all logs lie in the data folder.
    SIGINT, SIGTERM and SIGHUP stop the three processes, by force after ten
    seconds (the page, which keeps nothing, after two); so does the end of this
    process, however it comes about. Must be called from the main thread. The
    database must have been migrated.

    Parameters
    ----------
    settings : Settings
        Handed to the three processes through their environment.
    console : rich.console.Console
        Where progress, warnings and addresses are printed.
    explicit_worker_port : bool
        Whether the user chose the worker's port: if not, the worker moves to
        a free one when its own is in use.

    Returns
    -------
    int
        0 after a signal; 1 when a process did not come up or supervisord
        itself ended, with the reason printed.

    Raises
    ------
    ConfigError
        A port is in use or cannot be listened on, a folder cannot be written,
        or another `up` holds the data folder. Nothing was started.
    """
    _see_that_writable("RECKEEPER_DATA_DIR", settings.data_dir)
    _see_that_writable("RECKEEPER_MODEL_DIR", settings.model_dir)
    with _locked(settings.data_dir):
        return _run(settings, console=console, explicit_worker_port=explicit_worker_port)


def _run(settings: Settings, *, console: Console, explicit_worker_port: bool) -> int:
    wait_for_those_before(settings, console=console)
    settings = with_free_ports(settings, console=console, explicit_worker_port=explicit_worker_port)
    processes = _processes(settings)
    logs = settings.data_dir / "logs"
    supervisor_log = logs / "supervisor.log"
    config = settings.data_dir / "supervisord.conf"
    with _refusals("RECKEEPER_DATA_DIR", settings.data_dir):
        logs.mkdir(exist_ok=True)
        log_bytes = _log_bytes(settings.data_dir)
        config.write_text(_supervisord_conf(processes, log_bytes=log_bytes), encoding="utf-8")
    log_start = supervisor_log.stat().st_size if supervisor_log.exists() else 0

    with (
        tempfile.TemporaryFile() as said,
        _stop_requests() as requests,
        _supervisord(config, settings, errors=said) as supervisord,
    ):
        failure = _wait_until_healthy(
            processes,
            supervisord=supervisord,
            said=said,
            supervisor_log=supervisor_log,
            log_start=log_start,
            requests=requests,
            console=console,
        )
        if failure is not None:
            _print_failure(failure, logs=logs, console=console)
        elif not requests:
            _print_addresses(settings, logs=logs, console=console)
            with _addresses_known(settings):
                while not requests and supervisord.poll() is None:
                    time.sleep(_POLL_SECONDS)
        has_ended = supervisord.poll() is not None
        words = _last_words(said)
        if not has_ended:
            console.print("Stopping page, server and worker …")
    if failure is not None:
        return 1
    if has_ended and not requests:
        console.print(
            f"supervisord ended by itself (status {supervisord.returncode}){words}. "
            f"Its last words are in {supervisor_log}.",
            style="red",
            soft_wrap=True,
        )
        return 1
    console.print("All stopped.")
    return 0


# Folders


def _see_that_writable(env: str, folder: Path) -> None:
    with _refusals(env, folder):
        folder.mkdir(parents=True, exist_ok=True)
        durable.close_to_others(folder)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(_ROOM_BYTES))  # on a full disk even this does not go


@contextlib.contextmanager
def _refusals(env: str, folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        reason = "it is not a folder" if isinstance(exc, FileExistsError) else exc.strerror
        raise ConfigError(
            f"{env}={str(folder)!r} cannot be written: {reason}. "
            "Make the folder writable, and room on its disk, or name another one."
        ) from exc


@contextlib.contextmanager
def _locked(data_dir: Path) -> Iterator[None]:
    """Keep other calls of `up` from a data folder; the end of this process lets go of it."""
    with contextlib.ExitStack() as stack:
        with _refusals("RECKEEPER_DATA_DIR", data_dir):
            file = stack.enter_context((data_dir / "up.lock").open("a"))
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise ConfigError(
                f"Another `reckeeper up` runs on the data folder {str(data_dir)!r}: stop that one, "
                "or set RECKEEPER_DATA_DIR to another folder."
            ) from exc
        yield


# supervisord


def _processes(settings: Settings) -> tuple[_Process, ...]:
    return (
        _Process(
            "worker",
            address(settings.host, settings.worker_port),
            "/health/ready",
            "reckeeper.worker",
        ),
        _Process(
            "server",
            address(settings.host, settings.server_port),
            "/health/ready",
            "reckeeper.api",
        ),
        _Process(
            "ui",
            address(settings.host, settings.ui_port),
            "/_stcore/health",
            "reckeeper.page",
            # It keeps nothing, and does not listen to SIGTERM while it starts.
            stop_seconds=2,
            end="SIGKILL",
        ),
    )


def _log_bytes(folder: Path) -> int:
    """Return how large a log may grow before the next file begins: all take an eighth of a disk."""
    n_files = _LOG_FILES * 4  # of three programs and their supervisor
    return max(64 * 1024, min(_LOG_BYTES, shutil.disk_usage(folder).total // 8 // n_files))


def _supervisord_conf(processes: tuple[_Process, ...], *, log_bytes: int = _LOG_BYTES) -> str:
    # Paths come in through supervisord's current folder (the data folder) and through
    # the environment: neither is parsed, so no character in them can break this.
    lines = [
        "; Written by `reckeeper up` at every start.",
        "[supervisord]",
        "nodaemon=true",
        "silent=true",
        "nocleanup=true",
        "logfile=logs/supervisor.log",
        f"logfile_maxbytes={log_bytes}",
        f"logfile_backups={_LOG_FILES - 1}",
        "pidfile=supervisord.pid",
    ]
    if os.getuid() == 0:
        lines.append("user=root")
    for process in processes:
        lines += [
            "",
            f"[program:{process.name}]",
            # -P: a file in the current folder is no module to them.
            f"command=%(ENV_RECKEEPER_UP_PYTHON)s -P -m reckeeper.cli.supervised {process.module} "
            f"{process.end}",
            "directory=%(ENV_RECKEEPER_UP_FOLDER)s",
            "autorestart=true",
            # What dies within startsecs is tried again after 1, 2, 3, … seconds:
            # 100 tries take an hour and a half.
            "startsecs=5",
            "startretries=100",
            f"stopwaitsecs={process.stop_seconds}",
            "stopasgroup=true",
            "killasgroup=true",
            "redirect_stderr=true",
            f"stdout_logfile=logs/{process.name}.log",
            f"stdout_logfile_maxbytes={log_bytes}",
            f"stdout_logfile_backups={_LOG_FILES - 1}",
        ]
    # One group is stopped all at once, three would be stopped one after the other.
    names = ",".join(process.name for process in processes)
    lines += ["", "[group:reckeeper]", f"programs={names}", ""]
    return "\n".join(lines)


@contextlib.contextmanager
def _supervisord(
    config: Path, settings: Settings, *, errors: IO[bytes]
) -> Iterator[subprocess.Popen[bytes]]:
    """Run supervisord, and on leaving stop it and wait until all its children are gone."""
    # A session of its own: Ctrl-C reaches `up` alone, which stops it in order.
    supervisord = subprocess.Popen(
        [sys.executable, "-m", "supervisor.supervisord", "-c", str(config)],
        cwd=settings.data_dir,
        env=os.environ
        | settings.to_env()
        | {
            "PYTHONUNBUFFERED": "1",
            "RECKEEPER_UP_FOLDER": str(Path.cwd()),
            "RECKEEPER_UP_PYTHON": shlex.quote(sys.executable),
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=errors,
        start_new_session=True,
    )
    with supervisord:  # which on leaving waits for its end
        try:
            with _leash(supervisord.pid):
                yield supervisord
        finally:
            supervisord.terminate()


@contextlib.contextmanager
def _leash(pid: int) -> Iterator[None]:
    """See to it that the process `pid` is asked to stop even when this one is killed."""
    # The shell waits for its input to close, which happens at this process's
    # end, however it comes about; a signal to our group does not reach it.
    shell = subprocess.Popen(
        ["/bin/sh", "-c", 'read -r _; kill -TERM "$0"', str(pid)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        shell.kill()
        shell.communicate()


@contextlib.contextmanager
def _stop_requests() -> Iterator[list[int]]:
    """Collect the signals that ask for a stop, in the order of their coming."""
    requests: list[int] = []
    previous = {
        number: signal.signal(number, lambda received, _: requests.append(received))
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield requests
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


# The start


def _wait_until_healthy(
    processes: tuple[_Process, ...],
    *,
    supervisord: subprocess.Popen[bytes],
    said: IO[bytes],
    supervisor_log: Path,
    log_start: int,
    requests: list[int],
    console: Console,
) -> tuple[str, str] | None:
    """Return None when all answer or a stop was asked for, else the failed log's name and why."""
    began = time.monotonic()
    problems_since: dict[str, float] = {}
    waiting = {process.name: process for process in processes}
    with console.status(_waiting_for(waiting)) as status:
        while waiting and not requests:
            if supervisord.poll() is not None:
                words = f"supervisord ended (status {supervisord.returncode}){_last_words(said)}"
                return "supervisor", words
            for process in list(waiting.values()):
                health = _probe(process)
                now = time.monotonic()
                if health.is_up and health.problems:
                    since = problems_since.setdefault(process.name, now)
                    if now - since < PROBLEM_SECONDS:
                        continue
                    for problem in health.problems:
                        console.print(
                            Text(f"Warning: {process.name}: {problem}", style="yellow"),
                            soft_wrap=True,
                        )
                elif not health.is_up:
                    n_deaths = _n_deaths(process.name, supervisor_log, log_start)
                    if n_deaths >= DEATHS_AT_START:
                        return process.name, f"{process.name} ended {n_deaths} times while starting"
                    continue
                del waiting[process.name]
                console.print(f"{process.name} is up ({now - began:.1f} s)", highlight=False)
                if waiting:
                    status.update(_waiting_for(waiting))
            if waiting and time.monotonic() - began > START_SECONDS:
                name = next(iter(waiting))
                return name, f"{name} did not answer within {START_SECONDS:.0f} s"
            if waiting:
                time.sleep(_POLL_SECONDS)
    return None


def _waiting_for(waiting: dict[str, _Process]) -> str:
    return f"Waiting for {', '.join(waiting)} …"


def _probe(process: _Process) -> _Health:
    # No proxy: the three processes stand on this machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(process.address + process.health_path, timeout=_PROBE_SECONDS) as answer:
            return _Health(is_up=True, problems=_problems(answer))
    except urllib.error.HTTPError as exc:
        with exc:
            problems = _problems(exc) or (f"answers with status {exc.code}",)
            return _Health(is_up=exc.code == 503, problems=problems)
    except (OSError, ValueError):
        return _Health(is_up=False)


def _problems(answer: IO[bytes]) -> tuple[str, ...]:
    try:
        return tuple(str(problem) for problem in json.load(answer)["problems"])
    except (OSError, ValueError, KeyError, TypeError):
        return ()


def _last_words(said: IO[bytes]) -> str:
    """Return the end of a sentence with what supervisord has said last, such as of a full disk."""
    said.seek(0)
    lines = said.read().decode("utf-8", "replace").strip().splitlines()
    return f": {lines[-1].strip()}" if lines else ""


def _n_deaths(name: str, supervisor_log: Path, log_start: int) -> int:
    with contextlib.suppress(FileNotFoundError), supervisor_log.open("rb") as log:
        log.seek(log_start)
        return log.read().count(f" exited: {name} (".encode())
    return 0


def _print_failure(failure: tuple[str, str], *, logs: Path, console: Console) -> None:
    name, why = failure
    log = logs / f"{name}.log"
    console.print(Text(f"{why}. The end of {log}:", style="red"), soft_wrap=True)
    with contextlib.suppress(FileNotFoundError), log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 100_000))
        lines = file.read().decode("utf-8", "replace").splitlines()
        console.print(Text("\n".join(lines[-_LOG_LINES:])), soft_wrap=True)


@contextlib.contextmanager
def _addresses_known(settings: Settings) -> Iterator[None]:
    """Have the addresses in the installation's file, if it is there, while the block runs."""
    before = installation.known(settings)
    if before is None:  # deleted since, or of another database: commands look where settings say
        yield
        return
    here = dataclasses.replace(
        before,
        server_url=address(settings.host, settings.server_port),
        worker_url=address(settings.host, settings.worker_port),
        page_url=address(settings.host, settings.ui_port),
    )
    installation.write(settings, here)
    try:
        yield
    finally:
        nowhere = dataclasses.replace(before, server_url=None, worker_url=None, page_url=None)
        installation.write(settings, nowhere)


def _print_addresses(settings: Settings, *, logs: Path, console: Console) -> None:
    text = Text(
        f"Page    {address(settings.host, settings.ui_port)}\n"
        f"API     {address(settings.host, settings.server_port)}/docs\n"
        f"Worker  {address(settings.host, settings.worker_port)}\n"
        f"Logs    {logs}\n"
        "Ctrl-C stops all"
    )
    if console.is_terminal:
        console.print(Panel.fit(text, title="Reckeeper", border_style="green"))
    else:
        console.print(text, soft_wrap=True)
