"""Writes the parts of these pages that the code knows best: `python -m docs.generate`.

A page marks such a part with ``<!-- generated: NAME -->`` and ``<!-- end -->``; a test
(`tests/unit/test_docs.py`) fails where a part is not what this module would write.
"""

import ast
import functools
import inspect
import re
import sys
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from prometheus_client.metrics import MetricWrapperBase
from pydantic import BaseModel
from tests.unit import test_architecture as architecture

from reckeeper import dashboards, errors, recipes, telemetry, wire
from reckeeper.api.app import document
from reckeeper.cli.commands import COMMANDS, load
from reckeeper.config import Settings
from reckeeper.security import roles
from reckeeper.wire import Policy

DOCS = Path(__file__).parent
PART = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


@functools.cache
def api() -> wire.JsonObject:
    """Return the description of the API, made when it is first asked for."""
    return document()


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
    found = [
        value
        for value in vars(telemetry).values()
        if isinstance(value, MetricWrapperBase | telemetry.ServedQuality)
    ]

    def rows() -> Iterator[tuple[str, ...]]:
        for metric in found:
            (family,) = metric.describe()
            name = family.name + ("_total" if family.type == "counter" else "")
            names = metric._labelnames if isinstance(metric, MetricWrapperBase) else metric.labels
            labels = "{" + ",".join(names) + "}" if names else ""
            yield f"`{name}{labels}`", family.type, family.documentation

    return table(("metric", "type", "what it counts or measures"), rows())


def error_codes() -> str:
    """Return the table of error codes."""

    def rows(error: type[errors.ReckeeperError], depth: int) -> Iterator[tuple[str, ...]]:
        status = wire.status_of(error(""))
        name = f"{'· ' * depth}`{error.__name__}`"
        yield f"`{error.code}`", str(status), name, (inspect.getdoc(error) or "").split("\n\n")[0]
        for child in error.__subclasses__():
            yield from rows(child, depth + 1)

    return table(("code", "HTTP", "class", "meaning"), rows(errors.ReckeeperError, 0))


def policy() -> str:
    """Return the table of the policy's fields."""

    def rows(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, ...]]:
        for name, field in model.model_fields.items():
            default = field.get_default(call_default_factory=True)
            if isinstance(default, BaseModel):
                yield from rows(type(default), f"{prefix}{name}.")
            else:
                yield f"`{prefix}{name}`", json_word(default), field.description or ""

    return table(("field", "default", "what it sets"), rows(Policy))


def json_word(value: Any) -> str:
    """Return a default as people read it."""
    if value is None or value == ():
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
        for module in from_the_ground_up():
            allowed = architecture.MAY_IMPORT[module]
            if module == "__init__":
                continue
            path = architecture.SOURCE / module
            file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
            if not file.exists():
                continue
            hides = architecture.tree_of(file).body[0].value.value.split("\n\n")[0]
            yield f"`{module}`", hides, named(allowed)

    return table(("module", "what it is", "may import"), rows())


def from_the_ground_up() -> Iterator[str]:
    """Yield the modules so that each stands under all that it may import."""
    waiting = list(architecture.MAY_IMPORT)
    while waiting:
        module = next(
            one for one in waiting if not architecture.MAY_IMPORT[one] & {*waiting} - {one}
        )
        waiting.remove(module)
        yield module


def named(modules: set[str]) -> str:
    """Return what a module may import."""
    if modules == architecture.LIBRARY:
        return "all of the library"
    return ", ".join(f"`{name}`" for name in sorted(modules)) or "nothing"


def commands() -> str:
    """Return every command with its usage and its options."""

    def walk(command: Any, path: str) -> Iterator[str]:
        children = getattr(command, "commands", {})
        if not children or command.invoke_without_command:
            yield described(command, path)
        for name, child in sorted(children.items()):
            yield from walk(child, f"{path} {name}")

    # The command line itself has only their names and help until one is called.
    return "\n".join(
        part for name in sorted(COMMANDS) for part in walk(load(name), f"reckeeper {name}")
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
    sections: dict[str, list[str]] = {}
    for path, methods in api()["paths"].items():
        for method, operation in methods.items():
            section = sections.setdefault(operation["tags"][0], [])
            section.append(route(f"{method.upper()} {path}", operation))
    return "\n".join(
        f"## {tag.capitalize()}\n\n" + "\n".join(parts) for tag, parts in sections.items()
    )


def route(name: str, operation: Mapping[str, Any]) -> str:
    """Return one route."""
    parts = [f"### `{name}`\n\n`{operation['operationId']}`. {operation.get('description', '')}\n"]
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
    if body := content(operation.get("requestBody", {})):
        parts.append(f"Body: {body}.\n")
    answers = {status: content(answer) for status, answer in operation["responses"].items()}
    good = [f"{status} {schema}".strip() for status, schema in answers.items() if status < "4"]
    failures = sorted(status for status in answers if status >= "4")
    failed = f" Errors: {', '.join(failures)}." if failures else ""
    parts.append(f"Answers: {', '.join(good)}.{failed}\n")
    return "\n".join(parts)


def content(body: Mapping[str, Any]) -> str:
    """Return links to the schemas of a body."""
    return ", or ".join(
        kind_of(form["schema"]) for form in body.get("content", {}).values() if form.get("schema")
    )


def kind_of(schema: Mapping[str, Any]) -> str:
    """Return the type of a value, with a link where it has a table of its own."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](schemas.md#{name.lower()})"
    if choices := schema.get("anyOf", schema.get("oneOf")):
        return " or ".join(dict.fromkeys(map(kind_of, choices)))
    if len(schema.get("allOf", [])) == 1:
        return kind_of(schema["allOf"][0])
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    kind = schema.get("type", "any")
    if kind == "array":
        return f"list of {kind_of(schema.get('items', {}))}"
    if kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"object of {kind_of(schema['additionalProperties'])}"
    return f"{kind} ({schema['format']})" if "format" in schema else str(kind)


def schemas() -> str:
    """Return the fields of every schema of the API."""

    def rows(schema: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
        for name, field in schema.get("properties", {}).items():
            optional = "" if name in schema.get("required", ()) else ", optional"
            kind = kind_of(field).replace("schemas.md#", "#")
            yield f"`{name}`", kind + optional, field.get("description", "")

    def one(name: str, schema: Mapping[str, Any]) -> str:
        said = inspect.cleandoc(schema.get("description", "")).replace("``", "`")
        if "properties" in schema:
            fields = table(("field", "type", "what it is"), rows(schema))
        else:
            fields = kind_of(schema).replace("schemas.md#", "#").capitalize() + ".\n"
        return f"## {name}\n\n" + (f"{said}\n\n" if said else "") + fields

    return "\n".join(
        one(name, schema) for name, schema in sorted(api()["components"]["schemas"].items())
    )


def faults() -> str:
    """Return the table of what breaks, from the marks of the tests that break it."""

    def rows() -> Iterator[tuple[str, ...]]:
        for file in sorted((DOCS.parent / "tests").rglob("test_*.py")):
            source = file.read_text(encoding="utf-8")
            if "mark.fault(" not in source:
                continue
            for test in ast.walk(ast.parse(source)):
                for mark in getattr(test, "decorator_list", ()):
                    if isinstance(mark, ast.Call) and ast.unparse(mark.func).endswith("mark.fault"):
                        (what,) = map(ast.literal_eval, mark.args)
                        told = {one.arg: ast.literal_eval(one.value) for one in mark.keywords}
                        assert isinstance(test, ast.FunctionDef)
                        name = f"`{file.relative_to(DOCS.parent / 'tests')}`: `{test.name}`"
                        yield what, told["seen"], told["kept"], told["heals"], name

    return table(
        ("what breaks", "what its users see", "what is kept", "how it heals", "test"), rows()
    )


def role_meanings() -> str:
    """Return the table of roles."""
    rows = ((f"`{role}`", roles.MEANING[role]) for role in roles.ROLES)
    return table(("role", "what its keys may do"), rows)


def access() -> str:
    """Return the table of the role that each route takes, and of those that include it."""

    def rows() -> Iterator[tuple[str, ...]]:
        for process, routes in (("server", roles.SERVER), ("worker", roles.WORKER)):
            taken: dict[str, list[str]] = {}
            for (method, path), role in routes.items():
                taken.setdefault(role, []).append(f"`{method} {path}`")
            for role in (*roles.ROLES, roles.ANYONE):
                if role in taken:
                    also = [each for each in roles.ROLES if role in roles.INCLUDED[each]]
                    yield (
                        process,
                        ", ".join(f"`{each}`" for each in also) or "anyone",
                        ", ".join(taken[role]),
                    )

    return table(("process", "roles", "routes"), rows())


def alerts() -> str:
    """Return the alert rules."""
    return f"```yaml\n{dashboards.text_of('alerts.yaml')}```\n"


PARTS = {
    "alerts": alerts,
    "roles": role_meanings,
    "access": access,
    "commands": commands,
    "errors": error_codes,
    "faults": faults,
    "imports": imports,
    "metrics": metrics,
    "policy": policy,
    "recipes": recipe_settings,
    "routes": routes,
    "schemas": schemas,
    "settings": settings,
}


def pages() -> Iterator[tuple[Path, str, str]]:
    """Yield each page with generated parts, and each copy: file, text, and what it should be."""
    for file in sorted(DOCS.rglob("*.md")):
        text = file.read_text(encoding="utf-8")
        if PART.search(text):
            yield file, text, PART.sub(lambda m: f"{m[1]}\n{PARTS[m[2]]()}\n{m[3]}", text)
    for name in dashboards.FILES:
        copy = DOCS / "operate" / name
        there = copy.read_text(encoding="utf-8") if copy.exists() else ""
        yield copy, there, dashboards.text_of(name)


def main() -> None:
    """Write the parts that have changed."""
    for file, text, wanted in pages():
        if text != wanted:
            file.write_text(wanted, encoding="utf-8")
            sys.stdout.write(f"{file.relative_to(DOCS.parent)}\n")


if __name__ == "__main__":
    main()
