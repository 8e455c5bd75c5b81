"""Numbers as people write them, a column at a time: with decimal points or commas."""

from collections.abc import Mapping
from enum import StrEnum

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from reckeeper.errors import DataError
from reckeeper.events.cells import Refusals, is_textual, mask_of, texts_of
from reckeeper.tabular import Chunk

_NUMBER = r"^\s*[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,4})?\s*$"
_WITH_COMMA = r"^\s*[+-]?(?:[1-9]\d{0,2}(?:\.\d{3})+|\d+)(?:,\d+)?\s*$"
_WITH_POINT = r"^\s*[+-]?(?:[1-9]\d{0,2}(?:,\d{3})+|\d+)(?:\.\d+)?\s*$"

_TRUE = pa.array(["True", "true", "TRUE", "t"])
_FALSE = pa.array(["False", "false", "FALSE", "f"])
"""1 and 0, where numbers are asked for: a rating may be a truth value; PostgreSQL's are t and f."""


class Decimal(StrEnum):
    """What stands before the fraction of a number; the other separates thousands."""

    COMMA = "comma"
    POINT = "point"
    OPEN = "open"
    """There are commas, and they could be either."""


_REASONS: Mapping[Decimal | None, str] = {
    None: "is not a number",
    Decimal.COMMA: "is not a number with a decimal comma",
    Decimal.POINT: "is not a number with a decimal point",
    Decimal.OPEN: "is not a number",
}
_OPEN = (
    "could have a decimal comma, or a comma between thousands: --decimal comma or --decimal point "
    "says which"
)
_COMMA_LATE = (
    "has a comma, and the first rows have none: --decimal comma or --decimal point says what it is"
)


def decimal_of(texts: pa.Array) -> Decimal | None:
    """Tell from a column what its numbers' commas are; None: it has none."""
    with_comma = texts.filter(pc.match_substring(texts, ","))
    if not len(with_comma):
        return None
    is_comma = mask_of(pc.match_substring_regex(texts, _WITH_COMMA))
    is_point = mask_of(pc.match_substring_regex(texts, _WITH_POINT))
    n_comma, n_point = int((is_comma & ~is_point).sum()), int((is_point & ~is_comma).sum())
    if bool(n_comma) == bool(n_point):
        return Decimal.OPEN
    return Decimal.COMMA if n_comma else Decimal.POINT


def numbers_of(
    chunk: Chunk, column: str, refusals: Refusals, *, decimal: Decimal | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return finite numbers, 0 where one was refused, and a mask of the empty values."""
    values = chunk.columns[column]
    if pa.types.is_boolean(values.type):
        values = values.cast(pa.int8())
    if is_textual(values.type):
        texts = texts_of(values, column, refusals)
        texts = pc.if_else(pc.is_in(texts, value_set=_TRUE), "1", texts)
        texts = pc.if_else(pc.is_in(texts, value_set=_FALSE), "0", texts)
        is_empty = pc.equal(pc.utf8_trim_whitespace(pc.fill_null(texts, "")), "")
        texts = pc.if_else(pc.or_kleene(is_empty, pc.is_null(texts)), "0", texts)
        texts = _plain(texts, decimal)
        is_number = pc.match_substring_regex(texts, _NUMBER)
        if not pc.all(is_number).as_py():
            if decimal in (None, Decimal.OPEN):
                has_comma = pc.match_substring_regex(texts, r"\d,\d")
                refusals.refuse(has_comma, column, _COMMA_LATE if decimal is None else _OPEN)
            refusals.refuse(pc.invert(is_number), column, _REASONS[decimal])
        digits = pc.utf8_trim_whitespace(pc.if_else(is_number, texts, "0"))
        numbers = digits.cast(pa.float64()).to_numpy()
    elif (
        pa.types.is_integer(values.type)
        or pa.types.is_floating(values.type)
        or pa.types.is_decimal(values.type)
    ):
        is_empty = values.is_null(nan_is_null=True)
        numbers = pc.fill_null(values.cast(pa.float64(), safe=False), 0.0).to_numpy()
    else:
        raise DataError(
            f"The column {column!r} has the type {values.type}, not numbers: convert it."
        )
    empty = mask_of(is_empty)
    is_finite = np.isfinite(numbers)
    refusals.refuse(~is_finite & ~empty, column, "is not a finite number")
    return np.where(is_finite, numbers, 0.0), empty


def _plain(texts: pa.Array, decimal: Decimal | None) -> pa.Array:
    """Return numbers as computers write them; what is none of the form stays no number."""
    if decimal is Decimal.COMMA:
        plain = pc.replace_substring(pc.replace_substring(texts, ".", ""), ",", ".")
        fits = pc.match_substring_regex(texts, _WITH_COMMA)
        return pc.if_else(fits, plain, "no number")
    if decimal is Decimal.POINT:
        fits = pc.match_substring_regex(texts, _WITH_POINT)
        return pc.if_else(fits, pc.replace_substring(texts, ",", ""), texts)
    return texts
