"""What paths, queries and headers give, and how the documentation shows it."""

from typing import Annotated
from urllib.parse import unquote

from fastapi import Depends, Header, Path, Query, Request, params
from fastapi.dependencies.utils import get_flat_params
from fastapi.routing import APIRoute
from pydantic import AfterValidator
from starlette.convertors import Convertor, register_url_convertor

from reckeeper import errors, security, wire
from reckeeper.client import ACTOR_HEADER

_NOTHING = {b"", b"{}", b"null"}
_MOST = 2**63 - 1  # the largest number that a database knows


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


async def _actor_name(
    name: Annotated[
        str | None,
        Header(
            alias=ACTOR_HEADER,
            description=f"Who is asking, for the audit trail: {security.ACTOR_PATTERN}",
            examples=["alice"],
        ),
    ] = None,
) -> str | None:
    security.actor_of(name)
    return name


ActorName = Annotated[str | None, Depends(_actor_name)]


class Known:
    """Refuses a request that says something its route does not take; a dependency of a program.

    FastAPI passes over unknown query parameters, and over bodies where none is declared.
    """

    def __init__(self) -> None:
        self._queries: dict[str, list[str]] = {}  # by the name of the operation

    async def __call__(self, request: Request) -> None:
        """Compare a request with what its route declares.

        Raises
        ------
        DataError
            A query parameter is unknown, or there is a body where the route takes none.
        """
        route: APIRoute = request.scope["route"]
        if request.scope["query_string"] and route.include_in_schema:
            known = self._query_of(route)
            for name in request.query_params:
                if name not in known:
                    raise errors.DataError(
                        f"{name[:64]}: there is no such parameter"
                        f"{errors.alternatives(name, known)}. /docs shows what the route takes.",
                        details={"field": name[:64]},
                    )
        takes_body = route.body_field is not None or "requestBody" in (route.openapi_extra or {})
        if takes_body or request.method == "GET":
            return
        if (await request.body()).strip() not in _NOTHING:
            raise errors.DataError("The route takes no body: leave it out.")

    def _query_of(self, route: APIRoute) -> list[str]:
        known = self._queries.get(route.unique_id)
        if known is None:
            declared = get_flat_params(route.dependant)
            known = [each.alias for each in declared if isinstance(each.field_info, params.Query)]
            self._queries[route.unique_id] = known
        return known
