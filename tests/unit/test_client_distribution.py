"""`reckeeper-client`, the small distribution: built, and run with nothing but what it asks for."""

import importlib.metadata
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]

# Without the whole of Reckeeper; the answer comes from a function.
PROGRAM = """
import asyncio
import sys

import httpx
from reckeeper_client import AsyncClient, Client, errors

def answer(request):
    refused = {"status": "error", "code": "not_found", "message": "There is no version 3."}
    return httpx.Response(404, json=refused)

with Client("http://reckeeper.test", transport=httpx.MockTransport(answer)) as client:
    try:
        client.activate(3)
    except errors.NotFoundError as exc:
        assert exc.message == "There is no version 3."
    else:
        raise AssertionError

async def awaited():
    async with AsyncClient(transport=httpx.MockTransport(answer)) as client:
        try:
            await client.activate(3)
        except errors.NotFoundError as exc:
            return exc.message

assert asyncio.run(awaited()) == "There is no version 3."
print(*sorted({name.partition(".")[0] for name in sys.modules} - sys.stdlib_module_names))
"""


def needed(requirements):
    """Return the distributions that these need here, with all that those need."""
    found, waiting = {}, list(requirements)
    while waiting:
        requirement = Requirement(waiting.pop())
        is_needed = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if is_needed and requirement.name not in found:
            distribution = importlib.metadata.distribution(requirement.name)
            found[requirement.name] = distribution
            waiting += distribution.requires or []
    return found.values()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index"]
    command += ["--no-build-isolation", "--no-cache-dir", "--wheel-dir", folder, ROOT / "client"]
    subprocess.run(command, check=True, timeout=120)
    (built,) = folder.iterdir()
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """Return a folder of packages: the wheel's, and those that it asks for."""
    folder = tmp_path_factory.mktemp("packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    (own,) = importlib.metadata.distributions(path=[str(folder)])
    for distribution in needed(own.requires):
        for top in {file.parts[0] for file in distribution.files if file.parts[0] != ".."}:
            if not (folder / top).exists():
                (folder / top).symlink_to(distribution.locate_file(top))
    return folder


def test_it_runs_with_what_it_asks_for_and_loads_nothing_else(installed):
    run = subprocess.run(
        [sys.executable, "-I", "-S", "-W", "error", "-c", f"""import sys
sys.path.insert(0, {str(installed)!r})
{PROGRAM}"""],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    loaded = set(run.stdout.split())
    assert {"reckeeper_client", "httpx"} <= loaded
    assert not loaded & {"reckeeper", "tenacity", "numpy", "pandas", "sqlalchemy", "rich"}


def test_it_asks_for_two_packages_as_the_whole_does():
    small, whole = (
        tomllib.loads((ROOT / folder / "pyproject.toml").read_text())["project"]
        for folder in ("client", ".")
    )
    assert {Requirement(line).name for line in small["dependencies"]} == {"httpx", "pydantic"}
    assert set(small["dependencies"]) <= set(whole["dependencies"])
    assert small["requires-python"] == whole["requires-python"]


def test_both_distributions_fit_side_by_side(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.partition("/")[0] for name in names}
    version = importlib.metadata.version("reckeeper")
    assert tops == {"reckeeper_client", f"reckeeper_client-{version}.dist-info"}


def test_each_source_is_the_one_of_the_whole(wheel):
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            inside = name.removeprefix("reckeeper_client/")
            if inside != name and inside != "__init__.py":
                assert archive.read(name) == (ROOT / "src" / "reckeeper" / inside).read_bytes()
