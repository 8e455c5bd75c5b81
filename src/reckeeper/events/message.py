"""The message of an interaction, and the rules that it must keep."""

import os
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import (
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
)
from pydantic_core import PydanticCustomError, SchemaValidator, core_schema, from_json

from reckeeper import clock
from reckeeper.errors import Action, DataError, TooLargeError, alternatives
from reckeeper.interactions import (
    MAX_BODY_BYTES,
    MAX_CLOCK_SKEW,
    MAX_ROWS,
    MAX_WEIGHT,
    WITHOUT_WEIGHT,
    Interaction,
    narrowed,
    valid_id,
)

_DATED = re.compile(r"\d{4}-\d")


def _only_text(value: Any) -> Any:
    # Pydantic would read a text of digits alone as seconds or milliseconds, by its size.
    if not isinstance(value, str) or not _DATED.match(value):
        raise PydanticCustomError(
            "time_type", "must be an RFC 3339 time such as 2025-12-04T23:42:15Z"
        )
    return value


_Id = Annotated[str, BeforeValidator(valid_id)]


class Message(BaseModel):
    """One interaction, as it is sent."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        json_schema_extra={
            "examples": [
                {
                    "event_id": "0b5f8e1c-visit-17",
                    "user_id": "u1",
                    "item_id": "i7",
                    "interaction_type": "click",
                    "occurred_at": "2025-12-04T23:42:15Z",
                }
            ]
        },
    )

    event_id: _Id | None = Field(
        None, description="Names the event; the same id again is a duplicate. Default: a new one."
    )
    user_id: _Id = Field(description="String of 1 to 256 characters, or an integer.")
    item_id: _Id = Field(description="String of 1 to 256 characters, or an integer.")
    interaction_type: str = Field(
        description="A type that has a weight, watchlist_remove, dismiss or dismiss_undo."
    )
    weight: Annotated[float, Field(ge=0, le=MAX_WEIGHT, strict=True, allow_inf_nan=False)] = Field(
        1.0, description="Multiplies the type's weight; 0: seen, without taste."
    )
    occurred_at: Annotated[AwareDatetime, BeforeValidator(_only_text)] | None = Field(
        None, description="RFC 3339 with an offset. Default: the time of arrival."
    )


def _row_schema() -> core_schema.CoreSchema:
    """Return the rules of `Message` for plain dicts: a model costs twice the time to make."""
    fields = {}
    for name, field in Message.model_fields.items():
        kind: Any = field.annotation
        if field.metadata:
            kind = Annotated[(kind, *field.metadata)]
        fields[name] = core_schema.typed_dict_field(
            TypeAdapter(kind).core_schema, required=field.is_required()
        )
    return core_schema.typed_dict_schema(fields, extra_behavior="forbid")


_row = SchemaValidator(_row_schema())
_rows = SchemaValidator(core_schema.list_schema(_row_schema()))


@dataclass(frozen=True)
class RefusedRow:
    """Why a row of a request was refused."""

    index: int
    field: str
    message: str


@dataclass(frozen=True)
class Parsed:
    """A request's rows, sorted into good and refused."""

    interactions: list[Interaction]
    refused: list[RefusedRow]


def parse(body: bytes, *, types: Collection[str], skip_refused: bool = False) -> Parsed:
    """Parse and validate a request's body: one message, or a list of them.

    Parameters
    ----------
    body : bytes
        JSON, at most `MAX_BODY_BYTES` and `MAX_ROWS`.
    types : collection of str
        The accepted interaction types.
    skip_refused : bool
        Sort bad rows out instead of refusing the whole.

    Raises
    ------
    TooLargeError
        The body is over a limit.
    DataError
        It is no JSON, or a row is bad and `skip_refused` is false; `details`
        has ``refused``, a list of index, field and message.
    """
    if len(body) > MAX_BODY_BYTES:
        raise TooLargeError(
            f"The body has {len(body)} bytes; at most {MAX_BODY_BYTES} are accepted."
        )
    try:
        decoded = from_json(body)
    except ValueError as exc:
        raise DataError(f"The body is not JSON: {exc}. Send an interaction or a list.") from exc
    rows = decoded if isinstance(decoded, list) else [decoded]
    if len(rows) > MAX_ROWS:
        raise TooLargeError(
            f"The request has {len(rows)} interactions; at most {MAX_ROWS} are accepted. "
            "Split it into several requests."
        )
    if not rows:
        raise DataError("The list has no interaction. Send at least one.")
    parsed = validate(rows, types=types)
    if parsed.refused and not skip_refused:
        first = parsed.refused[0]
        raise DataError(
            f"Row {first.index}: {first.field} {first.message}. Nothing of this request was "
            "stored; correct it, or store the good rows with ?on_error=skip.",
            details={"refused": [vars(row) for row in parsed.refused[:100]]},
            action=Action("weigh_type") if first.field == "interaction_type" else None,
        )
    return parsed


def validate(
    rows: list[Any], *, types: Collection[str], arrived_at: Sequence[int] | None = None
) -> Parsed:
    """Validate decoded rows, each by itself; see `parse`.

    Parameters
    ----------
    rows : list
        Decoded JSON.
    types : collection of str
        The accepted interaction types.
    arrived_at : sequence of int, optional
        When each row arrived, in microseconds since 1970 UTC: it occurred then if it
        does not say when. Default: now.
    """
    refused: dict[int, RefusedRow] = {}
    rows = [narrowed(row, Message.model_fields) for row in rows]
    try:
        messages: Iterable[tuple[int, dict[str, Any]]] = enumerate(_rows.validate_python(rows))
    except ValidationError as exc:
        for error in _errors(exc):
            index, *path = error["loc"]
            if index not in refused:  # to look for what was meant takes a moment
                field = str(path[0])[:64] if path else "interaction"
                refused[index] = RefusedRow(index, field, _sentence(error))
        messages = [
            (index, _row.validate_python(row))
            for index, row in enumerate(rows)
            if index not in refused
        ]
    now = clock.now()
    latest = now + MAX_CLOCK_SKEW
    accepted_types = {*types, *WITHOUT_WEIGHT}
    interactions = []
    for index, message in messages:
        moment = message.get("occurred_at")
        if moment is not None:
            occurred_at = clock.microseconds(moment)
        else:
            occurred_at = now if arrived_at is None else arrived_at[index]
        interaction_type = message["interaction_type"]
        if interaction_type not in accepted_types:
            refused[index] = RefusedRow(
                index,
                "interaction_type",
                f"{interaction_type[:64]!r} has no weight: use one of "
                f"{', '.join(sorted(accepted_types))}, or give it one in the policy",
            )
        elif occurred_at > latest:
            refused[index] = RefusedRow(
                index,
                "occurred_at",
                "lies more than a day in the future: check that the clock is right",
            )
        elif occurred_at < 0:
            refused[index] = RefusedRow(index, "occurred_at", "lies before 1970")
        else:
            interactions.append(
                Interaction(
                    message.get("event_id") or new_event_id(now),
                    message["user_id"],
                    message["item_id"],
                    interaction_type,
                    message.get("weight", 1.0),
                    occurred_at,
                )
            )
    return Parsed(interactions, [refused[index] for index in sorted(refused)])


def new_event_id(now: int) -> str:
    """Return a fresh event id that begins with the time, so that an index grows at its end.

    The layout of a version 7 UUID (RFC 9562), which Python has from 3.14 on.
    """
    moment, chance = f"{now // 1000:012x}", os.urandom(9).hex()
    return f"{moment[:8]}-{moment[8:]}-7{chance[:3]}-8{chance[3:6]}-{chance[6:]}"


def _errors(exc: ValidationError) -> list[Any]:
    """Return what is wrong, unknown fields first: one that is missing may be spelt otherwise."""
    found = exc.errors(include_url=False, include_context=False, include_input=False)
    return sorted(found, key=lambda error: error["type"] != "extra_forbidden")


def _sentence(error: Any) -> str:
    if error["type"] == "missing":
        return "is missing"
    if error["type"] == "dict_type":
        return "must be an object with user_id, item_id and interaction_type"
    if error["type"] == "extra_forbidden":
        name = str(error["loc"][-1])
        return f"is not a field of an interaction{alternatives(name, Message.model_fields)}"
    message = str(error["msg"])
    return message[0].lower() + message[1:]
