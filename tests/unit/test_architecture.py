"""The rules that hold the library's shape, checked on its syntax trees."""

import ast
import functools
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "reckeeper"

# DESIGN.md, "The library, and who may import whom": exactly what each row imports today.
MAY_IMPORT = {
    "__init__": set(),
    "errors": set(),
    "clock": set(),
    "interactions": {"clock", "errors"},
    "config": {"errors", "hosts", "interactions"},
    "telemetry": set(),
    "wire": {"clock", "errors"},
    "periodic": {"errors", "telemetry"},
    "linalg": {"errors"},
    "matrix": {"clock", "errors", "interactions"},
    "recipes": {"clock", "errors", "matrix", "linalg"},
    "durable": set(),
    "hosts": set(),
    "origins": {"config", "errors", "hosts"},
    "arrays": {"errors"},
    "machine": set(),
    "artifact": {"arrays", "clock", "errors", "machine", "matrix", "recipes", "durable"},
    "snapshot": {"arrays", "durable", "errors", "matrix", "telemetry"},
    "ranking": {"errors", "matrix", "recipes", "linalg"},
    "evaluation": {"clock", "errors", "matrix", "recipes", "ranking"},
    "tabular": {"durable", "errors"},
    "storage": {"clock", "config", "errors", "interactions", "telemetry"},
    "audit": {"clock", "config", "errors", "telemetry", "storage", "durable"},
    "policy": {"clock", "config", "errors", "interactions", "periodic", "wire"}
    | {"storage", "audit", "security"},
    "notices": {"clock", "config", "errors", "hosts", "periodic", "telemetry"}
    | {"storage", "policy", "security"},
    "catalogue": {"clock", "errors", "interactions", "periodic", "telemetry", "storage", "audit"},
    "registry": {"clock", "durable", "errors", "telemetry", "storage", "artifact", "audit"},
    "serving": {"clock", "errors", "interactions", "periodic", "telemetry", "artifact", "snapshot"}
    | {"ranking", "registry", "policy", "catalogue", "storage", "matrix", "recipes", "linalg"},
    "training": {"clock", "config", "errors", "periodic", "telemetry", "wire"}
    | {"linalg", "matrix", "recipes", "artifact", "evaluation", "storage", "audit", "registry"}
    | {"machine", "ranking", "serving", "policy", "notices", "snapshot"},
    "events": {"clock", "config", "errors", "interactions", "periodic", "telemetry"}
    | {"storage", "audit", "policy", "catalogue", "tabular", "machine"},
    "people": {"clock", "config", "durable", "errors", "periodic", "telemetry", "storage", "audit"}
    | {"policy", "notices", "registry", "snapshot", "events"},
    "backup": {"artifact", "audit", "clock", "config", "durable", "errors", "periodic", "policy"}
    | {"storage", "telemetry"},
    "security": {"clock", "config", "durable", "errors", "hosts", "periodic", "telemetry"}
    | {"storage", "audit"},
    "dashboards": {"errors"},
    "client": {"errors", "wire"},
}  # fmt: skip
LIBRARY = set(MAY_IMPORT) - {"__init__"}
MAY_IMPORT["page"] = {"client", "config", "errors", "origins", "wire"}
for program in ("api", "worker", "cli"):
    MAY_IMPORT[program] = LIBRARY
PROGRAMS = {"api", "worker", "cli", "page"}

EXCLUSIVE = {
    "sqlalchemy": {"storage", "tabular"},
    "alembic": {"storage"},
    "sqlite3": {"storage", "tabular"},
    "psycopg": {"storage"},
    "adbc_driver_manager": {"storage"},
    "adbc_driver_postgresql": {"storage"},
    "adbc_driver_sqlite": set(),
    "cryptography": {"backup"},
    "confluent_kafka": {"events"},
    "charset_normalizer": {"tabular"},
    "cronsim": {"policy"},
    "apscheduler": set(),
    "sklearn": {"recipes"},
    "pandas": {"artifact", "page"},
    "safetensors": {"arrays"},
    "threadpoolctl": {"linalg", "evaluation"},
    "implicit": {"evaluation"},
    "pickle": {"artifact"},
    "structlog": {"telemetry"},
    "prometheus_client": {"telemetry"},
    "httpx": {"client", "notices"},
    "tenacity": {"storage"},
    "fastapi": {"api"},
    "starlette": {"api", "page"},
    "uvicorn": {"api"},
    "flask": {"worker"},
    "werkzeug": {"worker"},
    "waitress": {"worker"},
    "streamlit": {"page", "frontend"},  # where it looks for what is to be served
    "typer": {"cli"},
    "rich": {"cli"},
    # Whatever reads these runs what is in the file.
    "joblib": set(),
    "torch": set(),
    "dill": set(),
    "cloudpickle": set(),
    "shelve": set(),
    "marshal": set(),
}
UNPICKLES = {"load", "loads", "Unpickler", "_Unpickler", "read_pickle"}


def modules():
    return sorted(SOURCE.rglob("*.py"))


def entry_files():
    return [
        path
        for folder in ("server", "kafka_worker", "frontend")
        for path in sorted((ROOT / folder).rglob("*.py"))
    ]


def owner(path):
    """Return the row of DESIGN.md's table, or the entry folder, that a file belongs to."""
    if path.is_relative_to(SOURCE):
        return path.relative_to(SOURCE).parts[0].removesuffix(".py")
    return path.relative_to(ROOT).parts[0]


def name_of(path):
    return str(path.relative_to(ROOT))


def for_each(files):
    """Return a decorator that has a test look at each of some files, those of a row together."""
    of_row = {}
    for path in files:
        of_row.setdefault(owner(path), []).append(path)

    def decorate(test):
        @pytest.mark.parametrize("row", of_row)
        def look_at(row):
            for path in of_row[row]:
                test(path)

        look_at.__name__ = test.__name__
        return look_at

    return decorate


@functools.cache
def tree_of(path):
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


@functools.cache
def imports(path):
    """Return every imported name, with dots, local imports too."""
    return list(imported(path))


def imported(path):
    package = ["reckeeper", *path.relative_to(SOURCE).parts[:-1]] if SOURCE in path.parents else []
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def ours(path):
    """Yield (row of the table, name in it) for every import of the library."""
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "reckeeper" and len(parts) > 1:
            yield parts[1], ".".join(parts[2:])


def test_every_module_has_a_row_in_the_table():
    assert {owner(path) for path in modules()} <= set(MAY_IMPORT)


@for_each(modules())
def test_imports_are_those_of_the_table(path):
    row = owner(path)
    others = {module for module, _ in ours(path)} - {row, "__version__"}
    assert others <= MAY_IMPORT[row]


@pytest.mark.parametrize("row", [row for row in MAY_IMPORT if MAY_IMPORT[row] != LIBRARY])
def test_every_allowance_is_used(row):
    used = {module for path in modules() if owner(path) == row for module, _ in ours(path)}
    assert MAY_IMPORT[row] <= used


def test_every_owner_of_a_third_party_uses_it():
    used = {
        (name.split(".")[0], owner(path))
        for path in [*modules(), *entry_files()]
        for name in imports(path)
    }
    allowed = {(package, row) for package, rows in EXCLUSIVE.items() for row in rows}
    assert allowed <= used


@for_each(
    [path for path in modules() if owner(path) not in {"api", "cli", "config", "page", "worker"}]
)
def test_of_config_only_the_settings_type_is_imported(path):
    assert {name for module, name in ours(path) if module == "config"} <= {"Settings"}


@for_each([*modules(), *entry_files()])
def test_third_parties_stay_where_they_belong(path):
    strays = {
        package
        for package in (name.split(".")[0] for name in imports(path))
        if package in EXCLUSIVE and owner(path) not in EXCLUSIVE[package]
    }
    assert not strays


@for_each(entry_files())
def test_entry_files_hand_on_to_one_program(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) < 12
    assert len({module for module, _ in ours(path)} & {"api", "worker", "page"}) == 1


@for_each([*modules(), *entry_files()])
def test_nothing_is_imported_by_a_computed_name(path):
    calls = [node.func for node in ast.walk(tree_of(path)) if isinstance(node, ast.Call)]
    names = {call.id for call in calls if isinstance(call, ast.Name)}
    names |= {call.attr for call in calls if isinstance(call, ast.Attribute)}
    assert not names & {"__import__", "import_module", "exec", "eval"}


@for_each([*modules(), *entry_files()])
def test_nothing_unpickles(path):
    assert not {
        name
        for name in imports(path)
        if name.split(".")[0] in {"pickle", "_pickle", "pandas"}
        and name.split(".")[-1] in UNPICKLES
    }
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Attribute):
            of_pickle = isinstance(node.value, ast.Name) and node.value.id in {"pickle", "joblib"}
            assert not (of_pickle and node.attr in UNPICKLES), ast.unparse(node)
            assert node.attr != "read_pickle", ast.unparse(node)
        elif isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            assert ast.unparse(node.value) == "False"


@for_each([path for path in modules() if owner(path) not in {*PROGRAMS, "client", "wire"}])
def test_the_library_names_no_route_and_no_command(path):
    said = [node.value for node in ast.walk(tree_of(path)) if isinstance(node, ast.Constant)]
    pattern = r"\b(GET|POST|PUT|PATCH|DELETE) /|`reckeeper "
    assert not [text for text in said if isinstance(text, str) and re.search(pattern, text)]


@for_each(modules())
def test_nothing_prints(path):
    assert not [
        node.lineno
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "print"
    ]


@for_each([path for path in [*modules(), *entry_files()] if owner(path) != "config"])
def test_only_config_reads_the_environment(path):
    tree = tree_of(path)
    parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in {"environ", "environb", "getenv"}:
            if name_of(path) == "src/reckeeper/client/parts.py":
                continue  # a client stands alone: its own key, by one name
            assert name_of(path) in {
                "src/reckeeper/cli/up.py",
                "src/reckeeper/storage/copies.py",
                "src/reckeeper/training/runner.py",
            }
            # Handed on whole to a child, never looked into.
            parent = parents[node]
            inherits = isinstance(parent, ast.Dict) or (
                isinstance(parent, ast.BinOp) and isinstance(parent.op, ast.BitOr)
            )
            assert inherits, ast.unparse(parent)
    assert not {name for name in imports(path) if name in {"os.environ", "os.getenv"}}


def test_importing_the_library_connects_opens_and_starts_nothing():
    code = """
import importlib, pkgutil, sys, threading

seen = []

def hook(event, arguments):
    if event in {"socket.connect", "socket.bind", "sqlite3.connect"}:
        seen.append((event, str(arguments[-1])))
    elif event == "open" and str(arguments[0]).endswith(".py"):
        pass  # source: a decorator of Streamlit's reads what it wraps
    elif event in {"open", "subprocess.Popen"}:
        frame = sys._getframe(1)
        while frame is not None and "importlib" not in frame.f_code.co_filename:
            if sys.argv[1] in frame.f_code.co_filename:
                seen.append((event, str(arguments[0])))
            frame = frame.f_back

sys.addaudithook(hook)
import reckeeper

for module in pkgutil.walk_packages(reckeeper.__path__, "reckeeper."):
    if module.name != "reckeeper.storage.migrations.env":  # a script, run by Alembic
        importlib.import_module(module.name)
assert not seen, seen
assert threading.active_count() == 1, threading.enumerate()
assert len([name for name in sys.modules if name.startswith("reckeeper.")]) > 20
"""
    run = subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", "-c", code, str(SOURCE)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
