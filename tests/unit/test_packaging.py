"""The files around the source agree with the source, and keep what they promise."""

import itertools
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from tests import compose

from reckeeper.config import Settings

ROOT = Path(__file__).parents[2]
LONG_RUNNING = {"worker": 5000, "server": 8000, "ui": 8501}
OURS = {"migrate", *LONG_RUNNING}
OTHERS = {compose.WHOLE: {"postgres", "kafka"}, compose.SMALL: set()}
REQUIREMENTS = ["requirements.txt", "requirements-dev.txt"]
PASSWORD = "p@ss: 'w/rd'"

# Settings that no compose file takes from the user: where things are is fixed in there.
FIXED = {
    *("RECKEEPER_DATA_DIR", "RECKEEPER_MODEL_DIR", "RECKEEPER_HOST", "RECKEEPER_OPEN"),
    *("RECKEEPER_SERVER_URL", "RECKEEPER_WORKER_URL"),
    *("DATABASE_URL", "KAFKA_BOOTSTRAP_SERVERS"),
}
INSIDE = {"RECKEEPER_SERVER_PORT", "RECKEEPER_WORKER_PORT", "RECKEEPER_UI_PORT"}
OF_A_DATABASE = {"DATABASE_URL", "RECKEEPER_DATABASE_SCHEMA"}
OF_THE_EMBEDDED_ONE = {"RECKEEPER_DEMO"}
OF_KAFKA = {variable.env for variable in Settings.variables() if "kafka" in variable.field}
# The broker of the file asks for no TLS and no SASL.
OF_OTHER_CLUSTERS = {"KAFKA_*"}


@pytest.fixture(scope="module", params=[compose.WHOLE, compose.SMALL])
def file(request):
    return request.param


@pytest.fixture(scope="module")
def services(file):
    """Return the services of a file, where the shell sets nothing but the password."""
    return compose.read(file, POSTGRES_PASSWORD=PASSWORD)


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


def test_the_dockerfile_passes_the_linter():
    linter = Path(sys.executable).with_name("hadolint")
    done = subprocess.run(
        [linter, "--no-color", "--failure-threshold", "style", ROOT / "Dockerfile"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_services_are_ours_and_those_that_they_stand_on(file, services):
    assert services.keys() == OURS | OTHERS[file]
    assert all("build" not in services[name] for name in OTHERS[file])


def test_nothing_of_ours_runs_as_root(dockerfile, file):
    assert [user for kind, user in dockerfile if kind == "USER"][-1] == "1000:1000"
    plain = yaml.safe_load((ROOT / file).read_text())["services"]
    for name, service in plain.items():
        assert not service.get("privileged"), name
        if name in OURS:
            assert service["user"] == "${RECKEEPER_UID:-1000}:${RECKEEPER_GID:-1000}", name


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


def test_the_whole_waits_for_database_and_broker():
    services = compose.read(compose.WHOLE, POSTGRES_PASSWORD=PASSWORD)
    healthy = {"condition": "service_healthy"}
    assert services["migrate"]["depends_on"] == {"postgres": healthy}
    for name in ("worker", "server"):
        assert services[name]["depends_on"]["kafka"] == healthy
    for name in ("postgres", "kafka"):
        assert services[name]["healthcheck"]["test"][0] == "CMD"
        assert services[name]["restart"] == "unless-stopped"
        assert re.fullmatch(r"[a-z/]+:\d[\d.]*", services[name]["image"]), "a release is named"


def test_volumes(file, services):
    models = "./kafka_worker/models:/app/models"
    own = "database" if file == compose.SMALL else "data"
    expected = {
        "migrate": [f"{own}:/app/data"],
        "worker": [f"{own}:/app/data", models],
        "server": [f"{own}:/app/data", models],
        "ui": [],
    }
    if file == compose.WHOLE:
        expected["postgres"] = ["postgres:/var/lib/postgresql/data"]
        expected["kafka"] = ["kafka:/var/lib/kafka/data"]
    assert (ROOT / "kafka_worker/models/.gitkeep").is_file()
    assert {name: service.get("volumes", []) for name, service in services.items()} == expected
    named = {volume.partition(":")[0] for volumes in expected.values() for volume in volumes}
    declared = yaml.safe_load((ROOT / file).read_text())["volumes"]
    assert declared.keys() == named - {"./kafka_worker/models"}


def test_both_files_run_our_services_alike():
    whole = compose.read(compose.WHOLE, POSTGRES_PASSWORD=PASSWORD)
    small = compose.read(compose.SMALL)
    for name in OURS:
        for part in ("build", "image", "user", "init", "command", "ports", "healthcheck"):
            assert whole[name].get(part) == small[name].get(part), (name, part)


def test_services_get_only_known_settings_with_values_they_take(file, services):
    known = {variable.env for variable in Settings.variables()}
    for name in OURS:
        environment = services[name]["environment"]
        assert environment.keys() - {"PGPASSWORD"} <= known, name
        settings = Settings.from_env(environment)
        assert settings.host == "0.0.0.0"
        assert settings.is_open  # the ports are published on this machine alone
        assert settings.data_dir == Path("/app/data")
        assert settings.model_dir == Path("/app/models")
        assert settings.server_url == "http://server:8000"
        assert settings.server_url == "http://server:8000"
        is_connected = file == compose.WHOLE and name != "ui"
        assert (settings.is_embedded, settings.uses_kafka) == (not is_connected, is_connected)


def test_every_setting_that_makes_sense_there_can_be_set_for_the_services(file):
    settings = {variable.env for variable in Settings.variables()}
    of_the_file = OF_THE_EMBEDDED_ONE if file == compose.SMALL else OF_A_DATABASE | OF_KAFKA
    sensible = settings - INSIDE - OF_THE_EMBEDDED_ONE - OF_A_DATABASE - OF_KAFKA | of_the_file
    sensible -= OF_OTHER_CLUSTERS
    given = {name: f"value of {name}" for name in settings}
    services = compose.read(file, POSTGRES_PASSWORD=PASSWORD, **given)
    for name in ("migrate", "worker", "server"):
        environment = services[name]["environment"]
        assert environment.keys() - {"PGPASSWORD"} == sensible
        taken = {variable for variable in sensible if given[variable] in str(environment[variable])}
        assert taken == sensible - FIXED


def test_without_a_password_nothing_starts():
    for given in ({}, {"POSTGRES_PASSWORD": ""}):
        with pytest.raises(compose.Refused, match=r"POSTGRES_PASSWORD .*\.env\.example"):
            compose.read(compose.WHOLE, **given)
    assert compose.read(compose.SMALL)


def test_the_password_reaches_those_who_need_it_as_it_is_and_nobody_else():
    services = compose.read(compose.WHOLE, POSTGRES_PASSWORD=PASSWORD)
    holders = {
        "postgres": "POSTGRES_PASSWORD",
        **dict.fromkeys(("migrate", "worker", "server"), "PGPASSWORD"),
    }
    for name, service in services.items():
        found = [key for key, value in service["environment"].items() if PASSWORD in str(value)]
        assert found == ([holders[name]] if name in holders else []), name
        assert PASSWORD not in str({**service, "environment": None})


def test_the_example_names_what_compose_asks_for_and_gives_no_password():
    lines = (ROOT / ".env.example").read_text().splitlines()
    assert "POSTGRES_PASSWORD=" in lines
    named = {found[1] for line in lines if (found := re.match(r"#?([A-Z_]+)=", line))}
    asked = set(re.findall(r"\$\{(\w+):", (ROOT / compose.WHOLE).read_text()))
    assert named <= asked
    assert ".env" in (ROOT / ".gitignore").read_text().splitlines()
    assert "!.env" not in (ROOT / ".dockerignore").read_text()


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

    extras = itertools.chain(*project["project"]["optional-dependencies"].values())
    runtime = names([*project["project"]["dependencies"], *extras, *groups["build"]])
    assert groups["build"] == project["build-system"]["requires"]
    assert runtime <= pins("requirements.txt").keys()
    assert names(groups["dev"]) <= pins("requirements-dev.txt").keys()
