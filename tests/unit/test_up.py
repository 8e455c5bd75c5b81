"""The ports of `reckeeper up`; what it starts and stops is in tests/system/test_up.py."""

import io
import socket

import pytest
from rich.console import Console

from reckeeper.cli.up import _with_free_ports
from reckeeper.config import Settings
from reckeeper.errors import ConfigError


@pytest.fixture
def taken():
    """Give a port on which somebody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@pytest.fixture
def free():
    """Give three ports on which nobody listens."""
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
    ports = [listener.getsockname()[1] for listener in listeners]
    for listener in listeners:
        listener.close()
    return ports


def settings(server, worker, ui, **more):
    return Settings.from_env(
        {
            "RECKEEPER_SERVER_PORT": str(server),
            "RECKEEPER_WORKER_PORT": str(worker),
            "RECKEEPER_UI_PORT": str(ui),
            **more,
        }
    )


def choose(chosen, *, explicit):
    said = io.StringIO()
    console = Console(file=said, width=200)
    return _with_free_ports(chosen, console=console, explicit_worker_port=explicit), said.getvalue()


def test_free_ports_stay(free):
    chosen = settings(*free)
    assert choose(chosen, explicit=False) == (chosen, "")


def test_a_worker_on_its_default_moves_and_says_so(free, taken):
    moved, said = choose(settings(free[0], taken, free[2]), explicit=False)
    assert moved.worker_port not in {taken, free[0], free[2]}
    assert moved.worker_url == f"http://127.0.0.1:{moved.worker_port}"
    assert (moved.server_port, moved.ui_port) == (free[0], free[2])
    assert f"Port {taken} is in use" in said
    assert str(moved.worker_port) in said
    assert "RECKEEPER_WORKER_PORT" in said


def test_an_address_of_the_worker_that_was_named_stays(free, taken):
    named = settings(free[0], taken, free[2], RECKEEPER_WORKER_URL="http://worker.example:80")
    moved, _ = choose(named, explicit=False)
    assert moved.worker_port != taken
    assert moved.worker_url == "http://worker.example:80"


@pytest.mark.parametrize(
    ("place", "setting"),
    [(0, "RECKEEPER_SERVER_PORT"), (1, "RECKEEPER_WORKER_PORT"), (2, "RECKEEPER_UI_PORT")],
)
def test_a_port_that_was_chosen_is_named_with_its_setting(free, taken, place, setting):
    free[place] = taken
    with pytest.raises(ConfigError, match=f"Port {taken} is in use.*Set {setting}"):
        choose(settings(*free), explicit=True)


def test_one_port_for_two_is_refused(free):
    with pytest.raises(ConfigError, match="RECKEEPER_SERVER_PORT asks for it too"):
        choose(settings(free[0], free[1], free[0]), explicit=True)
