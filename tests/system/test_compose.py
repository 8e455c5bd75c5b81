"""`docker-compose.yml` without Docker: its very commands, environments and health checks."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import httpx
import pytest
import yaml
from tests.system.installation import BIN, ROOT, Installation, clicks, wait_until

PORTS = {"server": "8000", "worker": "5000", "ui": "8501"}


class Compose:
    """The services of the file, each as it runs on this machine."""

    def __init__(self, made: Installation) -> None:
        self.made = made
        parsed = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
        # What the file takes from the shell, with the defaults that it gives.
        text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", json.dumps(parsed["services"]))
        self.services = json.loads(text)
        self.image = made.folder / "app"

    def here(self, text: str) -> str:
        """Put this machine's folders, host and ports into a text of the file."""
        made = self.made
        ports = {
            PORTS["server"]: made.server_port,
            PORTS["worker"]: made.worker_port,
            PORTS["ui"]: made.page_port,
        }
        # A container listens on all addresses of its own network; this machine's own
        # network is not to be listened on.
        text = text.replace("0.0.0.0", "127.0.0.1")
        text = re.sub(r"\b(server|worker)(?=:\d)", "127.0.0.1", text)
        text = re.sub(r"\b(8000|5000|8501)\b", lambda found: str(ports[found[0]]), text)
        return text.replace("/app/data", str(made.data_dir)).replace(
            "/app/models", str(made.model_dir)
        )

    def environ(self, name: str) -> dict[str, str]:
        declared = {
            variable: self.here(str(value))
            for variable, value in self.services[name].get("environment", {}).items()
        }
        plain = {
            variable: value
            for variable, value in self.made.environ.items()
            if not variable.startswith("RECKEEPER_")
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

    def is_healthy(self, name: str) -> bool:
        kind, *command = self.services[name]["healthcheck"]["test"]
        assert kind == "CMD"
        checked = subprocess.run(
            [self.here(part) for part in command],
            cwd=self.image,
            env=self.environ(name),
            capture_output=True,
            check=False,
            timeout=30,
        )
        return checked.returncode == 0


@pytest.fixture(scope="module")
def compose(tmp_path_factory):
    """Give the file's services, running, started in their order."""
    with Installation(tmp_path_factory.mktemp("compose")) as made:
        compose = Compose(made)
        compose.build()
        made.environ = {name: value for name, value in made.environ.items() if "RECK" not in name}
        compose.processes = {}
        for name in compose.order():
            process = made.start(
                name, compose.command(name), cwd=compose.image, **compose.environ(name)
            )
            compose.processes[name] = process
            if any(
                service.get("depends_on", {}).get(name, {}).get("condition")
                == "service_completed_successfully"
                for service in compose.services.values()
            ):
                assert process.wait() == 0, process.text()
        yield compose


def test_the_services_are_the_three_and_a_migration_before_them(compose):
    assert set(compose.services) == {"migrate", "worker", "server", "ui"}
    assert compose.order()[0] == "migrate"
    for name in PORTS:
        service = compose.services[name]
        assert service["depends_on"]["migrate"]["condition"] == "service_completed_successfully"
        assert service["ports"] == [f"127.0.0.1:{PORTS[name]}:{PORTS[name]}"]
        assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", service["user"]), "a user other than root"
    for name in ("worker", "server"):
        assert "./kafka_worker/models:/app/models" in compose.services[name]["volumes"]
        assert "database:/app/data" in compose.services[name]["volumes"]


@pytest.mark.parametrize("name", PORTS)
def test_each_service_becomes_healthy(compose, name):
    process = compose.processes[name]

    wait_until(lambda: process.status is not None or compose.is_healthy(name), f"{name} is healthy")

    assert process.status is None, process.text()


def test_the_health_check_of_a_service_that_is_down_fails(compose):
    environ = compose.made
    kept = environ.server_port
    environ.server_port = 1
    try:
        assert not compose.is_healthy("server")
    finally:
        environ.server_port = kept


def test_the_contract_holds(compose):
    made = compose.made

    def up(caller):
        try:
            return caller.get("/health/ready").is_success
        except httpx.HTTPError:
            return False

    wait_until(lambda: up(made.server) and up(made.worker), "server and worker are ready")
    wait_until(made.active, "the demo data has its model", seconds=60)
    made.send(clicks(6, 12, prefix="compose "))

    answer = made.server.post("/retrain")

    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body["status"] == "ok"
    assert re.fullmatch(
        r"Model retrained in \d+\.\ds - \d+ samples, \d{1,3}\.\d\d% variance explained",
        body["message"],
    )
    assert type(body["details"]["explained_variance"]) is float
    for caller in (made.server, made.worker):
        models = caller.get("/models").json()["models"]
        (active,) = [model for model in models if model["status"] == "active"]
        assert active["version"] == body["version"]
        assert active["type"] == "SVD"
        assert active["path"].replace(str(made.model_dir), "/app/models") == (
            "/app/models/retrained_svd_model.pkl"
        )
        assert Path(active["path"]).resolve().is_file()
    # Six users with items of their own are no part of ten components of the demo data.
    for user_id, strategy in (("user-0001", "model"), ("compose u1", "popular")):
        recommended = made.server.get(f"/recommendations/{user_id}").json()
        assert recommended["model_version"] == body["version"]
        assert recommended["strategy"] == strategy
        assert recommended["items"]
    # Nothing was written beside the two volumes.
    written = {
        path.relative_to(compose.image)
        for path in compose.image.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    copied = {path for path in written if (ROOT / path).is_file()}
    assert written == copied
