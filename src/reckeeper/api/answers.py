"""Answers as they are sent, and as the documentation describes them."""

from http import HTTPStatus

from fastapi import Response

from reckeeper import wire

Described = dict[int | str, wire.JsonObject]
"""What FastAPI takes as ``responses``, by status."""

BINARY = {"type": "string", "format": "binary"}


class Json(Response):
    """A model of `wire`, written straight as JSON: FastAPI's own way would check it once more."""

    media_type = "application/json"

    def __init__(self, answer: wire.Answer, status_code: int = 200) -> None:
        super().__init__(answer.model_dump_json(), status_code)


def failures(*statuses: int) -> Described:
    """Describe the errors that a route may answer with."""
    return {
        status: {"model": wire.Error, "description": HTTPStatus(status).phrase}
        for status in statuses
    }


def other(status: int, model: type[wire.Answer], description: str) -> Described:
    """Describe an answer that is not an error and not the usual one."""
    return {status: {"model": model, "description": description}}


def content(media_type: str, schema: wire.JsonObject) -> Described:
    """Describe the answer of a route that does not answer with JSON."""
    return {200: {"description": "Done", "content": {media_type: {"schema": dict(schema)}}}}
