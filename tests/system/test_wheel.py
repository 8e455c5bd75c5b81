"""The wheel, in an empty folder: the whole product on the embedded default.

To be quick it is installed into an environment that sees the packages that are
installed here, but not the extras'. With RECKEEPER_TEST_INDEX=1, as in
`make release`, it is installed from the index with what it asks for.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest
from tests.system.installation import ROOT, Process, clean_environ, free_port, wait_until

import reckeeper

pytestmark = pytest.mark.timeout(1200)  # for what the index has to send

EXTRAS = {
    "postgres": ("psycopg", "adbc_driver_manager", "adbc_driver_postgresql"),
    "kafka": ("confluent_kafka",),
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Build the wheel, out of a copy of the sources."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "src", source / "src", ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "flit_core.wheel", "--outdir", source, source]
    subprocess.run(command, check=True, capture_output=True)
    (built,) = source.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def command(wheel, tmp_path_factory):
    """Install the wheel without its extras, and give its `reckeeper`."""
    environment = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    pip = [sys.executable, "-m", "pip", "--python", environment / "bin" / "python", "install"]
    if os.environ.get("RECKEEPER_TEST_INDEX") == "1":
        pins = re.findall(
            r"^\S+==\S+(?: ; [^\\\n]+)?", (ROOT / "requirements.txt").read_text(), re.MULTILINE
        )
        constraints = environment / "constraints.txt"
        constraints.write_text("\n".join(pins) + "\n")
        subprocess.run([*pip, "--quiet", "--constraint", constraints, wheel], check=True)
    else:
        (site_packages,) = environment.glob("lib/python*/site-packages")
        here = [place for place in sys.path if Path(place).name == "site-packages"]
        missing = [package for packages in EXTRAS.values() for package in packages]
        lines = [*here, f"import sys; sys.modules.update(dict.fromkeys({missing!r}))"]
        (site_packages / "installed_here.pth").write_text("\n".join(lines) + "\n")
        subprocess.run([*pip, "--quiet", "--no-index", "--no-deps", wheel], check=True)
    return environment / "bin" / "reckeeper"


class Running(NamedTuple):
    """`reckeeper up` in a folder that was empty."""

    folder: Path
    up: Process
    server: httpx.Client
    page_url: str


@pytest.fixture(scope="module")
def running(command, tmp_path_factory):
    """Start `reckeeper up` in an empty folder, on free ports, with nothing else set."""
    folder = tmp_path_factory.mktemp("empty")
    server, worker, page = (free_port() for _ in range(3))
    environ = clean_environ() | {
        "RECKEEPER_SERVER_PORT": str(server),
        "RECKEEPER_WORKER_PORT": str(worker),
        "RECKEEPER_UI_PORT": str(page),
    }
    logs = tmp_path_factory.mktemp("logs")
    up = Process("up", [str(command), "up"], folder=logs, cwd=folder, environ=environ)
    try:
        wait_until(
            lambda: "Ctrl-C stops all" in up.text() or up.status is not None,
            f"`reckeeper up` is healthy; its log: {up.log}",
            seconds=150,
        )
        assert up.status is None, up.text()
        url = f"http://127.0.0.1:{server}"
        with httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
            yield Running(folder, up, client, f"http://127.0.0.1:{page}")
    finally:
        if up.status is None:
            up.stop()


def run(command, folder, *arguments, **environ):
    return subprocess.run(
        [command, *arguments],
        cwd=folder,
        env=clean_environ() | environ,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"reckeeper"}
    for name in ("page/entry/.streamlit/config.toml", "page/entry/Home.py", "py.typed"):
        assert f"reckeeper/{name}" in names
    migrations = {path.name for path in ROOT.glob("src/reckeeper/storage/migrations/versions/*.py")}
    assert {f"reckeeper/storage/migrations/versions/{name}" for name in migrations} <= set(names)


def test_it_says_its_version(command, tmp_path):
    done = run(command, tmp_path, "--version")
    assert done.stdout == f"reckeeper {reckeeper.__version__}\n", done.stderr


@pytest.mark.parametrize(
    ("extra", "setting"),
    [
        ("postgres", {"DATABASE_URL": "postgresql://somebody@127.0.0.1:1/x"}),
        ("kafka", {"KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1"}),
    ],
)
def test_what_needs_an_extra_names_it(command, tmp_path, extra, setting):
    done = run(command, tmp_path, "up", **setting)
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert f"pip install 'reckeeper[{extra}]'" in line
    assert next(iter(setting)) in line


def test_in_an_empty_folder_it_is_the_whole_product(command, running):
    wait_until(
        lambda: running.server.get("/recommendations/user-0001").json().get("model_version"),
        "the demo's first model is active",
        seconds=90,
    )
    assert {path.name for path in running.folder.iterdir()} == {"data", "models"}
    assert (running.folder / "data" / "reckeeper.sqlite3").is_file()
    assert httpx.get(running.page_url, trust_env=False).is_success
    found = json.loads((running.folder / "data" / "installation.json").read_text())
    assert found["server_url"] == str(running.server.base_url)

    # The command line finds the server by the folder alone.
    done = run(command, running.folder, "retrain")
    assert done.returncode == 0, done.stderr
    assert "Version 2 is active." in done.stdout
    assert done.stderr == f"Using the server at {running.server.base_url}.\n"

    recommended = running.server.get("/recommendations/user-0001").json()
    assert recommended["model_version"] == 2
    assert len(recommended["items"]) == 10
    assert (running.folder / "models" / "retrained_svd_model.pkl").is_file()

    running.up.interrupt()
    assert running.up.wait() == 0
    assert running.up.text().rstrip().endswith("All stopped.")
    stopped = json.loads((running.folder / "data" / "installation.json").read_text())
    assert stopped["server_url"] is None
