"""What a recipe lets people set: each setting written once, checked and described from there."""

import dataclasses
import sys
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from reckeeper.errors import DataError


def setting(default: Any, *, help: str, low: float | None = None, high: float | None = None) -> Any:
    """Return the field of a setting.

    Parameters
    ----------
    default : bool, int, float, str or None
    help : str
        What it does, in sentences, with the unit; the range is said for it.
    low, high : float, optional
        The range of a number, both ends in it.
    """
    return dataclasses.field(default=default, metadata={"help": help, "low": low, "high": high})


@dataclass(frozen=True, kw_only=True)
class RecipeSettings:
    """Base of the settings of a recipe: frozen, and sound once made.

    A field is made by `setting` and has one of the types ``bool``, ``int``,
    ``float`` and ``Literal`` of strings, or one of these ``| None``. Neither
    is a bool a number here nor a number a bool; a whole number is taken
    where a float is asked for, and becomes one.

    Raises
    ------
    DataError
        A value has another type, is not finite or lies outside its range.
    """

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not _is_sound(field, value):
                raise DataError(f"{field.name} must be {_wanted(field)}, not {value!r}.")
            if value is not None and float in _kinds(field):
                object.__setattr__(self, field.name, float(value))

    @classmethod
    def parse(cls, settings: Mapping[str, Any], *, recipe: str) -> Self:
        """Make settings of JSON values; what is not given has its default.

        Raises
        ------
        DataError
            There is no such setting, the message lists those that there are;
            or a value is refused.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        unknown = next((name for name in settings if name not in known), None)
        if unknown is not None:
            raise DataError(
                f"The recipe {recipe} has no setting {unknown!r}: it has {', '.join(known)}."
            )
        return cls(**settings)

    @classmethod
    def describe(cls) -> list[dict[str, Any]]:
        """Return ``name``, ``default`` and ``help`` of each setting, as JSON values."""
        return [
            {
                "name": field.name,
                "default": field.default,
                "help": f"{field.metadata['help']} {_capitalised(_wanted(field))}.",
            }
            for field in dataclasses.fields(cls)
        ]


def _kinds(field: "dataclasses.Field[Any]") -> tuple[Any, ...]:
    is_union = typing.get_origin(field.type) in (types.UnionType, typing.Union)
    return typing.get_args(field.type) if is_union else (field.type,)


def _is_sound(field: "dataclasses.Field[Any]", value: Any) -> bool:
    return any(_is_of_kind(kind, value, field.metadata) for kind in _kinds(field))


def _is_of_kind(kind: Any, value: Any, limits: Mapping[str, Any]) -> bool:
    if typing.get_origin(kind) is Literal:
        return isinstance(value, str) and value in typing.get_args(kind)
    if kind not in (int, float):
        return isinstance(value, kind)
    low, high = limits["low"], limits["high"]
    return (
        isinstance(value, (int, float) if kind is float else int)
        and not isinstance(value, bool)
        and abs(value) <= sys.float_info.max  # neither NaN nor too large for a float
        and (low is None or value >= low)
        and (high is None or value <= high)
    )


def _wanted(field: "dataclasses.Field[Any]") -> str:
    """Say what values a setting takes: ``a whole number from 1 to 10, or null``."""
    low, high = field.metadata["low"], field.metadata["high"]
    if low is not None and high is not None:
        limits = f" from {low:g} to {high:g}"
    else:
        limits = (f" from {low:g} on" if low is not None else "") + (
            f" up to {high:g}" if high is not None else ""
        )
    kinds = _kinds(field)
    names = {bool: "true or false", int: f"a whole number{limits}", float: f"a number{limits}"}
    said = [
        f"one of {', '.join(typing.get_args(kind))}"
        if typing.get_origin(kind) is Literal
        else names[kind]
        for kind in kinds
        if kind is not type(None)
    ]
    return ", or ".join([*said, "null"] if type(None) in kinds else said)


def _capitalised(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]
