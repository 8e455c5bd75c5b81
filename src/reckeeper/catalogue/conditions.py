"""What a list may ask of the attributes of its items: equal, any of, in a range."""

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeGuard

from reckeeper.errors import DataError, alternatives
from reckeeper.interactions import MAX_ID_CHARACTERS

MAX_CONDITIONS = 20
"""Attributes in one request."""

MAX_VALUES = 1_000
"""Values that one attribute may have any of."""

_BOUNDS = ("min", "max")

Bound = float | str


@dataclass(frozen=True)
class Condition:
    """What one attribute must be; of an attribute that is a list, any of its values.

    Attributes
    ----------
    attribute : str
        Its name, at the top of an item's attributes.
    any_of : frozenset of str, or None
        The values it may have, as `key_of` writes them; None where it must be in a range.
    least, most : float or str, or None
        The ends of the range, both in it; None: open. Numbers are compared as numbers, and
        texts, such as dates in ISO 8601, by their code points.
    """

    attribute: str
    any_of: frozenset[str] | None = None
    least: Bound | None = None
    most: Bound | None = None

    def is_met_by(self, value: object) -> bool:
        """Say whether a value of the attribute, decoded JSON, is what it must be."""
        values = value if isinstance(value, list) else [value]
        if self.any_of is not None:
            return any(key_of(each) in self.any_of for each in values)
        return any(self._is_between(each) for each in values)

    def _is_between(self, value: object) -> bool:
        if not _is_bound(value):
            return False
        is_above = self.least is None or _is_at_least(value, self.least)
        is_below = self.most is None or _is_at_least(self.most, value)
        return bool(is_above and is_below)


def key_of(value: object) -> str:
    """Return a text that is the same for equal plain values alone, and empty for all that is none.

    1 and 1.0 are equal, and neither is true or "1".
    """
    if isinstance(value, str):
        return f'"{value}'
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return repr(value) if isinstance(value, int | float) else ""


def conditions_of(where: object) -> tuple[Condition, ...]:
    """Check what a request asks of attributes, and return it in one order.

    Parameters
    ----------
    where : object
        Decoded JSON: ``{"language": "fr", "region": ["eu", "uk"], "price": {"min": 5}}``.

    Raises
    ------
    DataError
        It is no object of such conditions; `details` has the field.
    """
    if not isinstance(where, Mapping):
        raise _refused("where", 'must be an object such as {"language": "fr"}')
    if len(where) > MAX_CONDITIONS:
        raise _refused("where", f"has {len(where)} attributes; at most {MAX_CONDITIONS} are taken")
    return tuple(_condition(name, where[name]) for name in sorted(where))


def _condition(attribute: str, told: object) -> Condition:
    field = f"where.{attribute[:64]}"
    if not 1 <= len(attribute) <= MAX_ID_CHARACTERS:
        raise _refused(field, f"names of attributes have 1 to {MAX_ID_CHARACTERS} characters")
    if isinstance(told, Mapping):
        return _range(attribute, told, field=field)
    values = told if isinstance(told, list) else [told]
    if not 1 <= len(values) <= MAX_VALUES:
        raise _refused(field, f"has {len(values)} values; 1 to {MAX_VALUES} are taken")
    return Condition(attribute, any_of=_keys(values, field=field))


def _keys(values: Sequence[object], *, field: str) -> frozenset[str]:
    keys = set()
    for value in values:
        key = key_of(value)
        if not key:
            raise _refused(
                field,
                "must be a text, a number or a boolean, a list of them, or a range such as "
                '{"min": 5, "max": 20}',
            )
        keys.add(key)
    return frozenset(keys)


def _range(attribute: str, told: Mapping[str, object], *, field: str) -> Condition:
    for name in told:
        if name not in _BOUNDS:
            known = alternatives(name, _BOUNDS)
            raise _refused(f"{field}.{name[:64]}", f"there is no such end of a range{known}")
    ends: list[Bound | None] = []
    for name in _BOUNDS:
        end = told.get(name)
        if name in told and not _is_bound(end):
            raise _refused(f"{field}.{name}", "must be a number, or a text such as a date")
        if isinstance(end, int) and abs(end) > sys.float_info.max:
            raise _refused(f"{field}.{name}", "is larger than any number that an attribute has")
        ends.append(end if _is_bound(end) else None)
    least, most = ends
    if least is None and most is None:
        raise _refused(field, "must have min, max or both")
    if least is not None and most is not None:
        is_range = _is_at_least(most, least)
        if is_range is None:
            raise _refused(field, "must have numbers for both min and max, or texts")
        if not is_range:
            raise _refused(field, f"max {most} is below min {least}")
    return Condition(attribute, least=least, most=most)


def _is_bound(value: object) -> TypeGuard[Bound]:
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int | str) and not isinstance(value, bool)


def _is_at_least(first: Bound, second: Bound) -> bool | None:
    """Compare two numbers or two texts; None for one of each."""
    if isinstance(first, str) and isinstance(second, str):
        return first >= second
    if isinstance(first, str) or isinstance(second, str):
        return None
    return first >= second


def _refused(field: str, problem: str) -> DataError:
    message = f"{field}: {problem}."
    return DataError(message, details={"field": field})
