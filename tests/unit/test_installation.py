"""A command belongs to an installation: it finds its server, and refuses another's."""

import dataclasses
import http.server
import json
import re
import socket
import threading

import pytest
from typer.testing import CliRunner

from reckeeper import storage
from reckeeper.cli import installation
from reckeeper.cli.actions import sentence
from reckeeper.cli.commands import COMMANDS, app
from reckeeper.cli.terminal import client
from reckeeper.config import Settings
from reckeeper.errors import ConfigError, DataError, SchemaError, UnavailableError

OTHER = "11111111-2222-3333-4444-555555555555"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.paths.append(self.path)
        self.send_response(self.server.status)
        if self.server.installation_id:
            self.send_header("X-Reckeeper-Installation", self.server.installation_id)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    """Give a server of another installation."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.installation_id, server.status, server.paths = OTHER, 200, []
    server.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def at_the_default(server, monkeypatch, tmp_path):
    """Stand in an empty folder, where the default address is that server's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RECKEEPER_SERVER_PORT", str(server.server_port))
    return tmp_path


def run(*arguments):
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


def events(folder):
    file = folder / "events.csv"
    file.write_text("user_id,item_id\nu1,i1\nu2,i2\n")
    return file


def id_of(folder):
    return json.loads((folder / "data" / installation.FILE).read_text())["installation_id"]


def n_interactions():
    database = storage.open_database(Settings.from_env())
    with database.read() as connection:
        found = storage.interactions.count(connection)
    database.close()
    return found


# Where the server is


def test_the_server_is_where_up_started_it(at_the_default, server):
    run("migrate")
    settings = Settings.from_env()
    here = dataclasses.replace(installation.known(settings), server_url="http://up:1")
    installation.write(settings, here)
    assert installation.known(settings) == here
    assert installation.server_url(settings) == "http://up:1"
    run("migrate")
    assert installation.known(settings) == here, "what runs is not forgotten"


def test_the_address_that_is_set_comes_first(at_the_default, monkeypatch):
    run("migrate")
    settings = Settings.from_env()
    here = dataclasses.replace(installation.known(settings), server_url="http://up:1")
    installation.write(settings, here)
    monkeypatch.setenv("RECKEEPER_SERVER_URL", "http://set:2")
    assert installation.server_url(Settings.from_env()) == "http://set:2"


def test_the_models_are_where_the_installation_has_them(at_the_default, monkeypatch):
    (at_the_default / "models").mkdir()
    run("migrate")
    (at_the_default / "elsewhere").mkdir()
    monkeypatch.chdir(at_the_default / "elsewhere")
    monkeypatch.setenv("RECKEEPER_DATA_DIR", str(at_the_default / "data"))
    assert installation.settings().model_dir == at_the_default / "models"
    monkeypatch.setenv("RECKEEPER_MODEL_DIR", "named")
    assert installation.settings().model_dir == at_the_default / "elsewhere/named"


def test_a_file_of_another_database_says_nothing(at_the_default, monkeypatch):
    run("migrate")
    monkeypatch.setenv("RECKEEPER_DATABASE_SCHEMA", "another")
    assert installation.known(Settings.from_env()) is None
    monkeypatch.setenv("RECKEEPER_DATABASE_SCHEMA", "")
    assert installation.known(Settings.from_env())
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{at_the_default}/other.db")
    assert installation.known(Settings.from_env()) is None


@pytest.mark.parametrize("content", ["", "{", "[]", '{"installation_id": 1}', "null"])
def test_a_file_that_cannot_be_read_says_nothing(at_the_default, content):
    run("migrate")
    (at_the_default / "data" / installation.FILE).write_text(content)
    assert installation.known(Settings.from_env()) is None
    run("migrate")
    assert installation.known(Settings.from_env())


def test_a_command_says_which_server_it_asks_unless_it_is_the_default_one(
    at_the_default, server, monkeypatch, capsys
):
    client().close()
    assert capsys.readouterr().err == f"Using the server at {server.url}.\n"
    monkeypatch.delenv("RECKEEPER_SERVER_PORT")
    client().close()
    assert capsys.readouterr().err == ""


def test_the_address_is_said_without_its_password(at_the_default, monkeypatch, capsys):
    run("migrate")
    monkeypatch.setenv("RECKEEPER_SERVER_URL", "http://ann:secret@127.0.0.1:1")
    client().close()
    assert capsys.readouterr().err == "Using the server at http://ann:***@127.0.0.1:1.\n"
    run("import", events(at_the_default))
    assert n_interactions() == 2


def test_what_speaks_no_http_is_no_server(at_the_default, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def greet():
            connection, _ = listener.accept()
            with connection:
                connection.recv(1024)
                connection.sendall(b"220 not a web server\r\n")

        greeting = threading.Thread(target=greet)
        greeting.start()
        assert installation.answering(f"http://127.0.0.1:{listener.getsockname()[1]}") is None
        greeting.join()


# Server and database of different installations


@pytest.mark.parametrize("command", [["retrain"], ["policy", "set", "margin=0.5"], ["models"]])
def test_a_server_of_another_installation_is_not_asked(at_the_default, server, command):
    run("migrate")
    with pytest.raises(ConfigError, match="nothing was done") as caught:
        run(*command)
    assert OTHER in caught.value.message
    assert server.url in caught.value.message
    assert re.search("RECKEEPER_DATA_DIR.*RECKEEPER_SERVER_PORT", caught.value.message)
    assert set(server.paths) == {"/health/live"}


def test_a_server_of_the_same_installation_is_asked(at_the_default, server):
    run("migrate")
    server.installation_id = id_of(at_the_default)
    client().close()


def test_another_program_at_the_address_is_no_server_of_another_installation(
    at_the_default, server
):
    server.installation_id, server.status = None, 404
    run("migrate")
    client().close()
    run("import", events(at_the_default))
    assert n_interactions() == 2


@pytest.mark.parametrize(
    "command", [["imports", "undo", "1"], ["demo", "clear"], ["models", "rebuild"]]
)
def test_a_command_that_changes_the_database_beside_the_server_is_refused(at_the_default, command):
    run("migrate")
    with pytest.raises(ConfigError, match="belongs to another one: nothing was done"):
        run(*command)


def test_where_the_file_is_gone_the_database_says_which_installation_it_is(at_the_default, server):
    run("migrate")
    own = id_of(at_the_default)
    (at_the_default / "data" / installation.FILE).unlink()
    assert installation.known_id(Settings.from_env()) == own
    with pytest.raises(ConfigError, match="belongs to another one: nothing was done"):
        client()
    server.installation_id = own
    client().close()


# import


def test_an_import_beside_the_server_of_another_installation_is_refused(at_the_default, server):
    with pytest.raises(ConfigError, match="does not exist yet: nothing was done") as caught:
        run("import", events(at_the_default))
    assert str(at_the_default / "data") in caught.value.message
    assert "RECKEEPER_DATA_DIR" in caught.value.message
    assert not (at_the_default / "data").exists()

    run("migrate")
    with pytest.raises(ConfigError, match="belongs to another one: nothing was done"):
        run("import", events(at_the_default))
    assert n_interactions() == 0


def test_an_import_of_items_is_refused_there_too(at_the_default):
    file = at_the_default / "items.csv"
    file.write_text("item_id,title\ni1,A film\n")
    with pytest.raises(ConfigError, match="does not exist yet: nothing was done"):
        run("items", "import", file)
    assert not (at_the_default / "data").exists()


def test_an_import_into_a_named_installation_goes_on(at_the_default, server, monkeypatch):
    server.installation_id = None
    run("migrate")
    server.installation_id = id_of(at_the_default)
    (at_the_default / "elsewhere").mkdir()
    monkeypatch.chdir(at_the_default / "elsewhere")
    monkeypatch.setenv("RECKEEPER_DATA_DIR", str(at_the_default / "data"))
    run("import", events(at_the_default))
    assert n_interactions() == 2


def test_an_import_with_an_address_of_its_own_makes_its_installation(
    at_the_default, server, monkeypatch
):
    monkeypatch.setenv("RECKEEPER_SERVER_PORT", "1")
    done = run("import", events(at_the_default))
    file = at_the_default / "data" / "reckeeper.sqlite3"
    assert f"A new installation was made: {file}." in done.stderr
    assert "new installation" not in run("import", events(at_the_default)).stderr


# No command makes a database, but for four


def test_migrate_says_that_it_makes_one(at_the_default):
    file = at_the_default / "data" / "reckeeper.sqlite3"
    assert f"A new installation was made: {file}." in run("migrate").stdout
    assert "new installation" not in run("migrate").stdout


def test_a_first_key_can_be_made_before_anything_has_started(at_the_default, monkeypatch):
    monkeypatch.setenv("RECKEEPER_SERVER_PORT", "1")
    done = run("keys", "create", "alice", "--role", "admin", "--expires", "90d")
    file = at_the_default / "data" / "reckeeper.sqlite3"
    assert f"A new installation was made: {file}." in done.stderr
    assert re.fullmatch(r"rk_[0-9a-f]{12}_[0-9a-f]{64}\n", done.stdout)
    assert "shown this once" in done.stderr
    listed = run("keys", "list").stdout
    assert "alice" in listed
    assert done.stdout.strip()[-64:] not in listed
    for wrong in ("soon", "0d", "2020-01-01", "99999d99"):
        with pytest.raises(DataError, match=f"--expires '{wrong}'"):
            run("keys", "create", "bob", "--role", "viewer", "--expires", wrong)
    with pytest.raises(DataError, match="there are viewer, ingest"):
        run("keys", "create", "bob", "--role", "root")
    run("keys", "create", "bob", "--role", "viewer", "--rate-limit", "60", "--expires", "52w")
    assert "last one" not in run("keys", "revoke", "bob", "--reason", "left").stderr
    revoked = run("keys", "revoke", "alice")
    assert "'alice'" in revoked.stdout
    assert "everybody may do everything there" in revoked.stderr
    monkeypatch.setenv("RECKEEPER_HOST", "0.0.0.0")
    again = run("keys", "create", "carol", "--role", "admin").stdout
    assert "nobody may do anything there" in run("keys", "revoke", again[3:15]).stderr


@pytest.mark.parametrize(
    "command",
    [
        ["imports", "list"],
        ["imports", "undo", "1"],
        ["demo", "status"],
        ["demo", "clear"],
        ["models", "rebuild"],
        ["audit", "verify"],
        ["keys", "list"],
        ["keys", "revoke", "alice"],
        ["evaluate", "--recipe", "svd"],
        ["recommend", "--all", "--output", "lists.parquet"],
        ["export", "--output", "all.csv"],
        ["backup", "all.tar", "--without-key"],
    ],
)
def test_no_other_command_makes_one(at_the_default, command):
    with pytest.raises(SchemaError) as caught:
        run(*command)
    assert re.search("RECKEEPER_DATA_DIR.*`reckeeper migrate` makes", sentence(caught.value))
    assert str(at_the_default / "data") in caught.value.message
    assert not (at_the_default / "data").exists()


def test_a_command_without_a_server_says_where_it_looked(at_the_default, server, monkeypatch):
    monkeypatch.setenv("RECKEEPER_SERVER_PORT", "1")
    with pytest.raises(UnavailableError, match=r"http://127\.0\.0\.1:1 does not answer") as caught:
        run("models")
    assert re.search(
        "reckeeper up.*RECKEEPER_SERVER_URL.*RECKEEPER_DATA_DIR", sentence(caught.value)
    )
    assert not (at_the_default / "data").exists()


def test_every_command_is_tried_here_or_asks_the_server():
    assert set(COMMANDS) == {
        *("up", "migrate", "import", "imports", "export", "demo", "models", "audit", "evaluate"),
        *("items", "recommend", "keys", "backup", "restore", "dashboards", "status", "check"),
        *("retrain", "jobs", "policy", "users"),
        *("dlq", "replay"),  # of a database that the worker has made: they need a broker
    }
