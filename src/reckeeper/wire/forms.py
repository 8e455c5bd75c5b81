"""What all JSON shapes share: how they are read, and how times and shares are written."""

from typing import Annotated, Any, Literal, Self, TypeGuard

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    ModelWrapValidatorHandler,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError

from ..clock import plain, rfc3339
from ..errors import alternatives

JsonObject = dict[str, Any]
"""Truly open content: an item's attributes, a recipe's settings, the details of an error."""


class Answer(BaseModel):
    """A JSON object that the API answers with, or a part of one.

    Reads a mapping or a record whose attributes are named as the fields are. What a later
    release adds is passed over.
    """

    model_config = ConfigDict(
        from_attributes=True,
        frozen=True,
        json_schema_serialization_defaults_required=True,
        defer_build=True,
    )


class Done(Answer):
    """An answer to a request that succeeded."""

    status: Literal["ok"] = "ok"


class Sent(BaseModel):
    """Shows no defaults in its schema: generators would take them to be always there."""

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Return the schema of what is sent."""
        shown = handler.resolve_ref_schema(handler(schema))
        for field in shown.get("properties", {}).values():
            field.pop("default", None)
        return shown


class Request(Sent):
    """A JSON object that the API is sent; a field that it does not know is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="wrap")
    @classmethod
    def _names_what_there_is(cls, sent: object, handler: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return handler(sent)
        except ValidationError as exc:
            names = [field.alias or name for name, field in cls.model_fields.items()]
            unknown: list[InitErrorDetails] = [
                {
                    "type": PydanticCustomError(
                        "extra_forbidden",
                        "there is no such field{alternatives}",
                        {"alternatives": alternatives(str(error["loc"][0]), names)},
                    ),
                    "loc": error["loc"],
                    "input": error["input"],
                }
                for error in exc.errors(include_url=False, include_context=False)
                if error["type"] == "extra_forbidden" and len(error["loc"]) == 1
            ]
            if not unknown:
                raise
            raise ValidationError.from_exception_data(cls.__name__, unknown) from exc


def is_none(value: object) -> bool:
    """Say whether a field is left out of the JSON, because there is nothing in it."""
    return value is None


def _or_none(value: object) -> object:
    return value or None


or_none = BeforeValidator(_or_none)
"""Reads 0 and an empty text as None: a record has them where there is nothing."""


def otherwise(default: object) -> WrapValidator:
    """Read a field as `default` where it has another form.

    For what the files of a version say of it: they may come from anywhere, and one that says
    it in another form must not hide the version, or the list that it is in.
    """

    def read(told: object, handler: ValidatorFunctionWrapHandler) -> object:
        try:
            return handler(told)
        except ValidationError:
            return default

    return WrapValidator(read)


def _is_count(moment: object) -> TypeGuard[int]:
    """Say whether a time is in microseconds since 1970, and not written already."""
    return isinstance(moment, int) and not isinstance(moment, bool)


def _rfc3339(moment: object) -> object:
    return rfc3339(moment) if _is_count(moment) else moment


def _to_the_second(moment: object) -> object:
    return plain(moment) if _is_count(moment) else moment


def _percent(share: object) -> object:
    return f"{share:.2%}" if isinstance(share, float) else share


Time = Annotated[str, BeforeValidator(_rfc3339), Field(json_schema_extra={"format": "date-time"})]
"""RFC 3339 in UTC; made from microseconds since 1970 as well."""

PlainTime = Annotated[str, BeforeValidator(_to_the_second)]
"""``2025-12-04 23:42:15``, UTC; made from microseconds since 1970 as well."""

Percentage = Annotated[str, BeforeValidator(_percent)]
"""``98.90%``; made from a share in [0, 1] as well."""
