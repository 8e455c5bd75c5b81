"""Makes a JavaScript client of an OpenAPI document, and of nothing else.

``python generate.py http://localhost:8000/openapi.json > client.js``

Each operation becomes a method: path parameters come first, then the body where there is one,
then an object of query parameters. Types stand in JSDoc, which editors and ``tsc --checkJs`` read.
"""

import json
import re
import sys
import urllib.request
from collections.abc import Iterator
from typing import Any

Json = dict[str, Any]

HEAD = """\
// Made by generate.py of the OpenAPI document of {title} {version}: do not edit.

/** What the server refused: its code, and what to do next. */
export class ApiError extends Error {{
  /** @param {{number}} status @param {{{{code: string, message: string}}}} answer */
  constructor(status, answer) {{
    super(answer.message);
    this.status = status;
    this.code = answer.code;
  }}
}}
"""

CLASS = """
export class Client {
  #url;

  /** @param {string} url Where the server is. */
  constructor(url) {
    this.#url = url;
  }

  /**
   * @param {string} method @param {string} path @param {Record<string, any>} query
   * @param {any} [body]
   * @returns {Promise<any>}
   */
  async #call(method, path, query, body) {
    const url = new URL(path, this.#url);
    for (const [name, value] of Object.entries(query)) {
      for (const each of [value].flat()) {
        if (each !== undefined && each !== null) url.searchParams.append(name, String(each));
      }
    }
    const response = await fetch(url, {
      method,
      headers: body === undefined ? {} : { "Content-Type": "application/json" },
      body: body === undefined ? undefined : JSON.stringify(body),
    });
    const answer = await response.json();
    if (!response.ok) throw new ApiError(response.status, answer);
    return answer;
  }
"""


def client(document: Json) -> str:
    """Return the module."""
    info = document["info"]
    parts = [HEAD.format(title=info["title"], version=info["version"])]
    for name, schema in document["components"]["schemas"].items():
        parts.append(f"/** @typedef {{{type_of(schema)}}} {identifier(name)} */\n")
    parts.append(CLASS)
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            parts.extend(method_of(method.upper(), path, operation))
    return "".join([*parts, "}\n"])


def method_of(method: str, path: str, operation: Json) -> Iterator[str]:
    """Yield the lines of an operation, unless what it takes or answers is not JSON."""
    answer = json_of(
        next((operation["responses"][s] for s in ("200", "202") if s in operation["responses"]), {})
    )
    body = operation.get("requestBody")
    if answer is None or (body is not None and json_of(body) is None):
        return
    parameters = [one for one in operation.get("parameters", []) if one["in"] in {"path", "query"}]
    in_path = [one["name"] for one in parameters if one["in"] == "path"]
    in_query = [one for one in parameters if one["in"] == "query"]
    names = list(in_path)
    lines = [operation["description"].split("\n")[0]]
    lines += [f"@param {{string | number}} {name}" for name in in_path]
    if body is not None:
        shown = "body" if body.get("required") else "[body]"
        lines.append(f"@param {{{type_of(json_of(body))}}} {shown}")
        names.append("body")
    if in_query:
        fields = "; ".join(
            f"{one['name']}{'' if one.get('required') else '?'}: {type_of(one['schema'])}"
            for one in in_query
        )
        lines.append(f"@param {{{{{fields}}}}} [query]")
        names.append("query = {}")
    lines.append(f"@returns {{Promise<{type_of(answer)}>}}")
    filled = re.sub(r"\{(\w+)\}", r"${encodeURIComponent(\1)}", path)
    yield "\n  /**\n" + "".join(f"   * {line}\n" for line in lines) + "   */\n"
    arguments = [f'"{method}"', f"`{filled}`", "query" if in_query else "{}"]
    arguments += ["body"] if body is not None else []
    yield f"  {operation['operationId']}({', '.join(names)}) {{\n"
    yield f"    return this.#call({', '.join(arguments)});\n  }}\n"


def json_of(content: Json) -> Json | None:
    """Return the schema of a body or an answer; None if it is not JSON."""
    schema: Json | None = content.get("content", {}).get("application/json", {}).get("schema")
    return schema


def type_of(schema: Json) -> str:
    """Return a schema as a type."""
    if "$ref" in schema:
        return identifier(schema["$ref"].rsplit("/", 1)[1])
    for word in ("anyOf", "oneOf"):
        if word in schema:
            return " | ".join(dict.fromkeys(type_of(one) for one in schema[word]))
    if "allOf" in schema:
        return " & ".join(type_of(one) for one in schema["allOf"])
    if "const" in schema or "enum" in schema:
        return " | ".join(json.dumps(value) for value in schema.get("enum", [schema.get("const")]))
    match schema.get("type"):
        case "array":
            return f"Array<{type_of(schema.get('items', {}))}>"
        case "object" if "properties" in schema:
            required = schema.get("required", [])
            return "{" + ", ".join(
                f"{json.dumps(name)}{'' if name in required else '?'}: {type_of(field)}"
                for name, field in schema["properties"].items()
            ) + "}"  # fmt: skip
        case "object":
            values = schema.get("additionalProperties", {})
            return f"Record<string, {type_of(values) if isinstance(values, dict) else 'any'}>"
        case "integer" | "number":
            return "number"
        case "string" | "boolean" | "null" as name:
            return name
    return "any"


def identifier(name: str) -> str:
    """Return a schema's name as one of JavaScript."""
    return re.sub(r"\W+", "_", name)


if __name__ == "__main__":
    with urllib.request.urlopen(sys.argv[1], timeout=30) as answer:
        sys.stdout.write(client(json.load(answer)))
