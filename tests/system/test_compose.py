"""The compose files without Docker: their very commands, environments and health checks."""

import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from tests import compose
from tests.services import Broker, PostgreSQL
from tests.system.installation import BIN, ROOT, Installation, Process, clicks, wait_until

PORTS = {"server": "8000", "worker": "5000", "ui": "8501"}
FILES = [compose.WHOLE, compose.SMALL]
COUNT = "SELECT count(*) FROM user_interactions"


class Compose:
    """The services of a file, each as it runs on this machine.

    Those that are not ours run already; a database and a topic are the file's own.
    """

    def __init__(
        self, file: str, made: Installation, *, postgresql: PostgreSQL | None, broker: Broker | None
    ) -> None:
        self.file = file
        self.made = made
        self.postgresql = postgresql
        self.broker = broker
        # As from the file .env.
        self.services = compose.read(
            file,
            POSTGRES_PASSWORD=PostgreSQL.PASSWORD,
            RECKEEPER_KAFKA_TOPIC="of-the-compose-file",
        )
        self.ours = [name for name in self.order() if "build" in self.services[name]]
        self.image = made.folder / "app"
        self.processes: dict[str, Process] = {}
        self.ports = {
            PORTS["server"]: str(made.server_port),
            PORTS["worker"]: str(made.worker_port),
            PORTS["ui"]: str(made.page_port),
        }
        if postgresql is not None and broker is not None:
            self.ports |= {"5432": str(postgresql.port)}
            self.ports |= {"9092": str(broker.port), "9093": str(broker.port + 1)}

    def here(self, text: str) -> str:
        """Put this machine's folders, host and ports into a text of the file."""
        # A container listens on all addresses of its own network; this machine's own
        # network is not to be listened on.
        text = text.replace("0.0.0.0", "127.0.0.1")
        text = re.sub(r"\b(server|worker|postgres|kafka)(?=:\d)", "127.0.0.1", text)
        text = re.sub(r"\b(8000|5000|8501|5432|909[23])\b", lambda it: self.ports[it[0]], text)
        return text.replace("/app/data", str(self.made.data_dir)).replace(
            "/app/models", str(self.made.model_dir)
        )

    def environ(self, name: str) -> dict[str, str]:
        declared = {
            variable: self.here(str(value))
            for variable, value in self.services[name].get("environment", {}).items()
        }
        plain = {
            variable: value
            for variable, value in self.made.environ.items()
            if not variable.startswith(("RECKEEPER_", "KAFKA_", "PG"))
        }
        return plain | {
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(self.image / "src"),  # what the image installs
            **declared,
            # Inside, each process has the usual port.
            "RECKEEPER_SERVER_PORT": str(self.made.server_port),
            "RECKEEPER_WORKER_PORT": str(self.made.worker_port),
            "RECKEEPER_UI_PORT": str(self.made.page_port),
        }

    def command(self, name: str) -> list[str]:
        return [self.here(part) for part in self.services[name]["command"]]

    def build(self) -> None:
        """Make the image's folder, of what the Dockerfile copies and nothing else."""
        for line in (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines():
            if line.startswith("COPY "):
                *sources, target = line.split()[1:]
                for source in sources:
                    place = self.image / target
                    if (ROOT / source).is_dir():
                        ignored = shutil.ignore_patterns("__pycache__")
                        shutil.copytree(ROOT / source, place, ignore=ignored)
                    else:
                        place = place / source if target.endswith("/") else place
                        place.parent.mkdir(parents=True, exist_ok=True)
                        shutil.copy(ROOT / source, place)
        self.made.data_dir.mkdir()
        self.made.model_dir.mkdir()

    def start(self) -> None:
        """Start our services in their order."""
        for name in self.ours:
            process = self.made.start(
                name, self.command(name), cwd=self.image, **self.environ(name)
            )
            self.processes[name] = process
            if any(
                service.get("depends_on", {}).get(name, {}).get("condition")
                == "service_completed_successfully"
                for service in self.services.values()
            ):
                assert process.wait() == 0, process.text()

    def order(self) -> list[str]:
        """Return the services, each after those that it depends on."""
        placed: list[str] = []
        while len(placed) < len(self.services):
            ready = [
                name
                for name, service in self.services.items()
                if name not in placed and set(service.get("depends_on", ())) <= set(placed)
            ]
            assert ready, "services depend on each other in a circle"
            placed += ready
        return placed

    def is_healthy(self, name: str, **environ: str) -> bool:
        kind, *command = self.services[name]["healthcheck"]["test"]
        assert kind == "CMD"
        checked = subprocess.run(
            [self.here(part) for part in command],
            cwd=self.image,
            env=self.environ(name) | environ,
            capture_output=True,
            check=False,
            timeout=30,
        )
        return checked.returncode == 0

    def n_stored(self) -> int:
        """Count the interactions in the table."""
        if self.postgresql is None:
            with self.made.database() as file:
                return int(file.execute(COUNT).fetchone()[0])
        with self.postgresql.connect("reckeeper") as connection:
            row = connection.execute(COUNT).fetchone()
            assert row is not None
            return int(row[0])


@pytest.fixture(scope="module", params=FILES)
def running(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Compose]:
    """Give a file's services, running, started in their order."""
    postgresql: PostgreSQL | None = None
    broker: Broker | None = None
    if request.param == compose.WHOLE:
        postgresql = request.getfixturevalue("postgresql")
        broker = request.getfixturevalue("broker")
        assert postgresql is not None
        postgresql.create("reckeeper")
    with Installation(tmp_path_factory.mktemp("compose")) as made:
        made.environ = {name: value for name, value in made.environ.items() if "RECK" not in name}
        running = Compose(request.param, made, postgresql=postgresql, broker=broker)
        running.build()
        running.start()
        yield running
    if postgresql is not None:
        postgresql.drop("reckeeper")


def test_the_services_start_in_their_order(running):
    whole = running.file == compose.WHOLE
    assert running.ours == ["migrate", "worker", "server", "ui"]
    assert running.order()[:-4] == (["postgres", "kafka"] if whole else [])
    for name in PORTS:
        service = running.services[name]
        assert service["depends_on"]["migrate"]["condition"] == "service_completed_successfully"
        assert service["ports"] == [f"127.0.0.1:{PORTS[name]}:{PORTS[name]}"]
        assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", service["user"]), "a user other than root"
    for name in ("worker", "server"):
        assert "./kafka_worker/models:/app/models" in running.services[name]["volumes"]
        assert f"{'data' if whole else 'database'}:/app/data" in running.services[name]["volumes"]


@pytest.mark.parametrize("name", PORTS)
def test_each_service_becomes_healthy(running, name):
    process = running.processes[name]

    wait_until(lambda: process.status is not None or running.is_healthy(name), f"{name} is healthy")

    assert process.status is None, process.text()


def test_the_health_check_of_a_service_that_is_down_fails(running, monkeypatch):
    monkeypatch.setitem(running.ports, PORTS["server"], "1")

    assert not running.is_healthy("server")


def test_the_contract_holds(running):
    made = running.made

    def up(caller: httpx.Client) -> bool:
        try:
            return caller.get("/health/ready").status_code in (200, 503)
        except httpx.HTTPError:
            return False

    wait_until(lambda: up(made.server) and up(made.worker), "server and worker answer")
    if running.postgresql is None:
        wait_until(made.active, "the demo data has its model", seconds=60)
    else:
        assert made.server.get("/models").json() == {"status": "ok", "models": []}
    n_before = running.n_stored()
    rows = clicks(6, 12, prefix="compose ")

    taken = made.server.post("/user_interactions", json=rows)

    assert taken.status_code == (200 if running.broker is None else 202), taken.text
    assert taken.json()["status"] == "ok"
    assert taken.json()["accepted"] == len(rows)
    wait_until(
        lambda: running.n_stored() == n_before + len(rows), "what was acknowledged is in the table"
    )

    answer = made.server.post("/retrain")

    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body["status"] == "ok"
    assert re.fullmatch(
        r"Model retrained in \d+\.\ds - \d+ samples, \d{1,3}\.\d\d% variance explained",
        body["message"],
    )
    assert body["details"]["training_samples"] == n_before + len(rows)
    assert type(body["details"]["explained_variance"]) is float
    for caller in (made.server, made.worker):
        models = caller.get("/models").json()["models"]
        (active,) = [model for model in models if model["status"] == "active"]
        assert active["version"] == body["version"]
        assert active["type"] == "SVD"
        assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", active["trained_on"])
        assert active["explained_variance"] in body["message"]
        assert active["path"].replace(str(made.model_dir), "/app/models") == (
            "/app/models/retrained_svd_model.pkl"
        )
        assert Path(active["path"]).resolve().is_file()
    # Six users with items of their own are no part of ten components of the demo data.
    strategies = (
        {"user-0001": "model", "compose u1": "popular"}
        if running.postgresql is None
        else {"compose u1": "model", "nobody": "popular"}
    )
    for user_id, strategy in strategies.items():
        recommended = made.server.get(f"/recommendations/{user_id}").json()
        assert recommended["model_version"] == body["version"]
        assert recommended["strategy"] == strategy
        assert recommended["items"]
    # Nothing was written beside the two volumes.
    written = {
        path.relative_to(running.image)
        for path in running.image.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    copied = {path for path in written if (ROOT / path).is_file()}
    assert written == copied


def test_a_watchlist_travels_too(running):
    made = running.made
    path = "/watchlist/somebody/an item"
    expected = 200 if running.broker is None else 202

    def listed() -> list[str]:
        return [row["item_id"] for row in made.server.get("/watchlist/somebody").json()["items"]]

    assert made.server.post(path).status_code == expected
    wait_until(lambda: listed() == ["an item"], "it is on the list")
    assert made.server.delete(path).status_code == expected
    wait_until(lambda: listed() == [], "it is off the list")


@pytest.fixture(scope="module")
def whole(
    postgresql: PostgreSQL, broker: Broker, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Compose]:
    """Give the whole file, of which nothing of ours runs."""
    with Installation(tmp_path_factory.mktemp("whole")) as made:
        whole = Compose(compose.WHOLE, made, postgresql=postgresql, broker=broker)
        whole.image.mkdir()
        yield whole


def test_a_database_is_healthy_when_it_answers_and_not_before(whole):
    programs = f"{whole.postgresql.programs}{os.pathsep}{os.environ['PATH']}"

    assert whole.is_healthy("postgres", PATH=programs, PGPORT=str(whole.postgresql.port))
    assert not whole.is_healthy("postgres", PATH=programs, PGPORT="1")


def test_a_broker_is_healthy_when_it_answers_and_not_before(whole, monkeypatch):
    assert whole.is_healthy("kafka")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setitem(whole.ports, "9092", str(silent.getsockname()[1]))
        assert not whole.is_healthy("kafka")
    assert not whole.is_healthy("kafka")


def test_the_broker_takes_its_settings(whole, tmp_path):
    """Have Kafka's own tool read what the image makes of the environment."""
    environment = whole.services["kafka"]["environment"]
    settings = tmp_path / "server.properties"
    settings.write_text(
        "".join(
            f"{name.removeprefix('KAFKA_').lower().replace('_', '.')}={value}\n"
            for name, value in environment.items()
            if name.startswith("KAFKA_")
        ).replace("/var/lib/kafka/data", str(tmp_path / "data"))
    )
    java, *arguments = psutil.Process(whole.broker.pid).cmdline()
    jars = arguments[arguments.index("-cp") + 1]
    done = subprocess.run(
        [
            *(java, "-cp", jars, "kafka.tools.StorageTool", "format"),
            *("--config", settings, "--cluster-id", environment["CLUSTER_ID"]),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "data" / "meta.properties").is_file()
