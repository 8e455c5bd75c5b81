"""The files around the source agree with the source, and keep what they promise."""

import dataclasses
import re
import tomllib
from pathlib import Path

import pytest
import yaml

from reckeeper.config import Settings

ROOT = Path(__file__).parents[2]
LONG_RUNNING = {"worker": 5000, "server": 8000, "ui": 8501}
REQUIREMENTS = ["requirements.txt", "requirements-dev.txt"]


@pytest.fixture(scope="module")
def services():
    return yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]


@pytest.fixture(scope="module")
def dockerfile():
    text = (ROOT / "Dockerfile").read_text()
    return re.findall(r"^([A-Z]+) (.+)$", text.replace("\\\n", " "), flags=re.MULTILINE)


def pins(name):
    """Return the pinned requirements of a file: name to version and number of hashes."""
    text = (ROOT / name).read_text().replace("\\\n", " ")
    lines = [
        line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")
    ]
    found = {}
    for line in lines:
        pin = re.fullmatch(
            r"([a-z0-9.-]+)==(\S+)(?: ; [^-]+?)?((?:\s+--hash=sha256:\w{64})*)", line
        )
        assert pin, f"{name}: not a pinned requirement: {line[:80]}"
        found[pin[1]] = (pin[2], pin[3].count("--hash"))
    return found


def test_image_copies_only_what_exists_and_is_not_ignored(dockerfile):
    let_through = (ROOT / ".dockerignore").read_text().splitlines()
    sources = [
        source
        for instruction, arguments in dockerfile
        if instruction == "COPY"
        for source in arguments.split()[:-1]
    ]
    assert sources
    for source in sources:
        assert (ROOT / source).exists(), source
        assert f"!{source.removeprefix('./')}" in let_through


def test_image_installs_pinned_requirements_alone(dockerfile):
    installs = [arguments for kind, arguments in dockerfile if "pip install" in arguments]
    assert len(installs) == 2
    assert all("--require-hashes" in run or "--no-deps" in run for run in installs)


def test_nothing_runs_as_root(dockerfile, services):
    assert [user for kind, user in dockerfile if kind == "USER"][-1] == "1000:1000"
    for name, service in services.items():
        assert service["user"] == "${RECKEEPER_UID:-1000}:${RECKEEPER_GID:-1000}", name
        assert not service.get("privileged"), name


def test_ports_are_published_on_loopback_only(services):
    published = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert published == {name: [f"127.0.0.1:{port}:{port}"] for name, port in LONG_RUNNING.items()}


@pytest.mark.parametrize(("name", "port"), LONG_RUNNING.items())
def test_long_running_service_is_watched_and_starts_after_the_migration(services, name, port):
    service = services[name]
    kind, program, flag, code = service["healthcheck"]["test"]
    assert (kind, program, flag) == ("CMD", "python", "-c")
    compile(code, name, "exec")
    path = "/_stcore/health" if name == "ui" else "/health/live"
    assert f"'http://127.0.0.1:{port}{path}'" in code
    assert service["restart"] == "unless-stopped"
    assert service["depends_on"]["migrate"] == {"condition": "service_completed_successfully"}


def test_volumes(services):
    models, database = "./kafka_worker/models:/app/models", "database:/app/data"
    assert (ROOT / "kafka_worker/models/.gitkeep").is_file()
    assert {name: service.get("volumes", []) for name, service in services.items()} == {
        "migrate": [database],
        "worker": [database, models],
        "server": [database, models],
        "ui": [],
    }


def test_compose_sets_only_known_settings_to_values_they_take(services):
    known = {field.metadata["env"] for field in dataclasses.fields(Settings)}
    for name, service in services.items():
        environment = service["environment"]
        ours = {key for key in environment if key.startswith("RECKEEPER_") or key == "DATABASE_URL"}
        assert ours <= known, name
        # As compose does where the shell sets none of them.
        filled = {
            key: re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text) for key, text in environment.items()
        }
        assert not [text for text in filled.values() if "$" in text]
        settings = Settings.from_env(filled)
        assert settings.host == "0.0.0.0"
        assert settings.data_dir == Path("/app/data")
        assert settings.model_dir == Path("/app/models")


@pytest.mark.parametrize("name", REQUIREMENTS)
def test_requirements_are_pinned_by_hash_and_name_no_place(name):
    text = (ROOT / name).read_text()
    assert "://" not in text
    assert not re.search(r"^\s*(-i|-f|--index-url|--extra-index-url|--find-links)\b", text, re.M)
    found = pins(name)
    assert found
    assert not [package for package, (_, n_hashes) in found.items() if not n_hashes]


def test_development_requirements_hold_the_same_runtime():
    runtime, development = pins("requirements.txt"), pins("requirements-dev.txt")
    assert {package: development.get(package) for package in runtime} == runtime


def test_every_dependency_of_the_project_is_pinned():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    groups = project["dependency-groups"]

    def names(requirements):
        return {re.match(r"[\w.-]+", line)[0].lower().replace("_", "-") for line in requirements}

    runtime = names(project["project"]["dependencies"] + groups["build"])
    assert groups["build"] == project["build-system"]["requires"]
    assert runtime <= pins("requirements.txt").keys()
    assert names(groups["dev"]) <= pins("requirements-dev.txt").keys()
