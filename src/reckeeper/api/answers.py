"""Answers as they are sent, and as the documentation describes them."""

import hashlib
from http import HTTPStatus
from typing import Annotated

from fastapi import Header, Response

from reckeeper import wire

Described = dict[int | str, wire.JsonObject]
"""What FastAPI takes as ``responses``, by status."""

BINARY = {"type": "string", "format": "binary"}


class Json(Response):
    """A model of `wire`, written straight as JSON: FastAPI's own way would check it once more."""

    media_type = "application/json"

    def __init__(self, answer: wire.Answer, status_code: int = 200) -> None:
        super().__init__(answer.model_dump_json(), status_code)


IfNoneMatch = Annotated[
    str | None,
    Header(
        alias="If-None-Match",
        description="The ETag of an earlier answer; where nothing has changed, 304.",
        examples=['"0b5f8e1c7d"'],
    ),
]
UNCHANGED: Described = {304: {"description": "Nothing has changed since that answer"}}


def tagged(answer: wire.Answer, known: str | None) -> Response:
    """Return an answer with its ETag, or 304 where the client has it already.

    Parameters
    ----------
    answer : wire.Answer
    known : str or None
        The header ``If-None-Match``: tags with commas between them, or ``*``.
    """
    response: Response = Json(answer)
    tag = f'"{hashlib.sha256(response.body).hexdigest()[:32]}"'
    tags = {each.strip().removeprefix("W/") for each in (known or "").split(",")}
    if tags & {tag, "*"}:
        response = Response(status_code=304)
    response.headers["ETag"] = tag
    response.headers["Cache-Control"] = "no-cache"  # kept, and asked for again with the tag
    return response


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
