"""Counts what the library's structure promises: ``python -m benchmarks.structure``.

Nothing is timed. Each row says what was counted, and the most that is allowed; a test holds it.
"""

import ast
import dataclasses
import functools
import re
import tempfile
from collections import Counter
from pathlib import Path

from reckeeper import storage
from reckeeper.api.app import create_app
from reckeeper.config import Settings

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src"
LONG_FUNCTION, LONG_MODULE = 60, 600

# Their content is open: JSON of other people, settings of recipes, tables of any columns.
OPEN = (
    "api/edge.py",  # messages of ASGI
    "api/examples.py",
    "api/openapi.py",
    "artifact/",
    "cli/evaluate.py",
    "cli/evaluation_run.py",
    "cli/policy.py",
    "cli/terminal.py",
    "config.py",
    "errors.py",
    "events/kafka/messages.py",
    "events/message.py",
    "events/rows.py",
    "policy/",
    "recipes/",
    "tabular/",
    "telemetry.py",
    "wire/",
)
KERNELS = ("linalg/",)
MIGRATIONS = "storage/migrations/"


@functools.cache
def modules() -> list[tuple[str, str, ast.Module]]:
    """Return the name, the text and the syntax tree of each module; to parse them takes long."""
    found = []
    for path in sorted((SOURCE / "reckeeper").rglob("*.py")):
        name = path.relative_to(SOURCE / "reckeeper").as_posix()
        text = path.read_text(encoding="utf-8")
        found.append((name, text, ast.parse(text)))
    return found


def explicit_any() -> tuple[Counter[str], int]:
    """Count signatures that name Any, by module, and those where content is open."""
    found: Counter[str] = Counter()
    for name, _, tree in modules():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                arguments = ast.walk(node.args)
                annotations = [one.annotation for one in arguments if isinstance(one, ast.arg)]
                named = " ".join(map(ast.unparse, filter(None, [*annotations, node.returns])))
                found[name] += bool(re.search(r"\bAny\b", named))
    is_open = Counter({name: n for name, n in found.items() if name.startswith(OPEN)})
    return found - is_open, is_open.total()


def long_functions() -> list[str]:
    """Return the functions of many lines, their docstrings not counted."""
    found = []
    for name, _, tree in modules():
        if name.startswith((MIGRATIONS, *KERNELS)):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                n_lines = (node.end_lineno or 0) - node.lineno + 1
                if ast.get_docstring(node) is not None:
                    first = node.body[0]
                    n_lines -= (first.end_lineno or 0) - first.lineno + 1
                if n_lines > LONG_FUNCTION:
                    found.append(f"{name}:{node.name}, {n_lines} lines")
    return found


def long_modules() -> list[str]:
    counted = {name: text.count("\n") for name, text, _ in modules()}
    return [f"{name}, {n} lines" for name, n in counted.items() if n > LONG_MODULE]


def record_fields() -> set[str]:
    records = [
        value
        for value in vars(storage).values()
        if isinstance(value, type) and dataclasses.is_dataclass(value)
    ]
    return {field.name for record in records for field in dataclasses.fields(record)}


def subscripts() -> Counter[str]:
    """Count what is read by a string that is a record's field, by module."""
    fields = record_fields()
    found: Counter[str] = Counter()
    for name, _, tree in modules():
        if name.startswith((MIGRATIONS, *OPEN)):
            continue
        found[name] = sum(
            isinstance(node, ast.Subscript)
            and isinstance(node.ctx, ast.Load)
            and isinstance(node.slice, ast.Constant)
            and node.slice.value in fields
            for node in ast.walk(tree)
        )
    return +found


def places_of_a_version() -> list[str]:
    """Return the classes and dictionaries that write down the fields of a version."""
    fields = {field.name for field in dataclasses.fields(storage.Version)}
    places = []
    for name, _, tree in modules():
        if name.startswith(MIGRATIONS) or name.endswith("/examples.py"):
            continue
        for node in ast.walk(tree):
            written: set[str] = set()
            if isinstance(node, ast.ClassDef):
                written = {
                    line.target.id
                    for line in node.body
                    if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)
                }
            elif isinstance(node, ast.Dict):
                written = {
                    key.value
                    for key in node.keys
                    if isinstance(key, ast.Constant) and isinstance(key.value, str)
                }
            if len(written & fields) > len(fields) / 3:
                places.append(f"{name}:{node.lineno}")
    return places


def routes_without_a_model() -> list[str]:
    """Return the routes whose good answer is JSON without a named schema."""
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings.from_env({"RECKEEPER_DATA_DIR": folder, "RECKEEPER_MODEL_DIR": folder})
        storage.migrate(settings)
        document = create_app(settings).openapi()
    found = []
    for path, methods in document["paths"].items():
        for method, route in methods.items():
            for status, answer in route["responses"].items():
                media = answer.get("content", {}).get("application/json")
                if status.startswith("2") and media is not None and "$ref" not in str(media):
                    found.append(f"{method.upper()} {path} {status}")
    return found


def counts() -> list[tuple[str, int, dict[str, int]]]:
    """Return what is counted, the most that is allowed, and how often it is where."""
    return [
        ("signatures with Any", 39, explicit_any()[0]),
        ("subscripts of records", 0, subscripts()),
        ("routes without a response model", 0, dict.fromkeys(routes_without_a_model(), 1)),
        ("places of a version's fields", 3, dict.fromkeys(places_of_a_version(), 1)),
        (f"functions over {LONG_FUNCTION} lines", 6, dict.fromkeys(long_functions(), 1)),
        (f"modules over {LONG_MODULE} lines", 0, dict.fromkeys(long_modules(), 1)),
    ]


def main() -> None:
    for what, most, found in counts():
        print(f"{what}: {sum(found.values())} (at most {most})")
        for place, n in found.items():
            print(f"    {place}" + (f": {n}" if n > 1 else ""))
    print(f"signatures with Any where content is open: {explicit_any()[1]}")


if __name__ == "__main__":
    main()
