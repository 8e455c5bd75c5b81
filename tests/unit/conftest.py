"""What tests of imports, and of the page on a real server, share."""

import threading
import time

import pytest

from reckeeper.events import files
from reckeeper.events.files import FileFormat


@pytest.fixture
def take(database, settings):
    def run(path, **format):
        return files.import_file(
            database, path, format=FileFormat(**format), settings=settings, actor="test"
        )

    return run


@pytest.fixture
def stored(database):
    def read(*names):
        with database.read() as connection:
            rows = connection.exec_driver_sql(
                f"SELECT {', '.join(names)} FROM user_interactions ORDER BY {', '.join(names)}"
            )
            return [tuple(row) for row in rows]

    return read


@pytest.fixture
def server(settings, database, monkeypatch):
    """Start a server, and let the page find it."""
    import streamlit as st
    import uvicorn

    from reckeeper.api.app import create_app

    config = uvicorn.Config(create_app(settings), port=0, log_config=None, lifespan="on")
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run)
    thread.start()
    while not running.started:
        time.sleep(0.01)
    port = running.servers[0].sockets[0].getsockname()[1]
    monkeypatch.setenv("RECKEEPER_SERVER_URL", f"http://127.0.0.1:{port}")
    st.cache_resource.clear()
    yield settings
    st.cache_resource.clear()
    running.should_exit = True
    thread.join()
