"""How several categories stand in one value of a catalogue."""

import ast
import contextlib
import json
import re
from collections import Counter
from collections.abc import Iterable

JSON = "json"
"""Lists in brackets, as JSON or Python write them."""

WHOLE = "none"
"""A value is one category, whatever is in it."""

SEPARATORS = ("|", ";", ",", JSON, WHOLE)

_LOOKED_AT = 20_000
_MOST = 0.9
_ENTITY = re.compile(r"&#?\w+;")
_BETWEEN_SEMICOLONS = re.compile(r"(?:&#?\w+;|[^;])+")
_QUOTED = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"")


def separator_of(values: Iterable[object]) -> str:
    """Return what stands between the categories in the values of a column.

    Brackets around nearly all are those of lists. A bar or a semicolon, but that of ``&amp;``,
    stands between categories. A comma may be part of one's name: it stands between them where
    half of what is around it comes again, in other company or alone.
    """
    texts = [text.strip() for text in values if isinstance(text, str) and text.strip()]
    texts = texts[:_LOOKED_AT]
    n_lists = sum(text.startswith("[") and text.endswith("]") for text in texts)
    if texts and n_lists >= _MOST * len(texts):
        return JSON
    if any("|" in text for text in texts):
        return "|"
    if any(";" in _ENTITY.sub("", text) for text in texts):
        return ";"
    company = Counter(
        part for text in set(texts) for part in {part.strip() for part in text.split(",")}
    )
    n_again = sum(n_texts > 1 for n_texts in company.values())
    has_commas = any("," in text for text in texts)
    return "," if has_commas and 2 * n_again >= len(company) else "|"


def split(value: str, separator: str) -> list[object]:
    """Return the categories in a value.

    Parameters
    ----------
    value : str
    separator : str
        One of `SEPARATORS`.
    """
    match separator:
        case "json":
            return _of_list(value.strip())
        case "none":
            return [value]
        case ";":
            parts = _BETWEEN_SEMICOLONS.findall(value)
        case ",":
            parts = value.split(",")
        case _:
            return [*value.split("|")]
    return [stripped for part in parts if (stripped := part.strip())]


def _of_list(value: str) -> list[object]:
    if not (value.startswith("[") and value.endswith("]")):
        return [value]
    with contextlib.suppress(ValueError, RecursionError):
        return [*map(_name, json.loads(value))]
    if "{" in value:  # objects, as Python writes them
        with contextlib.suppress(ValueError, SyntaxError, MemoryError, RecursionError):
            return [*map(_name, ast.literal_eval(value))]
    quoted = _QUOTED.findall(value)  # with or without commas between them
    parts = [part[1:-1] for part in quoted] if quoted else value[1:-1].split(",")
    return [stripped for part in parts if (stripped := part.strip())]


def _name(item: object) -> object:
    """Return what an item of a list is called."""
    if isinstance(item, dict):
        return item.get("name", json.dumps(item, default=str))
    return str(item) if isinstance(item, int | float) else item
