"""What quotation marks in a text are: around values, escaped by backslashes, or part of them."""

import re

_ESCAPED_AS = '\\"'
_NULLS = {"", "NA", "NaN", "nan", "NULL", "null", "None", "\\N", "<NA>"}
_NULL_OF_BACKSLASH = r"(?:^|(?<=[\r\n]|{sign}))\\N(?=[\r\n]|{sign}|\Z)"


def has_escapes(text: str, delimiter: str) -> bool:
    r"""Say whether ``\"`` within a value is a quotation mark that is part of it.

    Where a backslash stands before what ends a value, it may be a character like others; and
    where ``\N`` stands for nothing, it cannot be told from an N.
    """
    if _ESCAPED_AS not in text or len(delimiter) != 1:
        return False
    sign = re.escape(delimiter)
    if re.search(_NULL_OF_BACKSLASH.format(sign=sign), text):
        return False
    return re.search(rf'\\"(?![\r\n"]|{sign}|\Z)', text) is not None


def are_characters(text: str, delimiter: str) -> bool:
    """Say whether quotation marks at the beginning of values belong to them.

    They do where a value goes on behind the second, and in a column between tabs where only some
    values have them though none needs them.
    """
    if '""' in text or _ESCAPED_AS in text or len(delimiter) != 1:
        return False
    sign = re.escape(delimiter)
    value = rf'(?:^|(?<=[\r\n]|{sign}))"[^"\r\n]*"'
    if re.search(rf"{value}(?! *(?:[\r\n]|{sign}|\Z))", text):
        return True
    return delimiter == "\t" and _have_some(text, delimiter)


def _have_some(text: str, delimiter: str) -> bool:
    """Say whether in a column some values stand in quotation marks, and others do not."""
    quoted: set[int] = set()
    bare: set[int] = set()
    for line in text.splitlines()[1:]:
        for place, value in enumerate(line.split(delimiter)):
            if len(value) > 1 and value[0] == value[-1] == '"':
                quoted.add(place)
            elif value not in _NULLS:
                bare.add(place)
    return bool(quoted & bare)
