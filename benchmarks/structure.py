"""Counts what the library's structure promises: ``python -m benchmarks.structure``.

Nothing is timed. Each row says what was counted, and the most that is allowed.
"""

import ast
import dataclasses
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from reckeeper import storage
from reckeeper.api.app import create_app
from reckeeper.config import Settings

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src"
LONG_FUNCTION, LONG_MODULE = 60, 600

# Their content is open: JSON of other people, settings of recipes, tables of any columns.
OPEN = (
    "api/examples.py",
    "artifact/",
    "cli/",
    "recipes/",
    "tabular/",
    "wire/",
)
KERNELS = ("linalg/",)
MIGRATIONS = "storage/migrations/"


def modules() -> Iterator[tuple[str, str, ast.Module]]:
    for path in sorted((SOURCE / "reckeeper").rglob("*.py")):
        name = path.relative_to(SOURCE / "reckeeper").as_posix()
        text = path.read_text(encoding="utf-8")
        yield name, text, ast.parse(text)


def explicit_any() -> Counter[str]:
    """Count signatures and annotations with an explicit Any by module."""
    run = subprocess.run(
        [sys.executable, "-m", "mypy", "--disallow-any-explicit", "src"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [line for line in run.stdout.splitlines() if "[explicit-any]" in line]
    return Counter(line.split(":")[0].removeprefix("src/reckeeper/") for line in lines)


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
    """Count subscripts by a string that is a record's field, by module."""
    fields = record_fields()
    found: Counter[str] = Counter()
    for name, _, tree in modules():
        if name.startswith((MIGRATIONS, *OPEN)):
            continue
        found[name] = sum(
            isinstance(node, ast.Subscript)
            and isinstance(node.slice, ast.Constant)
            and node.slice.value in fields
            for node in ast.walk(tree)
        )
    return +found


def places_of_a_version() -> list[str]:
    """Return where most fields of a version are written down, one after the other."""
    fields = {field.name for field in dataclasses.fields(storage.Version)}
    places = []
    for name, _, tree in modules():
        if name.startswith(MIGRATIONS):
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
            elif isinstance(node, ast.Call):
                written = {keyword.arg for keyword in node.keywords if keyword.arg}
            if len(written & fields) > len(fields) / 3:
                places.append(f"{name}:{node.lineno}")
    return places


def routes_without_a_model() -> list[str]:
    """Return the routes whose good answer is JSON without a named schema."""
    document = create_app(Settings.from_env({})).openapi()
    found = []
    for path, methods in document["paths"].items():
        for method, route in methods.items():
            for status, answer in route["responses"].items():
                media = answer.get("content", {}).get("application/json")
                if status.startswith("2") and media is not None and "$ref" not in str(media):
                    found.append(f"{method.upper()} {path} {status}")
    return found


def main() -> None:
    by_module = explicit_any()
    typed = {name: n for name, n in by_module.items() if not name.startswith(OPEN)}
    open_ones = sum(by_module.values()) - sum(typed.values())
    rows: list[tuple[str, int, dict[str, int]]] = [
        ("explicit Any", 39, typed),
        ("subscripts of records", 0, subscripts()),
        ("routes without a response model", 0, dict.fromkeys(routes_without_a_model(), 1)),
        ("places of a version's fields", 3, dict.fromkeys(places_of_a_version(), 1)),
        (f"functions over {LONG_FUNCTION} lines", 6, dict.fromkeys(long_functions(), 1)),
        (f"modules over {LONG_MODULE} lines", 0, dict.fromkeys(long_modules(), 1)),
    ]
    for what, most, found in rows:
        print(f"{what}: {sum(found.values())} (at most {most})")
        for place, n in found.items():
            print(f"    {place}" + (f": {n}" if n > 1 else ""))
    print(f"explicit Any where content is open: {open_ones}")


if __name__ == "__main__":
    main()
