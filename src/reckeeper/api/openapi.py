"""The description of the API as OpenAPI, for people, generators and tests."""

from collections.abc import Iterable, Mapping
from http import HTTPStatus

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from pydantic.json_schema import models_json_schema

from reckeeper import security, wire
from reckeeper.api import examples
from reckeeper.interactions import MAX_ROWS

_SCHEME = "ApiKey"
_KEY = {
    "type": "http",
    "scheme": "bearer",
    "description": "`rk_…`, where the server wants a key; `x-reckeeper-role` is the role it takes.",
}
_REFUSALS = (401, 403, 429)
_REF = "#/components/schemas/{model}"
_SENT = (
    wire.Interaction,
    wire.HistoryRequest,
    wire.BatchRequest,
    wire.SimilarRequest,
    wire.PolicyChange,
    wire.ItemContent,
    wire.ItemRow,
)
"""Bodies that the library parses itself."""


def reference(name: str) -> dict[str, str]:
    """Return a reference to a schema by its name."""
    return {"$ref": _REF.format(model=name)}


def body(schema: wire.JsonObject, media_type: str = "application/json") -> wire.JsonObject:
    """Describe the body of a request that FastAPI does not parse, as ``openapi_extra``."""
    return bodies({media_type: schema})


def bodies(schemas: Mapping[str, wire.JsonObject]) -> wire.JsonObject:
    """Describe a body that may be of several media types, as `body` does."""
    content = {media_type: {"schema": schema} for media_type, schema in schemas.items()}
    return {"requestBody": {"required": True, "content": content}}


def operation_id(route: APIRoute) -> str:
    """Return the stable name of an operation: that of its function."""
    return route.name


def describe(app: FastAPI) -> wire.JsonObject:
    """Return the document of a program, made once.

    It has what FastAPI makes of the routes, the schemas of bodies that the library parses itself,
    and the examples, in which FastAPI would leave out what is null.
    """
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title, version=app.version, summary=app.summary, routes=app.routes
        )
        document["components"]["schemas"] |= _sent_schemas()
        document["components"]["securitySchemes"] = {_SCHEME: _KEY}
        for path, operations in document["paths"].items():
            for method, operation in operations.items():
                _add_refusals(method, operation)
                _add_role(operation, security.roles.SERVER.get((method.upper(), path)))
                operation["responses"] = dict(sorted(operation["responses"].items()))
                if "200" in operation["responses"]:
                    operation["responses"]["200"]["description"] = "Done"
                _leave_out_null(operation.get("requestBody", {}))
                _add_examples(operation)
        app.openapi_schema = document
    return app.openapi_schema


def _add_role(operation: wire.JsonObject, role: str | None) -> None:
    """Describe who may call an operation, and how everybody else is refused."""
    if role == security.roles.ANYONE:
        operation["security"] = [{}, {_SCHEME: []}]
        return
    operation["security"] = [{_SCHEME: []}]
    operation["x-reckeeper-role"] = role
    _add_failures(operation, _REFUSALS)


def _add_refusals(method: str, operation: wire.JsonObject) -> None:
    """Describe what is refused to anybody: foreign hosts, foreign pages, and bodies."""
    _add_failures(operation, [421])
    if method != "get":
        _add_failures(operation, [403])
    if "requestBody" in operation:
        _add_failures(operation, [415])


def _add_failures(operation: wire.JsonObject, statuses: Iterable[int]) -> None:
    for status in statuses:
        content = {"application/json": {"schema": reference("Error")}}
        described = {"description": HTTPStatus(status).phrase, "content": content}
        operation["responses"][str(status)] = described


def _sent_schemas() -> wire.JsonObject:
    _, found = models_json_schema([(model, "validation") for model in _SENT], ref_template=_REF)
    schemas: wire.JsonObject = found["$defs"]
    for name, row in (("InteractionBatch", "Interaction"), ("ItemBatch", "ItemRow")):
        schemas[name] = {
            "title": name,
            "type": "array",
            "items": reference(row),
            "minItems": 1,
            "maxItems": MAX_ROWS,
        }
    return schemas


def _leave_out_null(sent: wire.JsonObject) -> None:
    """Describe a body that may be left out by its schema alone: some generators would send null."""
    for content in sent.get("content", {}).values():
        match content["schema"]:
            case {"anyOf": [schema, {"type": "null"}]}:
                content["schema"] = schema


def _add_examples(operation: wire.JsonObject) -> None:
    name = operation["operationId"]
    if name in examples.REQUESTS:
        (content,) = operation["requestBody"]["content"].values()
        content["example"] = examples.REQUESTS[name]
    given = {**examples.FAILURES, **examples.ANSWERS.get(name, {})}
    for status, answer in operation["responses"].items():
        for content in answer.get("content", {}).values():
            if int(status) in given:
                content["example"] = given[int(status)]
