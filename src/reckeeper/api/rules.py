"""What a query asks of a list."""

import dataclasses
from typing import Annotated

from fastapi import Depends, Query
from pydantic_core import from_json

from reckeeper import catalogue, errors
from reckeeper.interactions import checked_id
from reckeeper.serving import MAX_CATEGORIES, MAX_LENGTH, MAX_OFFSET, Rules

_MOST = 2**63 - 1  # the largest number that a database knows
_MOST_NAMED = 1_000  # a server reads 64 KiB of a request's head, and bodies take more


_N = Annotated[int, Query(ge=1, le=MAX_LENGTH, description="Length of the list", examples=[10])]
_Offset = Annotated[
    int,
    Query(
        ge=0,
        le=MAX_OFFSET,
        description="Passes over so many of the best: the next page of the same list",
        examples=[10],
    ),
]
_Exclude = Annotated[
    list[str] | None,
    Query(
        max_length=_MOST_NAMED,
        description="An item that must not be in it; may be repeated, to 1,000 times",
        examples=[["i9"]],
    ),
]
_Allow = Annotated[
    list[str] | None,
    Query(
        max_length=_MOST_NAMED,
        description="One of the only items that may be in it; may be repeated, to 1,000 times",
        examples=[["i3", "i4"]],
    ),
]
_Category = Annotated[
    list[str] | None,
    Query(
        max_length=MAX_CATEGORIES,
        description="Items have this category, or another one where it is repeated",
        examples=[["Comedy"]],
    ),
]
_Where = Annotated[
    str | None,
    Query(
        description="What attributes must be, as JSON: equal, any of, in a range",
        examples=['{"language": "fr", "region": ["eu", "uk"], "price": {"min": 5, "max": 20}}'],
    ),
]
_IncludeSeen = Annotated[
    bool, Query(description="true: with what was seen already", examples=[False])
]
_Explain = Annotated[
    bool, Query(description="true: each item has reasons, the user's own items", examples=[False])
]
_Diversity = Annotated[
    float,
    Query(
        ge=0,
        le=1,
        description="How much it counts against an item of the 500 best that it is like one "
        "before it in the list",
        examples=[0.3],
    ),
]
_PerCategory = Annotated[
    int | None,
    Query(ge=1, le=_MOST, description="At most so many items of one category", examples=[3]),
]
_Model = Annotated[
    int | None,
    Query(ge=1, le=_MOST, description="Another version answers: a preview", examples=[1]),
]


async def _item_rules(
    n: _N = 10,
    offset: _Offset = 0,
    exclude: _Exclude = None,
    allow: _Allow = None,
    category: _Category = None,
    where: _Where = None,
    model: _Model = None,
) -> Rules:
    return Rules(
        n=n,
        offset=offset,
        exclude=_ids("exclude", exclude or []),
        allow=None if allow is None else _ids("allow", allow),
        categories=_ids("category", category or []),
        where=() if where is None else catalogue.conditions_of(_decoded(where)),
        version=model,
    )


AskedItemRules = Annotated[Rules, Depends(_item_rules)]
"""What is asked of the items of a list, whoever it is for."""


async def _rules(
    n: _N = 10,
    offset: _Offset = 0,
    exclude: _Exclude = None,
    allow: _Allow = None,
    category: _Category = None,
    where: _Where = None,
    include_seen: _IncludeSeen = False,
    model: _Model = None,
    explain: _Explain = False,
    diversity: _Diversity = 0.0,
    per_category: _PerCategory = None,
) -> Rules:
    return dataclasses.replace(
        await _item_rules(n, offset, exclude, allow, category, where, model),
        include_seen=include_seen,
        explain=explain,
        diversity=diversity,
        per_category=per_category,
    )


AskedRules = Annotated[Rules, Depends(_rules)]


def _ids(field: str, values: list[str]) -> frozenset[str]:
    return frozenset(checked_id(field, value) for value in values)


def _decoded(where: str) -> object:
    try:
        return from_json(where)
    except ValueError as exc:
        raise errors.DataError(
            f'where: is not JSON ({exc}): write an object such as {{"language": "fr"}}, '
            "percent-encoded.",
            details={"field": "where"},
        ) from exc
