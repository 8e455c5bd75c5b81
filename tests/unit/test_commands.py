"""The command line's list of commands: complete, in their own words, and quick."""

import re
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

import reckeeper
from reckeeper import wire
from reckeeper.cli import actions
from reckeeper.cli.commands import COMMANDS, app, load, run
from reckeeper.errors import ACTION_NAMES, Action, ConflictError
from reckeeper.page import actions as page_actions

HEAVY = {
    *("numpy", "pandas", "sqlalchemy", "pyarrow", "scipy", "sklearn", "streamlit", "fastapi"),
    *("flask", "alembic", "structlog", "prometheus_client", "httpx", "reckeeper.wire"),
}
# What a command at the database does without, unless it changes something.
SLOW = {"pandas", "scipy", "sklearn", "streamlit", "alembic", "httpx", "pyarrow", "reckeeper.wire"}


def loaded_by(code):
    """Return which heavy packages a fresh interpreter has loaded after `code`."""
    code += "\nimport sys\nsys.stderr.write(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout, set(done.stderr.split())


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], []])
def test_what_lists_the_commands_loads_none_of_them(arguments):
    said, loaded = loaded_by(
        f"""
import sys
sys.argv = ["reckeeper", *{arguments!r}]
from reckeeper.cli import main
try:
    main()
except SystemExit:
    pass
"""
    )
    assert said.strip()
    assert not loaded & (HEAVY | {"pydantic", "httpx"})
    assert {name for name in loaded if name.startswith("reckeeper.")} == {
        "reckeeper.cli", "reckeeper.cli.actions", "reckeeper.cli.commands", "reckeeper.errors",
    }  # fmt: skip


def test_an_import_loads_no_pandas(tmp_path):
    file = tmp_path / "a.csv"
    file.write_text("user_id,item_id,occurred_at\nu,i,2026-01-02T03:04:05Z\n")
    _, loaded = loaded_by(
        f"""
import os, sys
os.environ["RECKEEPER_DATA_DIR"] = os.environ["RECKEEPER_MODEL_DIR"] = {str(tmp_path)!r}
sys.argv = ["reckeeper", "import", {str(file)!r}]
from reckeeper.cli import main
try:
    main()
except SystemExit:
    pass
"""
    )
    assert "reckeeper.events.files" in loaded
    assert not loaded & {"pandas", "scipy", "sklearn"}


def test_no_help_loads_anything_heavy():
    said, loaded = loaded_by(
        """
from typer.testing import CliRunner
from reckeeper.cli.commands import COMMANDS, app, load
for name in COMMANDS:
    for path in [[name], *([name, below] for below in getattr(load(name), "commands", ()))]:
        help = CliRunner().invoke(app, [*path, "--help"])
        assert help.exit_code == 0, help.output
        print(*path)
"""
    )
    assert {"up", "evaluate", "models compare", "imports undo"} <= set(said.splitlines())
    assert len(said.splitlines()) > 2 * len(COMMANDS)
    assert not loaded & HEAVY


@pytest.mark.parametrize(
    "arguments",
    [["imports", "list"], ["demo", "status"], ["audit", "verify"]],
)
def test_a_light_command_at_the_database_loads_what_reads_it(arguments, database, settings):
    said, loaded = loaded_by(
        f"""
import os, sys
os.environ |= {settings.to_env()!r}
sys.argv = ["reckeeper", *{arguments!r}]
from reckeeper.cli import main
try:
    main()
except SystemExit as exc:
    assert not exc.code
"""
    )
    assert said.strip()
    assert "sqlalchemy" in loaded
    assert not loaded & SLOW


def test_the_version_is_printed():
    said = CliRunner().invoke(app, ["--version"])
    assert (said.exit_code, said.stdout) == (0, f"reckeeper {reckeeper.__version__}\n")


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_listed_with_the_first_line_of_its_help(name):
    command = load(name)
    assert command.name == name
    assert command.help.partition("\n")[0] == COMMANDS[name]


def test_the_commands_of_every_module_are_listed():
    from reckeeper.cli import (
        audit,
        backup,
        check,
        dashboards,
        data,
        evaluate,
        exporting,
        importing,
        items,
        jobs,
        keys,
        models,
        policy,
        recommend,
        start,
        status,
        stream,
        users,
    )

    every = typer.Typer()
    for module in (
        audit, backup, check, dashboards, data, evaluate, exporting, importing, items, jobs, keys,
        models, policy, recommend, start, status, stream, users,
    ):  # fmt: skip
        module.register(every)
    assert set(typer.main.get_command(every).commands) == set(COMMANDS)


@pytest.mark.parametrize("table", [actions.ACTIONS, wire.ACTIONS, page_actions.ACTIONS])
def test_what_to_do_next_names_commands_that_there_are(table):
    assert set(table) == set(ACTION_NAMES)
    named = re.findall(r"`reckeeper ([^`]+)`", " ".join(table.values()))
    assert named
    for words in map(str.split, named):
        command = load(words[0])
        below = getattr(command, "commands", {})
        assert not below or len(words) == 1 or words[1] in below, words


def test_an_error_ends_with_what_to_do_next(monkeypatch, capsys):
    def refuse(*_):
        raise ConflictError("Version 3 is inactive.", action=Action("activate", {"version": 3}))

    monkeypatch.setattr("reckeeper.cli.commands.app", refuse)
    with pytest.raises(SystemExit):
        run()
    assert capsys.readouterr().err == (
        "Version 3 is inactive. `reckeeper models activate 3` activates it.\n"
    )


def test_a_command_that_there_is_not_is_refused_with_the_nearest():
    said = CliRunner().invoke(app, ["modles"])
    assert said.exit_code == 2
    assert "Did you mean 'models'?" in said.stderr
