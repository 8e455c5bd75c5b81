"""What paths, queries and headers give, and how the documentation shows it."""

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, get_args, get_origin
from urllib.parse import unquote

from fastapi import Depends, Header, Path, Query, Request, params
from fastapi.dependencies.utils import get_flat_params
from fastapi.routing import APIRoute
from pydantic import AfterValidator
from starlette.convertors import Convertor, register_url_convertor

from reckeeper import errors, origins, security, wire
from reckeeper.client import ACTOR_HEADER

_NOTHING = {b"", b"{}", b"null"}
_OF_A_BODY = frozenset({"content-length", "transfer-encoding"})
_MOST = 2**63 - 1  # the largest number that a database knows
_WHOLE_NUMBER = re.compile(r"-?[0-9]+")


def id_in(segment: str) -> str:
    """Return the id in a path segment, which is percent-encoded."""
    # Bytes that are not UTF-8 become what `checked_id` refuses, and never another's id.
    return unquote(segment, errors="surrogateescape")


class _IdConvertor(Convertor[str]):
    """A path segment that may hold any id, percent-encoded."""

    regex = "[^/]+"

    def convert(self, value: str) -> str:
        return id_in(value)

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("id", _IdConvertor())

UserId = Annotated[
    str, Path(description="Percent-encode slashes, spaces and emoji.", examples=["u1"])
]
ItemId = Annotated[
    str, Path(description="Percent-encode slashes, spaces and emoji.", examples=["i9"])
]
JobId = Annotated[int, Path(ge=1, le=_MOST, description="Number of the job.", examples=[2])]
ImportId = Annotated[int, Path(ge=1, le=_MOST, description="Number of the import.", examples=[3])]
Version = Annotated[int, Path(ge=1, le=_MOST, description="Number of the version.", examples=[1])]
Wait = Annotated[
    bool, Query(description="false: answer 202 with the job at once", examples=[False])
]
Limit = Annotated[int, Query(ge=1, le=1000, description="how many at most", examples=[20])]
Before = Annotated[
    int | None, Query(ge=1, le=_MOST, description="numbers below this one", examples=[40])
]
Revision = Annotated[
    int | None,
    Query(ge=0, le=_MOST, description="store only if this revision is in force", examples=[3]),
]
ReasonQuery = Annotated[
    str | None,
    Query(
        max_length=wire.MAX_REASON_CHARACTERS,
        description="for the trail",
        examples=["version 2 lost coverage"],
    ),
    AfterValidator(security.checked_reason),
]


def given(asked: wire.Explanation | None) -> str | None:
    """Return the reason in a body, if there is one.

    Raises
    ------
    DataError
        It is no text that can be kept.
    """
    return None if asked is None else security.checked_reason(asked.reason)


async def _asker(request: Request) -> security.Caller:
    caller: security.Caller = request.scope["caller"]
    return caller


Asker = Annotated[security.Caller, Depends(_asker)]


async def _caller(
    asker: Asker,
    name: Annotated[
        str | None,
        Header(
            alias=ACTOR_HEADER,
            description=f"Who is asking, for the audit trail: {security.ACTOR_PATTERN}",
            examples=["alice"],
        ),
    ] = None,
) -> security.Caller:
    return dataclasses.replace(asker, said=security.checked_name(name))


ActorName = Annotated[security.Caller, Depends(_caller)]


@dataclass(frozen=True)
class _Declared:
    """The parameters of a route by their names: those of its query, and what they may be."""

    query: list[str]
    repeated: frozenset[str]
    whole_numbers: frozenset[str]

    @classmethod
    def by(cls, route: APIRoute) -> "_Declared":
        query, repeated, whole_numbers = [], set(), set()
        for each in get_flat_params(route.dependant):
            kinds = {each.field_info.annotation, *get_args(each.field_info.annotation)}
            if isinstance(each.field_info, params.Header | params.Cookie):
                continue
            if int in kinds:
                whole_numbers.add(each.alias)
            if not isinstance(each.field_info, params.Path):  # those of a model are no Query
                query.append(each.alias)
                if any(get_origin(kind) is list for kind in kinds):
                    repeated.add(each.alias)
        return cls(query, frozenset(repeated), frozenset(whole_numbers))

    def check(self, name: str, values: Sequence[str]) -> None:
        """Refuse values of one parameter that cannot all be it, or are numbers written oddly."""
        if len(values) > 1 and name not in self.repeated:
            raise _refused(name, f"is given {len(values)} times and takes one value")
        for value in values:
            if name in self.whole_numbers and not _WHOLE_NUMBER.fullmatch(value):
                raise _refused(name, f"{value[:64]!r} is no whole number in plain digits")


def _refused(name: str, problem: str) -> errors.DataError:
    message = f"{name[:64]}: {problem}. /docs shows what the route takes."
    return errors.DataError(message, details={"field": name[:64]})


def _accepted(route: APIRoute) -> list[str]:
    """Return the media types of bodies that a route takes; none if it takes no body."""
    described = (route.openapi_extra or {}).get("requestBody", {}).get("content")
    if described is not None:
        return list(described)
    return [] if route.body_field is None else ["application/json"]


class Known:
    """Refuses a request that says something its route does not take; a dependency of a program.

    FastAPI passes over unknown query parameters, and over bodies where none is declared; of a
    parameter that is given twice it takes the last; and it reads 5_0 as 50.
    """

    def __init__(self) -> None:
        self._declared: dict[str, _Declared] = {}  # by the name of the operation

    async def __call__(self, request: Request) -> None:
        """Compare a request with what its route declares.

        Raises
        ------
        DataError
            A query parameter is unknown, or given twice where it takes one value; a whole number
            is not written in plain digits; or there is a body where the route takes none.
        MediaTypeError
            There is a body of another type than the route takes.
        """
        route: APIRoute = request.scope["route"]
        if route.include_in_schema and (request.scope["query_string"] or request.path_params):
            declared = self._declared_by(route)
            for name, value in request.path_params.items():
                declared.check(name, [value])
            for name in request.query_params:
                if name not in declared.query:
                    known = errors.alternatives(name, declared.query)
                    raise _refused(name, f"there is no such parameter{known}")
                declared.check(name, request.query_params.getlist(name))
        if request.method == "GET":
            return
        if accepted := _accepted(route):
            headers = request.headers
            is_sent = not _OF_A_BODY.isdisjoint(headers) and headers.get("content-length") != "0"
            if is_sent:
                origins.check_type(headers.get("content-type"), accepted)
            return
        if (await request.body()).strip() not in _NOTHING:
            raise errors.DataError("The route takes no body: leave it out.")

    def _declared_by(self, route: APIRoute) -> _Declared:
        declared = self._declared.get(route.unique_id)
        if declared is None:
            declared = self._declared[route.unique_id] = _Declared.by(route)
        return declared
