"""One value of each item, by its number: a value that many items share is looked at once."""

from collections.abc import Sequence

import numpy as np
from pydantic_core import from_json, to_json

from reckeeper.catalogue.conditions import Condition, key_of

_EXACT = 2**53
"""Whole numbers below it are the same in floating point."""


class Labels:
    """The categories, or the values of one attribute, of the items at all places.

    A value is held once, and stays when no item has it any longer.

    Parameters
    ----------
    n : int
        Number of places there is room for.

    Attributes
    ----------
    numbers : ndarray of int32, shape (n,)
        Of the value at each place; 0 where there is none.
    values : list of tuple
        By number. A plain value is alone in its tuple, and a list is one.
    """

    def __init__(self, n: int) -> None:
        self.numbers = np.zeros(n, dtype=np.int32)
        self.values: list[tuple[object, ...]] = [()]
        self._number_of: dict[str, int] = {"[]": 0}
        self._with: dict[str, list[int]] = {}
        # For ranges: values that are one number; NaN for the others, which are asked one by one.
        self._single: list[float] = [np.nan]
        self._singles = np.array(self._single)
        self._others: list[int] = []

    def make_room(self, n: int) -> None:
        """Have room for so many places, at least as many as before."""
        longer = np.zeros(n, dtype=np.int32)
        longer[: len(self.numbers)] = self.numbers
        self.numbers = longer

    def put(self, places: Sequence[int], values: Sequence[object]) -> None:
        """Say what the values at some places are, decoded JSON; null and objects are none."""
        is_none = [value is None or isinstance(value, dict) for value in values]
        self.numbers[places] = [
            0 if nothing else self.number_of(to_json(value).decode())
            for value, nothing in zip(values, is_none, strict=True)
        ]

    def number_of(self, text: str) -> int:
        """Return the number of a value by its JSON, a new one where that is new."""
        number = self._number_of.get(text)
        if number is None:
            number = self._number_of[text] = len(self.values)
            value = from_json(text)
            self._add(tuple(value) if isinstance(value, list) else (value,), number)
        return number

    def numbers_with(self, value: object) -> list[int]:
        """Return the numbers of what is a plain value, or a list that has it."""
        return self._with.get(key_of(value), [])

    def _add(self, values: tuple[object, ...], number: int) -> None:
        for key in set(map(key_of, values)):
            if key:
                self._with.setdefault(key, []).append(number)
        only = values[0] if len(values) == 1 else None
        if isinstance(only, int | float) and not isinstance(only, bool) and abs(only) < _EXACT:
            self._single.append(float(only))
        else:
            self._single.append(np.nan)
            self._others.append(number)
        self.values.append(values)

    def are_met(self, condition: Condition) -> np.ndarray:
        """Return a mask of the values, by number, that are what a condition asks."""
        met = np.zeros(len(self.values), dtype=bool)
        if condition.any_of is not None:
            for key in condition.any_of:
                met[self._with.get(key, [])] = True
            return met
        if len(self._singles) < len(self.values):
            self._singles = np.array(self._single)
        least, most = condition.least, condition.most
        if not (isinstance(least, str) or isinstance(most, str)):
            met = self._singles >= (-np.inf if least is None else least)
            met &= self._singles <= (np.inf if most is None else most)
        for number in self._others:
            met[number] = condition.is_met_by(list(self.values[number]))
        return met
