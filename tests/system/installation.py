"""An installation in a folder of its own, and the real processes that run on it."""

import collections
import contextlib
import csv
import itertools
import json
import os
import random
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
import pytest
from tests.system import copies

from reckeeper import storage
from reckeeper.config import Settings

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
MOVIELENS = ROOT.parent / "shared" / "data" / "ml-latest-small"
N_USERS = 300
"""How many of MovieLens' 671 users `some_ratings` takes."""
N_RATINGS = 10
"""How many of theirs each film has: a sixth of the films, two thirds of the ratings."""

START_SECONDS = 60.0
STOP_SECONDS = 20.0

T = TypeVar("T")

_ports_given: set[int] = set()


def require(condition: object, reason: str) -> None:
    """Skip aloud what this machine cannot run; in CI, which must run everything, fail."""
    if not condition:
        if os.environ.get("CI", "").lower() in {"1", "true"}:
            pytest.fail(f"CI must have what this test needs: {reason}")
        pytest.skip(reason)


def wait_until(
    condition: Callable[[], T], what: str, *, seconds: float = 30.0, pause_seconds: float = 0.25
) -> T:
    """Wait for a condition and return what it gave; `what` says what did not come.

    Who has waited long asks less often: each question takes time from what is waited for.
    """
    start = time.monotonic()
    pause = threading.Event()
    while not (found := condition()):
        waited = time.monotonic() - start
        assert waited < seconds, f"not within {seconds:.0f} s: {what}"
        pause.wait(min(max(0.02, waited / 10), pause_seconds))
    return found


def free_port() -> int:
    """Return a port that nothing listens on, and that no connection takes by chance."""
    # Below the ports that systems give to outgoing connections, and a part of them for each of
    # pytest's processes: between here and the first use another could take it too.
    first = 20_000 + 1_000 * (int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % 12)
    while True:
        port = random.randrange(first, first + 1_000)
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in _ports_given:
            _ports_given.add(port)
            return port


def is_listening(port: int) -> bool:
    """Return whether something takes connections on a port of this machine."""
    with socket.socket() as caller:
        return caller.connect_ex(("127.0.0.1", port)) == 0


def is_alive(pid: int) -> bool:
    """Return whether a process runs; one that ended and was not collected does not."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return not Path("/proc/self").exists()


def clean_environ() -> dict[str, str]:
    """Return this process's environment without settings and proxies."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("RECKEEPER_", "KAFKA_", "PG"))
        and name != "DATABASE_URL"
        and not name.lower().endswith("_proxy")
    }


def clicks(n_users: int, n_items: int, *, prefix: str = "") -> list[dict[str, Any]]:
    """Return interactions of all these users with most of these items, the same each time."""
    rows = [
        {
            "user_id": f"{prefix}u{user}",
            "item_id": f"{prefix}i{item}",
            "interaction_type": "click" if (user + item) % 5 else "watchlist_add",
            "weight": 1 + (user * 7 + item * 3) % 4,
        }
        for user in range(n_users)
        for item in range(n_items)
        if (user * item + user + item) % 3
    ]
    assert len({row["user_id"] for row in rows}) == n_users
    assert len({row["item_id"] for row in rows}) == n_items
    return rows


class Process:
    """A started process whose output goes to a file."""

    def __init__(
        self,
        name: str,
        command: list[str],
        *,
        folder: Path,
        cwd: Path,
        environ: dict[str, str],
        is_copy: bool = False,
    ) -> None:
        self.name = name
        self.log = folder / f"{name}-{time.monotonic_ns()}.log"
        self._popen: subprocess.Popen[bytes] | copies.Copy
        if is_copy:
            self.log.touch()
            self._popen = copies.Copy(command[-1], cwd=cwd, env=environ, log=self.log)
            self.pid = self._popen.pid
            return
        with self.log.open("wb") as stream:
            # A group of its own, as a terminal gives to what is started on it.
            self._popen = subprocess.Popen(
                command,
                cwd=cwd,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.pid = self._popen.pid

    @property
    def status(self) -> int | None:
        """The exit status, or None while it runs."""
        return self._popen.poll()

    def text(self) -> str:
        """Return what it has written so far."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def events(self, event: str) -> list[dict[str, Any]]:
        """Return the lines of its structured log with this event."""
        lines = [line for line in self.text().splitlines() if line.startswith("{")]
        return [found for line in lines if (found := json.loads(line)).get("event") == event]

    def wait(self, *, seconds: float = START_SECONDS) -> int:
        """Wait for its end and return the exit status."""
        return self._popen.wait(seconds)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Ask it to end, wait until it has, and return the exit status."""
        self._popen.send_signal(number)
        try:
            return self._popen.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def interrupt(self) -> None:
        """Press Ctrl-C: the whole group gets the signal."""
        os.killpg(self.pid, signal.SIGINT)

    def kill(self) -> None:
        """End it as `kill -9` does."""
        self._popen.kill()
        self._popen.wait()


class Installation:
    """Folders, ports and settings of their own, and the processes started on them.

    Leaving its ``with`` block ends whatever still runs. Its server, its worker and
    the commands that `run` runs are `copies`.
    """

    def __init__(self, folder: Path, **settings: str) -> None:
        self.folder = folder
        # Python itself reads these, once at the start.
        self._has_copies = copies.CAN_COPY and not any(
            key.startswith("PYTHON") and key != "PYTHONWARNINGS" for key in settings
        )
        self.data_dir = folder / "data"
        self.model_dir = folder / "models"
        self.server_port, self.worker_port, self.page_port = (free_port() for _ in range(3))
        self.environ = clean_environ() | {
            "RECKEEPER_DATA_DIR": str(self.data_dir),
            "RECKEEPER_MODEL_DIR": str(self.model_dir),
            "RECKEEPER_SERVER_PORT": str(self.server_port),
            "RECKEEPER_WORKER_PORT": str(self.worker_port),
            "RECKEEPER_UI_PORT": str(self.page_port),
            "RECKEEPER_DEMO": "0",
            # However many cores: what one process did shows at once, in the others a moment later.
            "RECKEEPER_SERVER_PROCESSES": "1",
            **settings,
        }
        self.page_url = f"http://127.0.0.1:{self.page_port}"
        # No retries, no proxy, none of our own client: what a stranger would use. Nothing has
        # a certificate, and to read those that could sign one takes longer than most tests.
        self.server, self.worker = (
            httpx.Client(
                base_url=f"http://127.0.0.1:{port}", timeout=240, trust_env=False, verify=False
            )
            for port in (self.server_port, self.worker_port)
        )
        self._processes: list[Process] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop_all()
        self.server.close()
        self.worker.close()

    # Processes

    def start(
        self,
        name: str,
        command: list[str],
        *,
        health_url: str | None = None,
        cwd: Path = ROOT,
        is_copy: bool = False,
        **environ: str,
    ) -> Process:
        """Start a process, and wait until its health route answers, whatever it says."""
        process = Process(
            name,
            command,
            folder=self.folder,
            cwd=cwd,
            environ=self.environ | environ,
            is_copy=is_copy,
        )
        self._processes.append(process)
        if health_url is not None:
            wait_until(
                lambda: _is_up(process, health_url),
                f"{name} answers at {health_url}; its log: {process.log}",
                seconds=START_SECONDS,
            )
        return process

    def start_server(self, *, is_copy: bool | None = None, **environ: str) -> Process:
        """Start a server and wait until it answers; `environ` goes to this process alone."""
        port = environ.get("RECKEEPER_SERVER_PORT", self.server_port)
        return self.start(
            "server",
            [sys.executable, "server/server.py"],
            health_url=f"http://127.0.0.1:{port}/health/ready",
            is_copy=self._has_copies if is_copy is None else is_copy,
            **environ,
        )

    def start_worker(
        self, name: str = "worker", *, is_copy: bool | None = None, **environ: str
    ) -> Process:
        """Start a worker and wait until it answers; `environ` goes to this process alone."""
        port = environ.get("RECKEEPER_WORKER_PORT", self.worker_port)
        return self.start(
            name,
            [sys.executable, "kafka_worker/kafka_worker.py"],
            health_url=f"http://127.0.0.1:{port}/health/ready",
            is_copy=self._has_copies if is_copy is None else is_copy,
            **environ,
        )

    def start_page(self) -> Process:
        """Start the page and wait until it answers."""
        return self.start(
            "page",
            [
                *(sys.executable, "-m", "streamlit", "run", "frontend/Home.py"),
                "--server.headless=true",
                "--server.address=127.0.0.1",
                f"--server.port={self.page_port}",
                "--browser.gatherUsageStats=false",
            ],
            health_url=f"{self.page_url}/_stcore/health",
        )

    def start_up(self) -> Process:
        """Run `reckeeper up` and wait until it has printed the addresses."""
        process = self.start("up", [str(BIN / "reckeeper"), "up"])
        wait_until(
            lambda: "Ctrl-C stops all" in process.text() or process.status is not None,
            f"`reckeeper up` is healthy; its log: {process.log}",
            seconds=150,
        )
        assert process.status is None, f"`reckeeper up` ended:\n{process.text()}"
        return process

    def stop_all(self) -> None:
        """End all processes, the started ones first in good order."""
        running = [process for process in self._processes if process.status is None]
        for process in running:
            os.kill(process.pid, signal.SIGTERM)
        for process in running:
            try:
                process.wait(seconds=STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def pids(self) -> list[int]:
        """Return the processes that have this installation's folder in their settings or open.

        A copy has the settings of what it was copied from, and its log open.
        """
        mark = f"RECKEEPER_DATA_DIR={self.data_dir}".encode()
        found = []
        for entry in Path("/proc").glob("[0-9]*"):  # none on macOS
            with contextlib.suppress(OSError):
                is_marked = mark in (entry / "environ").read_bytes().split(b"\0")
                if is_marked or (int(entry.name) != os.getpid() and self._is_opened_by(entry)):
                    found.append(int(entry.name))
        return found

    def _is_opened_by(self, process: Path) -> bool:
        for file in (process / "fd").iterdir():
            with contextlib.suppress(OSError):  # closed meanwhile
                if file.readlink().is_relative_to(self.folder):
                    return True
        return False

    # What is done with it

    def migrate(self) -> None:
        """Make its database, as `reckeeper migrate` does; that takes two seconds to start."""
        storage.migrate(Settings.from_env(self.environ))

    def run(
        self,
        *arguments: str | Path,
        check: bool = True,
        is_copy: bool | None = None,
        **environ: str,
    ) -> subprocess.CompletedProcess[str]:
        """Run `reckeeper …` to its end."""
        command = [str(part) for part in (BIN / "reckeeper", *arguments)]
        if self._has_copies if is_copy is None else is_copy:
            done = self._run_copy(command, self.environ | environ)
        else:
            done = subprocess.run(
                command,
                cwd=self.folder,
                env=self.environ | environ,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
            )
        if check:
            assert done.returncode == 0, f"{done.args}:\n{done.stdout}\n{done.stderr}"
        return done

    def _run_copy(
        self, command: list[str], environ: dict[str, str]
    ) -> subprocess.CompletedProcess[str]:
        with tempfile.TemporaryDirectory() as folder:
            output, errors = Path(folder) / "output", Path(folder) / "errors"
            copy = copies.Copy(*command, cwd=self.folder, env=environ, log=output, error_log=errors)
            try:
                status = copy.wait(120)
            finally:
                copy.kill()
            told = (path.read_text(encoding="utf-8") for path in (output, errors))
            return subprocess.CompletedProcess(command, status, *told)

    def send(self, rows: list[dict[str, Any]]) -> None:
        """Send interactions through the server, and see that all are new."""
        for first in range(0, len(rows), 10_000):
            batch = rows[first : first + 10_000]
            answer = self.server.post("/user_interactions", json=batch)
            assert answer.status_code == 200, answer.text
            assert answer.json() == {"status": "ok", "accepted": len(batch), "duplicates": 0}

    def retrain(self) -> int:
        """Retrain through the server and return the new version."""
        answer = self.server.post("/retrain")
        assert answer.status_code == 200, answer.text
        version: int = answer.json()["version"]
        return version

    def active(self) -> dict[str, Any] | None:
        """Return the active version as the server lists it."""
        models = self.server.get("/models").json()["models"]
        return next((model for model in models if model["status"] == "active"), None)

    @contextlib.contextmanager
    def database(self) -> Iterator[sqlite3.Connection]:
        """Open the database file itself; what is written is committed at the end."""
        with (
            contextlib.closing(sqlite3.connect(self.data_dir / "reckeeper.sqlite3")) as connection,
            connection,
        ):
            yield connection

    def take_over(self, other: "Installation") -> None:
        """Copy data and models of an installation that is stopped."""
        shutil.copytree(other.data_dir, self.data_dir)
        shutil.copytree(other.model_dir, self.model_dir, symlinks=True)

    @contextlib.contextmanager
    def held_training(self, worker: Process) -> Iterator[dict[str, Any]]:
        """Start a training and hold its process still inside the block; gives the job."""
        for is_last in (False, False, True):
            answer = self.server.post("/retrain", params={"wait": "false"})
            assert answer.status_code == 202, answer.text
            job: dict[str, Any] = answer.json()["job"]
            pid = training_pid(worker, job["job_id"])
            try:
                hold_still(pid, self.data_dir)
                break
            except ProcessLookupError:  # on a busy machine it was over before it was held
                if is_last:
                    raise
                self.wait_for_job(job["job_id"])
        try:
            yield job
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def wait_for_job(self, job_id: int, *, seconds: float = 240.0) -> dict[str, Any]:
        """Wait until a job has ended, and return it."""

        def ended() -> dict[str, Any] | None:
            job: dict[str, Any] = self.server.get(f"/jobs/{job_id}").json()["job"]
            return job if job["status"] != "running" else None

        return wait_until(ended, f"job {job_id} ends", seconds=seconds)


def hold_still(pid: int, data_dir: Path) -> None:
    """Stop a process that writes to the database, but not while it holds the lock of SQLite."""
    file = data_dir / "reckeeper.sqlite3"
    # Until it lets go of it, and not until its end; on a busy machine even that takes a while.
    for pause_seconds in itertools.chain([0.01, 0.02, 0.05], itertools.repeat(0.1)):
        os.kill(pid, signal.SIGSTOP)
        time.sleep(0.01)
        if not file.exists():
            return
        with contextlib.closing(sqlite3.connect(file, timeout=0.2)) as connection:
            try:
                connection.execute("BEGIN IMMEDIATE")
                return
            except sqlite3.OperationalError:
                os.kill(pid, signal.SIGCONT)
        time.sleep(pause_seconds)


def some_ratings(folder: Path) -> Path:
    """Write MovieLens' first users' ratings of films they know to a folder; trains quickly."""
    shutil.copy(MOVIELENS / "movies.csv", folder)
    with (MOVIELENS / "ratings.csv").open(newline="") as stream:
        header, *rows = csv.reader(stream)
    rows = [row for row in rows if int(row[0]) <= N_USERS]
    counts = collections.Counter(film for _, film, *_ in rows)
    path = folder / "ratings.csv"
    with path.open("w", newline="") as stream:
        known = (row for row in rows if counts[row[1]] >= N_RATINGS)
        csv.writer(stream).writerows([header, *known])
    return path


def training_pid(worker: Process, job_id: int) -> int:
    """Return the process of a training job, from the worker's log."""
    started = wait_until(
        lambda: [row for row in worker.events("job_started") if row["job_id"] == job_id],
        f"the worker logs the start of job {job_id}",
        pause_seconds=0.002,  # it may take less than a second
    )
    pid: int = started[0]["pid"]
    return pid


def _is_up(process: Process, url: str) -> bool:
    assert process.status is None, f"{process.name} ended:\n{process.text()}"
    try:
        httpx.get(url, trust_env=False, verify=False, timeout=5)
    except httpx.HTTPError:
        return False
    return True
