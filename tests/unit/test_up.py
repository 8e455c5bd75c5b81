"""What `reckeeper up` sees to first; what it starts and stops is in tests/system/test_up.py."""

import configparser
import io
import signal
import socket
import subprocess
import sys

import pytest
from rich.console import Console

from reckeeper.cli import installation
from reckeeper.cli.ports import with_free_ports
from reckeeper.cli.up import (
    _addresses_known,
    _locked,
    _processes,
    _supervisord_conf,
)
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
    return with_free_ports(chosen, console=console, explicit_worker_port=explicit), said.getvalue()


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


def test_a_data_folder_is_held_by_one_until_its_end(tmp_path):
    with _locked(tmp_path):
        told = pytest.raises(ConfigError, match=r"Another `reckeeper up`.*RECKEEPER_DATA_DIR")
        with told, _locked(tmp_path):
            pass
    with _locked(tmp_path):
        pass


def test_the_page_is_not_waited_for_as_long_as_those_that_keep_something(free):
    config = configparser.ConfigParser(interpolation=None)
    config.read_string(_supervisord_conf(_processes(settings(*free))))
    waits = {name: config[f"program:{name}"]["stopwaitsecs"] for name in ("worker", "server", "ui")}
    assert waits == {"worker": "10", "server": "10", "ui": "2"}


def test_ctrl_c_while_the_command_line_is_imported_ends_it_without_a_traceback():
    code = """
import signal, sys

class PressesCtrlC:
    def find_spec(self, name, *_):
        if name == "typer":
            signal.raise_signal(signal.SIGINT)

sys.meta_path.insert(0, PressesCtrlC())
from reckeeper.cli import main
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


def test_without_the_installations_file_it_runs_all_the_same(tmp_path):
    settings = Settings.from_env({"RECKEEPER_DATA_DIR": str(tmp_path)})
    with _addresses_known(settings):
        assert installation.known(settings) is None
    installation.note_id(settings, "11111111-2222-3333-4444-555555555555")
    with _addresses_known(settings):
        assert installation.known(settings).server_url == "http://127.0.0.1:8000"
    assert installation.known(settings).server_url is None
