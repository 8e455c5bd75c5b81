"""What the body of a request for lists says, checked: a history, users or items; the rules."""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError, from_json

from reckeeper import clock, interactions
from reckeeper.catalogue import conditions_of
from reckeeper.errors import Action, DataError, alternatives
from reckeeper.interactions import (
    MAX_ID_CHARACTERS,
    MAX_ROWS,
    MAX_WEIGHT,
    WITHOUT_WEIGHT,
    valid_id,
)
from reckeeper.serving.rules import (
    MAX_CATEGORIES,
    MAX_LENGTH,
    MAX_NAMED,
    MAX_OFFSET,
    Kind,
    Rules,
)

MAX_USERS = 1_000
"""Users of one request."""

MAX_BASKET = 100
"""Items of one request for what is like them."""

UNTYPED = ""
"""The type of what a history tells without one; it weighs 1."""

_DATED = re.compile(r"\d{4}-\d")
_PLAIN_TIME = (
    r"^[1-9][0-9]{3}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}"
    r"(\.[0-9]{1,6})?(Z|[+-][0-9]{2}:[0-9]{2})$"
)
"""What is the same time to Arrow and to pydantic, or a time to neither."""

_STRICT = ConfigDict(extra="forbid", strict=True)


@dataclass(frozen=True)
class Told:
    """What somebody did, as a request tells it.

    Attributes
    ----------
    item_ids : sequence of str
        An id may come several times.
    occurred_at : sequence of int
        When each was done: microseconds since 1970 UTC, or where no times were given the
        places in the list.
    has_times : bool
        Which of the two.
    interaction_types : sequence of str, or None
        The type of each, `UNTYPED` where none was told; None: none was of any.
    weights : sequence of float, or None
        What each type's weight is multiplied by; None: all by 1.
    """

    item_ids: Sequence[str]
    occurred_at: Sequence[int]
    has_times: bool = False
    interaction_types: Sequence[str] | None = None
    weights: Sequence[float] | None = None

    def batch(self) -> pa.RecordBatch:
        """Return it as interactions, in the columns of `interactions.schema`."""
        n = len(self.item_ids)
        types = [UNTYPED] * n if self.interaction_types is None else self.interaction_types
        weights = [1.0] * n if self.weights is None else self.weights
        columns = [[""] * n, self.item_ids, types, weights, self.occurred_at]
        return pa.record_batch(columns, schema=interactions.schema())


def _only_text(value: object) -> object:
    # Pydantic would read a text of digits alone as seconds or milliseconds, by its size.
    if not isinstance(value, str) or not _DATED.match(value):
        raise PydanticCustomError(
            "time_type", "must be an RFC 3339 time such as 2025-12-04T23:42:15Z"
        )
    return value


def _as_item(value: object) -> object:
    if isinstance(value, dict):
        return interactions.narrowed(value, _HistoryItem.model_fields)
    return {"item_id": value}


_Id = Annotated[str, BeforeValidator(valid_id)]
_Time = Annotated[AwareDatetime, Field(strict=False), BeforeValidator(_only_text)]
_Named = Annotated[list[_Id], Field(max_length=MAX_NAMED)]
_Version = Annotated[int, Field(ge=1, le=2**63 - 1)]


class _HistoryItem(BaseModel):
    model_config = _STRICT

    item_id: _Id
    occurred_at: _Time | None = None
    interaction_type: str | None = None
    weight: Annotated[float, Field(ge=0, le=MAX_WEIGHT, allow_inf_nan=False)] = 1.0


class _ItemRules(BaseModel):
    model_config = _STRICT

    n: Annotated[int, Field(ge=1, le=MAX_LENGTH)] = 10
    offset: Annotated[int, Field(ge=0, le=MAX_OFFSET)] = 0
    exclude: _Named = []
    allow: Annotated[_Named, Field(min_length=1)] | None = None
    category: Annotated[list[_Id], Field(max_length=MAX_CATEGORIES)] = []
    where: dict[str, object] = {}


class _Rules(_ItemRules):
    include_seen: bool = False
    model: _Version | None = None
    explain: bool = False
    diversity: Annotated[float, Field(ge=0, le=1)] = 0.0
    per_category: Annotated[int, Field(ge=1, le=2**63 - 1)] | None = None


class _HistoryRequest(_Rules):
    history: Annotated[
        list[Annotated[_HistoryItem, BeforeValidator(_as_item)]], Field(max_length=MAX_ROWS)
    ]


class _UsersRequest(_Rules):
    user_ids: Annotated[list[_Id], Field(min_length=1, max_length=MAX_USERS)]


class _ItemsRequest(_ItemRules):
    item_ids: Annotated[list[_Id], Field(min_length=1, max_length=MAX_BASKET)]
    kind: Kind = "alike"
    model: _Version | None = None


_Kind = TypeVar("_Kind", bound=_ItemRules)


def parse_history(body: bytes, *, types: Collection[str]) -> tuple[Told, Rules]:
    """Parse and check the body of a request that gives a history; see `wire.HistoryRequest`.

    Parameters
    ----------
    body : bytes
    types : collection of str
        The interaction types that have a weight.

    Raises
    ------
    DataError
        It is no JSON, breaks a rule, or has times of some items and not of others;
        `details` has the field.
    """
    decoded = _decoded(body)
    accepted = {*types, *WITHOUT_WEIGHT}
    if isinstance(decoded, dict):
        told = told_alike(decoded.get("history"), accepted)
        if told is not None:
            return told, _rules(_checked(_HistoryRequest, {**decoded, "history": []}))
    asked = _checked(_HistoryRequest, decoded)
    return _told_one_by_one(asked.history, accepted), _rules(asked)


def told_alike(history: object, accepted: Collection[str]) -> Told | None:
    """Read a history whose items are told alike, which is nearly every one, a column at a time.

    An object for each item would take ten times as long.

    Parameters
    ----------
    history : object
        Decoded JSON.
    accepted : collection of str
        The interaction types that may be told.

    Returns
    -------
    Told or None
        None where anything is unusual, bad or not: then each item is to be looked at.
    """
    if not isinstance(history, list) or len(history) > MAX_ROWS:
        return None
    kinds = set(map(type, history))
    if dict not in kinds:
        ids = _plain_ids(history)
        return None if ids is None else Told(ids, list(range(len(ids))))
    if len(kinds) > 1 or not set().union(*history) <= _HistoryItem.model_fields.keys():
        return None
    ids = _plain_ids([item.get("item_id") for item in history])
    weights = [item.get("weight", 1.0) for item in history]
    types = [item.get("interaction_type") for item in history]
    times = [item.get("occurred_at") for item in history]
    has_times = any(time is not None for time in times)
    moments = _plain_moments(times) if has_times else list(range(len(times)))
    if ids is None or moments is None or not _are_weights(weights) or not _are_in(types, accepted):
        return None
    return Told(
        ids,
        moments,
        has_times=has_times,
        interaction_types=[name or UNTYPED for name in types] if any(types) else None,
        weights=list(map(float, weights)) if any(weight != 1.0 for weight in weights) else None,
    )


def _plain_ids(values: Sequence[object]) -> list[str] | None:
    if not {*map(type, values)} <= {str, int}:
        return None
    ids = list(map(str, values))
    # As of `valid_id`: what is printable has neither controls nor surrogates.
    has_lengths = all(ids) and max(map(len, ids), default=1) <= MAX_ID_CHARACTERS
    return ids if has_lengths and "".join(ids).isprintable() else None


def _plain_moments(times: Sequence[object]) -> list[int] | None:
    if {*map(type, times)} != {str}:
        return None
    texts = pa.array(times, pa.string())
    if not pc.all(pc.match_substring_regex(texts, _PLAIN_TIME)).as_py():
        return None
    try:
        moments: list[int] = texts.cast(pa.timestamp("us", tz="UTC")).cast(pa.int64()).to_pylist()
    except pa.ArrowInvalid:  # such as the 30th of February
        return None
    return moments


def _are_weights(values: Sequence[Any]) -> bool:
    is_number = {*map(type, values)} <= {float, int}
    return is_number and all(0 <= value <= MAX_WEIGHT for value in {*values})


def _are_in(types: Sequence[object], accepted: Collection[str]) -> bool:
    return {*map(type, types)} <= {str, type(None)} and {*types} <= {None, *accepted}


def _told_one_by_one(history: list[_HistoryItem], accepted: Collection[str]) -> Told:
    _check_types(history, accepted)
    times = [item.occurred_at for item in history]
    places = [place for place, time in enumerate(times) if time is None]
    if 0 < len(places) < len(times):
        raise _refused(
            f"history.{places[0]}.occurred_at",
            "is missing, and other items have one: give all items their times, or none and the "
            "oldest first",
        )
    told = [item.interaction_type or UNTYPED for item in history]
    weights = [item.weight for item in history]
    return Told(
        [item.item_id for item in history],
        [clock.microseconds(time) for time in times if time is not None] or places,
        has_times=bool(times) and not places,
        interaction_types=told if any(told) else None,
        weights=weights if any(weight != 1.0 for weight in weights) else None,
    )


def parse_users(body: bytes) -> tuple[list[str], Rules]:
    """Parse and check the body of a request for the lists of users; see `wire.BatchRequest`.

    Raises
    ------
    DataError
        It is no JSON or breaks a rule, or a user comes twice; `details` has the field, and of a
        user the index.
    """
    asked = _checked(_UsersRequest, _decoded(body))
    first: dict[str, int] = {}
    for index, user_id in enumerate(asked.user_ids):
        before = first.setdefault(user_id, index)
        if before != index:
            message = (
                f"user_ids.{index}: {user_id[:64]!r} is there already, as number {before}. Ask for "
                "each user once."
            )
            details = {"field": f"user_ids.{index}", "index": index}
            raise DataError(message, details=details)
    return asked.user_ids, _rules(asked)


def parse_basket(body: bytes) -> tuple[list[str], Kind, Rules]:
    """Parse and check the body of a request for what is like items; see `wire.SimilarRequest`.

    Raises
    ------
    DataError
        It is no JSON or breaks a rule; `details` has the field.
    """
    asked = _checked(_ItemsRequest, _decoded(body))
    return asked.item_ids, asked.kind, replace(_item_rules(asked), version=asked.model)


def _check_types(history: list[_HistoryItem], accepted: Collection[str]) -> None:
    for index, item in enumerate(history):
        if item.interaction_type is not None and item.interaction_type not in accepted:
            message = (
                f"history.{index}.interaction_type: {item.interaction_type[:64]!r} has no weight: "
                f"use one of {', '.join(sorted(accepted))}, or give it one in the policy."
            )
            details = {"field": f"history.{index}.interaction_type"}
            raise DataError(message, details=details, action=Action("weigh_type"))


def _item_rules(asked: _ItemRules) -> Rules:
    return Rules(
        n=asked.n,
        offset=asked.offset,
        exclude=frozenset(asked.exclude),
        allow=None if asked.allow is None else frozenset(asked.allow),
        categories=frozenset(asked.category),
        where=conditions_of(asked.where),
    )


def _rules(asked: _Rules) -> Rules:
    return replace(
        _item_rules(asked),
        include_seen=asked.include_seen,
        version=asked.model,
        explain=asked.explain,
        diversity=asked.diversity,
        per_category=asked.per_category,
    )


def _decoded(body: bytes) -> object:
    try:
        return from_json(body, cache_strings="keys")
    except ValueError as exc:
        raise DataError(f"The body is not JSON: {exc}. /docs shows what the route takes.") from exc


def _checked(kind: type[_Kind], decoded: object) -> _Kind:
    try:
        return kind.model_validate(interactions.narrowed(decoded, kind.model_fields))
    except ValidationError as exc:
        # An unknown field first: one that is missing may be spelt otherwise.
        found = exc.errors(include_url=False, include_context=False, include_input=False)
        error = min(found, key=lambda each: each["type"] != "extra_forbidden")
        raise _refusal(kind, error) from exc


def _refusal(kind: type[_ItemRules], error: ErrorDetails) -> DataError:
    path = error["loc"]
    field = ".".join(str(part)[:64] for part in path)
    if error["type"] == "extra_forbidden":
        own = list(dict.fromkeys([*kind.__annotations__, *kind.model_fields]))
        known = own if len(path) == 1 else _HistoryItem.model_fields
        problem = f"there is no such field{alternatives(str(path[-1]), known)}"
    elif error["type"] == "missing":
        problem = "is missing"
    else:
        problem = error["msg"][0].lower() + error["msg"][1:]
    refused = _refused(field or "the body", problem)
    if len(path) > 1 and path[0] == "user_ids":
        refused.details = {"field": field, "index": path[1]}
    return refused


def _refused(field: str, problem: str) -> DataError:
    message = f"{field}: {problem}. /docs shows what the route takes."
    return DataError(message, details={"field": field})
