"""What every test may ask for: an installation of its own, in a temporary folder."""

import contextlib
import importlib
import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import hypothesis
import pytest
import sqlalchemy as sa
import structlog
from tests.services import Broker, PostgreSQL, shared_broker
from xdist.scheduler import LoadScopeScheduling

from reckeeper import storage, telemetry
from reckeeper.config import Settings
from reckeeper.interactions import Interaction
from reckeeper.registry import Registry
from reckeeper.training import pipeline

ROOT = Path(__file__).parents[1]

# What a shell starts in the background ignores Ctrl-C, and so would every process of a test.
signal.signal(signal.SIGINT, signal.default_int_handler)

# What rich shows of each frame of a logged exception takes up to half a minute of the CPU.
*_PROCESSORS, _ = structlog.get_config()["processors"]
structlog.configure(
    processors=[
        *_PROCESSORS,
        structlog.dev.ConsoleRenderer(
            colors=False, exception_formatter=structlog.dev.plain_traceback
        ),
    ],
    logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
)

# Databases and model files are synced at every step: in memory that costs nothing.
IN_MEMORY, ROOM = Path("/dev/shm"), 4_000_000_000
if IN_MEMORY.is_dir() and shutil.disk_usage(IN_MEMORY).free > ROOM:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(IN_MEMORY))

# Examples read and write databases: how long one takes says nothing. `make test-long` takes the
# long profile.
for name, n_examples in {"short": 20, "long": 600}.items():
    hypothesis.settings.register_profile(
        name,
        deadline=None,
        database=None,
        max_examples=n_examples,
        suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
    )
hypothesis.settings.load_profile("short")

# Their tests share what is made once: an installation, a browser, the syntax trees of all code.
TOGETHER = re.compile(
    r"tests/system/test_(api|browser|cli_life|compose|contract|crash|cross_site|docs"
    r"|import_database|keys|life|processes|shop|tls|up|watch|wheel)\.py"
    r"|tests/unit/test_(access|architecture|bundle|cli_evaluate|client_distribution|connections|demo"
    r"|docs|recipe_comparison|tuning|worker_connections)\.py"
)


class Scheduling(LoadScopeScheduling):
    """Gives pytest's processes one test after another, and of some files all tests to one.

    Its own `--dist=loadgroup` does the same by marks, but pytest 9.2 keeps its node ids
    elsewhere, so that marks have no effect. The files with most tests come first.
    """

    def _split_scope(self, nodeid):
        path = nodeid.partition("::")[0]
        return path if TOGETHER.fullmatch(path) else nodeid


def pytest_xdist_make_scheduler(config, log):
    return Scheduling(config, log)


def pytest_sessionstart(session):
    """Import a share of the test modules, so that pytest keeps what it makes of them.

    Each of pytest's processes collects all modules. To rewrite their assertions takes half of that
    time, unless another one has done it: each begins with a part, all at the same time.
    """
    if sys.dont_write_bytecode or not hasattr(session.config, "workerinput"):
        return
    own = session.config.workerinput
    folders = [path for name in session.config.args if (path := Path(name).resolve()).is_dir()]
    found = {path for folder in folders for path in folder.rglob("test_*.py")}
    largest_first = sorted(found, key=lambda path: (-path.stat().st_size, path))
    for path in largest_first[int(own["workerid"].removeprefix("gw")) :: own["workercount"]]:
        with contextlib.suppress(Exception, pytest.skip.Exception):  # the collection tells
            importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))


@pytest.fixture(scope="session", autouse=True)
def logs():
    """Let no command that runs in this process send the logs elsewhere: loggers keep that."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(telemetry, "configure_logging", lambda process: None)
        yield


def settings_in(folder):
    return Settings.from_env(
        {
            "RECKEEPER_DATA_DIR": str(folder / "data"),
            "RECKEEPER_MODEL_DIR": str(folder / "models"),
            "RECKEEPER_DEMO": "0",
            "RECKEEPER_SERVER_PROCESSES": "1",
            "RECKEEPER_ALLOWED_HOSTS": "testserver",  # as Starlette's test client calls it
        }
    )


@pytest.fixture(scope="session")
def postgresql():
    """Return a running cluster for databases of one's own; who kills one starts a new one."""
    with PostgreSQL(safe=False) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def broker(tmp_path_factory, worker_id):
    """Return a running broker for topics of one's own, which no test harms.

    It is one for all of pytest's processes: each takes work even while nothing is sent.
    """
    own = tmp_path_factory.getbasetemp()
    with shared_broker(own if worker_id == "master" else own.parent) as running:
        yield running


@pytest.fixture(scope="session")
def another_broker():
    with Broker() as started:
        yield started


@pytest.fixture
def broker_to_harm(another_broker):
    """Return a running broker that a test may kill and hold still; it runs again at the end."""
    yield another_broker
    if another_broker.pid is None:
        another_broker.start()
    another_broker.resume()


@pytest.fixture
def settings(tmp_path):
    """Return settings whose folders are in the test's temporary folder."""
    return settings_in(tmp_path)


@pytest.fixture(scope="session")
def migrated(tmp_path_factory):
    """Return the data folder of a migrated, empty database, to be copied: to migrate is slow."""
    settings = settings_in(tmp_path_factory.mktemp("migrated"))
    storage.migrate(settings)
    return settings.data_dir


@pytest.fixture
def database(settings, migrated):
    """Return the migrated, empty database of `settings`."""
    if settings.is_embedded:
        shutil.copytree(migrated, settings.data_dir, dirs_exist_ok=True)
    database = storage.open_database(settings)
    yield database
    database.close()


@pytest.fixture
def fresh(settings, migrated, tmp_path):
    """Return a function that gives, for a ``with`` block, settings of one more empty database."""
    numbers = itertools.count(1)

    @contextlib.contextmanager
    def make():
        folder = tmp_path / f"fresh{next(numbers)}"
        made = settings_in(folder)
        shutil.copytree(migrated, made.data_dir)
        yield made
        shutil.rmtree(folder)

    return make


@pytest.fixture
def past_reckeeper(settings):
    """Return an engine on the database of `settings` that knows nothing of Reckeeper."""
    file = settings.data_dir / "reckeeper.sqlite3"
    engine = sa.create_engine(settings.database_url or f"sqlite:///{file}")
    yield engine
    engine.dispose()


@pytest.fixture
def registry(database, settings):
    """Return the registry of `settings`."""
    return Registry(database, settings.model_dir)


@pytest.fixture
def add(database):
    """Return a function that appends interactions and says how many were new.

    Each is a tuple ``(user_id, item_id[, type[, weight[, occurred_at[, event_id]]]])``.
    """
    numbers = itertools.count(1)

    def append(*rows, import_id=None):
        whole = [full(row) for row in rows]
        with database.write() as connection:
            if import_id is not None:
                return storage.imports.append(connection, import_id, whole)
            return storage.interactions.append(connection, whole)

    def full(row):
        number = next(numbers)
        defaults = (None, None, "click", 1.0, 1_700_000_000_000_000 + number, f"test-{number}")
        user_id, item_id, kind, weight, occurred_at, event_id = (*row, *defaults[len(row) :])
        return Interaction(event_id, user_id, item_id, kind, weight, occurred_at)

    return append


@pytest.fixture
def taste(add):
    """Append the clicks of 12 users, half of whom like the first 4 of 9 items."""
    rows = [
        (f"u{user:02}", f"i{item}")
        for user in range(12)
        for item in range(9)
        for _ in range((user * 7 + item * 3) % 4 + (2 if (item < 4) == (user < 6) else 0))
        if (user + item) % 3
    ]
    add(*rows)
    return rows


@pytest.fixture
def train(database, settings):
    """Return a function that trains in this process and returns the inactive new version."""

    def run(*, trigger="manual", **changed):
        with database.write() as connection:
            job_id = storage.jobs.insert(connection, trigger=trigger)
            job = storage.jobs.get(connection, job_id)
        values = {"status": storage.jobs.FAILED}
        try:
            version = pipeline.run(
                database,
                settings.replaced(**changed),
                job=job,
                report=lambda stage, fraction, **found: None,
            )
            values = {"status": storage.jobs.SUCCEEDED}
        finally:
            with database.write() as connection:
                storage.jobs.end(connection, job_id, **values)
        return version

    return run


@pytest.fixture
def start_python(settings):
    """Return a function that starts a Python process with `settings` in its environment."""
    started = []

    def start(code, *arguments):
        process = subprocess.Popen(
            [sys.executable, "-c", code, *map(str, arguments)],
            cwd=ROOT,
            env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT / "src"), **settings.to_env()},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture(scope="session")
def wait_until():
    """Return a function that waits for a condition and fails after `seconds`."""

    def wait(condition, *, seconds=20.0):
        start = time.monotonic()
        pause = threading.Event()
        while not condition():
            waited = time.monotonic() - start
            assert waited < seconds, f"not within {seconds} seconds"
            pause.wait(min(max(0.01, waited / 10), 0.1))

    return wait
