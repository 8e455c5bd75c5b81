"""Writes the parts of these pages that the code knows best: `python -m docs.generate`.

A page marks such a part with ``<!-- generated: NAME -->`` and ``<!-- end -->``; a test
(`tests/unit/test_docs.py`) fails where a part is not what this module would write.
"""

import inspect
import re
import sys
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import typer
from prometheus_client.metrics import MetricWrapperBase
from tests.unit import test_architecture as architecture

from reckeeper import errors, recipes, telemetry
from reckeeper.api.app import STATUS, app
from reckeeper.cli.commands import app as command_line
from reckeeper.config import Settings

DOCS = Path(__file__).parent
PART = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def table(header: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> str:
    """Return a Markdown table; a cell may hold anything but a line break."""
    cells = [header, tuple("---" for _ in header), *rows]
    return "".join("| " + " | ".join(plain(cell) for cell in row) + " |\n" for row in cells)


def plain(cell: str) -> str:
    """Return a cell on one line, in Markdown also where a docstring has reStructuredText."""
    return " ".join(cell.split()).replace("|", "\\|").replace("``", "`")


def settings() -> str:
    """Return the table of settings."""
    return table(
        ("variable", "default", "what it sets"),
        ((f"`{one.env}`", shown(one.default), one.help) for one in Settings.variables()),
    )


def shown(default: str) -> str:
    """Return a default in code style, unless it is a phrase."""
    return default if not default or " " in default or "`" in default else f"`{default}`"


def metrics() -> str:
    """Return the table of metrics."""
    found = [value for value in vars(telemetry).values() if isinstance(value, MetricWrapperBase)]

    def rows() -> Iterator[tuple[str, ...]]:
        for metric in found:
            (family,) = metric.describe()
            name = family.name + ("_total" if family.type == "counter" else "")
            labels = "{" + ",".join(metric._labelnames) + "}" if metric._labelnames else ""
            yield f"`{name}{labels}`", family.type, family.documentation

    return table(("metric", "type", "what it counts or measures"), rows())


def error_codes() -> str:
    """Return the table of error codes."""

    def rows(error: type[errors.ReckeeperError], depth: int) -> Iterator[tuple[str, ...]]:
        status = next(STATUS[known] for known in error.__mro__ if known in STATUS)
        name = f"{'· ' * depth}`{error.__name__}`"
        yield f"`{error.code}`", str(status), name, (inspect.getdoc(error) or "").split("\n\n")[0]
        for child in error.__subclasses__():
            yield from rows(child, depth + 1)

    return table(("code", "HTTP", "class", "meaning"), rows(errors.ReckeeperError, 0))


def policy() -> str:
    """Return the table of the policy's fields."""
    body = app.openapi()["paths"]["/policy"]["put"]["requestBody"]

    def rows(schema: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, ...]]:
        for name, field in schema["properties"].items():
            inner = resolved(field)
            if "properties" in inner:
                yield from rows(inner, f"{prefix}{name}.")
            else:
                described = field.get("description", "")
                yield f"`{prefix}{name}`", json_word(field.get("default")), described

    schema = resolved(body["content"]["application/json"]["schema"])
    return table(("field", "default", "what it sets"), rows(schema))


def resolved(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a schema itself where this one only points to it."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return resolved(app.openapi()["components"]["schemas"][name])
    if len(schema.get("allOf", [])) == 1:
        return resolved(schema["allOf"][0])
    return schema


def json_word(value: Any) -> str:
    """Return a default as people read it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, dict):
        return "`" + ",".join(f"{name}={part:g}" for name, part in value.items()) + "`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def recipe_settings() -> str:
    """Return each recipe with the table of its settings."""
    return "\n".join(
        f"### `{recipe['name']}`\n\n{recipe['summary']}\n\n"
        + table(
            ("setting", "default", "what it does"),
            (
                (f"`{setting['name']}`", json_word(setting["default"]), setting["help"])
                for setting in recipe["settings"]
            ),
        )
        for recipe in recipes.describe_recipes()
    )


def imports() -> str:
    """Return the table of who may import whom, which the architecture test enforces."""

    def rows() -> Iterator[tuple[str, ...]]:
        for module, allowed in architecture.MAY_IMPORT.items():
            if module == "__init__":
                continue
            path = architecture.SOURCE / module
            file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
            if not file.exists():
                continue
            hides = architecture.tree_of(file).body[0].value.value.split("\n\n")[0]
            if allowed == architecture.LIBRARY:
                others = "all of the library"
            else:
                others = ", ".join(f"`{name}`" for name in sorted(allowed)) or "nothing"
            yield f"`{module}`", hides, others

    return table(("module", "what it is", "may import"), rows())


def commands() -> str:
    """Return every command with its usage and its options."""

    def walk(command: Any, path: str) -> Iterator[str]:
        children = getattr(command, "commands", {})
        if not children or command.invoke_without_command:
            yield described(command, path)
        for name, child in sorted(children.items()):
            yield from walk(child, f"{path} {name}")

    root = typer.main.get_command(command_line)
    return "\n".join(
        part
        for name, command in sorted(root.commands.items())
        for part in walk(command, f"reckeeper {name}")
    )


def described(command: Any, path: str) -> str:
    """Return one command."""
    arguments = [one for one in command.params if one.param_type_name == "argument"]
    options = [one for one in command.params if one.param_type_name == "option"]
    usage = " ".join([path, *(["[OPTIONS]"] if options else []), *map(placeholder, arguments)])
    text = inspect.cleandoc(command.help or "").replace("``", "`")
    text = f"## `{path}`\n\n{text}\n\n```text\n{usage}\n```\n"
    rows = [(f"`{placeholder(one)}`", one.help or "") for one in arguments]
    for one in options:
        rows.append((f"`{one.opts[0]}{value_of(one)}`", one.help or ""))
    return text + ("\n" + table(("", "what it does"), iter(rows)) if rows else "")


def value_of(option: Any) -> str:
    """Return what follows an option; nothing if it is a flag."""
    kind = option.type_descriptor.annotation
    kinds = [one for one in typing.get_args(kind) if one is not type(None)]
    if typing.get_origin(kind) in (typing.Union, types.UnionType, list) and kinds:
        kind, kinds = kinds[0], list(typing.get_args(kinds[0]))
    if kind is bool:
        return ""
    if kinds and typing.get_origin(kind) is typing.Literal:
        return " " + "|".join(kinds)
    names = {int: "NUMBER", float: "NUMBER", Path: "FILE"}
    return " " + (option.metavar or names.get(kind, "TEXT"))


def placeholder(argument: Any) -> str:
    """Return an argument as usage shows it."""
    name = (argument.metavar or argument.name).upper()
    name += "..." if argument.nargs == -1 else ""
    return name if argument.required else f"[{name}]"


def routes() -> str:
    """Return every route of the server, in the order of its sections."""
    paths = app.openapi()["paths"]
    sections: dict[str, list[str]] = {}
    for path, methods in paths.items():
        for method, operation in methods.items():
            section = sections.setdefault(operation["tags"][0], [])
            section.append(route(f"{method.upper()} {path}", operation))
    return "\n".join(
        f"## {tag.capitalize()}\n\n" + "\n".join(parts) for tag, parts in sections.items()
    )


def route(name: str, operation: Mapping[str, Any]) -> str:
    """Return one route."""
    parts = [f"### `{name}`\n\n{operation.get('description', '')}\n"]
    if operation.get("parameters"):
        parts.append(
            table(
                ("parameter", "in", "what it is"),
                (
                    (
                        f"`{one['name']}`",
                        one["in"] + ("" if one["required"] else ", optional"),
                        one.get("description", ""),
                    )
                    for one in operation["parameters"]
                ),
            )
        )
    body = operation.get("requestBody", {}).get("content", {})
    if fields := body_fields(body.get("application/json", {}).get("schema", {})):
        parts.append(table(("field of the body", "", "what it is"), iter(fields)))
    answers = operation["responses"]
    parts.append("Answers: " + ", ".join(f"{status}" for status in sorted(answers)) + ".\n")
    return "\n".join(parts)


def body_fields(schema: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return a row for each field of a body, wherever its schema is written."""
    schema = resolved(schema)
    for choice in schema.get("anyOf", schema.get("oneOf", [])):
        if choice.get("type") != "null" and (fields := body_fields(choice)):
            return fields
    required = schema.get("required", ())
    return [
        (
            f"`{name}`",
            "required" if name in required else "optional",
            field.get("description", ""),
        )
        for name, field in schema.get("properties", {}).items()
    ]


PARTS = {
    "commands": commands,
    "errors": error_codes,
    "imports": imports,
    "metrics": metrics,
    "policy": policy,
    "recipes": recipe_settings,
    "routes": routes,
    "settings": settings,
}


def pages() -> Iterator[tuple[Path, str, str]]:
    """Yield each page that has generated parts: its file, its text, and what it should be."""
    for file in sorted(DOCS.rglob("*.md")):
        text = file.read_text(encoding="utf-8")
        if PART.search(text):
            yield file, text, PART.sub(lambda m: f"{m[1]}\n{PARTS[m[2]]()}\n{m[3]}", text)


def main() -> None:
    """Write the parts that have changed."""
    for file, text, wanted in pages():
        if text != wanted:
            file.write_text(wanted, encoding="utf-8")
            sys.stdout.write(f"{file.relative_to(DOCS.parent)}\n")


if __name__ == "__main__":
    main()
