"""A real PostgreSQL and a real Kafka broker, each in a folder of its own on a free port."""

import abc
import contextlib
import fcntl
import functools
import glob
import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil
import psycopg
import sqlalchemy as sa
from psycopg import sql
from tests.system.installation import (
    ROOT,
    free_port,
    is_alive,
    is_listening,
    require,
    wait_until,
)

KAFKA = ROOT / "services" / "kafka.sh"
KAFKA_LIBS = Path(os.environ.get("KAFKA_LIBS") or ROOT / ".services" / "kafka-libs")
POSTGRESQL_FOLDERS = (
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/opt/homebrew/opt/postgresql*/bin",
    "/usr/local/opt/postgresql*/bin",
)
QUICK_START = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"  # two thirds of the usual work
NOT_HERE = 69  # exit status of kafka.sh: Java, Maven or the network is missing
START_SECONDS = 120.0
STOP_SECONDS = 60.0

# Waits for the end of the test process, however it comes, and leaves nothing behind: ends the
# service whose number is in a file, and removes the folder.
GUARD = """
import pathlib, shutil, sys
folder, pid_file = sys.argv[1:]
sys.stdin.read()
if pathlib.Path(pid_file).exists():
    import contextlib, psutil
    gone = contextlib.suppress(psutil.NoSuchProcess)
    with gone:
        first = psutil.Process(int(pathlib.Path(pid_file).read_text().split()[0]))
        family = [first, *first.children(recursive=True)]
        if any(str(pathlib.Path(pid_file).parent) in word for word in first.cmdline()):
            for process in reversed(family):
                with gone:
                    process.resume()
            first.send_signal(2)  # both end on Ctrl-C, in good order
            for process in psutil.wait_procs(family, timeout=20)[1]:
                with gone:
                    process.kill()
shutil.rmtree(folder, ignore_errors=True)
"""


class Service(abc.ABC):
    """A service on this machine that tests may stop, kill, hold still and start again.

    Its data are in `folder`, by default a new one that is removed at the end.
    Leaving its ``with`` block ends it; so does the end of the test process.
    """

    PID_FILE: str

    def __init__(self, folder: Path | None = None) -> None:
        # Not below pytest's folders, which only their owner may enter.
        self._own_folder = Path(tempfile.mkdtemp(prefix="reckeeper-service-"))
        self.folder = self._own_folder if folder is None else folder
        self._guard = subprocess.Popen(
            [
                *(sys.executable, "-c", GUARD),
                *(str(self._own_folder), str(self.folder / self.PID_FILE)),
            ],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """The first of its processes, or None when it does not run."""
        with contextlib.suppress(FileNotFoundError):
            pid = int((self.folder / self.PID_FILE).read_text().split()[0])
            return pid if is_alive(pid) else None
        return None

    @abc.abstractmethod
    def start(self) -> None:
        """Start it and wait until it answers."""

    @abc.abstractmethod
    def stop(self) -> None:
        """End it in good order; one that is held still goes on first."""

    @abc.abstractmethod
    def kill(self) -> None:
        """End all its processes as `kill -9` does; what they wrote is there for the next start."""

    def suspend(self) -> None:
        """Hold all its processes still: connections stand, and nothing answers."""
        self._hold_still()

    def resume(self) -> None:
        """Let all its processes go on."""
        for process in reversed(self._family()):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()

    def close(self) -> None:
        """End it for good and remove its folder, unless that was given to it."""
        try:
            if self.pid is not None:
                self.stop()
        finally:
            self._guard.communicate()

    def _family(self) -> list[psutil.Process]:
        assert self.pid is not None, f"the service in {self.folder} does not run"
        first = psutil.Process(self.pid)
        return [first, *first.children(recursive=True)]

    def _hold_still(self) -> list[psutil.Process]:
        first = self._family()[0]
        first.suspend()
        # From then on it starts no others.
        wait_until(lambda: first.status() == psutil.STATUS_STOPPED, f"process {first.pid} stops")
        family = self._family()
        for process in family[1:]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.suspend()
        return family


class PostgreSQL(Service):
    """A cluster of PostgreSQL, reached by TCP with a password.

    One that is not `safe` never waits for the disk: to make and drop databases is then 20 times
    as fast, and what it has written is lost if the machine ends, which no test does.
    """

    PID_FILE = "data/postmaster.pid"
    # A URL must carry these signs in another form.
    PASSWORD = "s3cret:p@ss/w%rd"
    ROLE = "reckeeper"

    def __init__(self, folder: Path | None = None, *, safe: bool = True) -> None:
        programs = postgresql_programs()
        require(programs, "PostgreSQL (initdb, postgres) is not installed")
        assert programs is not None
        self.programs = programs
        # PostgreSQL refuses to run as root.
        self._as_user: dict[str, Any] = {}
        if os.geteuid() == 0:
            user = next((user for user in pwd.getpwall() if user.pw_name == "postgres"), None)
            require(user, "root cannot run PostgreSQL, and there is no user `postgres`")
            assert user is not None
            self._as_user = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        super().__init__(folder)
        self.port = free_port()
        self._popen: subprocess.Popen[bytes] | None = None
        self._is_safe = safe
        self._data = self.folder / "data"
        self._log = self.folder / "server.log"

    def url(self, database: str) -> str:
        """Return the URL of a database as DATABASE_URL takes it."""
        return self._url(database, driver="postgresql+psycopg")

    def start(self) -> None:
        """Start it, after a crash too, and wait until it answers."""
        if not (self._data / "PG_VERSION").exists():
            self._make()
        options = {
            "port": self.port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",  # their paths would be too long
            "max_connections": 300,
        }
        if not self._is_safe:
            options |= {"fsync": "off", "full_page_writes": "off"}
        with self._log.open("ab") as log:
            self._popen = subprocess.Popen(
                [
                    *(self.programs / "postgres", "-D", self._data),
                    *(f"--{name}={value}" for name, value in options.items()),
                ],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **self._as_user,
            )
        wait_until(
            self._answers, f"PostgreSQL answers; its log: {self._log}", seconds=START_SECONDS
        )

    def stop(self) -> None:
        """Have it end all connections, write everything and end."""
        assert self._popen is not None
        self.resume()
        self._popen.send_signal(signal.SIGINT)
        self._popen.wait(STOP_SECONDS)

    def kill(self) -> None:
        """End all its processes as `kill -9` does; the next start recovers."""
        family = self._hold_still()
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        assert self._popen is not None
        self._popen.wait()
        wait_until(
            lambda: not any(is_alive(process.pid) for process in family),
            "all processes of PostgreSQL have ended",
        )

    def connect(self, database: str = "postgres") -> psycopg.Connection:
        """Open a connection in which each statement is a transaction."""
        return psycopg.connect(
            self._url(database, driver="postgresql"), autocommit=True, connect_timeout=10
        )

    def create(self, database: str, *, template: str | None = None) -> str:
        """Make a database, empty or a copy of one that nobody uses now, and return its URL."""
        statement = sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(
            sql.Identifier(database), sql.Identifier(template or "template0")
        )
        with self.connect() as connection:
            # Until 14 the only way; without waiting for the disk the faster.
            if not self._is_safe and connection.info.server_version >= 150_000:
                statement += sql.SQL(" STRATEGY FILE_COPY")
            connection.execute(statement)
        return self.url(database)

    def drop(self, database: str) -> None:
        """Remove a database if it is there; whoever uses it loses the connection."""
        statement = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)")
        with self.connect() as connection:
            connection.execute(statement.format(sql.Identifier(database)))

    def _url(self, database: str, *, driver: str) -> str:
        url = sa.URL.create(
            driver, self.ROLE, self.PASSWORD, "127.0.0.1", self.port, database=database
        )
        return url.render_as_string(hide_password=False)

    def _make(self) -> None:
        if self._as_user:
            os.chown(self.folder, self._as_user["user"], self._as_user["group"])
        password = self.folder / "password"
        password.write_text(self.PASSWORD)
        done = subprocess.run(
            [
                *(self.programs / "initdb", "--pgdata", self._data, "--no-sync"),
                *("--username", self.ROLE, "--auth=scram-sha-256", f"--pwfile={password}"),
                *("--encoding=UTF8", "--locale=C", "--data-checksums"),
            ],
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=START_SECONDS,
            check=False,
            **self._as_user,
        )
        assert done.returncode == 0, f"initdb failed:\n{done.stdout}\n{done.stderr}"

    def _answers(self) -> bool:
        assert self._popen is not None
        assert self._popen.poll() is None, f"PostgreSQL ended:\n{self._log.read_text()}"
        try:
            self.connect().close()
        except psycopg.OperationalError:
            return False
        return True


def postgresql_programs() -> Path | None:
    """Return the folder of PostgreSQL's programs: the one in PATH, or else the newest."""
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    installed = [Path(path) for pattern in POSTGRESQL_FOLDERS for path in glob.glob(pattern)]
    installed = [folder for folder in installed if (folder / "initdb").exists()]

    def version(folder: Path) -> float:
        numbers = re.findall(r"\d+(?:\.\d+)?", str(folder.parent.name))
        return float(numbers[-1]) if numbers else 0.0

    return max(installed, key=version, default=None)


class Broker(Service):
    """A Kafka broker of one node.

    `properties` are further settings of it, in which ``{port}`` and ``{controller}`` stand for
    its two ports; `java_options` are by default those that start it with the least work.
    """

    PID_FILE = "pid"

    def __init__(
        self,
        folder: Path | None = None,
        *,
        properties: str = "",
        java_options: str | None = None,
    ) -> None:
        self._java_options = quick_start() if java_options is None else java_options
        super().__init__(folder)
        self.port = free_port()
        while is_listening(self.port + 1):  # for its controller
            self.port = free_port()
        self.bootstrap = f"127.0.0.1:{self.port}"
        ports = {"{port}": self.port, "{controller}": self.port + 1}
        for name, port in ports.items():
            properties = properties.replace(name, str(port))
        self.folder.mkdir(exist_ok=True)
        (self.folder / "more.properties").write_text(properties)

    def start(self) -> None:
        """Start it, after a crash too, and wait until it answers."""
        data, prepared = self.folder / "data", _prepared()
        if prepared.exists() and not data.exists():
            shutil.copytree(prepared, data)
        self._run("start", str(self.port))
        if not prepared.exists():
            part = Path(tempfile.mkdtemp(dir=KAFKA_LIBS))
            for name in ("meta.properties", "bootstrap.checkpoint"):
                shutil.copy(data / name, part)
            with contextlib.suppress(OSError):  # another process was the first
                part.rename(prepared)

    def stop(self) -> None:
        """Have it write everything and end."""
        self.resume()
        self._run("stop")

    def kill(self) -> None:
        """End it as `kill -9` does; the next start recovers."""
        self._run("kill")

    def _run(self, verb: str, *arguments: str) -> None:
        done = subprocess.run(
            ["bash", str(KAFKA), verb, str(self.folder), *arguments],
            env=os.environ | {"JAVA_TOOL_OPTIONS": self._java_options},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=START_SECONDS + STOP_SECONDS,
            check=False,
        )
        require(done.returncode != NOT_HERE, done.stdout)
        assert done.returncode == 0, done.stdout


@dataclass(frozen=True)
class RunningBroker:
    """A broker that another process may have started."""

    folder: Path
    port: int

    @property
    def bootstrap(self) -> str:
        """Its address, as KAFKA_BOOTSTRAP_SERVERS takes it."""
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The number of its process."""
        return int((self.folder / Broker.PID_FILE).read_text())


@contextlib.contextmanager
def shared_broker(folder: Path) -> Iterator[RunningBroker]:
    """Give, inside the block, the one broker of all processes that name the same folder.

    The first of them starts it, and waits with its end until the others have left.
    """
    running, users, turn = (folder / f"broker.{name}" for name in ("running", "users", "turn"))
    with users.open("w") as used, contextlib.ExitStack() as stack:
        with turn.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            fcntl.flock(used, fcntl.LOCK_SH)
            if not running.exists():
                started = stack.enter_context(Broker())
                running.write_text(f"{started.port} {started.folder}", encoding="utf-8")
                stack.callback(running.unlink)
                stack.callback(fcntl.flock, used, fcntl.LOCK_EX)
        port, _, path = running.read_text(encoding="utf-8").partition(" ")
        yield RunningBroker(Path(path), int(port))


@functools.cache
def quick_start() -> str:
    """Return the options of Java that start a broker with the least work.

    It maps its classes from an archive, which takes half the work. The first broker of all makes
    that when it ends; another Java or another Kafka makes one of its own.
    """
    archive = KAFKA_LIBS / f"classes-{_made_of()}.jsa"
    KAFKA_LIBS.mkdir(parents=True, exist_ok=True)
    with archive.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the first of pytest's processes makes it for all
        if not archive.exists():
            part = archive.with_suffix(".part")
            part.unlink(missing_ok=True)
            with Broker(java_options=f"{QUICK_START} -XX:ArchiveClassesAtExit={part}"):
                pass
            part.rename(archive)
    return f"{QUICK_START} -XX:SharedArchiveFile={archive}"


def _prepared() -> Path:
    """Return where the files are that Kafka's own tool writes into a broker's empty folder.

    To run that tool takes nearly as much as to start a broker; the first broker of all keeps them.
    """
    return KAFKA_LIBS / f"prepared-{_made_of()}"


@functools.cache
def _made_of() -> int:
    home = os.environ.get("JAVA_HOME")
    java = f"{home}/bin/java" if home else "java"
    try:
        said = subprocess.run([java, "-version"], capture_output=True, check=False).stderr
    except FileNotFoundError:  # kafka.sh says so
        said = b""
    return zlib.crc32(said + (ROOT / "services" / "pom.xml").read_bytes())
