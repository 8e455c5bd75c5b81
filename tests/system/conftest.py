"""What system tests share: a trained installation to copy, and a browser."""

import contextlib
import fcntl
import shutil

import pytest
from tests.system.installation import Installation, clicks, require, wait_until

EVIL = "evil.example"
"""The host of foreign pages: to the browser this machine, as after a rebinding."""
CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    f"--host-resolver-rules=MAP {EVIL} 127.0.0.1",
]
CHROMIUM = (
    *("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"),
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
)


@pytest.fixture
def installation(tmp_path):
    """Give an installation with an empty database; nothing runs yet."""
    with Installation(tmp_path) as made:
        made.migrate()
        yield made


@contextlib.contextmanager
def made_once(tmp_path_factory, worker_id, name, **settings):
    """Give an installation, and whether this process is the one that is to fill it for all."""
    own = tmp_path_factory.getbasetemp()
    folder = (own if worker_id == "master" else own.parent) / name
    with folder.with_suffix(".lock").open("w") as lock, Installation(folder, **settings) as made:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the first of pytest's processes makes it
        is_first = not (folder / "complete").exists()
        if is_first:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            made.migrate()
            made.start_worker()
            made.start_server()
        yield made, is_first
        if is_first:
            made.stop_all()
            (folder / "complete").touch()


@pytest.fixture(scope="session")
def trained_once(tmp_path_factory, worker_id):
    """Give a stopped installation with two versions of 8 users and 12 items, to copy."""
    with made_once(tmp_path_factory, worker_id, "trained") as (made, is_first):
        if is_first:
            made.send(clicks(8, 12))
            assert [made.retrain(), made.retrain()] == [1, 2]
    return made


@pytest.fixture(scope="session")
def demo_once(tmp_path_factory, worker_id):
    """Give a stopped installation with the demo data and the model of its first start, to copy."""
    with made_once(tmp_path_factory, worker_id, "demo", RECKEEPER_DEMO="1") as (made, is_first):
        if is_first:
            assert made.wait_for_job(1)["status"] == "succeeded"
            wait_until(made.active, "the demo data has its model")
    return made


@pytest.fixture
def trained(tmp_path, trained_once):
    """Give a stopped installation of its own with two versions; the second is active."""
    with Installation(tmp_path) as made:
        made.take_over(trained_once)
        yield made


@pytest.fixture(scope="session")
def browser():
    """Give a real browser."""
    found = next((path for name in CHROMIUM if (path := shutil.which(name))), None)
    require(found, "no Chromium or Chrome is installed")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=found, args=CHROMIUM_FLAGS)
        yield launched
        launched.close()
